//! The poster against receivers that misbehave on the wire.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::sleep;
use uuid::Uuid;

use super::*;
use crate::domain::delivery::signature::SigningKey;
use crate::outbound::testing::{SHORT, Sender, black_hole, read_post, receiver, say};
use crate::outbound::transport::guard::LookUp;
use crate::outbound::transport::wire::read;

#[tokio::test]
async fn an_answer_is_taken_and_the_connection_kept() {
    let (address, connections) =
        receiver(|stream, _| say(stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await;
    let poster = Sender::allowing("127.0.0.0/8");
    for _ in 0..3 {
        let answer = poster.post(&format!("http://{address}/h?secret=1")).await;
        assert_eq!(answer.outcome, Outcome::Answered { status: 200, retry_after: None });
        assert_eq!(answer.excerpt, b"ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_not_followed() {
    let (elsewhere, visits) = receiver(|stream, _| say(stream, "HTTP/1.1 204 No Content\r\n\r\n")).await;
    let text = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n"
    );
    let (address, _) = receiver(move |stream, _| {
        let text = text.clone();
        async move { say(stream, &text).await }
    })
    .await;
    let answer = Sender::allowing("127.0.0.0/8").post(&format!("http://{address}/")).await;
    assert_eq!(answer.outcome.class(), "http_3xx");
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn no_more_than_16_kib_of_an_answer_are_read_and_4_kept() {
    let (address, connections) = receiver(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 500 Oops\r\ncontent-length: 1000000000\r\n\r\n").await.ok()?;
        while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
        None
    })
    .await;
    let poster = Sender::allowing("127.0.0.0/8");
    for _ in 0..2 {
        let answer = poster.post(&format!("http://{address}/")).await;
        assert_eq!(answer.outcome.class(), "http_5xx");
        assert_eq!(answer.excerpt.len(), ANSWER_KEPT_MAX);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2, "a connection with unread bytes is not used again");
}

#[tokio::test]
async fn a_receiver_that_drips_ends_at_the_deadline() {
    let (address, _) = receiver(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await.ok()?;
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
        None
    })
    .await;
    let answer = Sender::allowing("127.0.0.0/8").post(&format!("http://{address}/")).await;
    assert_eq!(answer.outcome.class(), "ok", "its head said so");
    assert!(answer.duration >= SHORT && answer.duration < SHORT * 3, "{:?}", answer.duration);
}

#[tokio::test]
async fn an_interim_answer_is_never_credited_to_another_delivery() {
    let (address, _) = receiver(|mut stream, posts| async move {
        let last = if posts == 0 { "500 Oops" } else { "204 No Content" };
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await.ok()?;
        sleep(Duration::from_millis(30)).await;
        say(stream, &format!("HTTP/1.1 {last}\r\ncontent-length: 0\r\n\r\n")).await
    })
    .await;
    let poster = Sender::allowing("127.0.0.0/8");
    let first = poster.post(&format!("http://{address}/")).await;
    let second = poster.post(&format!("http://{address}/")).await;
    assert_eq!((first.outcome.status(), second.outcome.status()), (Some(500), Some(204)));
}

#[tokio::test]
async fn what_went_wrong_is_told_apart() {
    let poster = Sender::allowing("127.0.0.0/8");
    let (closes, _) = receiver(|_, _| async { None }).await;
    let (babbles, _) = receiver(|stream, _| say(stream, "SSH-2.0-hello\r\n\r\n")).await;
    let (switches, _) = receiver(|stream, _| {
        say(stream, "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
    })
    .await;
    let (unassigned, _) =
        receiver(|stream, _| say(stream, "HTTP/1.1 799 Unassigned\r\ncontent-length: 0\r\n\r\n")).await;
    let (stops, _) = receiver(|stream, _| async move {
        say(stream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
        None
    })
    .await;
    let (hangs, _) = receiver(|stream, _| async move {
        sleep(Duration::from_secs(60)).await;
        Some(stream)
    })
    .await;
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for (url, outcome) in [
        (format!("http://{closes}/"), Outcome::Disconnected),
        (format!("http://{stops}/"), Outcome::Answered { status: 200, retry_after: None }),
        (format!("http://{babbles}/"), Outcome::BadAnswer { status: None }),
        (format!("http://{switches}/"), Outcome::BadAnswer { status: Some(101) }),
        (format!("http://{unassigned}/"), Outcome::BadAnswer { status: Some(799) }),
        (format!("http://{hangs}/"), Outcome::TimedOut),
        (format!("http://{nobody}/"), Outcome::NotConnected),
        (format!("https://{}.invalid/", "x".repeat(64)), Outcome::NotResolved),
        ("https://10.0.0.1/".to_owned(), Outcome::TargetRefused),
        ("http://93.184.216.34/".to_owned(), Outcome::TargetRefused),
        ("nonsense".to_owned(), Outcome::NotBuilt),
        (format!("ftp://{hangs}/"), Outcome::NotBuilt),
    ] {
        assert_eq!(poster.post(&url).await.outcome, outcome, "{url}");
    }
}

#[tokio::test]
async fn a_forbidden_address_sees_no_connection() {
    let (address, visits) = receiver(|stream, _| say(stream, "HTTP/1.1 204 No Content\r\n\r\n")).await;
    let poster = Sender::allowing("");
    for url in [format!("http://{address}/"), format!("https://localhost:{}/", address.port())] {
        assert_eq!(poster.post(&url).await.outcome, Outcome::TargetRefused, "{url}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_late_answer_belongs_to_nobody() {
    let (asked_again, posts) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (address, connections) = receiver(move |mut stream, _| {
        let (asked_again, post) = (asked_again.clone(), posts.fetch_add(1, Ordering::SeqCst));
        async move {
            if post > 0 {
                asked_again.notify_one();
                return say(stream, "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
            }
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.ok()?;
            asked_again.notified().await;
            say(stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
        }
    })
    .await;
    let poster = Sender::allowing("127.0.0.0/8");
    let first = poster.post(&format!("http://{address}/")).await;
    let second = poster.post(&format!("http://{address}/")).await;
    assert_eq!(first.outcome, Outcome::TimedOut);
    assert_eq!(second.outcome.status(), Some(500));
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_second_answer_to_one_post_is_not_the_answer_to_the_next() {
    for _ in 0..20 {
        let (address, connections) = receiver(|stream, _| {
            say(
                stream,
                "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            )
        })
        .await;
        let poster = Sender::allowing("127.0.0.0/8");
        for _ in 0..2 {
            let answer = poster.post(&format!("http://{address}/")).await;
            assert_eq!(answer.outcome.status(), Some(500));
        }
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_ends_at_the_deadline_at_the_latest() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases = [
        (String::new(), "HTTP/1.1 103 Early Hints\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\n".to_owned(), "x: y\r\n"),
        ("HTTP/1.1 200 OK\r\nx: ".to_owned(), "yyyyyyyy"),
        (format!("{CHUNKED}0\r\n"), "x: y\r\n"),
        (format!("{CHUNKED}1;"), "a=b;"),
        (CHUNKED.to_owned(), "000000000000"),
    ];
    let pauses = [Duration::ZERO, Duration::from_millis(20)];
    let posts = pauses.iter().flat_map(|pause| cases.iter().map(move |case| (case, *pause)));
    let posts = posts.map(|((head, again), pause)| async move {
        let (head_sent, again) = (head.clone(), *again);
        let (address, _) = receiver(move |mut stream, _| {
            let head = head_sent.clone();
            async move {
                stream.write_all(head.as_bytes()).await.ok()?;
                while stream.write_all(again.as_bytes()).await.is_ok() {
                    sleep(pause).await;
                }
                None
            }
        })
        .await;
        let answer = Sender::allowing("127.0.0.0/8").post(&format!("http://{address}/")).await;
        let Answer { outcome, duration, .. } = answer;
        assert_eq!(outcome.is_success(), head.contains("\r\n\r\n"), "{head:?} {again:?}: {outcome:?}");
        assert!(duration < SHORT * 3, "{head:?} {again:?}: {duration:?}");
    });
    futures_util::future::join_all(posts).await;
}

#[tokio::test]
async fn a_head_of_16_kib_is_too_long_and_a_common_one_is_not() {
    for (bytes, class) in [(8 * 1024, "ok"), (20 * 1024, "bad_answer")] {
        let text = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(bytes));
        let (address, _) = receiver(move |stream, _| {
            let text = text.clone();
            async move { say(stream, &text).await }
        })
        .await;
        let answer = Sender::allowing("127.0.0.0/8").post(&format!("http://{address}/")).await;
        assert_eq!(answer.outcome.class(), class, "{bytes}");
    }
}

#[tokio::test]
async fn reading_stops_at_the_16th_kib() {
    let mut taken = 0;
    let frames = futures_util::stream::poll_fn(|_| {
        taken += 1;
        let frame = hyper::body::Frame::data(Bytes::from_static(&[b'x'; 1024]));
        std::task::Poll::Ready(Some(Ok::<_, std::io::Error>(frame)))
    });
    let deadline = tokio::time::Instant::now() + SHORT;
    let read = read(http_body_util::StreamBody::new(frames), deadline, 4 * 1024).await;
    assert_eq!((read.body.len(), read.whole, read.ended, taken), (4 * 1024, false, false, 16));
}

#[tokio::test]
async fn a_name_is_validated_again_whenever_it_is_dialled() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let poster = Sender::that_asks("127.0.0.1/32", |_| {
        let last = if ASKED.fetch_add(1, Ordering::SeqCst) == 0 { 1 } else { 2 };
        Box::pin(std::future::ready(Ok(vec![[127, 0, 0, last].into()])))
    });
    let (address, connections) = receiver(|stream, _| async move {
        say(stream, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        None
    })
    .await;
    let url = format!("http://crm.test:{}/", address.port());
    assert_eq!(poster.post(&url).await.outcome.status(), Some(204));
    assert_eq!(poster.post(&url).await.outcome, Outcome::TargetRefused);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_arrives_is_what_the_standard_asks_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let [old, new] = [[1; 32], [2; 32]].map(|bytes| SigningKey::from_bytes(&bytes).unwrap());
    let sender = Sender::allowing("127.0.0.0/8");
    let mut post = Post {
        keys: [new.clone(), old.clone()].map(Signer::Hmac).into(),
        timestamp: clock::now().unix_timestamp(),
        ..sender.post_to(&format!("http://{address}/h?sig=a%2Fb"))
    };
    let body = Bytes::from_static("{\"name\":\"Zoë\"}".as_bytes());
    post.rendered.body = body.clone();
    let sent = tokio::spawn(async move { sender.poster.post(post).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(&body) {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
    say(stream, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(sent.await.unwrap().outcome.is_success());

    let text = String::from_utf8(read).unwrap();
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("POST /h?sig=a%2Fb HTTP/1.1"));
    let headers: http::HeaderMap = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| {
            (http::HeaderName::try_from(name).unwrap(), http::HeaderValue::try_from(value).unwrap())
        })
        .collect();
    let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-length",
            "content-type",
            "host",
            "presence-bridge-attempt",
            "user-agent",
            "webhook-id",
            "webhook-signature",
            "webhook-timestamp"
        ],
        "nothing is accepted compressed"
    );
    assert_eq!(headers["host"], address.to_string());
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["webhook-id"], Uuid::from_u128(9).to_string());
    for key in [old, new] {
        let library = standardwebhooks::Webhook::new(&key.to_text()).unwrap();
        assert!(library.verify(&body, &headers).is_ok());
    }
}

/// 127.0.0.2 belongs to the machine without further ado on Linux only.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_swallows_packets_leaves_time_for_the_next() {
    let (hole, _kept) = black_hole().await;
    let other = TcpListener::bind(("127.0.0.2", hole.port())).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            read_post(&mut stream).await;
            say(stream, "HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    });
    // The shortest deadline that a webhook may have, and one that is longer than any address may take.
    for timeout in [Duration::from_secs(1), Duration::from_secs(6)] {
        let look_up: LookUp =
            |_| Box::pin(std::future::ready(Ok(vec![[127, 0, 0, 1].into(), [127, 0, 0, 2].into()])));
        let poster = Sender::that_asks("127.0.0.0/8", look_up).timeout(timeout);
        let url = format!("http://two.test:{}/h", hole.port());
        let answer = poster.post(&url).await;
        assert_eq!(answer.outcome, Outcome::Answered { status: 204, retry_after: None }, "{timeout:?}");
        assert!(answer.duration < timeout, "{:?} of {timeout:?}", answer.duration);
        assert!(answer.duration > timeout / 10, "{:?}: the first one was asked", answer.duration);
    }
    // Alone it ends in time, too.
    let alone = Sender::allowing("127.0.0.0/8").post(&format!("http://{hole}/h")).await;
    assert_eq!(alone.outcome, Outcome::TimedOut);
}
