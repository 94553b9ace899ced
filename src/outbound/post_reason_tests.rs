//! The poster says why a POST failed, in words that help and give no secret away.
#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::domain::delivery::access::Auth;
use crate::domain::secret::Secret;
use crate::outbound::testing::{SHORT, Sender, acceptor, key_pem, receiver, say};
use crate::outbound::transport::guard::LookUpError;

/// A certificate for `localhost`, issued by the one that tests trust; it ended on 1 March 2020 at noon.
const EXPIRED: &str = concat!(
    "MIIBJjCBzaADAgECAgEHMAoGCCqGSM49BAMCMA4xDDAKBgNVBAMMA2NybTAeFw0xOTAxMDEwMDAwMDBaFw0yMDAzMDExMjAwMDBa",
    "MBIxEDAOBgNVBAMMB29sZCBjcm0wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR/lmw9+lXwrzPbcqHqREGovD3u/e4GuRH4z789",
    "mK/LYAPw6VZWhqkUGrPe375fbTUDJTfhVhgU/mF4yobhICkcoxgwFjAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID",
    "SAAwRQIhALTaEVWTMd4okDaVN15BElMau2NpIK0i5l6gEQjQVb6iAiBPDJZhMatqPNg2YjyEdearmv0l67DHqeg/Ti2PMi2HCg==",
);

async fn reason(sender: &Sender, url: &str) -> (&'static str, String) {
    let answer = sender.post(url).await;
    (answer.outcome.class(), answer.reason.map_or_else(String::new, |reason| reason.to_string()))
}

/// A server that does this with each connection; its port.
async fn server<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    port
}

