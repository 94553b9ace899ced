//! POSTs by way of the operator's egress proxy.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::config::EgressProxy;
use crate::domain::delivery::outcome::Outcome;
use crate::outbound::testing::{Sender, acceptor, read_post, reply, server};

/// A proxy that answers `CONNECT` with this head, carries on if it is a 200, and keeps what it was told.
async fn proxy(head: &'static str) -> (EgressProxy, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let told = Arc::<Mutex<Vec<String>>>::default();
    let heads = told.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let heads = heads.clone();
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(client.read_u8().await.unwrap());
                }
                let asked = String::from_utf8(asked).unwrap();
                let to = asked.split(' ').nth(1).unwrap().to_owned();
                heads.lock().unwrap().push(asked);
                client.write_all(head.as_bytes()).await.unwrap();
                if let Ok(mut receiver) = TcpStream::connect(to).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut receiver).await;
                }
            });
        }
    });
    let proxy = EgressProxy::parse(&format!("http://user:p%40ss@127.0.0.1:{port}")).unwrap();
    (proxy, told)
}

const WELL: &str = "HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n";

#[tokio::test]
async fn a_post_goes_through_the_proxy_to_the_validated_address_with_tls_inside() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor(&["http/1.1"], false).accept(stream).await.unwrap();
        read_post(&mut stream).await;
        stream.write_all(reply(204, "", "").as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let (proxy, told) = proxy(WELL).await;
    let sender = Sender::over_tls(true).through(proxy);
    let answer = sender.post(&format!("https://localhost:{}/h", receiver.port())).await;
    assert_eq!(answer.outcome, Outcome::Answered { status: 204, retry_after: None });
    let heads = told.lock().unwrap().clone();
    assert_eq!(
        heads,
        [format!(
            "CONNECT {receiver} HTTP/1.1\r\nHost: {receiver}\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
        )]
    );
}

#[tokio::test]
async fn a_target_that_is_refused_is_not_even_named_to_the_proxy() {
    let (proxy, told) = proxy(WELL).await;
    let sender = Sender::allowing("").through(proxy);
    for url in ["https://localhost/", "https://169.254.169.254/", "https://[::ffff:10.0.0.1]/"] {
        assert_eq!(sender.post(url).await.outcome, Outcome::TargetRefused, "{url}");
    }
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test]
async fn whatever_else_the_proxy_answers_is_no_connection() {
    let receiver = server(|_, _| reply(204, "", "")).await;
    let heads = [
        "HTTP/1.1 403 Forbidden\r\n\r\n",
        "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        "HTTP/1.1 2000 x\r\n\r\n",
        "HTTP/2 200 x\r\n\r\n",
        "rubbish\r\n\r\n",
    ];
    for head in heads {
        let sender = Sender::allowing("127.0.0.0/8").through(proxy(head).await.0);
        let answer = sender.post(&format!("http://{receiver}/h")).await;
        assert_eq!(answer.outcome, Outcome::NotConnected, "{head}");
    }
    let endless: &'static str = "x".repeat(8 * 1024 + 1).leak();
    let sender = Sender::allowing("127.0.0.0/8").through(proxy(endless).await.0);
    assert_eq!(sender.post(&format!("http://{receiver}/h")).await.outcome, Outcome::NotConnected);
}
