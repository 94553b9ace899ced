//! The poster over connections that it kept and that die: a healthy receiver loses no POST by that, and one
//! that fails is not asked twice.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::*;
use crate::outbound::testing::{SHORT, Sender, read_post, receiver, say};

const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const TAKEN: Outcome = Outcome::Answered { status: 204, retry_after: None };

fn loopback() -> Sender {
    Sender::allowing("127.0.0.0/8")
}

/// Resets the connection: the other end gets an error, and no orderly end.
fn reset(stream: TcpStream) -> Option<TcpStream> {
    stream.set_zero_linger().ok()?;
    None
}

#[tokio::test]
async fn a_receiver_that_resets_each_connection_at_its_second_post_gets_every_post() {
    let (address, connections) = receiver(|stream, posts| async move {
        if posts == 0 { say(stream, NO_CONTENT).await } else { reset(stream) }
    })
    .await;
    let (sender, url) = (loopback(), format!("http://{address}/"));
    for number in 0..50 {
        let answer = sender.post(&url).await;
        assert_eq!((answer.outcome, answer.remade), (TAKEN, number > 0), "{number}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 50);
}

#[tokio::test]
async fn a_post_that_is_made_again_is_the_same_to_the_last_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/h", listener.local_addr().unwrap());
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        for posts in [2, 1] {
            let (mut stream, _) = listener.accept().await.unwrap();
            for post in 0..posts {
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n{}") {
                    assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
                }
                seen.push(String::from_utf8(read).unwrap());
                if post == 0 {
                    stream.write_all(NO_CONTENT.as_bytes()).await.unwrap();
                }
            }
        }
        seen
    });
    let sender = loopback();
    assert!(!sender.post(&url).await.remade);
    let answer = sender.poster.post(Post { attempt: 3, ..sender.post_to(&url) }).await;
    assert_eq!((answer.outcome, answer.remade), (TAKEN, true));
    let seen = seen.await.unwrap();
    assert!(seen[1].contains("presence-bridge-attempt: 3\r\n"), "{}", seen[1]);
    assert_eq!(seen[1], seen[2]);
}

/// As servers end connections that were idle for too long: with an orderly end, with a word of HTTP before
/// it, by a reset. Each is known before the next POST is sent, so the receiver sees that one once.
#[tokio::test]
async fn a_connection_that_was_ended_meanwhile_is_not_used_again() {
    const TOO_LATE: &str = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for (last_words, resets) in [("", false), (TOO_LATE, false), ("", true)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/h", listener.local_addr().unwrap());
        let (ended, mut end) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                read_post(&mut stream).await;
                let said = [NO_CONTENT, last_words].concat();
                stream.write_all(NO_CONTENT.as_bytes()).await.unwrap();
                // Until the answer was taken by itself.
                sleep(Duration::from_millis(20)).await;
                stream.write_all(&said.as_bytes()[NO_CONTENT.len()..]).await.unwrap();
                if resets {
                    stream.set_zero_linger().unwrap();
                }
                drop(stream);
                ended.send(()).unwrap();
            }
        });
        let sender = loopback();
        for _ in 0..5 {
            let answer = sender.post(&url).await;
            assert_eq!((answer.outcome, answer.remade), (TAKEN, false), "{last_words:?} {resets}");
            // On loopback the end has arrived with that.
            end.recv().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_post_is_not_made_again_on_a_fresh_connection_or_after_a_byte_of_the_answer() {
    // The first POST is answered well or not at all; the second gets this much of an answer.
    for (first, second, posts_seen) in [(false, "", 2), (true, "H", 2), (true, "HTTP/1.1 200 OK\r\n", 2)] {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        let (address, _) = receiver(move |mut stream, posts| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                if posts == 0 && first {
                    return say(stream, NO_CONTENT).await;
                }
                stream.write_all(second.as_bytes()).await.ok()?;
                // What was said must have been read, or the reset throws it away.
                sleep(Duration::from_millis(50)).await;
                reset(stream)
            }
        })
        .await;
        let (sender, url) = (loopback(), format!("http://{address}/"));
        assert_eq!(sender.post(&url).await.outcome == TAKEN, first);
        let answer = sender.post(&url).await;
        assert_eq!((answer.outcome, answer.remade), (Outcome::Disconnected, false), "{second:?}");
        assert_eq!(seen.load(Ordering::SeqCst), posts_seen, "{second:?}");
    }
}

#[tokio::test]
async fn a_post_is_made_twice_at_most_and_within_one_deadline() {
    // After the first POST ever: all that follow are reset, or the first of them late and the next one never
    // answered.
    for (hangs, outcome) in [(false, Outcome::Disconnected), (true, Outcome::TimedOut)] {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        let (address, connections) = receiver(move |stream, _| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                match number {
                    0 => say(stream, NO_CONTENT).await,
                    1 if hangs => {
                        sleep(SHORT * 3 / 4).await;
                        reset(stream)
                    }
                    _ if hangs => {
                        sleep(SHORT * 20).await;
                        None
                    }
                    _ => reset(stream),
                }
            }
        })
        .await;
        let (sender, url) = (loopback(), format!("http://{address}/"));
        assert_eq!(sender.post(&url).await.outcome, TAKEN);
        let answer = sender.post(&url).await;
        assert_eq!((answer.outcome, answer.remade), (outcome, true));
        assert!(answer.duration < SHORT * 3 / 2, "{:?}", answer.duration);
        assert_eq!((seen.load(Ordering::SeqCst), connections.load(Ordering::SeqCst)), (3, 2));
    }
}

