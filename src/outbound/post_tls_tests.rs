//! The poster against receivers that speak TLS, or do not.
#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::*;

/// A certificate for `localhost` and 127.0.0.1 that signs itself, good until 2126, and its key, which guards nothing.
const CERTIFICATE: &str = concat!(
    "MIIBjTCCATKgAwIBAgIUGEDRaGmR5y98XzQ3x1oUBwIWBBgwCgYIKoZIzj0EAwIwDjEMMAoGA1UEAwwDY3JtMCAXDTI2MTEyMzIyMzIx",
    "MloYDzIxMjYxMDMwMjIzMjEyWjAOMQwwCgYDVQQDDANjcm0wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR/lmw9+lXwrzPbcqHqREGo",
    "vD3u/e4GuRH4z789mK/LYAPw6VZWhqkUGrPe375fbTUDJTfhVhgU/mF4yobhICkco2wwajAdBgNVHQ4EFgQUtr7zroZdfpgXWG9zLGbn",
    "FkDOsEswHwYDVR0jBBgwFoAUtr7zroZdfpgXWG9zLGbnFkDOsEswGgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMAwGA1UdEwEB/wQC",
    "MAAwCgYIKoZIzj0EAwIDSQAwRgIhAL+CksMeDZNLtB5eRjaylWB2uRXk7MQl/t9BWNXH2N6CAiEAlxvC7Oe7IWw/mk3z/hgXtF4wItBp",
    "7HQ/5M+DT7sKvdY=",
);
const KEY: &str = concat!(
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQglFmLMQf1o9XZCCfGJFVPKho70WYboQ9uTr6/2ITMVTGhRANCAAR/lmw9",
    "+lXwrzPbcqHqREGovD3u/e4GuRH4z789mK/LYAPw6VZWhqkUGrPe375fbTUDJTfhVhgU/mF4yobhICkc",
);

const DEADLINE: Duration = Duration::from_millis(1500);

fn certificate() -> CertificateDer<'static> {
    BASE64.decode(CERTIFICATE).unwrap().into()
}

fn acceptor() -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(BASE64.decode(KEY).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Allows loopback; every name is 127.0.0.1. Trusts the certificate above, or only what the system trusts.
fn poster(trusting: bool) -> Poster {
    let mut config = tls::client_config().unwrap();
    if trusting {
        let mut roots = RootCertStore::empty();
        roots.add(certificate()).unwrap();
        let alpn = config.alpn_protocols;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn;
    }
    let policy = TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let look_up: LookUp = |_| Box::pin(std::future::ready(vec![[127, 0, 0, 1].into()]));
    Poster::with(policy, look_up, Arc::new(config), DEADLINE)
}

fn post_to(url: String) -> Post {
    Post {
        target: Target::new(&url),
        delivery_id: DeliveryId(Uuid::from_u128(9)),
        body: Bytes::from_static(b"{}"),
        keys: vec![SigningKey::from_bytes(&[1; 32]).unwrap()],
        timestamp: 1_700_000_000,
    }
}

async fn read_post(stream: &mut (impl AsyncRead + Unpin)) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n{}") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
}

const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

#[tokio::test]
async fn a_certificate_is_checked_and_http_1_1_is_spoken() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            // A client that refuses the certificate ends here.
            let Ok(mut stream) = acceptor().accept(tcp).await else {
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
        let answer = poster(trusting).post(post_to(format!("https://{host}:{port}/"))).await;
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
    let answer = poster.post(post_to(format!("https://localhost:{babble}/"))).await;
    assert_eq!(answer.outcome, Outcome::TlsFailed);
    let answer = poster.post(post_to(format!("https://localhost:{silence}/"))).await;
    assert_eq!(answer.outcome, Outcome::TimedOut);
}

/// The client opens a second connection for the second POST, the first comes free before it is ready, and the client
/// goes on opening the second in the background.
#[tokio::test]
async fn a_connection_that_nobody_waits_for_is_given_up_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (first_has_post, go_on) = oneshot::channel();
    let receiver = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut first = acceptor().accept(tcp).await.unwrap();
        read_post(&mut first).await;
        first_has_post.send(()).unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        first.write_all(NO_CONTENT).await.unwrap();
        read_post(&mut first).await;
        first.write_all(NO_CONTENT).await.unwrap();
        // The hello is all that ever comes; then the end.
        second.read_to_end(&mut Vec::new()).await
    });
    let poster = poster(true);
    let url = format!("https://localhost:{port}/");
    let (one, other) = (poster.clone(), poster);
    let first = tokio::spawn({
        let url = url.clone();
        async move { one.post(post_to(url)).await }
    });
    go_on.await.unwrap();
    let second = other.post(post_to(url)).await;
    assert!(first.await.unwrap().outcome.is_success());
    assert!(second.outcome.is_success(), "{:?}", second.outcome);
    let ended = timeout(DEADLINE * 3, receiver).await;
    assert!(ended.is_ok(), "the silent connection is still open");
}
