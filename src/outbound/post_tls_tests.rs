//! The poster against receivers that speak TLS, or do not.
#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::outbound::testing::{Sender, acceptor, read_post};

const DEADLINE: Duration = Duration::from_millis(1500);

/// The receivers here speak HTTP/1.1.
fn old() -> tokio_rustls::TlsAcceptor {
    acceptor(&["http/1.1"], false)
}

fn poster(trusting: bool) -> Sender {
    Sender::over_tls(trusting).timeout(DEADLINE)
}

const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

#[tokio::test]
async fn a_certificate_is_checked_and_http_1_1_is_spoken_where_there_is_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            // A client that refuses the certificate ends here.
            let Ok(mut stream) = old().accept(tcp).await else {
                continue;
            };
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
            read_post(&mut stream).await;
            stream.write_all(NO_CONTENT).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    for (trusting, host, class) in [
        (true, "localhost", "ok"),
        (true, "127.0.0.1", "ok"),
        (true, "other.test", "tls"),
        (false, "localhost", "tls"),
    ] {
        let answer = poster(trusting).post(&format!("https://{host}:{port}/")).await;
        assert_eq!(answer.outcome.class(), class, "{host} {trusting}");
    }
}

#[tokio::test]
async fn a_receiver_without_tls_is_told_apart_from_a_silent_one() {
    let babbles = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port_of = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (babble, silence) = (port_of(&babbles), port_of(&silent));
    tokio::spawn(async move {
        let (mut tcp, _) = babbles.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tcp.read_to_end(&mut Vec::new()).await.unwrap();
    });
    let poster = poster(true);
    let answer = poster.post(&format!("https://localhost:{babble}/")).await;
    assert_eq!(answer.outcome, Outcome::TlsFailed);
    let answer = poster.post(&format!("https://localhost:{silence}/")).await;
    assert_eq!(answer.outcome, Outcome::TimedOut);
}

/// The client opens a second connection for the second POST, the first comes free before it is ready, and the
/// client goes on opening the second in the background.
#[tokio::test]
async fn a_connection_that_nobody_waits_for_is_given_up_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (first_has_post, go_on) = oneshot::channel();
    let receiver = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut first = old().accept(tcp).await.unwrap();
        read_post(&mut first).await;
        first_has_post.send(()).unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        first.write_all(NO_CONTENT).await.unwrap();
        read_post(&mut first).await;
        first.write_all(NO_CONTENT).await.unwrap();
        // The hello is all that ever comes; then the end.
        second.read_to_end(&mut Vec::new()).await
    });
    let url = format!("https://localhost:{port}/");
    let sender = Arc::new(poster(true));
    let first = tokio::spawn({
        let (sender, url) = (sender.clone(), url.clone());
        async move { sender.post(&url).await }
    });
    go_on.await.unwrap();
    let second = sender.post(&url).await;
    assert!(first.await.unwrap().outcome.is_success());
    assert!(second.outcome.is_success(), "{:?}", second.outcome);
    let ended = timeout(DEADLINE * 3, receiver).await;
    assert!(ended.is_ok(), "the silent connection is still open");
}
