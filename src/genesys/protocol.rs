//! What a protocol must be able to do. The core knows nothing else of the platform.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use time::OffsetDateTime;

use super::socket::Socket;
use crate::domain::secret::Secret;

/// A token and how long it is good for.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token itself.
    pub secret: Secret,
    /// From now on.
    pub lifetime: Duration,
}

/// What to ask for when a connection is made upstream.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The agent to watch.
    pub agent_id: String,
    /// Topics, flat and allowed.
    pub topics: Vec<String>,
    /// How often upstream shall ping.
    pub heartbeat_interval: Duration,
}

/// A connection that upstream made for us.
#[derive(Clone, Debug)]
pub struct Provisioned {
    /// Upstream's id.
    pub upstream_id: String,
    /// Where to dial. A capability: whoever has it can listen, so it is kept like a secret.
    pub socket_url: Secret,
}

/// What went wrong, as far as it changes what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 401: the token is expired or revoked, or the client secret is wrong.
    Unauthorized,
    /// 403: a permission is missing; asking again does not help.
    Forbidden,
    /// 409 or 422: a limit is met.
    Limit,
    /// 429: too many requests; wait at least so long if it says.
    RateLimited(Option<Duration>),
    /// Any other status that is not success.
    Status,
    /// No whole answer in time.
    TimedOut,
    /// No connection, or it broke.
    Transport,
    /// An answer that lacks what it must hold.
    BadAnswer,
    /// A socket address that does not belong to the source; it is not dialled.
    ForeignHost,
}

/// A failed request or dial. Its text never holds a token, a secret or a socket address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct UpstreamError {
    /// What it means for us.
    pub kind: ErrorKind,
    /// HTTP status, if there was one.
    pub status: Option<u16>,
    /// What was tried and how it failed, with the platform's own error code and correlation id if it gave them.
    pub what: String,
}

/// What one message of a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The protocol's own ping; it is answered with this text.
    Ping {
        /// What to answer.
        answer: String,
    },
    /// The protocol's own pong.
    Pong,
    /// A presence update.
    Update(Update),
    /// Nothing that the protocol knows; its bytes are kept.
    Odd {
        /// What is odd, from a closed set of words.
        reason: &'static str,
    },
}

/// What could be read of a presence update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Topic, if the frame names one.
    pub topic: Option<String>,
    /// System presence in our spelling, if one was found.
    pub presence: Option<String>,
    /// Upstream's time of the change, if one was found.
    pub occurred_at: Option<OffsetDateTime>,
}

/// What an asynchronous step returns: not `Send`, since the client behind it lives on one thread.
pub type Step<'a, T> = LocalBoxFuture<'a, Result<T, UpstreamError>>;

/// One protocol spoken with one source.
pub trait Upstream {
    /// Asks for a token by client credentials.
    fn token(&self) -> Step<'_, Token>;

    /// Asks whether a token is accepted; gives the id that it stands for.
    fn verify<'a>(&'a self, token: &'a Secret) -> Step<'a, String>;

    /// Has a connection made.
    fn provision<'a>(&'a self, token: &'a Secret, wanted: &'a Wanted) -> Step<'a, Provisioned>;

    /// Ids of the connections that the client holds, ours and others'.
    fn list<'a>(&'a self, token: &'a Secret) -> Step<'a, Vec<String>>;

    /// Deletes a connection; one that is gone already is success.
    fn delete<'a>(&'a self, token: &'a Secret, upstream_id: &'a str) -> Step<'a, ()>;

    /// Opens the socket of a connection.
    fn dial<'a>(&'a self, provisioned: &'a Provisioned) -> Step<'a, Socket>;

    /// Reads one text message. Pure.
    fn read(&self, text: &str) -> Frame;
}
