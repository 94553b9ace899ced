//! The REST half and the dialling against listeners that behave as the worst of servers do.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::*;
use crate::genesys::protocol::ErrorKind;
use crate::genesys::rest::{
    ANSWER_BYTES_MAX, CALL_WITHIN, LIFETIME_DEFAULT, LIFETIME_MAX, UPSTREAM_ID_CHARS_MAX, WAIT_MAX,
};

fn realtime(api_url: &str) -> Realtime {
    let settings = RealtimeSettings {
        api_url: api_url.to_owned(),
        login_url: api_url.to_owned(),
        client_id: "the client".to_owned(),
        client_secret: Secret::new("CANARY&secret"),
        targets: None,
        proxy: None,
        calls: None,
    };
    Realtime::new(settings).unwrap()
}

/// Requests as they arrived, each with the number of the connection it came on.
type Seen = Rc<RefCell<Vec<(usize, String)>>>;

/// A server that answers each request with the next of these bytes, on however many connections.
async fn server(answers: &[&str]) -> (Realtime, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = realtime(&format!("http://{}", listener.local_addr().unwrap()));
    let seen = Seen::default();
    let answers: Rc<RefCell<Vec<String>>> =
        Rc::new(RefCell::new(answers.iter().rev().map(|a| (*a).to_owned()).collect()));
    let record = seen.clone();
    spawn_local(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            spawn_local(serve(stream, number, answers.clone(), record.clone()));
        }
    });
    (client, seen)
}

