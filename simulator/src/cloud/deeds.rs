//! Faults and changes on demand: one list, the same from Rust and over REST. `verbs` obeys it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A place where a request can arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Login,
    TokensMe,
    CreateChannel,
    ListChannels,
    HeadChannel,
    PutSubscriptions,
    Subscriptions,
    Upgrade,
    Users,
    BulkPresence,
    QueueMembers,
    GroupMembers,
    Definitions,
    Other,
}

/// Fault of the next requests of a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Status to refuse with; without one the request is only delayed.
    #[serde(default)]
    pub status: Option<u16>,
    /// Code in the error document.
    #[serde(default)]
    pub code: Option<String>,
    /// Requests that suffer it.
    #[serde(default = "once")]
    pub times: u32,
    /// `Retry-After` of the refusal, verbatim.
    #[serde(default)]
    pub retry_after: Option<String>,
    /// Milliseconds to wait before the answer.
    #[serde(default)]
    pub delay_ms: u64,
    /// Body of a success instead of the true one, verbatim.
    #[serde(default)]
    pub body: Option<String>,
}

const fn once() -> u32 {
    1
}

impl Fault {
    /// Refuses one request with a status.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self { status: Some(status), code: None, times: 1, retry_after: None, delay_ms: 0, body: None }
    }

    /// Answers one request with 200 and this body.
    #[must_use]
    pub fn body(body: impl Into<String>) -> Self {
        Self { body: Some(body.into()), ..Self::status(200) }
    }

    /// Makes it last for `times` requests; `u32::MAX`: until faults are cleared.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Adds a `Retry-After` header.
    #[must_use]
    pub fn retry_after(mut self, value: impl Into<String>) -> Self {
        self.retry_after = Some(value.into());
        self
    }

    /// Also waits before it answers.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self
    }
}

/// Channels that a deed means.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    #[default]
    All,
    /// Channels that listen to this user.
    Agent(String),
    Channel(String),
    /// The channel at this place, in the order of their making.
    Nth(usize),
}

/// Whether an OAuth client may log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientState {
    Active,
    Disabled,
    /// The organisation's allow-list does not hold our address.
    IpNotAllowed,
}

/// How a displaced channel's socket behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manner {
    /// Heartbeats and pongs go on, events do not come.
    Silent,
    /// Nothing comes any more.
    Mute,
    /// It is told that another channel has subscribed.
    Notice,
    /// It is closed.
    Close,
}

/// One deed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Deed {
    /// Give a user a presence: a system presence as events write it, or a definition's id.
    Presence {
        agent: String,
        presence: String,
    },
    /// Give a user a routing status.
    Routing {
        agent: String,
        status: String,
    },
    /// Send a user out of office, or back.
    OutOfOffice {
        agent: String,
        out: bool,
    },
    /// Have a user work in these queues.
    ActiveQueues {
        agent: String,
        queues: Vec<String>,
    },
    Hire {
        agent: String,
    },
    /// Make a user inactive.
    Dismiss {
        agent: String,
    },
    /// Give a user another name.
    Rename {
        agent: String,
        name: String,
    },
    /// Have a user say something next to its presence, from its next change on.
    Message {
        agent: String,
        message: String,
    },
    /// Say who is in a queue.
    Queue {
        id: String,
        members: Vec<String>,
    },
    /// Say who is in a group.
    Group {
        id: String,
        members: Vec<String>,
    },
    /// Hide these users from a client, which has no role in their division; an empty list: it sees all.
    Hide {
        client: String,
        agents: Vec<String>,
    },
    /// Make a topic spoil every subscription that names it.
    Poison {
        topic: String,
    },
    /// Add a custom presence definition.
    Define {
        id: String,
        system: String,
        labels: Vec<(String, String)>,
    },
    /// Add an OAuth client, or change its secret.
    Client {
        client: String,
        secret: String,
    },
    /// Disable a client, forbid its address, or make it work again.
    ClientState {
        client: String,
        state: ClientState,
    },
    ExpireTokens,
    /// Revoke every token and tell the sockets.
    RevokeTokens,
    /// Lifetime of tokens issued from now on.
    TokenLifetime {
        seconds: u64,
    },
    /// Life of channels made from now on.
    ChannelLife {
        seconds: u64,
    },
    /// Move the platform's clock ahead.
    MoveTime {
        seconds: u64,
    },
    /// End channels as their time does: the socket is told and closed.
    ExpireChannels {
        #[serde(default)]
        reach: Reach,
    },
    /// End channels because another program made others.
    Displace {
        #[serde(default)]
        reach: Reach,
        manner: Manner,
    },
    /// Take subscriptions from channels, as another program of the same client does: those of these users;
    /// none: all.
    Unsubscribe {
        #[serde(default)]
        reach: Reach,
        #[serde(default)]
        agents: Vec<String>,
    },
    /// Announce that sockets close, and close them after the grace.
    Maintenance {
        #[serde(default)]
        reach: Reach,
        grace_ms: u64,
    },
    /// Close TCP without a close frame.
    Drop {
        #[serde(default)]
        reach: Reach,
    },
    /// Closing handshake with a code and a reason.
    Close {
        #[serde(default)]
        reach: Reach,
        code: u16,
        #[serde(default)]
        reason: String,
    },
    /// Keep TCP open, say nothing, answer nothing.
    Silence {
        #[serde(default)]
        reach: Reach,
    },
    /// End the silence.
    Resume {
        #[serde(default)]
        reach: Reach,
    },
    /// Send any text.
    Text {
        #[serde(default)]
        reach: Reach,
        text: String,
    },
    /// Send binary bytes.
    Binary {
        #[serde(default)]
        reach: Reach,
        bytes: Vec<u8>,
    },
    /// Swallow the next events.
    Lose {
        #[serde(default)]
        reach: Reach,
        times: u32,
    },
    /// Send the next events twice.
    Duplicate {
        #[serde(default)]
        reach: Reach,
        times: u32,
    },
    /// Have the next two events change places.
    Reorder {
        #[serde(default)]
        reach: Reach,
    },
    /// Send an event with a state that is older than the present one.
    Stale {
        agent: String,
        presence: String,
        seconds: i64,
    },
    /// Refuse or delay the next requests of a place.
    Fault {
        place: Place,
        #[serde(flatten)]
        fault: Fault,
    },
    /// Forget all waiting faults.
    ClearFaults,
}
