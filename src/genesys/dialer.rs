//! Dials the addresses of a source. They come from whoever may add sources, who need not be the operator:
//! every dial validates them, as for webhooks. The addresses of the environment's source are the operator's
//! own and are exempt.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use futures_util::future::LocalBoxFuture;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::config::EgressProxy;
use crate::dial;
use crate::domain::presence::regions;
use crate::domain::webhook::target::TargetPolicy;
use crate::tunnel::tunnel;

/// Opens connections for awc instead of awc's own resolver, which does not see hosts that are addresses.
#[derive(Clone)]
pub struct Dialer {
    targets: Option<TargetPolicy>,
    proxy: Option<Arc<EgressProxy>>,
    within: Duration,
}

impl Dialer {
    /// Dials only what the policy allows; without a policy, everything. With a proxy, everything by way of
    /// it. `within` bounds a dial from the look-up of the host on.
    pub fn new(targets: Option<TargetPolicy>, proxy: Option<EgressProxy>, within: Duration) -> Self {
        Self { targets, proxy: proxy.map(Arc::new), within }
    }

    /// Opens a connection by way of a proxy. It is told the name where nobody has to validate the address: a
    /// company's machines often cannot look up names outside, and its proxies allow by name. Of any other
    /// host it is told the address that was validated, so that it cannot come to another one.
    pub(super) async fn dial_through(
        &self,
        proxy: &EgressProxy,
        secure: bool,
        host: &str,
        port: u16,
    ) -> io::Result<TcpStream> {
        let through = async {
            if self.targets.is_none() || regions::has_host(host) {
                let brackets = if host.contains(':') { ("[", "]") } else { ("", "") };
                return tunnel(proxy, format!("{}{host}{}:{port}", brackets.0, brackets.1), self.within)
                    .await;
            }
            let addresses = self.validated(secure, host, port).await?;
            dial::first_of(&addresses, self.within, |address, within| tunnel(proxy, address, within)).await
        };
        timeout(self.within, through).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// Addresses of a host, if all of them may be dialled.
    async fn validated(&self, secure: bool, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<_> = lookup_host((host, port)).await?.collect();
        if let Some(targets) = &self.targets {
            let allowed = |ip, port| targets.check_address(secure, ip, port).is_ok();
            if !found.iter().all(|address| allowed(address.ip(), address.port())) {
                return Err(ErrorKind::PermissionDenied.into());
            }
        }
        Ok(found)
    }
}

impl Service<ConnectInfo<Uri>> for Dialer {
    type Response = Connection<Uri, TcpStream>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&self, request: ConnectInfo<Uri>) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            let began = Instant::now();
            let secure = matches!(request.request().scheme_str(), Some("https" | "wss"));
            let host = request.hostname().trim_matches(['[', ']']);
            let stream = match &dialer.proxy {
                Some(proxy) => dialer.dial_through(proxy, secure, host, request.port()).await,
                None => {
                    let found = dialer.validated(secure, host, request.port()).await;
                    let found = found.map_err(ConnectError::Io)?;
                    // The addresses just validated are dialled, and nothing is looked up again.
                    let within = dialer.within.saturating_sub(began.elapsed());
                    dial::first_of(&found, within, |address, _| TcpStream::connect(address)).await
                }
            };
            Ok(Connection::new(request.request().clone(), stream.map_err(ConnectError::Io)?))
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(2);

    /// What a proxy is asked that opens nothing, and the error of the dial.
    async fn asked(targets: Option<TargetPolicy>, host: &str) -> (Option<String>, io::Error) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let proxy = EgressProxy::parse(&url).unwrap();
        let dialer = Dialer::new(targets, None, WITHIN);
        let dial = dialer.dial_through(&proxy, true, host, 443);
        let serve = async {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let length = client.read(&mut head).await.unwrap();
            client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
            let head = String::from_utf8_lossy(head.get(..length).unwrap()).into_owned();
            head.split(' ').nth(1).unwrap().to_owned()
        };
        tokio::pin!(serve);
        tokio::select! {
            head = &mut serve => (Some(head), io::Error::other("refused")),
            failed = dial => (None, failed.unwrap_err()),
        }
    }

    #[tokio::test]
    async fn a_proxy_is_told_names_that_are_ours_or_genesys_and_otherwise_addresses_that_were_validated() {
        let strict = || Some(TargetPolicy::new(Vec::new()));
        let (told, _) = asked(None, "gateway.example").await;
        assert_eq!(told.as_deref(), Some("gateway.example:443"), "the operator's own source");
        let (told, _) = asked(strict(), "api.mypurecloud.de").await;
        assert_eq!(told.as_deref(), Some("api.mypurecloud.de:443"));
        let (told, _) = asked(None, "fd00::1").await;
        assert_eq!(told.as_deref(), Some("[fd00::1]:443"));
        let here = Some(TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]));
        let (told, _) = asked(here, "127.0.0.3").await;
        assert_eq!(told.as_deref(), Some("127.0.0.3:443"));
        for inner in ["localhost", "169.254.169.254", "::ffff:10.0.0.1"] {
            let (told, failed) = asked(strict(), inner).await;
            assert_eq!((told, failed.kind()), (None, ErrorKind::PermissionDenied), "{inner}");
        }
    }

    /// 127.0.0.2 belongs to the machine without further ado on Linux only.
    #[tokio::test]
    async fn an_address_upstream_that_swallows_packets_leaves_time_for_the_next() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let hole = socket.listen(0).unwrap();
        let first = hole.local_addr().unwrap();
        // Its queue is full, and nobody takes any out: no more answers.
        let mut kept = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(first)).await {
            kept.push(stream.unwrap());
            assert!(kept.len() < 100, "connections are taken without end");
        }
        let other = TcpListener::bind(("127.0.0.2", first.port())).await.unwrap();
        let second = other.local_addr().unwrap();
        let began = Instant::now();
        let dial = |address, _| TcpStream::connect(address);
        let connection = dial::first_of(&[first, second], WITHIN, dial).await.unwrap();
        assert_eq!(connection.peer_addr().unwrap(), second);
        assert!(began.elapsed() < WITHIN / 2, "{:?}", began.elapsed());
    }
}
