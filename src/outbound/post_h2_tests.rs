//! The poster against receivers that speak HTTP/2, well or to do harm. The other side writes its frames by
//! hand.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::outbound::testing::{SHORT, Sender, acceptor};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Longer than any of these receivers is listened to.
const LONG: Duration = Duration::from_secs(20);

type Tls = TlsStream<TcpStream>;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `:status` as a literal.
fn status(status: u16) -> Vec<u8> {
    let mut block = vec![0x08, 3];
    block.extend(status.to_string().bytes());
    block
}

fn answer(stream: u32, code: u16) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &status(code))
}

fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// One frame of the client: kind, flags, stream, payload.
async fn next(io: &mut Tls) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    io.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes(head[5..9].try_into().unwrap()), payload))
}

/// Reads until a POST has come whole; its stream.
async fn next_post(io: &mut Tls) -> Option<u32> {
    loop {
        let (kind, flags, stream, payload) = next(io).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => io.write_all(&frame(SETTINGS, ACK, 0, &[])).await.ok()?,
            PING if flags & ACK == 0 => io.write_all(&frame(PING, ACK, 0, &payload)).await.ok()?,
            DATA if flags & END_STREAM != 0 => return Some(stream),
            _ => {}
        }
    }
}

/// A receiver that opens HTTP/2 with these settings and leaves the rest to `talk`, which gets the number of
/// the connection from 0.
async fn receiver<F, Fut>(settings: &'static [u8], talk: F) -> (String, Arc<AtomicUsize>)
where
    F: Fn(Tls, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Option<()>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/h", listener.local_addr().unwrap().port());
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, talk) = (connections.clone(), Arc::new(talk));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (number, talk) = (count.fetch_add(1, Ordering::SeqCst), talk.clone());
            tokio::spawn(async move {
                let mut io = acceptor(&["h2", "http/1.1"], false).accept(tcp).await.ok()?;
                let mut preface = [0; 24];
                io.read_exact(&mut preface).await.ok()?;
                assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
                io.write_all(&frame(SETTINGS, 0, 0, settings)).await.ok()?;
                talk(io, number).await
            });
        }
    });
    (url, connections)
}

#[tokio::test]
async fn each_post_gets_its_own_answer_in_whatever_order_they_come() {
    const AT_ONCE: usize = 40;
    let (url, connections) = receiver(&[], |mut io, _| async move {
        let first = next_post(&mut io).await?;
        io.write_all(&answer(first, 204)).await.ok()?;
        loop {
            let mut waiting = Vec::new();
            while waiting.len() < AT_ONCE {
                waiting.push(next_post(&mut io).await?);
            }
            for stream in waiting.into_iter().rev() {
                // Which stream it was is told in the body.
                let text = stream.to_string();
                io.write_all(&frame(HEADERS, END_HEADERS, stream, &status(200))).await.ok()?;
                io.write_all(&frame(DATA, END_STREAM, stream, text.as_bytes())).await.ok()?;
            }
        }
    })
    .await;
    let sender = Sender::over_tls(true);
    assert_eq!(sender.post(&url).await.outcome.status(), Some(204));
    let many = (0..AT_ONCE).map(|_| sender.post(&url));
    let mut streams: Vec<u32> = Vec::new();
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(answer.outcome.status(), Some(200));
        streams.push(String::from_utf8(answer.excerpt).unwrap().parse().unwrap());
    }
    // Polled in order, they were sent in order, and each has the answer to what it sent.
    assert!(streams.is_sorted_by(|one, next| one < next), "{streams:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// Before it is known that the receiver speaks HTTP/2 each POST opens a connection of its own; one of them
/// stays, and may read for all who share it.
#[tokio::test]
async fn a_burst_to_a_receiver_that_is_not_known_yet_ends_well() {
    let (url, connections) = receiver(&[], |mut io, _| async move {
        loop {
            let stream = next_post(&mut io).await?;
            io.write_all(&frame(HEADERS, END_HEADERS, stream, &status(200))).await.ok()?;
            io.write_all(&frame(DATA, END_STREAM, stream, &[b'x'; 4 * 1024])).await.ok()?;
        }
    })
    .await;
    let sender = Sender::over_tls(true).timeout(LONG);
    for _ in 0..3 {
        let many = (0..40).map(|_| sender.post(&url));
        for answer in futures_util::future::join_all(many).await {
            assert!(answer.outcome.is_success(), "{:?}", answer.outcome);
        }
    }
    assert!(connections.load(Ordering::SeqCst) <= 40);
}

#[tokio::test]
async fn what_arrives_over_http_2_is_what_the_standard_asks_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("localhost:{}", listener.local_addr().unwrap().port());
    let url = format!("https://{authority}/h?sig=a%2Fb");
    let sent = tokio::spawn(async move { Sender::over_tls(true).post(&url).await });
    let (tcp, _) = listener.accept().await.unwrap();
    let io = acceptor(&["h2"], false).accept(tcp).await.unwrap();
    let mut connection = h2::server::handshake(io).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    assert_eq!(request.uri().to_string(), format!("https://{authority}/h?sig=a%2Fb"));
    let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str().to_owned()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-length",
            "content-type",
            "presence-bridge-attempt",
            "user-agent",
            "webhook-id",
            "webhook-signature",
            "webhook-timestamp"
        ]
    );
    let mut body = request.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "{}");
    let response = hyper::Response::builder().status(503).header("retry-after", "120").body(()).unwrap();
    respond.send_response(response, true).unwrap();
    let outcome = sent.await.unwrap().outcome;
    assert_eq!(outcome, Outcome::Answered { status: 503, retry_after: Some(Duration::from_secs(120)) });
}

