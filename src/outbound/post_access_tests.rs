//! The poster against receivers that ask for more than a signature.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::domain::delivery::access::{Auth, ClientCertificate};
use crate::domain::delivery::settings::Verification;
use crate::domain::delivery::signature::SigningKey;
use crate::domain::secret::Secret;
use crate::outbound::testing::{SHORT, Sender, acceptor, certificate_pem, key_pem, read_post, reply, server};
use crate::outbound::verify::Allowed;
use crate::tls::{Identity, IdentityError};

/// A server that keeps what it hears and answers 204.
async fn listener() -> (String, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let address = server(move |head, _| {
        log.lock().unwrap().push(head.to_owned());
        "HTTP/1.1 204 X\r\n\r\n".to_owned()
    })
    .await;
    (format!("http://{address}/h"), heard)
}

fn sender(access: Access) -> Sender {
    Sender::allowing("127.0.0.0/8").access(access)
}

#[tokio::test]
async fn credentials_and_headers_of_its_own_go_with_every_post() {
    let token = Secret::new("t0k-en");
    let basic = Auth::Basic { username: "me".to_owned(), password: Secret::new("p:w ß") };
    let own_scheme =
        Auth::Scheme { scheme: "Token".to_owned(), credentials: Secret::new(r#"token="t0k-en", v=1"#) };
    for (auth, line) in [
        (Auth::None, None),
        (Auth::Bearer { token }, Some("authorization: Bearer t0k-en")),
        (own_scheme, Some("authorization: Token token=\"t0k-en\", v=1")),
        (basic, Some("authorization: Basic bWU6cDp3IMOf")),
    ] {
        let (url, heard) = listener().await;
        let headers = vec![
            ("x-tenant".to_owned(), Secret::new("seven")),
            ("cookie".to_owned(), Secret::new("a=b; c=d")),
        ];
        let sender = sender(Access { auth, headers, client_certificate: None });
        for _ in 0..2 {
            assert!(sender.post(&url).await.outcome.is_success());
        }
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 2);
        for head in heard.iter() {
            let lines: Vec<_> = head.lines().collect();
            assert!(lines.contains(&"x-tenant: seven") && lines.contains(&"cookie: a=b; c=d"), "{head}");
            let authorization = lines.iter().find(|line| line.starts_with("authorization"));
            assert_eq!(authorization, line.as_ref(), "{head}");
        }
    }
}

#[tokio::test]
async fn a_header_of_its_own_never_takes_the_place_of_ours() {
    let (url, heard) = listener().await;
    let own = ["webhook-id", "webhook-signature", "user-agent", "content-type"];
    let headers = own.map(|name| (name.to_owned(), Secret::new("forged"))).to_vec();
    assert!(sender(Access { headers, ..Access::default() }).post(&url).await.outcome.is_success());
    assert!(!heard.lock().unwrap().concat().contains("forged"));
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_at_every_attempt_and_shown_nowhere() {
    let (url, heard) = listener().await;
    let certificate =
        |chain: &str, key: &str| Some(ClientCertificate { chain: chain.to_owned(), key: Secret::new(key) });
    let header = |name: &str, value: &str| vec![(name.to_owned(), Secret::new(value))];
    for access in [
        Access { headers: header("x-a", "hush\r\nx-b: c"), ..Access::default() },
        Access { headers: header("x a", "hush"), ..Access::default() },
        Access { auth: Auth::Bearer { token: Secret::new("hush\n") }, ..Access::default() },
        Access { client_certificate: certificate("hush", &key_pem()), ..Access::default() },
        Access { client_certificate: certificate(&certificate_pem(), "hush"), ..Access::default() },
    ] {
        let sender = sender(access);
        for _ in 0..2 {
            assert_eq!(sender.post(&url).await.outcome, Outcome::NotBuilt);
        }
        let shown = format!("{:?}", sender.post_to(&url));
        assert!(!shown.contains("hush") && !shown.contains("127.0.0.1"), "{shown}");
    }
    assert!(heard.lock().unwrap().is_empty());
}

#[test]
fn a_certificate_and_its_key_are_told_from_what_is_none() {
    let (chain, key) = (certificate_pem(), key_pem());
    assert!(Identity::from_pem(&chain, &key).is_ok());
    assert!(Identity::from_pem(&format!("{chain}{chain}"), &key).is_ok());
    let other = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    for (chain, key, error) in [
        ("", key.as_str(), IdentityError::NoChain),
        ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", &key, IdentityError::NoChain),
        ("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", &key, IdentityError::NoChain),
        (&chain, "", IdentityError::NoKey),
        (&chain, "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n", IdentityError::NoKey),
        (&chain, &chain, IdentityError::NoKey),
        (&chain, other, IdentityError::OtherKey),
    ] {
        assert_eq!(Identity::from_pem(chain, key).err(), Some(error), "{chain} {key}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_asks_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor(&["http/1.1"], true).accept(tcp).await else { continue };
            read_post(&mut stream).await;
            let shown = stream.get_ref().1.peer_certificates().is_some();
            let status = if shown { 204 } else { 500 };
            stream.write_all(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    let certificate = ClientCertificate { chain: certificate_pem(), key: Secret::new(key_pem()) };
    let access = Access { client_certificate: Some(certificate), ..Access::default() };
    let sender = Sender::over_tls(true);
    let bare = sender.post(&url).await;
    assert!(!bare.outcome.is_success(), "{:?}", bare.outcome);
    let target = sender.poster.target(&url, &access, SHORT);
    let answer = sender.poster.post(Post { target, ..sender.post_to(&url) }).await;
    assert_eq!(answer.outcome.status(), Some(204));
}

/// A challenge that no answer holds by chance.
const CHALLENGE: &str = "8f14e45fceea167a5a36dedd4bea2543";

async fn verified(
    verification: Verification,
    answer: impl Fn(&str, &str) -> String + Send + Sync + 'static,
) -> Result<Allowed, &'static str> {
    let url = format!("http://{}/h", server(answer).await);
    let sender = Sender::allowing("127.0.0.0/8");
    let keys = [Signer::Hmac(SigningKey::from_bytes(&[1; 32]).unwrap())];
    let target = sender.target(&url);
    let verified =
        sender.poster.verify(&target, verification, "v-1", CHALLENGE, keys.into(), 1_700_000_000).await;
    verified.map_err(|refusal| refusal.word)
}

#[tokio::test]
async fn a_receiver_that_echoes_the_challenge_wants_the_posts() {
    let echo = Verification::Echo;
    let well = verified(echo, |head, body| {
        assert!(head.starts_with("POST /h "), "{head}");
        let expected = concat!(
            r#"{"type":"webhook.verification","timestamp":"2023-11-14T22:13:20.000Z","#,
            r#""data":{"challenge":"8f14e45fceea167a5a36dedd4bea2543"}}"#
        );
        assert_eq!(body, expected);
        let key = SigningKey::from_bytes(&[1; 32]).unwrap();
        let signature = key.sign("v-1", 1_700_000_000, body.as_bytes());
        assert!(head.lines().any(|line| line == format!("webhook-signature: {signature}")), "{head}");
        reply(200, "", &format!(r#"{{"challenge":"{CHALLENGE}"}}"#))
    });
    assert_eq!(well.await, Ok(Allowed::default()));
    assert_eq!(verified(echo, |_, _| reply(200, "", "ok")).await, Err("no_challenge"));
    assert_eq!(verified(echo, |_, _| "HTTP/1.1 204 X\r\n\r\n".to_owned()).await, Err("no_challenge"));
    assert_eq!(verified(echo, |_, body| reply(404, "", body)).await, Err("http_4xx"));
    let far = |_: &str, _: &str| reply(200, "", &format!("{}{CHALLENGE}", " ".repeat(16 * 1024)));
    assert_eq!(verified(echo, far).await, Err("no_challenge"), "only what is read counts");
    assert_eq!(verified(Verification::None, |_, _| panic!()).await, Ok(Allowed::default()));
}

#[tokio::test]
async fn a_receiver_that_allows_our_origin_wants_the_posts() {
    let options = Verification::Options;
    let well = verified(options, |head, body| {
        assert!(head.starts_with("OPTIONS /h "), "{head}");
        assert!(head.lines().any(|line| line == "webhook-request-origin: presence-bridge"), "{head}");
        assert!(body.is_empty());
        reply(200, "WebHook-Allowed-Origin: presence-bridge\r\nWebHook-Allowed-Rate: 120\r\n", "")
    });
    assert_eq!(well.await, Ok(Allowed { per_minute: Some(120) }));
    for (status, lines, expected) in [
        (204, "WebHook-Allowed-Origin: *\r\nWebHook-Allowed-Rate: *\r\n", Ok(Allowed::default())),
        (200, "webhook-allowed-origin: Presence-Bridge\r\n", Ok(Allowed::default())),
        (200, "webhook-allowed-origin: eventgrid.example\r\n", Err("origin_not_allowed")),
        (200, "allow: POST\r\n", Err("origin_not_allowed")),
        (405, "webhook-allowed-origin: *\r\n", Err("http_4xx")),
        (307, "webhook-allowed-origin: *\r\nlocation: /\r\n", Err("http_3xx")),
    ] {
        assert_eq!(verified(options, move |_, _| reply(status, lines, "")).await, expected, "{lines}");
    }
}
