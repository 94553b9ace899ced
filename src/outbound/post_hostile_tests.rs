//! The poster against receivers that mean harm: each POST ends by its deadline, reads a bounded part of what
//! is sent, and is never given what belongs to another.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use genesys_simulator::crm::{Behaviour, Crm, CrmOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::*;
use crate::outbound::testing::{SHORT, Sender, receiver, say};
use crate::outbound::transport::connector::READ_PER_REQUEST;

/// Longer than any of these receivers is listened to.
const LONG: Duration = Duration::from_secs(20);

fn loopback() -> Sender {
    Sender::allowing("127.0.0.0/8")
}

/// What comes of the next POST to the same receiver. It may meet the end of a connection, and a busy machine
/// may be late: then the one behind it counts. What it never may is to have another's answer.
async fn next(sender: &Sender, url: &str) -> Outcome {
    for _ in 0..5 {
        match sender.post(url).await.outcome {
            Outcome::Disconnected | Outcome::TimedOut => {}
            outcome => return outcome,
        }
    }
    Outcome::TimedOut
}

/// Class and status of a POST that gets this answer, then the end of the connection or silence. The next one is answered
/// with 418, and so must say.
async fn class_of(text: &'static [u8], then_closes: bool) -> (&'static str, Option<u16>) {
    let posts = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (address, _) = receiver(move |mut stream, _| {
        let post = posts.fetch_add(1, Ordering::SeqCst);
        async move {
            if post > 0 {
                return say(stream, "HTTP/1.1 418 X\r\ncontent-length: 0\r\n\r\n").await;
            }
            stream.write_all(text).await.ok()?;
            (!then_closes).then_some(stream)
        }
    })
    .await;
    let (sender, url) = (loopback(), format!("http://{address}/"));
    let first = sender.post(&url).await;
    assert!(first.duration < SHORT * 3, "{:?}", first.duration);
    assert_eq!(next(&sender, &url).await.status(), Some(418), "behind {:?}", String::from_utf8_lossy(text));
    (first.outcome.class(), first.outcome.status())
}

