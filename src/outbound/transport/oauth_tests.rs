//! Lives of tokens, and what the endpoint is asked.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::domain::delivery::access::Access;
use crate::domain::delivery::outcome::Outcome;
use crate::domain::secret::Secret;
use crate::outbound::testing::{SHORT, Sender, reply, server};

fn oauth2(token_url: String) -> Auth {
    Auth::Oauth2 {
        token_url,
        client_id: "us & them".to_owned(),
        client_secret: Secret::new("s:ecret/ß"),
        scope: Some("presence write".to_owned()),
        audience: None,
        in_body: false,
    }
}

fn access(auth: Auth) -> Access {
    Access { auth, ..Access::default() }
}

fn sender(auth: Auth) -> Sender {
    Sender::allowing("127.0.0.0/8").access(access(auth))
}

fn issued(number: usize) -> String {
    reply(200, "", &format!(r#"{{"access_token":"t{number}","token_type":"Bearer","expires_in":3600}}"#))
}

/// A token endpoint that numbers its tokens; how many it has issued.
async fn endpoint() -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let address = server(move |_, _| issued(count.fetch_add(1, Ordering::SeqCst) + 1)).await;
    (format!("http://{address}/token"), asked)
}

/// A receiver that wants `Bearer t<wanted>`; how many POSTs it has seen.
async fn wants(wanted: Arc<AtomicUsize>) -> (String, Arc<AtomicUsize>) {
    let posts = Arc::new(AtomicUsize::new(0));
    let count = posts.clone();
    let address = server(move |head, _| {
        count.fetch_add(1, Ordering::SeqCst);
        let wanted = format!("authorization: Bearer t{}", wanted.load(Ordering::SeqCst));
        reply(if head.lines().any(|line| line == wanted) { 200 } else { 401 }, "", "")
    })
    .await;
    (format!("http://{address}/"), posts)
}

#[test]
fn a_life_is_believed_within_reason() {
    for (told, seconds) in [
        ("{}", 300),
        (r#"{"expires_in":null}"#, 300),
        (r#"{"expires_in":"soon"}"#, 300),
        (r#"{"expires_in":3600}"#, 3600),
        (r#"{"expires_in":"3599"}"#, 3599),
        (r#"{"expires_in":0}"#, 10),
        (r#"{"expires_in":-3600}"#, 10),
        (r#"{"expires_in":1}"#, 10),
        (r#"{"expires_in":1e300}"#, 86_400),
        (r#"{"expires_in":99999999999999999999}"#, 86_400),
    ] {
        let told: serde_json::Value = serde_json::from_str(told).unwrap();
        assert_eq!(life(told.get("expires_in")).as_secs(), seconds, "{told}");
    }
    for (life, used) in [(3600, 3240), (600, 540), (300, 240), (100, 50), (10, 5)] {
        assert_eq!(used_for(Duration::from_secs(life)).as_secs(), used, "{life}");
    }
}

#[tokio::test]
async fn the_endpoint_is_asked_as_the_standard_says() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let address = server(move |head, body| {
        log.lock().unwrap().push(format!("{head}\r\n\r\n{body}"));
        issued(1)
    })
    .await;
    let (url, _) = wants(Arc::new(AtomicUsize::new(1))).await;
    let auth = oauth2(format!("http://{address}/token?tenant=1"));
    assert!(sender(auth.clone()).post(&url).await.outcome.is_success());
    let Auth::Oauth2 { token_url, client_id, client_secret, scope, .. } = auth else { panic!() };
    let audience = Some("https://crm.example/".to_owned());
    let in_body = Auth::Oauth2 { token_url, client_id, client_secret, scope, audience, in_body: true };
    assert!(sender(in_body).post(&url).await.outcome.is_success());

    let heard = heard.lock().unwrap();
    let [basic, form] = heard.as_slice() else { panic!("{heard:?}") };
    assert!(basic.starts_with("POST /token?tenant=1 HTTP/1.1\r\n"), "{basic}");
    assert!(basic.contains("\r\ncontent-type: application/x-www-form-urlencoded\r\n"));
    // Both parts are encoded before they are joined, their blanks as %20.
    assert!(
        basic.contains("\r\nauthorization: Basic dXMlMjAlMjYlMjB0aGVtOnMlM0FlY3JldCUyRiVDMyU5Rg==\r\n"),
        "{basic}"
    );
    assert!(basic.ends_with("\r\n\r\ngrant_type=client_credentials&scope=presence+write"), "{basic}");
    assert!(!form.contains("authorization"), "{form}");
    assert!(
        form.ends_with(
            "&scope=presence+write&audience=https%3A%2F%2Fcrm.example%2F&client_id=us+%26+them&client_secret=s%3Aecret%2F%C3%9F"
        ),
        "{form}"
    );
}

#[tokio::test]
async fn many_posts_at_once_cost_one_token() {
    let (token_url, asked) = endpoint().await;
    let (url, posts) = wants(Arc::new(AtomicUsize::new(1))).await;
    let sender = sender(oauth2(token_url));
    let many = (0..50).map(|_| sender.post(&url));
    for answer in futures_util::future::join_all(many).await {
        assert!(answer.outcome.is_success(), "{:?}", answer.outcome);
    }
    assert_eq!((asked.load(Ordering::SeqCst), posts.load(Ordering::SeqCst)), (1, 50));
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_replaced_once_for_all_who_were_refused() {
    let (token_url, asked) = endpoint().await;
    let wanted = Arc::new(AtomicUsize::new(1));
    let (url, _) = wants(wanted.clone()).await;
    let sender = sender(oauth2(token_url));
    assert!(sender.post(&url).await.outcome.is_success());
    wanted.store(2, Ordering::SeqCst);
    let many = (0..50).map(|_| sender.post(&url));
    for answer in futures_util::future::join_all(many).await {
        assert!(answer.outcome.is_success(), "{:?}", answer.outcome);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_receiver_that_refuses_every_token_does_not_make_us_ask_for_ever() {
    let (token_url, asked) = endpoint().await;
    let (url, posts) = wants(Arc::new(AtomicUsize::new(1000))).await;
    let sender = sender(oauth2(token_url));
    for _ in 0..10 {
        assert_eq!(sender.post(&url).await.outcome.status(), Some(401));
    }
    assert_eq!((asked.load(Ordering::SeqCst), posts.load(Ordering::SeqCst)), (1, 10));
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let long = format!(r#"{{"access_token":"t1","x":"{}"}}"#, "y".repeat(20 * 1024));
    for answer in [
        reply(400, "", r#"{"error":"invalid_client"}"#),
        reply(401, "", r#"{"access_token":"t1"}"#),
        reply(302, "location: /other\r\n", r#"{"access_token":"t1"}"#),
        reply(200, "", r#"{"access_token":""}"#),
        reply(200, "", r#"{"access_token":"a\r\nx: y"}"#),
        reply(200, "", r#"{"access_token":"t1","token_type":"mac"}"#),
        reply(200, "", "<html>"),
        reply(200, "", &long),
        "HTTP/1.1 200 OK\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let said = answer.clone();
        let address = server(move |_, _| said.clone()).await;
        let (url, posts) = wants(Arc::new(AtomicUsize::new(1))).await;
        let sender = sender(oauth2(format!("http://{address}/")));
        let told = sender.post(&url).await;
        assert_eq!(told.outcome, Outcome::TokenRefused, "{answer}");
        assert!(told.duration < SHORT * 3, "{answer}: {:?}", told.duration);
        assert_eq!(posts.load(Ordering::SeqCst), 0, "{answer}");
    }
}

#[tokio::test]
async fn the_endpoint_is_validated_like_any_address() {
    let (url, posts) = wants(Arc::new(AtomicUsize::new(1))).await;
    for token_url in ["http://10.0.0.1/token", "https://169.254.169.254/", "https://localhost:1/"] {
        let sender = sender(oauth2(token_url.to_owned()));
        assert_eq!(sender.post(&url).await.outcome, Outcome::TokenRefused, "{token_url}");
    }
    let no_url = sender(oauth2("nonsense".to_owned())).post(&url).await;
    assert_eq!(no_url.outcome, Outcome::NotBuilt);
    assert_eq!(posts.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_in_peace_for_a_moment_and_then_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let address = server(move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
        0 => reply(503, "", ""),
        _ => issued(1),
    })
    .await;
    let (url, _) = wants(Arc::new(AtomicUsize::new(1))).await;
    let sender = sender(oauth2(format!("http://{address}/")));
    let many = (0..20).map(|_| sender.post(&url));
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(answer.outcome, Outcome::TokenRefused);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let started = Instant::now();
    while !sender.post(&url).await.outcome.is_success() {
        assert!(started.elapsed() < REST * 5);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn why_the_server_refuses_is_told_in_its_words_on_one_line_and_without_what_is_secret() {
    let basic = "dXMlMjAlMjYlMjB0aGVtOnMlM0FlY3JldCUyRiVDMyU5Rg==";
    let long = "x".repeat(5_000);
    for (status, body, expected) in [
        (401, r#"{"error":"invalid_client"}"#.to_owned(), "answered 401: invalid_client"),
        (
            400,
            r#"{"error":"invalid_scope","error_description":"no\r\nscope \u202epresence\u0000 für us"}"#.to_owned(),
            "answered 400: invalid_scope: no scope presence für us",
        ),
        (
            401,
            r#"{"error":"invalid_client","error_description":"us & them: s:ecret/ß, us%20%26%20them, us+%26+them"}"#
                .to_owned(),
            "answered 401: invalid_client: [redacted]: [redacted], [redacted], [redacted]",
        ),
        (
            401,
            format!(r#"{{"error":"{basic}","error_description":"Basic {basic} s%3Aecret%2F%C3%9F"}}"#),
            "answered 401: [redacted]: Basic [redacted] [redacted]",
        ),
        (
            400,
            format!(r#"{{"error":"{long}","error_description":"{long}"}}"#),
            &format!("answered 400: {}: {}", "x".repeat(64), "x".repeat(180)),
        ),
        (200, r#"{"error":"bad_verification_code"}"#.to_owned(), "answered 200: bad_verification_code"),
        (503, "<html>".to_owned(), "answered 503"),
        (400, r#"{"error":{"code":7}}"#.to_owned(), "answered 400"),
        (400, r#"{"error":"","error_description":"x"}"#.to_owned(), "answered 400"),
    ] {
        let said = body.clone();
        let address = server(move |_, _| reply(status, "", &said)).await;
        for in_body in [false, true] {
            let mut auth = oauth2(format!("http://{address}/"));
            if let Auth::Oauth2 { in_body: place, .. } = &mut auth {
                *place = in_body;
            }
            let told = sender(auth).post("http://127.0.0.1:9/").await;
            assert_eq!(told.outcome, Outcome::TokenRefused, "{body}");
            let reason = told.reason.unwrap();
            assert_eq!(reason.as_str(), format!("the token endpoint {expected}"), "{body}");
        }
    }
}
