//! What the tests of this folder share: receivers on raw sockets, and a sender for them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::post::{Answer, Post, Poster, Target};
use crate::config::EgressProxy;
use crate::domain::delivery::access::Access;
use crate::domain::delivery::signature::{Signer, SigningKey};
use crate::domain::webhook::target::TargetPolicy;
use crate::outbound::body::envelope::Rendered;
use crate::outbound::transport::guard::{LookUp, ask_the_system};
use crate::tls;

/// Deadline of an attempt in most tests.
pub const SHORT: Duration = Duration::from_millis(800);

/// A certificate for `localhost` and 127.0.0.1 that signs itself, good until 2126, and its key, which guards
/// nothing.
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

pub fn certificate() -> CertificateDer<'static> {
    BASE64.decode(CERTIFICATE).unwrap().into()
}

fn pem(label: &str, base64: &str) -> String {
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub fn certificate_pem() -> String {
    pem("CERTIFICATE", CERTIFICATE)
}

pub fn key_pem() -> String {
    pem("PRIVATE KEY", KEY)
}

fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate()).unwrap();
    Arc::new(roots)
}

/// A server's side of TLS that offers these protocols; one that asks for a certificate takes the one above.
pub fn acceptor(protocols: &[&str], asks_for_certificate: bool) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(BASE64.decode(KEY).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = if asks_for_certificate {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![certificate()], key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A client's side that trusts the certificate above.
pub fn trusting() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth()
}

/// A client's side that trusts what the system trusts; read once, because it takes long while others wait.
fn systems() -> ClientConfig {
    static CONFIG: OnceLock<ClientConfig> = OnceLock::new();
    CONFIG.get_or_init(|| tls::client_config().unwrap()).clone()
}

fn policy(allowed: &str) -> TargetPolicy {
    TargetPolicy::new(allowed.split(',').filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect())
}

/// A poster, and a target for each address.
pub struct Sender {
    pub poster: Poster,
    access: Access,
    timeout: Duration,
    targets: Mutex<HashMap<String, Target>>,
}

impl Sender {
    pub fn with(poster: Poster) -> Self {
        Self { poster, access: Access::default(), timeout: SHORT, targets: Mutex::default() }
    }

    /// May reach these networks.
    pub fn allowing(allowed: &str) -> Self {
        Self::that_asks(allowed, ask_the_system)
    }

    pub fn that_asks(allowed: &str, look_up: LookUp) -> Self {
        Self::with(Poster::with(policy(allowed), look_up, systems()))
    }

    /// May reach loopback; every name is 127.0.0.1. Trusts the certificate above, or only what the system
    /// trusts.
    pub fn over_tls(trusts: bool) -> Self {
        let look_up: LookUp = |_| Box::pin(std::future::ready(Ok(vec![[127, 0, 0, 1].into()])));
        let tls = if trusts { trusting() } else { systems() };
        Self::with(Poster::with(policy("127.0.0.0/8"), look_up, tls))
    }

    pub fn through(self, proxy: EgressProxy) -> Self {
        Self { poster: self.poster.through(Some(proxy)), ..self }
    }

    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub fn target(&self, url: &str) -> Target {
        let mut targets = self.targets.lock().unwrap();
        targets
            .entry(url.to_owned())
            .or_insert_with(|| self.poster.target(url, &self.access, self.timeout))
            .clone()
    }

    pub fn post_to(&self, url: &str) -> Post {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Post {
            target: self.target(url),
            id: Uuid::from_u128(9).to_string(),
            attempt: 1,
            rendered: Rendered { body: Bytes::from_static(b"{}"), headers },
            keys: [Signer::Hmac(SigningKey::from_bytes(&[1; 32]).unwrap())].into(),
            timestamp: 1_700_000_000,
        }
    }

    pub async fn post(&self, url: &str) -> Answer {
        self.poster.post(self.post_to(url)).await
    }
}

/// A receiver that reads one whole POST at a time and then lets `answer` do what it likes with the stream.
pub async fn receiver<F, Fut>(answer: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(TcpStream, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Option<TcpStream>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let (counter, answer) = (connections.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut posts = 0;
                let mut read = Vec::new();
                loop {
                    let mut chunk = [0; 4096];
                    match stream.read(&mut chunk).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => read.extend_from_slice(&chunk[..n]),
                    }
                    if read.ends_with(b"\r\n\r\n{}") {
                        read.clear();
                        match answer(stream, posts).await {
                            Some(back) => stream = back,
                            None => return,
                        }
                        posts += 1;
                    }
                }
            });
        }
    });
    (address, connections)
}

pub async fn say(mut stream: TcpStream, text: &str) -> Option<TcpStream> {
    stream.write_all(text.as_bytes()).await.ok()?;
    Some(stream)
}

/// Reads a POST whose body is `{}`.
pub async fn read_post(stream: &mut (impl AsyncRead + Unpin)) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n{}") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
}

/// A server that reads one HTTP/1.1 request at a time, of any method, and answers with what `answer` makes of
/// its head and body.
pub async fn server<F>(answer: F) -> SocketAddr
where
    F: Fn(&str, &str) -> String + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.is_ok_and(|n| n > 0) {
                    let text = String::from_utf8_lossy(&read).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    if body.len() < length.map_or(0, |length| length.parse().unwrap()) {
                        continue;
                    }
                    read.clear();
                    if stream.write_all(answer(head, body).as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// An answer with a body.
pub fn reply(status: u16, lines: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\n{lines}content-length: {}\r\n\r\n{body}", body.len())
}

/// A port of 127.0.0.1 that swallows packets: its queue of connections is full and nobody takes any out, so
/// whoever knocks gets no answer. It lasts as long as what is given with it.
pub async fn black_hole() -> (SocketAddr, Vec<Box<dyn std::any::Any>>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept: Vec<Box<dyn std::any::Any>> = vec![Box::new(listener)];
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        kept.push(Box::new(stream.unwrap()));
        assert!(kept.len() < 100, "connections are taken without end");
    }
    (address, kept)
}