async fn serve(mut stream: TcpStream, number: usize, answers: Rc<RefCell<Vec<String>>>, seen: Seen) {
    while let Some(request) = read_request(&mut stream).await {
        seen.borrow_mut().push((number, request));
        let Some(answer) = answers.borrow_mut().pop() else {
            return;
        };
        // What stands after a bar comes once the client has had the time to take the part before it for all.
        for part in answer.split('|') {
            if stream.write_all(part.as_bytes()).await.is_err() {
                return;
            }
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        if body.len() >= length {
            return Some(text);
        }
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn status(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn wanted() -> ConnectionSpec {
    ConnectionSpec {
        agents: vec!["ann".to_owned()],
        topics: vec!["routing:agent:state".to_owned()],
        heartbeat_interval: Duration::from_secs(15),
    }
}

fn token() -> Secret {
    Secret::new("CANARY-token")
}

#[tokio::test]
async fn requests_are_those_of_the_seed() {
    LocalSet::new()
        .run_until(async {
            let (client, seen) = server(&[
                &ok(r#"{"access_token":"t","expires_in":3600}"#),
                &ok(r#"{"id":"me"}"#),
                &ok(r#"{"wsUrl":"ws://127.0.0.1/x","connectionId":"c"}"#),
                &ok(r#"{"entities":[{"connectionId":"c"}]}"#),
                "HTTP/1.1 204 No Content\r\n\r\n",
            ])
            .await;
            assert_eq!(client.token().await.unwrap().lifetime, Duration::from_secs(3600));
            assert_eq!(client.verify(&token()).await.unwrap(), "me");
            assert_eq!(client.provision(&token(), &wanted()).await.unwrap().upstream_id, "c");
            let listed = Listed { upstream_id: "c".to_owned(), ..Listed::default() };
            assert_eq!(client.list(&token()).await.unwrap(), [listed]);
            client.delete(&token(), "c").await.unwrap();
            let seen = seen.borrow();
            let starts: Vec<&str> = seen.iter().map(|(_, text)| text.lines().next().unwrap()).collect();
            assert_eq!(
                starts,
                [
                    "POST /api/v2/oauth/token HTTP/1.1",
                    "GET /api/v2/users/me HTTP/1.1",
                    "POST /api/v2/realtime/connections HTTP/1.1",
                    "GET /api/v2/realtime/connections HTTP/1.1",
                    "DELETE /api/v2/realtime/connections/c HTTP/1.1",
                ]
            );
            let form = "client_id=the+client&client_secret=CANARY%26secret&grant_type=client_credentials";
            assert!(seen[0].1.ends_with(form), "{}", seen[0].1);
            assert!(!seen[0].1.to_ascii_lowercase().contains("authorization:"));
            for (_, text) in &seen[1..] {
                assert!(text.to_ascii_lowercase().contains("authorization: bearer canary-token"));
            }
            let body = r#"{"userId":"ann","topics":["routing:agent:state"],"heartbeatInterval":15000}"#;
            assert!(seen[2].1.ends_with(body), "{}", seen[2].1);
            let asks_to_unpack = |text: &str| text.to_ascii_lowercase().contains("accept-encoding: br");
            assert!(!seen.iter().any(|(_, text)| asks_to_unpack(text)));
        })
        .await;
}

#[tokio::test]
async fn an_early_hint_never_hands_one_calls_answer_to_another() {
    LocalSet::new()
        .run_until(async {
            let late = format!("HTTP/1.1 103 Early Hints\r\n\r\n|{}", ok(r#"{"id":"the first one's"}"#));
            let (client, seen) = server(&[&late, &ok(r#"{"id":"the second one's"}"#)]).await;
            let first = client.verify(&token()).await;
            assert!(first.is_err() || first == Ok("the first one's".to_owned()), "{first:?}");
            assert_eq!(client.verify(&token()).await, Ok("the second one's".to_owned()));
            let connections: Vec<usize> = seen.borrow().iter().map(|(number, _)| *number).collect();
            assert_eq!(connections, [0, 1], "each call has a connection of its own");
        })
        .await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    LocalSet::new()
        .run_until(async {
            let away = status(307, "location: /elsewhere\r\n", "");
            let (client, seen) = server(&[&away, &ok(r#"{"access_token":"t"}"#)]).await;
            let error = client.token().await.unwrap_err();
            assert_eq!((error.kind, error.status), (ErrorKind::Status, Some(307)));
            assert_eq!(seen.borrow().len(), 1, "the secret goes nowhere else");
        })
        .await;
}

#[tokio::test]
async fn each_status_has_its_meaning_and_its_text_names_code_and_correlation() {
    LocalSet::new()
        .run_until(async {
            let body = r#"{"code":"too.many","message":"CANARY-message"}"#;
            for (number, headers, kind) in [
                (401, "", ErrorKind::Unauthorized),
                (403, "", ErrorKind::Forbidden),
                (409, "", ErrorKind::Limit),
                (422, "", ErrorKind::Limit),
                (429, "", ErrorKind::RateLimited(None)),
                (429, "retry-after: 7\r\n", ErrorKind::RateLimited(Some(Duration::from_secs(7)))),
                (429, "retry-after: 999999999999\r\n", ErrorKind::RateLimited(Some(WAIT_MAX))),
                (500, "", ErrorKind::Status),
                (302, "", ErrorKind::Status),
            ] {
                let headers = format!("{headers}ININ-Correlation-Id: abc-1\r\n");
                let (client, _) = server(&[&status(number, &headers, body)]).await;
                let error = client.provision(&token(), &wanted()).await.unwrap_err();
                assert_eq!((error.kind, error.status), (kind, Some(number)));
                let text = error.to_string();
                assert!(text.contains("code too.many") && text.contains("correlation abc-1"), "{text}");
                assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
            }
        })
        .await;
}

#[tokio::test]
async fn deleting_what_is_gone_is_success() {
    LocalSet::new()
        .run_until(async {
            let (client, _) = server(&[&status(404, "", "")]).await;
            assert_eq!(client.delete(&token(), "gone").await, Ok(()));
        })
        .await;
}

#[tokio::test]
async fn a_lifetime_that_says_nothing_is_short_and_an_endless_one_is_cut() {
    LocalSet::new()
        .run_until(async {
            for (said, lifetime) in [
                ("", LIFETIME_DEFAULT),
                (r#","expires_in":null"#, LIFETIME_DEFAULT),
                (r#","expires_in":0"#, LIFETIME_DEFAULT),
                (r#","expires_in":-5"#, LIFETIME_DEFAULT),
                (r#","expires_in":1e300"#, LIFETIME_MAX),
                (r#","expires_in":60"#, Duration::from_secs(60)),
            ] {
                let (client, _) = server(&[&ok(&format!(r#"{{"access_token":"t"{said}}}"#))]).await;
                assert_eq!(client.token().await.unwrap().lifetime, lifetime, "{said}");
            }
        })
        .await;
}

#[tokio::test]
async fn answers_that_lack_or_spoil_what_they_must_hold_are_bad() {
    LocalSet::new()
        .run_until(async {
            for body in [
                "",
                "not JSON",
                "[]",
                "{}",
                r#"{"connectionId":""}"#,
                r#"{"connectionId":"a\u0000b","wsUrl":"ws://127.0.0.1/x"}"#,
                r#"{"connectionId":"a b","wsUrl":"ws://127.0.0.1/x"}"#,
            ] {
                let (client, _) = server(&[&ok(body)]).await;
                let error = client.provision(&token(), &wanted()).await.unwrap_err();
                assert_eq!(error.kind, ErrorKind::BadAnswer, "{body}");
            }
            let long = format!(r#"{{"connectionId":"{}"}}"#, "x".repeat(UPSTREAM_ID_CHARS_MAX + 1));
            let (client, _) = server(&[&ok(&long)]).await;
            assert!(client.provision(&token(), &wanted()).await.is_err());
            let (client, _) = server(&[&ok(r#"{"access_token":"a\r\nx-injected: 1"}"#)]).await;
            assert_eq!(client.token().await.unwrap_err().kind, ErrorKind::BadAnswer);
        })
        .await;
}

#[tokio::test]
async fn an_answer_is_read_up_to_a_limit_and_not_unpacked() {
    LocalSet::new()
        .run_until(async {
            let (client, _) = server(&[&ok(&" ".repeat(ANSWER_BYTES_MAX + 1))]).await;
            assert_eq!(client.verify(&token()).await.unwrap_err().kind, ErrorKind::BadAnswer);
            let packed =
                "HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 11\r\n\r\n{\"id\":\"me\"}";
            let (client, _) = server(&[packed]).await;
            assert_eq!(client.verify(&token()).await, Ok("me".to_owned()));
        })
        .await;
}

#[tokio::test]
async fn a_listing_is_read_in_each_of_its_shapes() {
    LocalSet::new()
        .run_until(async {
            for body in [
                r#"{"entities":[{"connectionId":"a"},{"connectionId":"b"}]}"#,
                r#"[{"connectionId":"a"},{"connectionId":"b"}]"#,
                r#"{"entities":[{"id":"a"},{"id":"b","userId":"ann"}]}"#,
            ] {
                let (client, _) = server(&[&ok(body)]).await;
                let ids: Vec<_> =
                    client.list(&token()).await.unwrap().into_iter().map(|one| one.upstream_id).collect();
                assert_eq!(ids, ["a", "b"], "{body}");
            }
            let body = r#"[{"id":"a","userId":"ann","dateCreated":"2026-11-23T15:00:00.000Z"},
                {"id":"b","userId":7,"dateCreated":{}}]"#;
            let (client, _) = server(&[&ok(body)]).await;
            let owned = Listed {
                upstream_id: "a".to_owned(),
                agent_id: Some("ann".to_owned()),
                made_at: Some(time::macros::datetime!(2026-11-23 15:00 UTC)),
            };
            let unowned = Listed { upstream_id: "b".to_owned(), ..Listed::default() };
            assert_eq!(client.list(&token()).await.unwrap(), [owned, unowned]);
        })
        .await;
}

#[tokio::test]
async fn a_server_that_is_gone_or_hangs_up_is_a_failed_transport() {
    LocalSet::new()
        .run_until(async {
            let (client, _) = server(&[]).await;
            assert_eq!(client.verify(&token()).await.unwrap_err().kind, ErrorKind::Transport);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let nobody = realtime(&format!("http://{}", listener.local_addr().unwrap()));
            drop(listener);
            assert_eq!(nobody.verify(&token()).await.unwrap_err().kind, ErrorKind::Transport);
        })
        .await;
}

#[tokio::test]
async fn an_answer_that_drips_ends_at_the_deadline_of_the_whole_call() {
    let drip = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = realtime(&format!("http://{}", listener.local_addr().unwrap()));
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert_eq!(client.verify(&token()).await.unwrap_err().kind, ErrorKind::TimedOut);
    };
    let by = CALL_WITHIN * 5;
    timeout(by, LocalSet::new().run_until(drip)).await.expect("the call ends by itself");
}

#[tokio::test]
async fn a_body_without_a_length_is_never_taken_for_success() {
    LocalSet::new()
        .run_until(async {
            // awc reads such a body as empty; that must show as a failure, which is tried again.
            let endless = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"id\":\"me\"}";
            let (client, _) = server(&[endless]).await;
            assert_eq!(client.verify(&token()).await.unwrap_err().kind, ErrorKind::BadAnswer);
        })
        .await;
}

fn provisioned(url: &str) -> Provisioned {
    Provisioned {
        upstream_id: "c".to_owned(),
        socket_url: Secret::new(url),
        lifetime: None,
        rejected: Vec::new(),
    }
}

#[tokio::test]
async fn a_refused_handshake_says_the_status_and_never_the_address() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_request(&mut stream).await.unwrap();
                stream.write_all(status(404, "", "").as_bytes()).await.unwrap();
            });
            let client = realtime(&format!("http://{address}"));
            let refused = client.dial(&provisioned(&format!("ws://{address}/CANARY"))).await;
            let error = refused.err().unwrap();
            assert_eq!((error.kind, error.status), (ErrorKind::Status, Some(404)));
            let foreign = client.dial(&provisioned("ws://elsewhere.example/CANARY")).await.err().unwrap();
            assert_eq!(foreign.kind, ErrorKind::ForeignHost);
            let missing = client.dial(&provisioned("")).await.err().unwrap();
            assert_eq!(missing.kind, ErrorKind::BadAnswer);
            for error in [error, foreign, missing] {
                assert!(!format!("{error:?} {error}").contains("CANARY"), "{error:?}");
            }
        })
        .await;
}
