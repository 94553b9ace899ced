//! Connections to one receiver, kept from one request to the next. Ours and not a library's, because it has
//! to say whether a connection carried an answer before, and to look at one before it is used again
//! (docs/adr/0041).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::select;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};

use crate::outbound::transport::connector::{AnswerStart, ConnectError, Connector, Opened};
use crate::outbound::transport::socket::{Peephole, Unread};

/// Longest head of an answer, and most of an answer that is held at once. The client's own limit, 400 KiB,
/// times the attempts under way is more than the machine has.
const ANSWER_HELD_MAX: u32 = 16 * 1024;
/// Header lines of an answer that are read at most; as many as may fit.
const HEADERS_MAX: usize = 1000;
/// Most of an HTTP/2 connection's answers together that the receiver may send before they are read.
const CONNECTION_HELD_MAX: u32 = 256 * 1024;
/// How long idle connections are kept, and how many of one webhook.
const IDLE_WITHIN: Duration = Duration::from_secs(30);
const IDLE_MAX: usize = 100;
/// How long an HTTP/1.1 connection may take to be ready again after an answer.
const READY_WITHIN: Duration = Duration::from_millis(10);
/// An HTTP/2 connection with pending requests is pinged this often, and has this long to answer:
/// it is shared, so unlike an HTTP/1.1 one it is not given up with an attempt that ran out of time.
const PING_EVERY: Duration = Duration::from_secs(5);
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// Connections to one receiver. Clones share them.
#[derive(Clone)]
pub struct Pool(Arc<PoolParts>);

struct PoolParts {
    connector: Connector,
    /// Of the receiver; its path does not matter.
    origin: Uri,
    state: Mutex<State>,
    /// A connection is there to be used that was not there before.
    freed: Notify,
    /// Held while a connection is opened that others can share.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// HTTP/1.1 connections without a request, the last used one last.
    idle: Vec<Kept>,
    /// The HTTP/2 connection that everybody shares.
    shared: Option<Kept>,
    /// Connections opened so far.
    opened: u64,
    /// What the receiver chose last.
    speaks_h2: bool,
    /// A task throws out what is idle for too long.
    is_expiring: bool,
}

/// A connection that stays open though nobody may be using it.
struct Kept {
    line: Line,
    used_at: Instant,
    /// Its place among those of all webhooks. One of HTTP/2 without a place is given up after the next answer.
    place: Option<OwnedSemaphorePermit>,
}

/// A connection.
pub struct Line {
    sender: Sender,
    peephole: Peephole,
    heard: Arc<AnswerStart>,
    /// Counts the connections of its pool.
    number: u64,
    /// It has carried an answer, or was kept ready: the other end may have ended it at any time since.
    reused: Arc<AtomicBool>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Line {
    /// Asks over this connection. What breaks is the error of the HTTP library.
    pub async fn ask(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                self.heard.begin();
                sender.send_request(in_origin_form(request)).await?
            }
            Sender::Http2(sender) => sender.send_request(request).await?,
        };
        self.reused.store(true, Ordering::Release);
        Ok(answer)
    }

    /// Whether it was taken from those that were kept.
    pub fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Acquire)
    }

    /// What was read of an answer that was never whole; always nothing over HTTP/2, whose frames tell.
    pub fn heard(&self) -> &AnswerStart {
        &self.heard
    }

    /// Another handle of a connection that can be shared.
    fn share(&self) -> Option<Self> {
        let Sender::Http2(sender) = &self.sender else { return None };
        Some(Self {
            sender: Sender::Http2(sender.clone()),
            peephole: self.peephole.clone(),
            heard: self.heard.clone(),
            number: self.number,
            reused: self.reused.clone(),
        })
    }

    /// Asks the connection itself whether it can take a request. An idle one of HTTP/1.1 has nothing to say:
    /// what lies in it is its end, or the answer to no request of ours.
    fn is_usable(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_ready() && self.peephole.unread() == Unread::Nothing,
            Sender::Http2(sender) => !sender.is_closed() && self.peephole.unread() != Unread::End,
        }
    }
}

impl Pool {
    pub fn new(connector: Connector, origin: Uri) -> Self {
        Self(Arc::new(PoolParts {
            connector,
            origin,
            state: Mutex::default(),
            freed: Notify::new(),
            opening: tokio::sync::Mutex::new(()),
        }))
    }