#[tokio::test]
async fn a_malformed_answer_is_read_by_itself_and_never_spills_into_the_next() {
    let cases: [(&[u8], bool, &str); 33] = [
        // Lengths that lie, too long and too short.
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhi", true, "ok 200"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhi", false, "ok 200"),
        (b"HTTP/1.1 500 No\r\ncontent-length: 10\r\n\r\nhi", true, "http_5xx 500"),
        (b"HTTP/1.1 410 No\r\ncontent-length: 10\r\n\r\nhi", false, "http_4xx 410"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi, and more", false, "ok 200"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 204 No\r\n\r\n", false, "ok 200"),
        (b"HTTP/1.1 500 No\r\ncontent-length: 99999999999999999999999\r\n\r\n", false, "bad_answer 500"),
        (b"HTTP/1.1 500 No\r\ncontent-length: -1\r\n\r\n", false, "bad_answer 500"),
        (b"HTTP/1.1 500 No\r\ncontent-length: 0x10\r\n\r\n", false, "bad_answer 500"),
        // Two lengths, and a length with chunks.
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi!", false, "bad_answer 200"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length : 3\r\n\r\nhi!", false, "bad_answer 200"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nhi!", false, "bad_answer 200"),
        (
            b"HTTP/1.1 500 No\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            false,
            "http_5xx 500",
        ),
        (b"HTTP/1.1 500 No\r\ntransfer-encoding: gzip\r\n\r\nx", true, "http_5xx 500"),
        (b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", false, "http_5xx 500"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n", false, "ok 200"),
        // Bodies where there are none.
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello", false, "ok 204"),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nhello", false, "http_3xx 304"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello", false, "bad_answer 101"),
        // The HTTP library reads past no NUL.
        (b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n", false, "bad_answer 200"),
        // No HTTP, or not quite.
        (b"<html>HTTP/0.9</html>", true, "bad_answer"),
        (b"HTTP/1.1 200", true, "disconnected"),
        (b"HTTP/1.1 OK\r\n\r\n", false, "bad_answer"),
        (b"HTTP/1.1 20 OK\r\n\r\n", false, "bad_answer"),
        (b"HTTP/1.1 000 OK\r\n\r\n", false, "bad_answer"),
        (b"HTTP/3.0 200 OK\r\n\r\n", false, "bad_answer"),
        // Header lines that are none, in a head that says all the same that it was taken.
        (b"HTTP/1.1 200 OK\r\nx: a\x01b\r\ncontent-length: 0\r\n\r\n", false, "ok 200"),
        (b"HTTP/1.1 200 OK\r\nx\x01: a\r\ncontent-length: 0\r\n\r\n", false, "ok 200"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 0\r\n\r\n", false, "ok 200"),
        (b"HTTP/1.1 200 OK\r\nx : a\r\ncontent-length : 0\r\n\r\n", false, "ok 200"),
        (b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n", false, "ok 200"),
        (b"HTTP/1.1 500 No\r\nno colon\r\ncontent-length: 0\r\n\r\n", false, "http_5xx 500"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", false, "bad_answer"),
    ];
    let posts = cases.iter().map(|(text, closes, class)| async move {
        let class =
            class.split_once(' ').map_or((*class, None), |(class, status)| (class, status.parse().ok()));
        assert_eq!(class_of(text, *closes).await, class, "{:?}", String::from_utf8_lossy(text));
    });
    futures_util::future::join_all(posts).await;
}

#[tokio::test]
async fn a_flood_ends_at_the_limit_and_not_at_the_deadline() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let floods = [
        ("interim answers", String::new(), "HTTP/1.1 103 Early Hints\r\n\r\n".to_owned()),
        ("header lines", "HTTP/1.1 200 OK\r\n".to_owned(), "x: y\r\n".to_owned()),
        ("one header", "HTTP/1.1 200 OK\r\nx: ".to_owned(), "y".repeat(100)),
        ("reason", "HTTP/1.1 200 ".to_owned(), "y".repeat(100)),
        ("trailers", format!("{CHUNKED}0\r\n"), "x: y\r\n".to_owned()),
        ("chunk extensions", format!("{CHUNKED}1;"), "a=b;".to_owned()),
        ("chunk sizes", CHUNKED.to_owned(), "0".repeat(100)),
        ("empty lines", String::new(), "\r\n".to_owned()),
        ("body", CHUNKED.to_owned(), format!("400\r\n{}\r\n", "x".repeat(1024))),
    ];
    let posts = floods.map(|(name, head, again)| async move {
        let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
        let (address, _) = receiver(move |mut stream, _| {
            let (head, again, ended) = (head.clone(), again.repeat(64), ended.clone());
            async move {
                let mut sent = 0;
                if stream.write_all(head.as_bytes()).await.is_ok() {
                    while stream.write_all(again.as_bytes()).await.is_ok() {
                        sent += again.len();
                    }
                }
                let _ = ended.send(sent);
                None
            }
        })
        .await;
        let answer = loopback().timeout(LONG).post(&format!("http://{address}/")).await;
        assert!(answer.duration < LONG / 2, "{name}: {:?}", answer.duration);
        let after_the_head = ["body", "trailers", "chunk extensions", "chunk sizes"].contains(&name);
        assert_eq!(answer.outcome.is_success(), after_the_head, "{name}: {:?}", answer.outcome);
        if ["header lines", "one header"].contains(&name) {
            assert_eq!(answer.outcome, Outcome::BadAnswer { status: Some(200) }, "{name}");
        }
        // What it got rid of beyond our limit lies in the buffers of the two sockets.
        let sent = end.recv().await.unwrap();
        let limit = usize::try_from(READ_PER_REQUEST).unwrap() + 12 * 1024 * 1024;
        assert!(sent < limit, "{name}: {sent} bytes");
    });
    futures_util::future::join_all(posts).await;
}

/// The whole of what the demo CRM can do to a sender, each followed by a POST that is answered with 418.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_crm_does_ends_by_the_deadline_and_is_nobody_elses_answer() {
    let every = Duration::from_millis(5);
    let wait = Duration::from_millis(20);
    let whole = |status: u16| format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
    let Behaviour::Answer(good) = Behaviour::status(200).body("fine") else { panic!() };
    let behaviours = [
        (Behaviour::status(204), "ok"),
        (Behaviour::status(200).after(SHORT * 2), "timeout"),
        (Behaviour::retry_after(429, "1e12"), "http_4xx"),
        (Behaviour::redirect(307, "http://169.254.169.254/"), "http_3xx"),
        (Behaviour::Hang, "timeout"),
        (Behaviour::CloseUnanswered, "disconnected"),
        (Behaviour::ResetUnanswered, "disconnected"),
        (Behaviour::Drip { status: 200, every }, "ok"),
        (Behaviour::DripHead { every }, "timeout"),
        (Behaviour::DripChunks { status: 200, every }, "ok"),
        (Behaviour::EndlessHead, "bad_answer"),
        (Behaviour::EndlessBody { status: 200 }, "ok"),
        (Behaviour::EndlessTrailers { status: 200 }, "ok"),
        (Behaviour::EndlessExtension { status: 200 }, "ok"),
        (Behaviour::EndlessInterims { interim: 103 }, "disconnected"),
        (Behaviour::Interim { interim: 103, wait, status: 200 }, "ok"),
        (Behaviour::Interim { interim: 100, wait: SHORT * 2, status: 200 }, "timeout"),
        (Behaviour::Interims { interim: 103, count: 100, status: 200 }, "ok"),
        (Behaviour::Interims { interim: 103, count: 5000, status: 200 }, "disconnected"),
        (Behaviour::Length { status: 200, declared: 9, sent: 2 }, "ok"),
        (Behaviour::Length { status: 503, declared: 9, sent: 2 }, "http_5xx"),
        (Behaviour::Length { status: 200, declared: 2, sent: 9 }, "ok"),
        (Behaviour::CloseAfter { answer: good, wait: Duration::ZERO }, "ok"),
        (Behaviour::Echo { status: 200 }, "ok"),
        (Behaviour::Raw("nonsense".into()), "bad_answer"),
        (Behaviour::Spill((whole(500) + &whole(200)).into()), "http_5xx"),
        (Behaviour::ResetAfter("HTTP/1.1 200 OK\r\n".into()), "disconnected"),
    ];
    let crm = Crm::start(CrmOptions::default()).await.unwrap();
    crm.always_everywhere(Behaviour::status(418));
    let sender = loopback();
    let posts = behaviours.iter().enumerate().map(|(number, (behaviour, class))| {
        let (crm, sender) = (&crm, &sender);
        async move {
            let path = format!("/{number}");
            crm.next(&path, [behaviour.clone()]);
            let url = crm.url(&path);
            let answer = sender.post(&url).await;
            assert_eq!(answer.outcome.class(), *class, "{behaviour:?}");
            assert!(
                answer.duration < SHORT + Duration::from_millis(500),
                "{behaviour:?}: {:?}",
                answer.duration
            );
            assert!(answer.excerpt.len() <= ANSWER_KEPT_MAX, "{behaviour:?}");
            assert_eq!(next(sender, &url).await.status(), Some(418), "behind {behaviour:?}");
        }
    });
    futures_util::future::join_all(posts).await;
}

#[tokio::test]
async fn a_bomb_is_not_inflated() {
    let crm = Crm::start(CrmOptions::default()).await.unwrap();
    crm.always_everywhere(Behaviour::Bomb { status: 200 });
    // The CRM takes its time to make it.
    let answer = loopback().timeout(LONG).post(&crm.url("/")).await;
    assert_eq!((answer.outcome.class(), answer.excerpt.len()), ("ok", ANSWER_KEPT_MAX));
    assert!(answer.excerpt.starts_with(&[0x1F, 0x8B]), "as it was sent");
}

#[tokio::test]
async fn some_interim_answers_are_fine() {
    let (address, connections) = receiver(|stream, _| async move {
        let text = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(50);
        say(stream, &format!("{text}HTTP/1.1 202 OK\r\ncontent-length: 0\r\n\r\n")).await
    })
    .await;
    let sender = loopback();
    for _ in 0..3 {
        assert_eq!(sender.post(&format!("http://{address}/")).await.outcome.status(), Some(202));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_may_read_more_the_more_it_is_asked() {
    let (address, connections) = receiver(|stream, _| async move {
        let body = "x".repeat(12 * 1024);
        say(stream, &format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await
    })
    .await;
    let sender = loopback();
    // Far more than one request may read.
    for _ in 0..30 {
        assert!(sender.post(&format!("http://{address}/")).await.outcome.is_success());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_reset_ends_a_connection_and_changes_no_answer_whose_head_was_read() {
    for (said, class) in [
        ("", "disconnected"),
        ("HTTP/1.1 2", "disconnected"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n", "disconnected"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", "ok"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "ok"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", "ok"),
        ("HTTP/1.1 429 No\r\ncontent-length: 9\r\n\r\nhalf", "http_4xx"),
    ] {
        let (address, _) = receiver(move |mut stream, _| async move {
            stream.write_all(said.as_bytes()).await.ok()?;
            // What was said must have been read, or the reset throws it away.
            sleep(Duration::from_millis(50)).await;
            let _ = stream.set_zero_linger();
            None
        })
        .await;
        let answer = loopback().post(&format!("http://{address}/")).await;
        assert_eq!(answer.outcome.class(), class, "{said:?}");
    }
    // Before anything was read.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_zero_linger();
        }
    });
    for _ in 0..20 {
        let outcome = loopback().post(&format!("http://{address}/")).await.outcome;
        assert!([Outcome::Disconnected, Outcome::NotConnected].contains(&outcome), "{outcome:?}");
    }
}

/// A receiver that closes each connection some time after its answer, as many do after five seconds: the next
/// POST may meet the end, and is then made again on another connection.
#[tokio::test]
async fn a_connection_that_is_closed_between_two_posts_costs_no_answer() {
    let (address, _) = receiver(|stream, posts| async move {
        let status = 200 + posts;
        let stream = say(stream, &format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")).await?;
        sleep(Duration::from_micros(300)).await;
        (posts == 0).then_some(stream)
    })
    .await;
    let (sender, url) = (loopback(), format!("http://{address}/"));
    for _ in 0..300 {
        let outcome = sender.post(&url).await.outcome;
        assert!(matches!(outcome, Outcome::Answered { status: 200 | 201, .. }), "{outcome:?}");
        sleep(Duration::from_micros(250)).await;
    }
}

#[tokio::test]
async fn a_receiver_that_reads_nothing_holds_nobody_beyond_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, url) = (loopback(), format!("http://{address}/"));
    let mut post = sender.post_to(&url);
    // More than the sockets hold.
    post.rendered.body = vec![b'x'; 32 * 1024 * 1024].into();
    let answer = sender.poster.post(post).await;
    assert_eq!(answer.outcome, Outcome::TimedOut);
    assert!(answer.duration < SHORT * 3);
    // And the connection is given up with it.
    let (mut stream, _) = listener.accept().await.unwrap();
    let ended = tokio::time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn a_redirect_to_an_inner_address_is_not_followed() {
    for location in ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:5432/", "//[::1]/", "/"] {
        for status in [301, 302, 303, 307, 308] {
            let (address, connections) = receiver(move |stream, posts| async move {
                assert_eq!(posts, 0);
                say(
                    stream,
                    &format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"),
                )
                .await
            })
            .await;
            let answer = loopback().post(&format!("http://{address}/")).await;
            assert_eq!(answer.outcome.status(), Some(status));
            assert_eq!(connections.load(Ordering::SeqCst), 1);
        }
    }
}

/// Another sender's fault: its time limit ended at the head of the answer, and the body was read whole before
/// it was cut.
#[tokio::test]
async fn the_time_limit_is_around_the_body_too_and_the_body_is_not_read_whole() {
    let (address, _) = receiver(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await.ok()?;
        stream.write_all(&[b'x'; 1000]).await.ok()?;
        sleep(LONG).await;
        Some(stream)
    })
    .await;
    let answer = loopback().post(&format!("http://{address}/")).await;
    assert_eq!(
        (answer.outcome.class(), answer.excerpt.len()),
        ("ok", 1000),
        "its head says that it was taken"
    );
    assert!(answer.duration >= SHORT && answer.duration < SHORT * 3, "{:?}", answer.duration);

    let (address, _) = receiver(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await.ok()?;
        stream.write_all(&[b'x'; 20_000]).await.ok()?;
        sleep(LONG).await;
        Some(stream)
    })
    .await;
    let answer = loopback().post(&format!("http://{address}/")).await;
    assert_eq!((answer.outcome.class(), answer.excerpt.len()), ("ok", ANSWER_KEPT_MAX));
    assert!(answer.duration < SHORT, "the rest is not waited for: {:?}", answer.duration);
}

#[tokio::test]
async fn webhooks_share_no_connections_and_do_not_wait_for_each_other() {
    let (address, connections) = receiver(|stream, _| async move {
        sleep(Duration::from_millis(20)).await;
        say(stream, "HTTP/1.1 204 No Content\r\n\r\n").await
    })
    .await;
    let url = format!("http://{address}/");
    let sender = loopback();
    let [one, other] = [(); 2].map(|()| sender.poster.target(&url, &Access::default(), SHORT));
    for target in [&one, &other, &one, &other] {
        let post = Post { target: target.clone(), ..sender.post_to(&url) };
        assert!(sender.poster.post(post).await.outcome.is_success());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}
