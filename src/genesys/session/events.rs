//! What can happen to a session and what it can ask for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use time::OffsetDateTime;

use crate::domain::audit::Entry;
use crate::domain::presence::connection::{
    CloseCause, ConnectionState, GapCause, MalformedReason, RotateCause,
};
use crate::genesys::protocol::{Frame, Provisioned, Standing, Update, UpstreamError};
use crate::genesys::socket::Closed;

/// Both clocks: one for what is written down, one for measuring.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The clock that counts.
    pub at: OffsetDateTime,
    /// Monotonic clock.
    pub tick: Instant,
}

/// Names a token without holding it.
pub type TokenSerial = u64;

/// Which timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Try again.
    Retry,
    /// Look whether anything was heard.
    Watchdog,
    /// Measure a round trip.
    Ping,
    /// The socket has been open for long enough.
    Healthy,
    /// Look how the connection stands upstream.
    Probe,
    /// Have another connection made before this one ends.
    Rotate,
}

/// The connections that the platform lists for our client.
#[derive(Debug, Default)]
pub struct Listing {
    /// Upstream ids of all of them.
    pub existing: Vec<String>,
    /// Those that were made for a former process of ours which never learnt of it.
    pub lost: Vec<String>,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The actor lives.
    Start,
    /// A token was asked for.
    Token(Result<TokenSerial, UpstreamError>),
    /// A token was shown to the platform; gives the id that it stands for.
    Verified(Result<String, UpstreamError>),
    /// The platform was asked for its list of connections.
    Listed(Result<Listing, UpstreamError>),
    /// Deletions were tried: each id, and what became of it.
    Deleted(Vec<(String, Result<(), UpstreamError>)>),
    /// A connection was asked for.
    Provisioned(Result<Provisioned, UpstreamError>),
    /// The socket was dialled.
    Dialled(Result<(), UpstreamError>),
    /// A text message.
    Text(String, Frame),
    /// A binary message.
    Binary(Bytes),
    /// A ping of the peer; it was answered.
    Pinged,
    /// A pong of the peer.
    Ponged(Bytes),
    /// The socket ended.
    Closed(Closed),
    /// A timer rang.
    Timer(Timer),
    /// Upstream was asked how the connection stands.
    Probed(Result<Standing, UpstreamError>),
    /// The socket was asked for a sign of life out of turn and gave none.
    Unproven,
    /// An update could not be handed on.
    QueueFull,
    /// Somebody wants it to end.
    Terminate(CloseCause),
    /// The socket is gone and deletions were tried.
    ShutDown,
}

/// What to do. Results come back as inputs with the epoch they were asked in.
#[derive(Debug)]
pub enum Effect {
    /// Ask for a token, another one than this if one is named.
    GetToken {
        /// A token that was not accepted.
        instead_of: Option<TokenSerial>,
    },
    /// Show the token to the platform.
    Verify,
    /// Ask for the list of connections.
    List,
    /// Delete these upstream.
    Delete(Vec<String>),
    /// Ask for a connection.
    Provision,
    /// Dial its socket.
    Dial(Provisioned),
    /// Send text.
    SendText(String),
    /// Send a ping.
    Ping(Bytes),
    /// Start the closing handshake.
    Close(u16, &'static str),
    /// Drop the socket without waiting for anything.
    Drop,
    /// Hand an update on.
    Record(Box<Update>, String),
    /// Set a timer of this epoch.
    SetTimer(Timer, Duration),
    /// Write an entry down, with the state as it is now.
    Audit(Box<Entry>),
    /// Agents are out of sight since then.
    GapOpened {
        /// Last moment of proof.
        from: OffsetDateTime,
        /// Why.
        cause: GapCause,
    },
    /// Agents are in sight again.
    GapClosed,
    /// Write the state down.
    Save,
    /// Count a reconnect.
    CountReconnect(GapCause),
    /// Count an odd frame.
    CountMalformed(MalformedReason),
    /// Count a round trip.
    CountRoundTrip(Duration),
    /// Ask how the connection stands upstream.
    Probe,
    /// Read the present states of its agents.
    Resync,
    /// Have another connection made that takes the place of this one, which stays open until then.
    Rotate {
        /// Why.
        cause: RotateCause,
    },
    /// Wait for the socket to end, delete these upstream, then report [`Input::ShutDown`].
    ShutDown(Vec<String>),
    /// Nothing more will come.
    Finished,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    Idle,
    /// Waiting for a token.
    Token,
    /// Waiting for the token to be accepted.
    Verify,
    /// Waiting for leftovers to be deleted.
    Clean,
    /// Waiting for a connection.
    Provision,
    /// At the limit: waiting for the list, then for deletions.
    AtLimit,
    /// Waiting for the socket.
    Dial,
    /// The socket is open.
    Open,
    /// Waiting to try again.
    BackingOff,
    /// Waiting for a permission.
    Refused,
    /// Being ended.
    Closing(CloseCause),
    /// Ended.
    Ended(CloseCause),
}

impl Phase {
    /// State that is stored and shown.
    #[must_use]
    pub fn state(self) -> ConnectionState {
        match self {
            Self::Closing(_) | Self::Ended(CloseCause::Terminated) => ConnectionState::Terminated,
            Self::Idle | Self::Ended(_) => ConnectionState::Idle,
            Self::Token | Self::Verify | Self::Clean | Self::Provision | Self::AtLimit | Self::Dial => {
                ConnectionState::Connecting
            }
            Self::Open => ConnectionState::Open,
            Self::BackingOff => ConnectionState::BackingOff,
            Self::Refused => ConnectionState::Refused,
        }
    }
}
