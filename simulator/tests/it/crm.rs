//! The demo CRM, driven over raw TCP, so that nothing between hides what it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use genesys_simulator::crm::{Behaviour, Crm, CrmOptions, Distrust, Mix, Observer, Post, Secret};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SECOND: Duration = Duration::from_secs(10);
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// One signed POST as text.
fn post(path: &str, id: &str, body: &str) -> String {
    let timestamp = OffsetDateTime::now_utc().unix_timestamp().to_string();
    let signature = Secret::parse(SECRET).map(|secret| secret.sign(id, &timestamp, body.as_bytes()));
    format!(
        "POST {path} HTTP/1.1\r\nHost: crm\r\nWebhook-Id: {id}\r\nWebhook-Timestamp: {timestamp}\r\n\
         Webhook-Signature: {}\r\nContent-Length: {}\r\n\r\n{body}",
        signature.unwrap_or_default(),
        body.len()
    )
}

/// Reads until what was read ends like that.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end.as_bytes()) {
            let mut byte = [0];
            if !matches!(stream.read(&mut byte).await, Ok(1)) {
                break;
            }
            read.extend_from_slice(&byte);
        }
    };
    let in_time = tokio::time::timeout(SECOND, reading).await.is_ok();
    assert!(in_time, "{}", String::from_utf8_lossy(&read));
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn records_verifies_and_streams_what_arrives() {
    let crm = Crm::start(CrmOptions::default()).await.unwrap();
    let mut arriving = crm.subscribe();
    let mut stream = TcpStream::connect(crm.address()).await.unwrap();
    let body = r#"{"type":"webhook.ping"}"#;
    for _ in 0..2 {
        stream.write_all(post("/hooks/a?x=1", "msg_1", body).as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 204 No Content\r\n\r\n");
        crm.set_secrets_of("/hooks/a", vec![Secret::parse(SECRET).unwrap()]);
    }
    let posts = crm.wait_for(2, SECOND).await.unwrap();
    assert_eq!(posts[0].verdict, Err(Distrust::NoSecret));
    assert!(posts[1].verified() && posts[1].accepted());
    assert_eq!((posts[1].path(), posts[1].webhook_id(), posts[1].connection), ("/hooks/a", "msg_1", 1));
    assert_eq!(posts[1].body, body);
    assert_eq!(posts[1].kind().as_deref(), Some("webhook.ping"));
    assert_eq!(crm.received("/hooks/b").len(), 0);
    assert_eq!(arriving.recv().await.unwrap().number, 1);
    assert_eq!(arriving.recv().await.unwrap().number, 2);
}

#[tokio::test]
async fn follows_a_plan_per_path() {
    let crm = Crm::start(CrmOptions::default()).await.unwrap();
    crm.next("/a", [Behaviour::status(500), Behaviour::retry_after(429, "1e12").body("slow down")]);
    crm.always("/a", Behaviour::redirect(307, "/b"));
    crm.always_everywhere(Behaviour::status(410));
    let mut stream = TcpStream::connect(crm.address()).await.unwrap();
    for (path, answer) in [
        ("/a", "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"),
        ("/a", "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1e12\r\ncontent-length: 9\r\n\r\nslow down"),
        ("/a", "HTTP/1.1 307 Temporary Redirect\r\nlocation: /b\r\ncontent-length: 0\r\n\r\n"),
        ("/c", "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"),
    ] {
        stream.write_all(post(path, "msg_1", "{}").as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, answer).await, answer);
    }
}

