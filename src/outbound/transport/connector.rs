//! How a connection to a receiver is opened: resolve, validate all addresses, dial them, TLS for https.
//! Nothing is dialled that was not validated, and nothing read without end.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::Uri;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::dial::first_of;
use crate::outbound::transport::guard::{Guard, GuardError, without_brackets};
use crate::outbound::transport::socket::{Peephole, Socket};

/// Bytes that a connection may read for each request that it may have carried, and before the first: heads,
/// bodies, TLS, frames, whatever they are. Four times what an answer may have.
pub const READ_PER_REQUEST: u64 = 64 * 1024;

/// Counts the requests that use a connector's connections.
#[derive(Default)]
pub struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Requests {
    /// How many were begun, and how many of them are under way.
    fn count(&self) -> (u64, u64) {
        // In this order, so that none has ended that was not begun.
        let ended = self.ended.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Acquire);
        (begun, begun.saturating_sub(ended))
    }
}

/// One request, from its beginning until this is dropped.
pub struct UnderWay(Arc<Requests>);

impl UnderWay {
    /// Begins one.
    pub fn begin(requests: &Arc<Requests>) -> Self {
        requests.begun.fetch_add(1, Ordering::AcqRel);
        Self(requests.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing to dial.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// No address answered; the error is that of the last one.
    #[error("no address of the host could be connected to: {0}")]
    NotConnected(io::Error),
    /// Neither came about in time.
    #[error("no connection in time")]
    TimedOut,
    /// TLS failed.
    #[error("no TLS session: {0}")]
    Tls(io::Error),
    /// The receiver was gone before HTTP could begin.
    #[error("no HTTP session: {0}")]
    Http(hyper::Error),
}

/// Opens connections. Clones share policy and TLS configuration.
#[derive(Clone)]
pub struct Connector {
    guard: Guard,
    tls: TlsConnector,
    /// Longest wait for a connection that is ready to use.
    within: Duration,
    requests: Arc<Requests>,
}

impl Connector {
    /// A connector that gives up `within` this time. The deadline of an attempt is not enough: the pool goes
    /// on opening in the background when another connection comes free first, and a receiver that
    /// accepts and then says nothing would hold that socket for ever. `requests` counts those that use its
    /// connections.
    pub fn new(guard: Guard, tls: Arc<ClientConfig>, within: Duration, requests: Arc<Requests>) -> Self {
        Self { guard, tls: TlsConnector::from(tls), within, requests }
    }

    /// Places of connections that are kept.
    pub fn places(&self) -> &Arc<Semaphore> {
        self.guard.places()
    }

    /// Opens one to the receiver of this address.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, uri: &Uri) -> Result<Opened, ConnectError> {
        timeout(self.within, self.open_at_last(uri)).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn open_at_last(&self, uri: &Uri) -> Result<Opened, ConnectError> {
        let https = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or(GuardError::NoAddress)?;
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let began = Instant::now();
        let addresses = self.guard.resolve(https, host, port).await?;
        let left = self.within.saturating_sub(began.elapsed());
        let dial = |address, wait| self.guard.dial(address, wait);
        let tcp = first_of(&addresses, left, dial).await.map_err(ConnectError::NotConnected)?;
        // A POST is one small write that must not wait for an acknowledgement.
        let _ = tcp.set_nodelay(true);
        let tcp = Socket::new(tcp);
        let (peephole, heard) = (tcp.peephole(), Arc::<AnswerStart>::default());
        if !https {
            let io: Box<dyn Duplex> = Box::new(Metered::per_write(tcp, heard.clone()));
            return Ok(Opened { io, h2: false, peephole, heard });
        }
        let tcp = Metered::per_request(tcp, self.requests.clone());
        let name = ServerName::try_from(without_brackets(host).to_owned())
            .map_err(|error| ConnectError::Tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let tls = self.tls.connect(name, tcp).await.map_err(ConnectError::Tls)?;
        let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
        let io: Box<dyn Duplex> =
            if h2 { Box::new(tls) } else { Box::new(Metered::per_write(tls, heard.clone())) };
        Ok(Opened { io, h2, peephole, heard })
    }
}

/// An open connection, plain or TLS.
pub struct Opened {
    pub io: Box<dyn Duplex>,
    /// The receiver chose HTTP/2.
    pub h2: bool,
    pub peephole: Peephole,
    /// What is read of answers over HTTP/1.1.
    pub heard: Arc<AnswerStart>,
}

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The first bytes of an HTTP/1.1 answer, as they came: as many as show its status.
#[derive(Default)]
pub struct AnswerStart(Mutex<Vec<u8>>);

impl AnswerStart {
    const KEPT: usize = "HTTP/1.1 200".len();

    /// What follows belongs to another answer.
    pub fn begin(&self) {
        self.first().clear();
    }

    /// Nothing has come of the answer.
    pub fn is_nothing(&self) -> bool {
        self.first().is_empty()
    }

    /// The status that the answer claims, 200 to 599, whether or not the rest of it can be read.
    pub fn status(&self) -> Option<u16> {
        let first = self.first();
        let digits = first.strip_prefix(b"HTTP/1.")?.get(2..)?;
        std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| (200..=599).contains(status))
    }

    fn hear(&self, bytes: &[u8]) {
        let mut first = self.first();
        let room = Self::KEPT.saturating_sub(first.len());
        first.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    fn first(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other end sent more than any answer needs.
#[derive(Debug, thiserror::Error)]
#[error("the receiver sends more than an answer")]
pub struct TooMuch;

/// A way that breaks when the other end sends more than any answer needs. Without it a receiver could keep a
/// core busy until the deadline with header lines, and over HTTP/2, whose connections outlive a POST, for
/// ever with pings.
struct Metered<T> {
    io: T,
    /// Bytes that may still be read.
    left: u64,
    refill: Refill,
}

/// When there is [`READ_PER_REQUEST`] more.
enum Refill {
    /// Over HTTP/1.1 nothing is written but requests, one at a time: each write begins another.
    PerWrite(Arc<AnswerStart>),
    /// Over HTTP/2, and within TLS, the other end can make us write. So each request counts that may be
    /// carried: what was under way when the connection was opened, and what is begun later. What it leaves is
    /// not saved up.
    PerRequest {
        /// How many had been begun when last looked.
        begun: u64,
        requests: Arc<Requests>,
    },
}

impl<T> Metered<T> {
    fn per_write(io: T, heard: Arc<AnswerStart>) -> Self {
        Self { io, left: READ_PER_REQUEST, refill: Refill::PerWrite(heard) }
    }

    fn per_request(io: T, requests: Arc<Requests>) -> Self {
        let (begun, under_way) = requests.count();
        Self { io, left: limit(under_way), refill: Refill::PerRequest { begun, requests } }
    }

    fn before_read(&mut self) {
        if let Refill::PerRequest { begun, requests } = &mut self.refill {
            let (now, under_way) = requests.count();
            let more = now.saturating_sub(*begun).saturating_mul(READ_PER_REQUEST);
            *begun = now;
            self.left = self.left.saturating_add(more).min(limit(under_way));
        }
    }

    fn before_write(&mut self) {
        if matches!(self.refill, Refill::PerWrite(_)) {
            self.left = READ_PER_REQUEST;
        }
    }
}

/// Most that may be left while `requests` are under way.
fn limit(under_way: u64) -> u64 {
    under_way.saturating_add(1).saturating_mul(READ_PER_REQUEST)
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.before_read();
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(TooMuch)));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        self.left = self.left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        if let Refill::PerWrite(heard) = &self.refill {
            heard.hear(buf.filled().get(before..).unwrap_or_default());
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.before_write();
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
