//! The interface of a protocol. The core knows nothing else of the platform.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use time::OffsetDateTime;

use super::socket::Socket;
use crate::domain::presence::agent_state::{AgentState, Part};
use crate::domain::presence::connection::{GapCause, MalformedReason};
pub use crate::domain::presence::remedies::ErrorKind;
use crate::domain::secret::Secret;

/// A token and how long it is good for.
#[derive(Clone, Debug)]
pub struct Token {
    pub secret: Secret,
    /// Counted from now.
    pub lifetime: Duration,
}

/// Agents and topics that a connection is to watch.
#[derive(Clone, Debug)]
pub struct ConnectionSpec {
    /// The agents to watch; one in protocol `realtime`.
    pub agents: Vec<String>,
    /// Topics, flat and allowed; in protocol `notifications` the parts of an agent's state.
    pub topics: Vec<String>,
    /// How often upstream shall ping.
    pub heartbeat_interval: Duration,
}

/// An agent that the platform does not let us watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub agent_id: String,
    /// The topic that was asked for.
    pub topic: String,
    /// The platform's reason.
    pub reason: String,
    /// Permissions that it says are missing.
    pub missing_permissions: Vec<String>,
}

/// A connection that upstream made for us.
#[derive(Clone, Debug)]
pub struct Provisioned {
    /// Upstream's id.
    pub upstream_id: String,
    /// Where to dial. A capability: whoever has it can listen, so it is kept like a secret.
    pub socket_url: Secret,
    /// How long it lives from now on; `None` if upstream does not end it.
    pub lifetime: Option<Duration>,
    /// Agents that it does not cover.
    pub rejected: Vec<Rejected>,
}

/// A connection as the platform lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Upstream's id; empty if the listing hides it.
    pub upstream_id: String,
    /// The agent that it watches; `None` if the listing does not say.
    pub agent_id: Option<String>,
    /// `None` if the listing does not say.
    pub made_at: Option<OffsetDateTime>,
}

/// How a connection stands upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It listens to all its agents.
    Whole,
    /// It exists; its agents were changing when upstream was asked.
    Changing,
    /// It exists, and another program has taken subscriptions from it.
    Taken {
        /// Agents that it does not listen to any more.
        agents: usize,
    },
    /// It does not exist any more.
    Gone,
}

/// Settings of a source that say which agents to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Agents named one by one.
    pub agents: Vec<String>,
    /// Every active user.
    pub all_users: bool,
    /// Members of these queues.
    pub queues: Vec<String>,
    /// Members of these groups.
    pub groups: Vec<String>,
}

impl Watch {
    /// Whether only the platform knows which agents these are.
    #[must_use]
    pub fn needs_rosters(&self) -> bool {
        self.all_users || !self.queues.is_empty() || !self.groups.is_empty()
    }
}

/// A user as a roster or a snapshot names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// Genesys user id.
    pub agent_id: String,
    /// `None` if the answer does not say.
    pub name: Option<String>,
    /// `None` if the answer does not say.
    pub email: Option<String>,
}

/// A user's present state as REST answers it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub person: Person,
    /// Parts that the answer does not hold are `None`.
    pub state: AgentState,
    /// Times that are missing in it, because they cannot be read.
    pub unreadable_times: Vec<UnreadableTime>,
    /// The answer's own bytes about this user.
    pub raw: String,
}

/// A presence definition in the source's language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub id: String,
    /// System presence in our spelling.
    pub system: Option<String>,
    /// Its name in the source's language, or in another one if it has none there.
    pub label: Option<String>,
}

/// How sockets of a protocol are kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveConfig {
    /// Silence that counts as death.
    pub silence: Duration,
    /// How often we ping.
    pub ping_every: Duration,
    /// The text that is a ping; `None`: an RFC 6455 ping.
    pub ping_text: Option<&'static str>,
    /// How often upstream is asked whether the connection still exists there; `None`: never.
    pub probe_every: Option<Duration>,
    /// Present states are read once a socket is open.
    pub resync: bool,
}

/// A failed request or dial. Its text never holds a token, a secret or a socket address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct UpstreamError {
    pub kind: ErrorKind,
    /// HTTP status, if there was one.
    pub status: Option<u16>,
    /// The operation and how it failed, with the platform's own error code and correlation id if it gave
    /// them.
    pub what: String,
}

