//! Where a source may lead. Its addresses come from whoever may add sources, who need not be the operator: they are judged at
//! every dial, like those of webhooks. Those of the environment's source are the operator's own and are not.

use std::io::ErrorKind;
use std::task::{Context, Poll};

use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, Connector, ConnectorService};
use awc::http::Uri;
use futures_util::future::LocalBoxFuture;
use tokio::net::{TcpStream, lookup_host};

use crate::domain::target::TargetPolicy;

/// Opens connections for awc, in the place of its own resolver, which does not see hosts that are addresses.
#[derive(Clone)]
pub struct Dialer {
    targets: Option<TargetPolicy>,
    inner: ConnectorService,
}

impl Dialer {
    /// Goes where the policy lets it; without one, everywhere.
    pub fn new(targets: Option<TargetPolicy>) -> Self {
        Self { targets, inner: Connector::default().service() }
    }
}

impl Service<ConnectInfo<Uri>> for Dialer {
    type Response = Connection<Uri, TcpStream>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&self, asked: ConnectInfo<Uri>) -> Self::Future {
        let Self { targets, inner } = self.clone();
        Box::pin(async move {
            let Some(targets) = targets else {
                return inner.call(asked).await;
            };
            let secure = matches!(asked.request().scheme_str(), Some("https" | "wss"));
            let host = asked.hostname().trim_matches(['[', ']']);
            let found: Vec<_> = lookup_host((host, asked.port())).await.map_err(ConnectError::Io)?.collect();
            if found.is_empty() {
                return Err(ConnectError::NoRecords);
            }
            let allowed = |ip, port| targets.check_address(secure, ip, port).is_ok();
            if !found.iter().all(|address| allowed(address.ip(), address.port())) {
                return Err(ConnectError::Io(ErrorKind::PermissionDenied.into()));
            }
            // What was judged is dialled, and nothing is looked up again.
            inner.call(asked.set_addrs(found)).await
        })
    }
}
