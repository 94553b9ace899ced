//! Inputs and effects of a session.

use std::time::{Duration, Instant};

use bytes::Bytes;
use time::OffsetDateTime;

use crate::domain::audit::Entry;
use crate::domain::presence::connection::{
    CloseCause, ConnectionState, GapCause, MalformedReason, RotateCause,
};
use crate::genesys::protocol::{Frame, Provisioned, Standing, Update, UpstreamError};
use crate::genesys::socket::Closed;

/// Both clocks: wall time for what is stored, monotonic time for measuring.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub at: OffsetDateTime,
    pub tick: Instant,
}

/// Names a token without showing it.
pub type TokenSerial = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Try again.
    Retry,
    /// Check for silence.
    Watchdog,
    /// Ping upstream.
    Ping,
    /// The socket has been open for long enough.
    Healthy,
    /// Ask upstream how the connection stands.
    Probe,
    /// Replace the connection before its life is over.
    Rotate,
}

/// The connections that the platform lists for our client.
#[derive(Debug, Default)]
pub struct Listing {
    /// Upstream ids of all of them.
    pub existing: Vec<String>,
    /// Those of a former process of ours that never learnt of them.
    pub lost: Vec<String>,
}

#[derive(Debug)]
pub enum Input {
    /// The actor has started.
    Start,
    /// Answer to the request for a token.
    Token(Result<TokenSerial, UpstreamError>),
    /// Answer to the check of the token: the id that it stands for.
    Verified(Result<String, UpstreamError>),
    /// Answer to the request for the list of connections.
    Listed(Result<Listing, UpstreamError>),
    /// Results of deletions by upstream id.
    Deleted(Vec<(String, Result<(), UpstreamError>)>),
    /// Answer to the request for a connection.
    Provisioned(Result<Provisioned, UpstreamError>),
    /// Result of dialling the socket.
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
    /// A timer of this attempt expired.
    Timer(Timer),
    /// Upstream's answer to how the connection stands.
    Probed(Result<Standing, UpstreamError>),
    /// The socket was asked for a sign of life out of turn and gave none.
    Unproven,
    /// An update found no room in the queue.
    QueueFull,
    /// Request to end.
    Terminate(CloseCause),
    /// The socket is gone and deletions were tried.
    ShutDown,
}

/// Orders to the actor. Results come back as inputs with the epoch they were asked in.
#[derive(Debug)]
pub enum Effect {
    /// Ask for a token, another one than this if one is named.
    GetToken {
        /// A token that was not accepted.
        instead_of: Option<TokenSerial>,
    },
    /// Check the token with the platform.
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
    /// Record an update.
    Record(Box<Update>, String),
    /// Set a timer of this epoch.
    SetTimer(Timer, Duration),
    /// Write an audit entry, with the state as it is now.
    Audit(Box<Entry>),
    /// Coverage of the agents is lost.
    GapOpened {
        /// Last moment of proven coverage.
        from: OffsetDateTime,
        cause: GapCause,
    },
    /// The agents are covered again.
    GapClosed,
    /// Write the state.
    Save,
    /// Count a reconnect.
    CountReconnect(GapCause),
    /// Count a malformed frame.
    CountMalformed(MalformedReason),
    /// Count times that cannot be read.
    CountUnreadableTimes(usize),
    /// Count a round trip.
    CountRoundTrip(Duration),
    /// Ask how the connection stands upstream.
    Probe,
    /// Read the present states of its agents.
    Resync,
    /// Make another connection that takes the place of this one, which stays open until then.
    Rotate { cause: RotateCause },
    /// Wait for the socket to end, delete these upstream, then report [`Input::ShutDown`].
    ShutDown(Vec<String>),
    /// Nothing more will come.
    Finished,
}

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
