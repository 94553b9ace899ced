//! One attempt: one POST, one deadline around everything, a bounded look at the answer.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;

use super::connector::{ConnectError, Connector};
use super::envelope;
use super::guard::{Guard, GuardError, LookUp, ask_the_system};
use crate::clock;
use crate::domain::delivery::Outcome;
use crate::domain::ids::DeliveryId;
use crate::domain::retry::parse_retry_after;
use crate::domain::signature::SigningKey;
use crate::domain::target::TargetPolicy;
use crate::tls;

/// From the first look-up to the last byte of the answer.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// Bytes of an answer's body that are read; what comes after costs the connection.
const ANSWER_READ_MAX: usize = 16 * 1024;
/// Bytes of it that are kept.
const ANSWER_KEPT_MAX: usize = 4 * 1024;
/// Longest head of an answer, and most of an answer that is held at once. The client's own limit, 400 KiB, times the
/// attempts under way is more than the machine has.
const ANSWER_HELD_MAX: usize = 16 * 1024;
/// Idle connections are kept this long, and so many for one receiver: as many as it has lanes under way.
const IDLE_WITHIN: Duration = Duration::from_secs(30);
const IDLE_PER_HOST_MAX: usize = 100;

/// Where a webhook's POSTs go, parsed once.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address and `Host` header; `None` if the text cannot be made into a request: every attempt says so then.
    parsed: Option<(Uri, HeaderValue)>,
}

impl Target {
    /// From the URL as registered. Two parsers must agree about host and port, or nothing is sent.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let agreed = || {
            let url = Url::parse(text).ok()?;
            let uri: Uri = url.as_str().parse().ok()?;
            let agree = uri.host()?.eq_ignore_ascii_case(url.host_str()?)
                && uri.port_u16() == url.port()
                && uri.scheme_str() == Some(url.scheme());
            if !agree || !matches!(url.scheme(), "http" | "https") {
                return None;
            }
            let host = match url.port() {
                Some(port) => format!("{}:{port}", url.host_str()?),
                None => url.host_str()?.to_owned(),
            };
            Some((uri, HeaderValue::try_from(host).ok()?))
        };
        Self { parsed: agreed() }
    }
}

/// One POST to make.
#[derive(Clone, Debug)]
pub struct Post {
    /// Where to.
    pub target: Target,
    /// Sent as `webhook-id`.
    pub delivery_id: DeliveryId,
    /// What to send.
    pub body: Bytes,
    /// What signs it, the present key first.
    pub keys: Vec<SigningKey>,
    /// Time of the attempt in Unix seconds.
    pub timestamp: i64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The answer, or why there is none.
    pub outcome: Outcome,
    /// How long the attempt took.
    pub duration: Duration,
    /// The beginning of the answer's body, at most 4 KiB.
    pub excerpt: Vec<u8>,
}

/// Makes attempts. Clones share connections.
#[derive(Clone)]
pub struct Poster {
    client: Client<Connector, Full<Bytes>>,
    deadline: Duration,
}

impl Poster {
    /// A poster that reaches what the policy allows and trusts what the system trusts.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(policy: TargetPolicy) -> Result<Self, rustls::Error> {
        let tls = Arc::new(tls::client_config()?);
        Ok(Self::with(policy, ask_the_system, tls, DEADLINE))
    }

    fn with(policy: TargetPolicy, look_up: LookUp, tls: Arc<ClientConfig>, deadline: Duration) -> Self {
        let connector = Connector::new(Guard::new(policy, look_up), tls, deadline);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_WITHIN)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .http1_max_buf_size(ANSWER_HELD_MAX)
            .set_host(false)
            .build(connector);
        Self { client, deadline }
    }

    /// Makes one attempt. Always ends by its deadline; follows no redirect; inflates nothing.
    pub async fn post(&self, post: Post) -> Answer {
        let start = Instant::now();
        let (outcome, excerpt) = match timeout(self.deadline, self.attempt(post)).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(outcome)) => (outcome, Vec::new()),
            Err(_) => (Outcome::TimedOut, Vec::new()),
        };
        Answer { outcome, duration: start.elapsed(), excerpt }
    }

    async fn attempt(&self, post: Post) -> Result<(Outcome, Vec<u8>), Outcome> {
        let (uri, host) = post.target.parsed.ok_or(Outcome::NotBuilt)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(HOST, host)
            .body(Full::new(post.body.clone()))
            .map_err(|_| Outcome::NotBuilt)?;
        request.headers_mut().extend(envelope::headers(
            post.delivery_id,
            post.timestamp,
            &post.keys,
            &post.body,
        ));
        let answer = self.client.request(request).await.map_err(|error| why(&error))?;
        let status = answer.status().as_u16();
        if !(200..=599).contains(&status) {
            return Err(Outcome::BadAnswer);
        }
        let wish = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = wish.and_then(|text| parse_retry_after(text, clock::now()));
        let excerpt = read(answer.into_body()).await.ok_or(Outcome::Disconnected)?;
        Ok((Outcome::Answered { status, retry_after }, excerpt))
    }
}

/// Reads the body to its end or to the limit, whichever comes first; `None` if the connection broke before. What is
/// left unread makes hyper drop the connection, so it cannot be taken for the next answer.
async fn read(mut body: impl Body<Data = Bytes> + Unpin) -> Option<Vec<u8>> {
    let (mut seen, mut kept) = (0, Vec::new());
    while seen < ANSWER_READ_MAX {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.ok()?.into_data() else {
            continue;
        };
        seen += data.len();
        let room = ANSWER_KEPT_MAX - kept.len();
        kept.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
    }
    Some(kept)
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

#[cfg(test)]
#[path = "post_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "post_tls_tests.rs"]
mod tls_tests;
