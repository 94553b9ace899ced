//! How a connection to a receiver is opened: resolve, judge all, dial the judged ones, TLS for https.
//!
//! A service for hyper-util's client in place of its own connector, so that nothing is dialled that was not judged.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::guard::{Guard, GuardError, without_brackets};

/// Longest wait for one address, so that a dead one leaves time for the next.
const DIAL_WITHIN: Duration = Duration::from_secs(4);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing to dial.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// No address answered.
    #[error("no address of the host could be connected to")]
    NotConnected,
    /// Neither came about in time.
    #[error("no connection in time")]
    TimedOut,
    /// TLS failed.
    #[error("no TLS session: {0}")]
    Tls(io::Error),
}

/// Opens connections. Clones share policy and TLS configuration.
#[derive(Clone)]
pub struct Connector {
    guard: Guard,
    tls: TlsConnector,
    /// Longest wait for a connection that is ready to use.
    within: Duration,
}

impl Connector {
    /// A connector that gives up `within` this time. The deadline of an attempt is not enough: the client goes on
    /// opening in the background when another connection comes free first, and a receiver that accepts and then says
    /// nothing would hold that socket for ever.
    pub fn new(guard: Guard, tls: Arc<ClientConfig>, within: Duration) -> Self {
        Self { guard, tls: TlsConnector::from(tls), within }
    }

    async fn open_in_time(self, uri: Uri) -> Result<Stream, ConnectError> {
        timeout(self.within, self.open(uri)).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn open(&self, uri: Uri) -> Result<Stream, ConnectError> {
        let https = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or(GuardError::NotResolved)?;
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let mut tcp = None;
        for address in self.guard.resolve(https, host, port).await? {
            if let Ok(Ok(stream)) = timeout(DIAL_WITHIN, TcpStream::connect(address)).await {
                tcp = Some(stream);
                break;
            }
        }
        let tcp = tcp.ok_or(ConnectError::NotConnected)?;
        // A POST is one small write that must not wait for an acknowledgement.
        let _ = tcp.set_nodelay(true);
        if !https {
            return Ok(Stream(TokioIo::new(Box::new(tcp))));
        }
        let name = ServerName::try_from(without_brackets(host).to_owned())
            .map_err(|error| ConnectError::Tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let tls = self.tls.connect(name, tcp).await.map_err(ConnectError::Tls)?;
        Ok(Stream(TokioIo::new(Box::new(tls))))
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().open_in_time(uri))
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An open connection, plain or TLS.
pub struct Stream(TokioIo<Box<dyn Duplex>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
