//! Dials the addresses of a source. They come from whoever may add sources, who need not be the operator:
//! every dial validates them, as for webhooks. The addresses of the environment's source are the operator's
//! own and are exempt.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, Connector, ConnectorService};
use awc::http::Uri;
use futures_util::future::LocalBoxFuture;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::domain::webhook::dial_budget::longest_wait;
use crate::domain::webhook::target::TargetPolicy;

/// Opens connections for awc instead of awc's own resolver, which does not see hosts that are addresses.
#[derive(Clone)]
pub struct Dialer {
    targets: Option<TargetPolicy>,
    within: Duration,
    inner: ConnectorService,
}

impl Dialer {
    /// Dials only what the policy allows; without a policy, everything. `within` bounds a dial from the
    /// look-up of the host on.
    pub fn new(targets: Option<TargetPolicy>, within: Duration) -> Self {
        Self { targets, within, inner: Connector::default().service() }
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
        let Self { targets, within, inner } = self.clone();
        Box::pin(async move {
            let began = Instant::now();
            let secure = matches!(request.request().scheme_str(), Some("https" | "wss"));
            let host = request.hostname().trim_matches(['[', ']']);
            let found: Vec<_> =
                lookup_host((host, request.port())).await.map_err(ConnectError::Io)?.collect();
            if found.is_empty() {
                return Err(ConnectError::NoRecords);
            }
            if let Some(targets) = targets {
                let allowed = |ip, port| targets.check_address(secure, ip, port).is_ok();
                if !found.iter().all(|address| allowed(address.ip(), address.port())) {
                    return Err(ConnectError::Io(ErrorKind::PermissionDenied.into()));
                }
            }
            // The addresses just validated are dialled, and nothing is looked up again.
            first_of(&inner, request.request(), &found, within.saturating_sub(began.elapsed())).await
        })
    }
}

/// Dials addresses one after another; the connector by itself would wait for the first one until the call's
/// end.
async fn first_of(
    inner: &ConnectorService,
    uri: &Uri,
    addresses: &[SocketAddr],
    within: Duration,
) -> Result<Connection<Uri, TcpStream>, ConnectError> {
    let by = Instant::now() + within;
    let mut failed = ConnectError::NoRecords;
    for (tried, address) in addresses.iter().enumerate() {
        let untried = addresses.len().saturating_sub(tried);
        let wait = longest_wait(by.saturating_duration_since(Instant::now()), untried);
        match timeout(wait, inner.call(ConnectInfo::with_addr(uri.clone(), *address))).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = ConnectError::Io(ErrorKind::TimedOut.into()),
        }
    }
    Err(failed)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(2);

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
        let inner = Connector::default().service();
        let uri: Uri = format!("http://two.test:{}/", first.port()).parse().unwrap();
        let began = Instant::now();
        let connection = first_of(&inner, &uri, &[first, second], WITHIN).await.unwrap();
        assert_eq!(connection.io_ref().peer_addr().unwrap(), second);
        assert!(began.elapsed() < WITHIN / 2, "{:?}", began.elapsed());
    }
}