#[tokio::test]
async fn misbehaves_on_the_raw_socket() {
    let crm = Crm::start(CrmOptions::default()).await.unwrap();
    let wait = Duration::from_millis(20);
    let every = Duration::from_millis(5);
    for (behaviour, end) in [
        (
            Behaviour::Interim { interim: 103, wait, status: 200 },
            "HTTP/1.1 103 Interim\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        (Behaviour::status(200).after(wait), "content-length: 0\r\n\r\n"),
        (Behaviour::Drip { status: 200, every }, "\r\n\r\n..."),
        (Behaviour::DripHead { every }, "x-drip: ..."),
        (Behaviour::EndlessHead, "on\r\nx-endless: and on and on\r\n"),
        (Behaviour::EndlessBody { status: 200 }, "xx\r\n1000\r\nxx"),
        (Behaviour::EndlessTrailers { status: 200 }, "0\r\nx-trailer: more\r\nx-trailer: more\r\n"),
        (
            Behaviour::Interims { interim: 103, count: 3, status: 200 },
            "103 Interim\r\n\r\nHTTP/1.1 103 Interim\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        (Behaviour::EndlessInterims { interim: 100 }, "100 Interim\r\n\r\nHTTP/1.1 100 Interim\r\n\r\n"),
        (Behaviour::EndlessExtension { status: 200 }, "\r\n\r\n1;and=on;and=on;"),
        (Behaviour::DripChunks { status: 200, every }, "\r\n\r\n1\r\n.\r\n1\r\n.\r\n"),
        (Behaviour::Length { status: 200, declared: 9, sent: 2 }, "content-length: 9\r\n\r\n.."),
        (Behaviour::Echo { status: 200 }, "content-length: 2\r\n\r\n{}"),
        (Behaviour::Spill("HTTP/1.1 204 No\r\n\r\nmore".into()), "\r\n\r\nmore"),
        (Behaviour::ResetAfter("HTTP/1.1 2".into()), "HTTP/1.1 2"),
        (Behaviour::Bomb { status: 200 }, "content-encoding: gzip\r\ncontent-length: 1690747\r\n\r\n"),
        (Behaviour::Raw("HTTP/1.1 999 ?\r\n\r\n".into()), "HTTP/1.1 999 ?\r\n\r\n"),
    ] {
        crm.next("/a", [behaviour.clone()]);
        let mut stream = TcpStream::connect(crm.address()).await.unwrap();
        stream.write_all(post("/a", "msg_1", "{}").as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, end).await;
        assert!(answer.ends_with(end), "{behaviour:?}: {answer}");
    }
    // What drips and what is endless saw its client leave; the bomb may have fitted into buffers.
    let hangups = crm.wait_for_hangups(8, SECOND).await.unwrap();
    assert!(hangups.iter().all(|hangup| hangup.sent > 0));

    for behaviour in [Behaviour::CloseUnanswered, Behaviour::ResetUnanswered] {
        crm.next("/a", [behaviour]);
        let mut stream = TcpStream::connect(crm.address()).await.unwrap();
        stream.write_all(post("/a", "msg_1", "{}").as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, "never").await, "");
    }
    crm.next("/a", [Behaviour::Hang]);
    let mut stream = TcpStream::connect(crm.address()).await.unwrap();
    stream.write_all(post("/a", "msg_1", "{}").as_bytes()).await.unwrap();
    let hanging = crm.wait_for(20, SECOND).await.unwrap();
    drop(stream);
    let last = hanging.last().unwrap().number;
    let hung_up = |count| crm.wait_for_hangups(count, SECOND);
    let mut count = 9;
    while !hung_up(count).await.unwrap().iter().any(|hangup| hangup.post == last && hangup.sent == 0) {
        count += 1;
    }
}

#[tokio::test]
async fn says_who_may_post() {
    let crm = Crm::start(CrmOptions::default()).await.unwrap();
    let asks = "OPTIONS /a HTTP/1.1\r\nHost: crm\r\nWebHook-Request-Origin: us\r\n\r\n";
    let mut stream = TcpStream::connect(crm.address()).await.unwrap();
    stream.write_all(asks.as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
    crm.allow_origin(Some(("us", Some(120))));
    let mut stream = TcpStream::connect(crm.address()).await.unwrap();
    for _ in 0..2 {
        stream.write_all(asks.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(
            answer.starts_with(
                "HTTP/1.1 200 OK\r\nwebhook-allowed-origin: us\r\nwebhook-allowed-rate: 120\r\n"
            )
        );
    }
    assert_eq!(crm.handshakes(), ["us", "us", "us"]);
    assert_eq!(crm.count(), 0);
}

#[tokio::test]
async fn complains_about_requests_that_are_none() {
    let crm = Crm::start(CrmOptions::default()).await.unwrap();
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: crm\r\n\r\n", "411"),
        ("POST / HTTP/1.1\r\nHost: crm\r\nTransfer-Encoding: chunked\r\n\r\n", "411"),
        ("POST / HTTP/1.1\r\nHost: crm\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: crm\r\nContent-Length: +1\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: crm\r\nContent-Length: 99999999\r\n\r\n", "413"),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: crm\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let mut stream = TcpStream::connect(crm.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    }
    assert_eq!((crm.count(), crm.complaints().len()), (0, 8));
    crm.stop().await;
    assert!(TcpStream::connect(crm.address()).await.is_err());
}

/// Counts what it is shown.
#[derive(Debug, Default)]
struct Counter {
    arrived: AtomicU64,
    answered: AtomicU64,
}

impl Observer for Counter {
    fn arrived(&self, _post: &Post) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }

    fn answered(&self, _post: &Post) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn an_observer_sees_what_is_not_kept() {
    let counter = Arc::new(Counter::default());
    let options = CrmOptions { keep: 0, observer: Some(counter.clone()), ..CrmOptions::default() };
    let crm = Crm::start(options).await.unwrap();
    crm.always("/hooks/a", Mix::new(1).errors_of(100, [Behaviour::CloseUnanswered]));
    for (path, said) in [("/hooks/a", ""), ("/hooks/b", "HTTP/1.1 204 No Content\r\n\r\n")] {
        let mut stream = TcpStream::connect(crm.address()).await.unwrap();
        stream.write_all(post(path, "msg_1", "{}").as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, "\r\n\r\n").await, said);
    }
    assert_eq!((crm.count(), crm.posts().len()), (2, 0));
    // It is told after the kernel took the answer, which may be after we have read it.
    tokio::time::timeout(SECOND, async {
        while counter.answered.load(Ordering::Relaxed) < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(counter.arrived.load(Ordering::Relaxed), 2);
}
