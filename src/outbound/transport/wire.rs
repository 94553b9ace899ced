//! One question and its answer, over connections that belong to one webhook. Never more of an answer than its
//! limits. Whatever makes requests comes through [`Wire::ask`]: it alone knows connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};

use crate::domain::delivery::outcome::Outcome;
use crate::domain::delivery::reason::Failure;
use crate::outbound::transport::connector::{Connector, Requests, UnderWay};
use crate::outbound::transport::failure::{
    is_of_stream, may_be_made_again, of_connect, of_exchange, timed_out,
};
use crate::outbound::transport::guard::Guard;
use crate::outbound::transport::pool::{Line, Pool};

/// Bytes of an answer's body that are read; what comes after costs the connection.
pub const ANSWER_READ_MAX: usize = 16 * 1024;

/// A way to ask. Clones share connections.
#[derive(Clone)]
pub struct Wire {
    pool: Pool,
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
    /// It was asked for twice: the first time a kept connection broke.
    pub remade: bool,
}

/// How far a request has come.
#[derive(Default)]
struct AskProgress {
    connected: bool,
    remade: bool,
}

impl Wire {
    /// Connections of its own to the receiver of this address, each open within this time.
    pub fn new(guard: Guard, tls: Arc<ClientConfig>, within: Duration, receiver: Uri) -> Self {
        let requests = Arc::<Requests>::default();
        let connector = Connector::new(guard, tls, within, requests.clone());
        Self { pool: Pool::new(connector, receiver), requests }
    }

    /// Asks once, and once more at once if a kept connection broke before the answer, or the receiver said
    /// that it did not look at the request. Always ends by the deadline. Keeps at most `keep` bytes of the
    /// body. The head of an answer counts, whatever becomes of its body.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
        keep: usize,
    ) -> Result<Reply, Failure> {
        let _under_way = UnderWay::begin(&self.requests);
        let mut progress = AskProgress::default();
        let asked = timeout_at(deadline, self.head(request, &mut progress)).await;
        let AskProgress { connected, remade } = progress;
        let (answer, line) = asked
            .unwrap_or_else(|_| Err(timed_out(connected)))
            .map_err(|failure| Failure { remade, ..failure })?;
        let status = answer.status().as_u16();
        if !(200..=599).contains(&status) {
            let reason = match answer.status() {
                StatusCode::SWITCHING_PROTOCOLS => "101 Switching Protocols, which nobody asked for",
                _ => "a status that is none",
            };
            let failure = Failure::because(Outcome::BadAnswer { status: Some(status) }, reason);
            return Err(Failure { remade, ..failure });
        }
        let (head, body) = answer.into_parts();
        let read = read(body, deadline, keep).await;
        if read.ended {
            self.pool.put_back(line).await;
        }
        let ReadBody { body, whole, .. } = read;
        Ok(Reply { status, headers: head.headers, body, whole, tokens: Vec::new(), remade })
    }

    async fn head(
        &self,
        request: Request<Full<Bytes>>,
        progress: &mut AskProgress,
    ) -> Result<(Response<Incoming>, Line), Failure> {
        let mut line = self.pool.line().await.map_err(|error| of_connect(&error))?;
        progress.connected = true;
        let error = match line.ask(request.clone()).await {
            Ok(answer) => return Ok((answer, line)),
            Err(error) => error,
        };
        if !is_of_stream(&error) {
            self.pool.forget(&line);
        }
        if !may_be_made_again(&error, &line) {
            return Err(of_exchange(&error, &line));
        }
        *progress = AskProgress { connected: false, remade: true };
        let again = if is_of_stream(&error) { self.pool.line().await } else { self.pool.fresh(&line).await };
        let mut line = again.map_err(|error| of_connect(&error))?;
        progress.connected = true;
        match line.ask(request).await {
            Ok(answer) => Ok((answer, line)),
            Err(error) => {
                if !is_of_stream(&error) {
                    self.pool.forget(&line);
                }
                Err(of_exchange(&error, &line))
            }
        }
    }
}

/// The body of an answer, as far as it was read.
pub(in crate::outbound) struct ReadBody {
    /// Its beginning, as much as was asked for.
    pub body: Vec<u8>,
    /// Whether that is all of it.
    pub whole: bool,
    /// It was read to its end.
    pub ended: bool,
}

/// Reads the body until its end, the limit or the deadline, or until it breaks off. What is left unread makes
/// hyper drop the connection (or the stream), so it cannot be taken for the next answer.
pub(in crate::outbound) async fn read(
    mut body: impl Body<Data = Bytes> + Unpin,
    deadline: Instant,
    keep: usize,
) -> ReadBody {
    let (mut seen, mut kept) = (0, Vec::new());
    while seen < ANSWER_READ_MAX {
        let Ok(frame) = timeout_at(deadline, body.frame()).await else { break };
        let data = match frame {
            None => return ReadBody { body: kept, whole: seen <= keep, ended: true },
            Some(Ok(frame)) => frame.into_data(),
            Some(Err(_)) => break,
        };
        if let Ok(data) = data {
            seen += data.len();
            let room = keep.saturating_sub(kept.len());
            kept.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        }
    }
    ReadBody { body: kept, whole: false, ended: false }
}