    /// A connection: one that was kept, or a new one, whichever comes first.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn line(&self) -> Result<Line, ConnectError> {
        if let Some(line) = self.kept() {
            return Ok(line);
        }
        if self.state().speaks_h2 {
            return self.newer_than(0).await;
        }
        let mut opened = self.open();
        loop {
            select! {
                biased;
                line = &mut opened => return line.unwrap_or(Err(ConnectError::TimedOut)),
                () = self.0.freed.notified() => {
                    if let Some(line) = self.kept() {
                        return Ok(line);
                    }
                }
            }
        }
    }

    /// A connection that was opened after this one broke, and of HTTP/1.1 carried nothing yet.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn fresh(&self, broken: &Line) -> Result<Line, ConnectError> {
        self.newer_than(broken.number).await
    }

    async fn newer_than(&self, broken: u64) -> Result<Line, ConnectError> {
        let speaks_h2 = self.state().speaks_h2;
        // Whoever shared a connection that broke comes at once, and one new one is enough for all.
        let _turn = if speaks_h2 { Some(self.0.opening.lock().await) } else { None };
        if let Some(line) = self.shared().filter(|line| line.number > broken) {
            return Ok(line);
        }
        self.open().await.unwrap_or(Err(ConnectError::TimedOut))
    }

    /// This connection broke: nobody is to share it any more.
    pub fn forget(&self, line: &Line) {
        let mut state = self.state();
        if state.shared.as_ref().is_some_and(|shared| shared.line.number == line.number) {
            state.shared = None;
        }
    }

    /// An answer was read to its end: its connection may be used again.
    pub async fn put_back(&self, mut line: Line) {
        match &mut line.sender {
            Sender::Http1(sender) => {
                if timeout(READY_WITHIN, sender.ready()).await.is_ok_and(|ready| ready.is_ok()) {
                    self.keep(line);
                }
            }
            Sender::Http2(_) => {
                let mut state = self.state();
                state.shared = state.shared.take().filter(|shared| shared.place.is_some());
            }
        }
    }

    fn keep(&self, line: Line) {
        let mut state = self.state();
        if state.idle.len() < IDLE_MAX
            && let Some(place) = self.place()
        {
            line.reused.store(true, Ordering::Release);
            state.idle.push(Kept { line, used_at: Instant::now(), place: Some(place) });
            self.expire_later(&mut state);
        }
        drop(state);
        self.0.freed.notify_one();
    }

    /// A place for a connection that is kept; `None` if all are taken.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.0.connector.places()).try_acquire_owned().ok()
    }

    /// One that was kept and can take a request.
    fn kept(&self) -> Option<Line> {
        if let Some(line) = self.shared() {
            return Some(line);
        }
        let mut state = self.state();
        while let Some(Kept { line, used_at, .. }) = state.idle.pop() {
            if used_at.elapsed() < IDLE_WITHIN && line.is_usable() {
                return Some(line);
            }
        }
        None
    }

    fn shared(&self) -> Option<Line> {
        let mut state = self.state();
        let shared = state.shared.as_mut()?;
        if shared.line.is_usable() {
            shared.used_at = Instant::now();
            return shared.line.share();
        }
        state.shared = None;
        None
    }

    /// Opens a connection in the background: it is kept if whoever asked for it has found another meanwhile.
    fn open(&self) -> oneshot::Receiver<Result<Line, ConnectError>> {
        let (tell, opened) = oneshot::channel();
        let pool = self.clone();
        tokio::spawn(async move {
            let opened = match pool.0.connector.open(&pool.0.origin).await {
                Ok(opened) => pool.begin_http(opened).await,
                Err(error) => Err(error),
            };
            if let Err(Ok(line)) = tell.send(opened)
                && matches!(line.sender, Sender::Http1(_))
            {
                pool.keep(line);
            }
        });
        opened
    }

    async fn begin_http(&self, opened: Opened) -> Result<Line, ConnectError> {
        let Opened { io, h2, peephole, heard } = opened;
        let sender = if h2 { http2_over(TokioIo::new(io)).await } else { http1_over(TokioIo::new(io)).await }
            .map_err(ConnectError::Http)?;
        let mut state = self.state();
        state.opened += 1;
        state.speaks_h2 = h2;
        let line = Line { sender, peephole, heard, number: state.opened, reused: Arc::default() };
        let Some(shared) = line.share() else { return Ok(line) };
        // Of several that were opened at once, before it was known that one is enough, the first stays.
        let first = state.shared.as_ref().filter(|first| first.line.is_usable());
        if let Some(first) = first.and_then(|first| first.line.share()) {
            return Ok(first);
        }
        state.shared = Some(Kept { line: shared, used_at: Instant::now(), place: self.place() });
        self.expire_later(&mut state);
        drop(state);
        self.0.freed.notify_waiters();
        Ok(line)
    }

    /// Sees to it that what is kept now is thrown out in time.
    fn expire_later(&self, state: &mut State) {
        if std::mem::replace(&mut state.is_expiring, true) {
            return;
        }
        let parts = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                sleep(IDLE_WITHIN / 2).await;
                let Some(parts) = parts.upgrade() else { return };
                let mut state = parts.state.lock().unwrap_or_else(PoisonError::into_inner);
                let is_young = |kept: &Kept| kept.used_at.elapsed() < IDLE_WITHIN;
                state.idle.retain(is_young);
                state.shared = state.shared.take().filter(is_young);
                state.is_expiring = !state.idle.is_empty() || state.shared.is_some();
                if !state.is_expiring {
                    return;
                }
            }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Io = TokioIo<Box<dyn crate::outbound::transport::connector::Duplex>>;

/// Answers are read leniently: what no HTTP library of a receiver should send, and some do, still says whether
/// the receiver took the POST (docs/adr/0042).
async fn http1_over(io: Io) -> hyper::Result<Sender> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(usize::try_from(ANSWER_HELD_MAX).unwrap_or(usize::MAX))
        .max_headers(HEADERS_MAX)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .handshake(io)
        .await?;
    // What breaks it is told to whoever has asked over it.
    tokio::spawn(connection);
    Ok(Sender::Http1(sender))
}

async fn http2_over(io: Io) -> hyper::Result<Sender> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(ANSWER_HELD_MAX)
        .initial_stream_window_size(ANSWER_HELD_MAX)
        .initial_connection_window_size(CONNECTION_HELD_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .handshake(io)
        .await?;
    tokio::spawn(connection);
    Ok(Sender::Http2(sender))
}

/// As HTTP/1.1 writes it: the host in a header, the rest in the first line.
fn in_origin_form(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let uri = request.uri();
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = match (uri.host(), uri.port_u16().filter(|port| *port != default)) {
        (Some(host), Some(port)) => HeaderValue::try_from(format!("{host}:{port}")).ok(),
        (Some(host), None) => HeaderValue::from_str(host).ok(),
        (None, _) => None,
    };
    let path = uri.path_and_query().cloned().map_or(Uri::from_static("/"), Uri::from);
    *request.uri_mut() = path;
    if let Some(host) = host {
        request.headers_mut().entry(HOST).or_insert(host);
    }
    request
}
