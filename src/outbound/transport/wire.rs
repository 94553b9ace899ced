//! One question and its answer, over connections that belong to one webhook. Never more of an answer than its
//! limits.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;

use crate::domain::delivery::outcome::Outcome;
use crate::outbound::transport::connector::{ConnectError, Connector, Requests, UnderWay};
use crate::outbound::transport::guard::{Guard, GuardError};

/// Bytes of an answer's body that are read; what comes after costs the connection.
pub const ANSWER_READ_MAX: usize = 16 * 1024;
/// Longest head of an answer, and most of an answer that is held at once. The client's own limit, 400 KiB,
/// times the attempts under way is more than the machine has.
const ANSWER_HELD_MAX: u32 = 16 * 1024;
/// Most of an HTTP/2 connection's answers together that the receiver may send before they are read.
const CONNECTION_HELD_MAX: u32 = 256 * 1024;
/// How long idle connections are kept, and how many.
const IDLE_WITHIN: Duration = Duration::from_secs(30);
const IDLE_MAX: usize = 100;
/// An HTTP/2 connection with pending requests is pinged this often, and has this long to answer:
/// it is shared, so unlike an HTTP/1.1 one it is not given up with an attempt that ran out of time.
const PING_EVERY: Duration = Duration::from_secs(5);
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// A way to ask. Clones share connections.
#[derive(Clone)]
pub struct Wire {
    client: Client<Connector, Full<Bytes>>,
    requests: Arc<Requests>,
}

/// An answer, as far as it was read.
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// All of its headers.
    pub headers: HeaderMap,
    /// The beginning of its body, as much as was asked for.
    pub body: Vec<u8>,
    /// Whether that is all of it.
    pub whole: bool,
    /// Access tokens that it was asked with.
    pub tokens: Vec<HeaderValue>,
}

impl Wire {
    /// Connections of its own, each open within this time.
    pub fn new(guard: Guard, tls: Arc<ClientConfig>, within: Duration) -> Self {
        let requests = Arc::<Requests>::default();
        let held = usize::try_from(ANSWER_HELD_MAX).unwrap_or(usize::MAX);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_WITHIN)
            .pool_max_idle_per_host(IDLE_MAX)
            .http1_max_buf_size(held)
            .http2_max_header_list_size(ANSWER_HELD_MAX)
            .http2_initial_stream_window_size(ANSWER_HELD_MAX)
            .http2_initial_connection_window_size(CONNECTION_HELD_MAX)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PONG_WITHIN)
            .build(Connector::new(guard, tls, within, requests.clone()));
        Self { client, requests }
    }

    /// Asks once, or twice if the receiver said that it did not look at the first. Does not end by itself:
    /// the caller has a deadline. Keeps at most `keep` bytes of the body.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, request: Request<Full<Bytes>>, keep: usize) -> Result<Reply, Outcome> {
        let _under_way = UnderWay::begin(&self.requests);
        let answer = match self.client.request(request.clone()).await {
            Err(error) if was_not_looked_at(&error) => {
                self.client.request(request).await.map_err(|error| why(&error))?
            }
            answer => answer.map_err(|error| why(&error))?,
        };
        let status = answer.status().as_u16();
        if !(200..=599).contains(&status) {
            return Err(Outcome::BadAnswer);
        }
        let (head, body) = answer.into_parts();
        let (body, whole) = read(body, keep).await.ok_or(Outcome::Disconnected)?;
        Ok(Reply { status, headers: head.headers, body, whole, tokens: Vec::new() })
    }
}

/// Reads the body to its end or to the limit, whichever comes first, and says whether what is kept is all of
/// it; `None` if the connection broke before. What is left unread makes hyper drop the connection (or the
/// stream), so it cannot be taken for the next answer.
pub(in crate::outbound) async fn read(
    mut body: impl Body<Data = Bytes> + Unpin,
    keep: usize,
) -> Option<(Vec<u8>, bool)> {
    let (mut seen, mut kept) = (0, Vec::new());
    while seen < ANSWER_READ_MAX {
        let Some(frame) = body.frame().await else {
            return Some((kept, seen <= keep));
        };
        if let Ok(data) = frame.ok()?.into_data() {
            seen += data.len();
            let room = keep.saturating_sub(kept.len());
            kept.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        }
    }
    Some((kept, false))
}

/// Over HTTP/2 a receiver can say that a request came too late for this connection, as it does when it closes
/// it.
fn was_not_looked_at(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(http2) = inner.downcast_ref::<h2::Error>() {
            let refused = http2.reason() == Some(h2::Reason::REFUSED_STREAM);
            let leaving = http2.is_go_away() && http2.reason() == Some(h2::Reason::NO_ERROR);
            return http2.is_remote() && (refused || leaving);
        }
        cause = inner.source();
    }
    false
}

fn why(error: &Error) -> Outcome {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(connect) = inner.downcast_ref::<ConnectError>() {
            return match connect {
                ConnectError::Guard(GuardError::NotResolved) => Outcome::NotResolved,
                ConnectError::Guard(GuardError::Refused) => Outcome::TargetRefused,
                ConnectError::NotConnected => Outcome::NotConnected,
                ConnectError::TimedOut => Outcome::TimedOut,
                ConnectError::Tls(_) => Outcome::TlsFailed,
            };
        }
        if let Some(http) = inner.downcast_ref::<hyper::Error>()
            && http.is_parse()
        {
            return Outcome::BadAnswer;
        }
        cause = inner.source();
    }
    Outcome::Disconnected
}