#[tokio::test]
async fn an_interim_answer_over_http_2_is_not_the_answer() {
    let (url, connections) = receiver(&[], |mut io, _| async move {
        loop {
            let stream = next_post(&mut io).await?;
            for code in [100, 103, 103] {
                io.write_all(&frame(HEADERS, END_HEADERS, stream, &status(code))).await.ok()?;
                sleep(Duration::from_millis(10)).await;
            }
            let code = if stream == 1 { 500 } else { 204 };
            io.write_all(&answer(stream, code)).await.ok()?;
        }
    })
    .await;
    let sender = Sender::over_tls(true);
    assert_eq!(sender.post(&url).await.outcome.status(), Some(500));
    assert_eq!(sender.post(&url).await.outcome.status(), Some(204));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_late_answer_over_http_2_belongs_to_nobody() {
    let (url, connections) = receiver(&[], |mut io, _| async move {
        let first = next_post(&mut io).await?;
        let second = next_post(&mut io).await?;
        io.write_all(&[answer(first, 200), answer(second, 500)].concat()).await.ok()?;
        let third = next_post(&mut io).await?;
        io.write_all(&answer(third, 202)).await.ok()?;
        next_post(&mut io).await.map(|_| ())
    })
    .await;
    let sender = Sender::over_tls(true);
    assert_eq!(sender.post(&url).await.outcome, Outcome::TimedOut);
    assert_eq!(sender.post(&url).await.outcome.status(), Some(500));
    assert_eq!(sender.post(&url).await.outcome.status(), Some(202));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// As a proxy says goodbye after a number of requests, or before it restarts.
#[tokio::test]
async fn a_post_that_was_not_looked_at_is_sent_again_at_once() {
    const REFUSED: [u8; 4] = [0, 0, 0, 7];
    for leaves in [true, false] {
        let (url, connections) = receiver(&[], move |mut io, number| async move {
            let stream = next_post(&mut io).await?;
            if number == 0 && leaves {
                return io.write_all(&goaway(0, 0)).await.ok();
            }
            if number == 0 && stream == 1 {
                io.write_all(&frame(RST_STREAM, 0, 1, &REFUSED)).await.ok()?;
                let stream = next_post(&mut io).await?;
                io.write_all(&answer(stream, 204)).await.ok()?;
            }
            io.write_all(&answer(stream, 204)).await.ok()?;
            next(&mut io).await.map(|_| ())
        })
        .await;
        let answer = Sender::over_tls(true).post(&url).await;
        assert_eq!(answer.outcome.status(), Some(204), "{leaves}");
        assert_eq!(connections.load(Ordering::SeqCst), if leaves { 2 } else { 1 });
    }
    // Twice at most.
    let (url, connections) = receiver(&[], |mut io, _| async move {
        next_post(&mut io).await?;
        io.write_all(&goaway(0, 0)).await.ok()
    })
    .await;
    let answer = Sender::over_tls(true).post(&url).await;
    assert_eq!(answer.outcome, Outcome::Disconnected);
    assert!(connections.load(Ordering::SeqCst) <= 3);
}

/// The second POST on a kept connection meets its end, in each way that there is.
#[tokio::test]
async fn a_kept_http_2_connection_that_dies_costs_no_post() {
    let ends: [(&str, Option<Vec<u8>>, bool); 6] = [
        ("goaway", Some(goaway(1, 0)), true),
        ("goaway with an error", Some(goaway(0, 11)), true),
        ("refused stream", Some(frame(RST_STREAM, 0, 3, &[0, 0, 0, 7])), true),
        ("end of the connection", Some(Vec::new()), true),
        ("reset of the connection", None, true),
        // An answer of a kind: the receiver has seen this POST.
        ("reset of the stream", Some(frame(RST_STREAM, 0, 3, &[0, 0, 0, 2])), false),
    ];
    for (name, end, remade) in ends {
        let last_words = end.clone();
        let (url, _) = receiver(&[], move |mut io, number| {
            let end = last_words.clone();
            async move {
                let first = next_post(&mut io).await?;
                io.write_all(&answer(first, 204)).await.ok()?;
                if number == 0 {
                    next_post(&mut io).await?;
                    match &end {
                        Some(bytes) => io.write_all(bytes).await.ok()?,
                        None => io.get_ref().0.set_zero_linger().ok()?,
                    }
                    if name != "refused stream" && name != "reset of the stream" {
                        return Some(());
                    }
                }
                loop {
                    let stream = next_post(&mut io).await?;
                    io.write_all(&answer(stream, 204)).await.ok()?;
                }
            }
        })
        .await;
        let sender = Sender::over_tls(true);
        assert_eq!(sender.post(&url).await.outcome.status(), Some(204), "{name}");
        let answer = sender.post(&url).await;
        assert_eq!((answer.outcome.is_success(), answer.remade), (remade, remade), "{name}: {answer:?}");
        let after = sender.post(&url).await;
        assert_eq!((after.outcome.status(), after.remade), (Some(204), false), "{name}");
    }
}

/// Streams that share a connection die with it, and share the next one.
#[tokio::test]
async fn streams_of_a_connection_that_dies_are_made_again_over_one_new_one() {
    const AT_ONCE: usize = 30;
    let (url, connections) = receiver(&[], |mut io, number| async move {
        let first = next_post(&mut io).await?;
        io.write_all(&answer(first, 204)).await.ok()?;
        for _ in 0..AT_ONCE {
            let stream = next_post(&mut io).await?;
            if number > 0 {
                io.write_all(&answer(stream, 204)).await.ok()?;
            }
        }
        if number > 0 { next(&mut io).await.map(|_| ()) } else { Some(()) }
    })
    .await;
    let sender = Sender::over_tls(true);
    assert!(sender.post(&url).await.outcome.is_success());
    let posts = (0..AT_ONCE).map(|_| sender.post(&url));
    for answer in futures_util::future::join_all(posts).await {
        assert_eq!((answer.outcome.status(), answer.remade), (Some(204), true));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_receiver_that_breaks_http_2_off_is_one_that_disconnected() {
    let attacks: [(&str, Vec<u8>); 9] = [
        ("goaway with an error", goaway(0, 2)),
        ("reset", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ("reset by protocol", frame(RST_STREAM, 0, 1, &[0, 0, 0, 1])),
        ("data first", frame(DATA, END_STREAM, 1, b"x")),
        ("an answer that was not asked for", answer(9, 200)),
        ("a push", frame(5, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
        ("a huge frame", vec![0xFF, 0xFF, 0xFF, DATA, 0, 0, 0, 0, 1]),
        ("garbage", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("a bad header block", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF])),
    ];
    let posts = attacks.map(|(name, attack)| async move {
        let (url, _) = receiver(&[], move |mut io, _| {
            let attack = attack.clone();
            async move {
                next_post(&mut io).await?;
                io.write_all(&attack).await.ok()?;
                while next(&mut io).await.is_some() {}
                Some(())
            }
        })
        .await;
        let answer = Sender::over_tls(true).post(&url).await;
        assert!(!answer.outcome.is_success(), "{name}: {:?}", answer.outcome);
        assert!(answer.duration < SHORT * 3, "{name}: {:?}", answer.duration);
    });
    futures_util::future::join_all(posts).await;
}

/// Each of these goes on as long as the client takes it. The connection breaks, so it cannot go on behind the
/// back of later POSTs either.
#[tokio::test]
async fn a_flood_of_frames_ends_at_the_limit_and_not_at_the_deadline() {
    let mut field = vec![0, 1, b'x', 0x7F, 0x81, 0x1F];
    field.extend([b'y'; 4096]);
    let interim = frame(HEADERS, END_HEADERS, 1, &status(103));
    let open = frame(HEADERS, END_HEADERS, 1, &status(200));
    let floods = [
        ("settings", vec![], frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("settings acks", vec![], frame(SETTINGS, ACK, 0, &[])),
        ("pings", vec![], frame(PING, 0, 0, &[7; 8])),
        ("pongs", vec![], frame(PING, ACK, 0, &[7; 8])),
        ("window updates", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("priorities", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("unknown frames", vec![], frame(0xEE, 0, 0, &[0; 1000])),
        ("interim answers", vec![], interim),
        ("continuations", frame(HEADERS, 0, 1, &status(200)), frame(CONTINUATION, 0, 1, &[])),
        ("header fields", frame(HEADERS, 0, 1, &status(200)), frame(CONTINUATION, 0, 1, &field)),
        ("empty data", open.clone(), frame(DATA, 0, 1, &[])),
        ("goaways", vec![], goaway(1, 0)),
        ("resets of nothing", vec![], frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
    ];
    let posts = floods.map(|(name, head, again)| async move {
        let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
        let (url, _) = receiver(&[], move |mut io, _| {
            let (head, again, ended) = (head.clone(), again.repeat(64), ended.clone());
            async move {
                next_post(&mut io).await?;
                let mut sent = 0;
                if io.write_all(&head).await.is_ok() {
                    while io.write_all(&again).await.is_ok() && io.flush().await.is_ok() {
                        sent += again.len();
                    }
                }
                let _ = ended.send(sent);
                Some(())
            }
        })
        .await;
        let sender = Sender::over_tls(true).timeout(LONG);
        let answer = sender.post(&url).await;
        assert_eq!(answer.outcome.is_success(), name == "empty data", "{name}: {:?}", answer.outcome);
        assert!(answer.duration < LONG / 2, "{name}: {:?}", answer.duration);
        let sent = tokio::time::timeout(LONG, end.recv()).await.expect(name).unwrap();
        assert!(sent < 16 * 1024 * 1024, "{name}: {sent} bytes");
    });
    futures_util::future::join_all(posts).await;
}

/// The connection is shared, so it must break by itself, with nothing pending on it, however long it has been
/// good.
#[tokio::test]
async fn a_flood_on_an_idle_connection_ends_too() {
    const GOOD: usize = 600;
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    let (url, connections) = receiver(&[], move |mut io, number| {
        let ended = ended.clone();
        async move {
            for _ in 0..GOOD {
                let stream = next_post(&mut io).await?;
                io.write_all(&answer(stream, 204)).await.ok()?;
            }
            if number == 0 {
                let unknown = frame(0xEE, 0, 0, &[0; 1000]);
                let mut sent = 0;
                while io.write_all(&unknown).await.is_ok() && io.flush().await.is_ok() {
                    sent += unknown.len();
                }
                let _ = ended.send(sent);
            }
            next(&mut io).await.map(|_| ())
        }
    })
    .await;
    let sender = Sender::over_tls(true);
    for _ in 0..GOOD {
        assert!(sender.post(&url).await.outcome.is_success());
    }
    let sent = tokio::time::timeout(LONG, end.recv()).await.unwrap().unwrap();
    // Most of it lies in the buffers of the two sockets.
    assert!(sent < 16 * 1024 * 1024, "{sent} bytes");
    assert!(sender.post(&url).await.outcome.is_success());
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn no_more_than_16_kib_of_an_answer_over_http_2_are_read_and_4_kept() {
    let (url, connections) = receiver(&[], |mut io, _| async move {
        loop {
            let stream = next_post(&mut io).await?;
            io.write_all(&frame(HEADERS, END_HEADERS, stream, &status(500))).await.ok()?;
            // As much as it may before it is told that more is welcome.
            for _ in 0..16 {
                io.write_all(&frame(DATA, 0, stream, &[b'x'; 1024])).await.ok()?;
            }
        }
    })
    .await;
    let sender = Sender::over_tls(true);
    for _ in 0..3 {
        let answer = sender.post(&url).await;
        assert_eq!((answer.outcome.class(), answer.excerpt.len()), ("http_5xx", ANSWER_KEPT_MAX));
        assert!(answer.duration < SHORT, "{:?}", answer.duration);
    }
    // Only the stream was dropped.
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_head_over_http_2_is_as_long_as_one_over_http_1_1() {
    for (lines, class) in [(1, "ok"), (5, "bad")] {
        let (url, _) = receiver(&[], move |mut io, _| async move {
            let stream = next_post(&mut io).await?;
            let mut block = status(200);
            for _ in 0..lines {
                block.extend([0, 1, b'x', 0x7F, 0x81, 0x1F]);
                block.extend([b'y'; 4096]);
            }
            let (first, rest) = block.split_at(block.len().min(16_000));
            let flags = END_STREAM | if rest.is_empty() { END_HEADERS } else { 0 };
            io.write_all(&frame(HEADERS, flags, stream, first)).await.ok()?;
            if !rest.is_empty() {
                io.write_all(&frame(CONTINUATION, END_HEADERS, stream, rest)).await.ok()?;
            }
            while next(&mut io).await.is_some() {}
            Some(())
        })
        .await;
        let answer = Sender::over_tls(true).post(&url).await;
        assert_eq!(answer.outcome.is_success(), class == "ok", "{lines}: {:?}", answer.outcome);
        assert!(answer.duration < SHORT, "{lines}: {:?}", answer.duration);
    }
}

#[tokio::test]
async fn a_receiver_that_takes_no_byte_or_no_stream_holds_nobody_beyond_the_deadline() {
    // INITIAL_WINDOW_SIZE 0; MAX_CONCURRENT_STREAMS 0.
    let settings: [&'static [u8]; 2] = [&[0, 4, 0, 0, 0, 0], &[0, 3, 0, 0, 0, 0]];
    for settings in settings {
        let (url, _) = receiver(settings, |mut io, _| async move {
            while next(&mut io).await.is_some() {}
            Some(())
        })
        .await;
        let sender = Sender::over_tls(true);
        for _ in 0..2 {
            let answer = sender.post(&url).await;
            assert!(!answer.outcome.is_success(), "{:?}", answer.outcome);
            assert!(answer.duration < SHORT * 3, "{:?}", answer.duration);
        }
    }
}

#[tokio::test]
async fn one_stream_at_a_time_is_enough() {
    let (url, connections) = receiver(&[0, 3, 0, 0, 0, 1], |mut io, _| async move {
        loop {
            let stream = next_post(&mut io).await?;
            io.write_all(&answer(stream, 204)).await.ok()?;
        }
    })
    .await;
    let sender = Sender::over_tls(true).timeout(LONG);
    assert!(sender.post(&url).await.outcome.is_success());
    let many = (0..50).map(|_| sender.post(&url));
    for answer in futures_util::future::join_all(many).await {
        assert!(answer.outcome.is_success(), "{:?}", answer.outcome);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// An HTTP/1.1 connection is given up with the attempt that hangs on it; one of HTTP/2 is shared and must be
/// found out.
#[tokio::test]
async fn a_connection_that_went_silent_is_found_out() {
    let (url, connections) = receiver(&[], |mut io, number| async move {
        let stream = next_post(&mut io).await?;
        if number > 0 {
            io.write_all(&answer(stream, 204)).await.ok()?;
        }
        // Reads no more, so it answers no ping either.
        sleep(LONG * 2).await;
        Some(())
    })
    .await;
    let sender = Sender::over_tls(true).timeout(LONG);
    let answer = sender.post(&url).await;
    assert_eq!(answer.outcome, Outcome::Disconnected);
    assert!(answer.duration < Duration::from_secs(13), "{:?}", answer.duration);
    assert!(sender.post(&url).await.outcome.is_success());
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}