/// Many lanes of one webhook share its connections, and all of them die at once, as when a load balancer is
/// replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_connections_die_at_once_each_post_is_taken_once_more() {
    let taken = Arc::new(Mutex::new(0));
    let count = taken.clone();
    let (address, _) = receiver(move |stream, posts| {
        let count = count.clone();
        async move {
            // Long enough that each lane has a connection of its own.
            sleep(Duration::from_millis(20)).await;
            if posts > 0 {
                return reset(stream);
            }
            *count.lock().unwrap() += 1;
            say(stream, NO_CONTENT).await
        }
    })
    .await;
    let (sender, url) = (loopback(), format!("http://{address}/"));
    for round in 0..3 {
        let posts = (0..20).map(|_| sender.post(&url));
        for answer in futures_util::future::join_all(posts).await {
            assert_eq!(answer.outcome, TAKEN, "{round}");
        }
    }
    assert_eq!(*taken.lock().unwrap(), 60, "no POST was taken twice");
}

/// The first poll of a POST that is given up with it.
async fn begin_and_give_up(sender: &Sender, url: &str) {
    let mut post = pin!(sender.post(url));
    std::future::poll_fn(|cx| {
        assert!(post.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_opened_in_vain_is_kept_and_may_die_like_any_that_was_used() {
    let (opened, mut accepted) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/h", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for number in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            opened.send(()).unwrap();
            read_post(&mut stream).await;
            if number == 0 {
                reset(stream);
            } else {
                stream.write_all(NO_CONTENT.as_bytes()).await.unwrap();
            }
        }
    });
    let sender = loopback();
    begin_and_give_up(&sender, &url).await;
    accepted.recv().await.unwrap();
    // Until it is among those that are kept.
    sleep(Duration::from_millis(20)).await;
    let answer = sender.post(&url).await;
    assert_eq!((answer.outcome, answer.remade), (TAKEN, true));
}

#[tokio::test]
async fn a_post_that_is_given_up_under_way_takes_its_connection_with_it() {
    let (heard, mut ends) = mpsc::unbounded_channel();
    let (address, connections) = receiver(move |mut stream, _| {
        let heard = heard.clone();
        async move {
            heard.send(false).unwrap();
            let ended = stream.read(&mut [0]).await;
            heard.send(ended.is_ok_and(|read| read == 0)).unwrap();
            None
        }
    })
    .await;
    let (sender, url) = (Arc::new(loopback().timeout(SHORT * 20)), format!("http://{address}/"));
    for number in 1..=3 {
        let post = tokio::spawn({
            let (sender, url) = (sender.clone(), url.clone());
            async move { sender.post(&url).await }
        });
        assert_eq!(ends.recv().await, Some(false), "it is under way");
        post.abort();
        assert_eq!(ends.recv().await, Some(true), "its end reached the receiver");
        assert_eq!(connections.load(Ordering::SeqCst), number);
    }
}

#[tokio::test]
async fn a_target_that_is_given_up_closes_its_connections() {
    let (heard, mut ends) = mpsc::unbounded_channel();
    let (address, _) = receiver(move |stream, _| {
        let heard = heard.clone();
        async move {
            let mut stream = say(stream, NO_CONTENT).await?;
            heard.send(stream.read(&mut [0]).await.is_ok_and(|read| read == 0)).unwrap();
            None
        }
    })
    .await;
    let sender = loopback();
    assert_eq!(sender.post(&format!("http://{address}/")).await.outcome, TAKEN);
    sleep(Duration::from_millis(20)).await;
    assert!(ends.try_recv().is_err(), "it is kept");
    drop(sender);
    assert_eq!(ends.recv().await, Some(true));
}

#[tokio::test]
async fn the_connections_that_are_kept_are_limited_for_all_webhooks_together() {
    let (address, connections) = receiver(|stream, _| async move { say(stream, NO_CONTENT).await }).await;
    let sender = loopback();
    let places = sender.poster.guard.places().clone();
    let url = |path: &str| format!("http://{address}/{path}");
    let _rest = places.clone().try_acquire_many_owned(u32::try_from(places.available_permits()).unwrap() - 1);
    for path in ["a", "a", "b", "a", "b"] {
        assert_eq!(sender.post(&url(path)).await.outcome, TAKEN);
    }
    assert_eq!(places.available_permits(), 0);
    assert_eq!(
        connections.load(Ordering::SeqCst),
        3,
        "that of the first is kept, those of the other are not"
    );
    drop(sender);
    assert_eq!(places.available_permits(), 1);
}

/// As servers refuse what is too large for them: after the head, and without taking the rest.
#[tokio::test]
async fn a_refusal_that_comes_before_the_post_was_sent_is_heard() {
    const TOO_LARGE: &str = "HTTP/1.1 413 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/h", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(TOO_LARGE.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
        }
    });
    let sender = loopback();
    for _ in 0..10 {
        let mut post = sender.post_to(&url);
        post.rendered.body = vec![b'x'; 4 << 20].into();
        let answer = sender.poster.post(post).await;
        assert_eq!((answer.outcome.status(), answer.remade), (Some(413), false));
    }
}