impl UpstreamError {
    /// Name of the outcome in the count of calls.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match (self.kind, self.status) {
            (ErrorKind::RateLimited(_), _) => "rate_limited",
            (_, Some(300..=399)) => "http_3xx",
            (_, Some(400..=499)) => "http_4xx",
            (_, Some(500..=599)) => "http_5xx",
            (ErrorKind::TimedOut, _) => "timeout",
            (ErrorKind::Transport, _) => "disconnected",
            _ => "bad_answer",
        }
    }

    /// Whether the platform answered that it refuses: then it has done nothing.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.status.is_some_and(|status| (400..500).contains(&status))
    }
}

/// One message of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The protocol's own ping; it is answered with this text.
    Ping { answer: String },
    /// The protocol's own pong.
    Pong,
    /// A sign of life that wants no answer.
    Heartbeat,
    /// The socket will be closed soon: replace it while it lives.
    Closing,
    /// Upstream has ended the connection behind this socket.
    Dead {
        /// Cause of the gap that begins.
        cause: GapCause,
    },
    /// A presence update.
    Update(Box<Update>),
    /// Nothing that the protocol knows; its bytes are kept.
    Malformed {
        /// What is wrong with it.
        reason: MalformedReason,
    },
}

/// A presence update, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// `None` where a connection has one agent only.
    pub agent_id: Option<String>,
    /// Topic, if the frame names one.
    pub topic: Option<String>,
    /// System presence in our spelling, if one was found.
    pub presence: Option<String>,
    /// Upstream's time of the change, if one was found.
    pub occurred_at: Option<OffsetDateTime>,
    /// The state part by part; `None` in protocol `realtime`.
    pub state: Option<AgentState>,
    /// Times that are missing in it, because they cannot be read.
    pub unreadable_times: Vec<UnreadableTime>,
}

/// A time that upstream gives and nobody can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableTime {
    pub part: Part,
    /// As upstream gives it, cut.
    pub text: String,
}

/// Result of an asynchronous call; not `Send`, since the client behind it lives on one thread.
pub type Step<'a, T> = LocalBoxFuture<'a, Result<T, UpstreamError>>;

/// One protocol spoken with one source.
pub trait Upstream {
    /// Asks for a token by client credentials.
    fn token(&self) -> Step<'_, Token>;

    /// Asks whether a token is accepted; gives the id that it stands for.
    fn verify<'a>(&'a self, token: &'a Secret) -> Step<'a, String>;

    /// Makes a connection.
    fn provision<'a>(&'a self, token: &'a Secret, wanted: &'a ConnectionSpec) -> Step<'a, Provisioned>;

    /// The connections of the OAuth client, ours and other programs'.
    fn list<'a>(&'a self, token: &'a Secret) -> Step<'a, Vec<Listed>>;

    /// Deletes a connection, or its subscriptions where connections cannot be deleted; one that is gone
    /// already is success.
    fn delete<'a>(&'a self, token: &'a Secret, upstream_id: &'a str) -> Step<'a, ()>;

    /// Opens the socket of a connection.
    fn dial<'a>(&'a self, provisioned: &'a Provisioned) -> Step<'a, Socket>;

    /// Reads one text message. Pure.
    fn read(&self, text: &str) -> Frame;

    /// How sockets are kept alive.
    fn keepalive(&self, heartbeat: Duration) -> KeepaliveConfig;

    /// Makes an existing connection listen to these agents and no others; gives those that are rejected.
    fn subscribe<'a>(
        &'a self,
        token: &'a Secret,
        upstream_id: &'a str,
        wanted: &'a ConnectionSpec,
    ) -> Step<'a, Vec<Rejected>>;

    /// The agents that a connection listens to; `None` if it does not exist any more.
    fn listens_to<'a>(&'a self, token: &'a Secret, upstream_id: &'a str)
    -> Step<'a, Option<HashSet<String>>>;

    /// Reads the present state of at most [`SNAPSHOT_MAX`] agents. Agents that the platform does not know are
    /// missing.
    fn snapshot<'a>(&'a self, token: &'a Secret, agents: &'a [String]) -> Step<'a, Vec<Snapshot>>;

    /// Reads the agents to be watched, each once.
    fn roster<'a>(&'a self, token: &'a Secret, watch: &'a Watch) -> Step<'a, Vec<Person>>;

    /// Reads the presence definitions.
    fn definitions<'a>(&'a self, token: &'a Secret) -> Step<'a, Vec<Definition>>;
}

/// Agents that one snapshot asks for at most.
pub const SNAPSHOT_MAX: usize = 100;

/// Answer of a protocol to a call that it does not offer.
#[must_use]
pub fn not_offered<'a, T: 'a>(what: &'static str) -> Step<'a, T> {
    let error = UpstreamError {
        kind: ErrorKind::BadAnswer,
        status: None,
        what: format!("{what}: not offered by this protocol"),
    };
    Box::pin(std::future::ready(Err(error)))
}