/// A server that says this to whatever it is sent.
async fn babbler(bytes: &'static [u8]) -> u16 {
    server(move |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

#[tokio::test]
async fn what_is_wrong_with_tls_is_said() {
    let good = server(|tcp| async move {
        let _ = acceptor(&["http/1.1"], false).accept(tcp).await;
    })
    .await;
    let expired = {
        let key = PrivateKeyDer::from_pem_slice(key_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let chain = vec![CertificateDer::from(BASE64.decode(EXPIRED).unwrap())];
        let config = builder.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        server(move |tcp| {
            let acceptor = acceptor.clone();
            async move {
                let _ = acceptor.accept(tcp).await;
            }
        })
        .await
    };
    // As a server of TLS 1.1 answers: the alert protocol_version; then handshake_failure.
    let old = babbler(&[21, 3, 2, 0, 2, 2, 70]).await;
    let picky = babbler(&[21, 3, 3, 0, 2, 2, 40]).await;
    let plain = babbler(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let closes = server(|stream| async move { drop(stream) }).await;
    for (trusting, host, port, expected) in [
        (true, "localhost", expired, "its certificate expired at 2020-03-01T12:00:00.000Z"),
        (true, "other.test", good, "its certificate is for localhost, 127.0.0.1, not for other.test"),
        (false, "localhost", good, "the issuer of its certificate is unknown here"),
        (true, "localhost", old, "the receiver speaks neither TLS 1.2 nor 1.3"),
        (true, "localhost", picky, "the receiver and we have no TLS algorithms in common"),
        (true, "localhost", plain, "what the receiver speaks is no TLS"),
        (true, "localhost", closes, "in the handshake"),
    ] {
        let (class, told) = reason(&Sender::over_tls(trusting), &format!("https://{host}:{port}/")).await;
        assert_eq!(class, "tls", "{told}");
        assert!(told.contains(expected), "{told} instead of {expected}");
    }
}

#[tokio::test]
async fn why_there_is_no_connection_is_said() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sender = Sender::allowing("127.0.0.0/8");
    assert_eq!(reason(&sender, &format!("http://{nobody}/")).await, ("connect", "refused".to_owned()));
    for (error, expected) in [
        (LookUpError::NoSuchName, "no such name"),
        (LookUpError::ServerFailed, "the name server failed"),
        (LookUpError::TimedOut, "the name server does not answer"),
    ] {
        let sender = match error {
            LookUpError::NoSuchName => {
                Sender::that_asks("", |_| Box::pin(std::future::ready(Err(LookUpError::NoSuchName))))
            }
            LookUpError::ServerFailed => {
                Sender::that_asks("", |_| Box::pin(std::future::ready(Err(LookUpError::ServerFailed))))
            }
            LookUpError::TimedOut => {
                Sender::that_asks("", |_| Box::pin(std::future::ready(Err(LookUpError::TimedOut))))
            }
        };
        assert_eq!(reason(&sender, "https://crm.test/").await, ("dns", expected.to_owned()));
    }
    let empty = Sender::that_asks("", |_| Box::pin(std::future::ready(Ok(Vec::new()))));
    assert_eq!(reason(&empty, "https://crm.test/").await, ("dns", "the host has no address".to_owned()));
}

#[tokio::test]
async fn where_a_redirect_leads_is_said_without_query_or_secret() {
    let auth = Auth::Bearer { token: Secret::new("s3cret-token".to_owned()) };
    for (location, expected) in [
        ("https://other.test/new/path?key=hidden#part", "redirects to https://other.test/new/path"),
        ("https://user:word@other.test:8443/x", "redirects to https://other.test:8443/x"),
        ("https://other.test/h/own-path", "redirects to https://other.test/…/…"),
        ("/h/own-path/?x", "redirects to {own}/…/…/"),
        ("https://other.test/v2/own-path", "redirects to https://other.test/v2/…"),
        ("https://other.test/s3cret-token", "redirects to https://other.test/[redacted]"),
        ("gopher://other.test/", "redirects to what is no address of a receiver"),
        ("", "redirects nowhere: no Location"),
    ] {
        let line = if location.is_empty() { String::new() } else { format!("location: {location}\r\n") };
        let (address, _) = receiver(move |stream, _| {
            let text = format!("HTTP/1.1 307 X\r\n{line}content-length: 0\r\n\r\n");
            async move { say(stream, &text).await }
        })
        .await;
        let access = Access { auth: auth.clone(), ..Access::default() };
        let sender = Sender::allowing("127.0.0.0/8").access(access);
        for own in ["h/own-path", "h/own-path/", "h/own-path?key=k"] {
            let told = reason(&sender, &format!("http://{address}/{own}")).await;
            let expected = expected.replace("{own}", &format!("http://{address}"));
            assert_eq!(told, ("http_3xx", expected), "{location}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_of_an_answer_is_said() {
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(40_000));
    for (text, class, expected) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", "bad_answer", "invalid HTTP version parsed"),
        ("HTTP/1.1 20 OK\r\n\r\n", "bad_answer", "invalid HTTP status-code parsed"),
        ("HTTP/1.1 101 X\r\n\r\n", "bad_answer", "101 Switching Protocols, which nobody asked for"),
        (
            "HTTP/1.1 200 X\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "bad_answer",
            "invalid content-length parsed",
        ),
        (&endless, "bad_answer", "message head is too large"),
        ("", "disconnected", "the connection was closed before an answer"),
    ] {
        let sent = text.to_owned();
        let (address, _) = receiver(move |stream, _| {
            let text = sent.clone();
            async move {
                say(stream, &text).await;
                None
            }
        })
        .await;
        let told = reason(&Sender::allowing("127.0.0.0/8"), &format!("http://{address}/")).await;
        assert_eq!(told, (class, expected.to_owned()));
    }
    let (silent, _) = receiver(|stream, _| async move {
        tokio::time::sleep(SHORT * 3).await;
        drop(stream);
        None
    })
    .await;
    let told = reason(&Sender::allowing("127.0.0.0/8"), &format!("http://{silent}/")).await;
    assert_eq!(told, ("timeout", "no answer by the deadline".to_owned()));
}
