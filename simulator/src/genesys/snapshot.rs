//! Counters and connections as one value to assert on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use serde::Serialize;

use super::faults::Route;

/// Close frames remembered; more would only be a leak in a long demo.
const CLOSES_KEPT: usize = 10_000;

/// A close frame that the client sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CloseSeen {
    pub connection_id: String,
    pub user_id: String,
    pub code: Option<u16>,
    pub reason: String,
}

/// A WebSocket that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenSeen {
    pub connection_id: String,
    pub user_id: String,
    /// When the handshake was accepted.
    #[serde(skip)]
    pub at: Instant,
}

/// An upstream connection, as `GET /api/v2/realtime/connections` knows it and a little more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionSeen {
    pub connection_id: String,
    pub client_id: String,
    pub user_id: String,
    pub topics: Vec<String>,
    pub heartbeat_interval: u64,
    /// Whether a socket is open on it now.
    pub connected: bool,
    /// Sockets opened on it so far.
    pub sockets: u32,
    pub date_created: String,
}

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Requests that arrived, per route, refused ones included.
    pub requests: BTreeMap<Route, u64>,
    /// Answers given, per status.
    pub statuses: BTreeMap<u16, u64>,
    /// Access tokens given out.
    pub tokens_issued: u64,
    /// WebSockets opened.
    pub sockets_opened: u64,
    /// WebSockets ended, by whomever.
    pub sockets_ended: u64,
    /// Sockets closed with 1001 because a pong did not come in time.
    pub pongs_missed: u64,
    /// `{"type":"pong"}` received.
    pub json_pongs: u64,
    /// RFC 6455 pongs received that echo a ping of ours.
    pub rfc_pongs: u64,
    /// RFC 6455 pongs that echo no heartbeat of ours: answers to [`Junk::Pings`](super::Junk::Pings), or
    /// unasked for.
    pub other_pongs: u64,
    /// `{"type":"ping"}` received (and answered unless silent).
    pub json_pings: u64,
    /// RFC 6455 pings received (and answered unless silent).
    pub rfc_pings: u64,
    /// Client messages that the protocol does not know, and broken frames.
    pub surprises: VecDeque<String>,
    /// Sockets opened, oldest first.
    pub opens: VecDeque<OpenSeen>,
    /// Close frames received, oldest first.
    pub closes: VecDeque<CloseSeen>,
    /// Last `Authorization` header seen on any route.
    pub last_authorization: Option<String>,
}

impl Tally {
    pub(super) fn close(&mut self, close: CloseSeen) {
        keep(&mut self.closes, close);
    }

    pub(super) fn open(&mut self, open: OpenSeen) {
        self.sockets_opened += 1;
        keep(&mut self.opens, open);
    }

    pub(super) fn surprise(&mut self, what: String) {
        keep(&mut self.surprises, what);
    }
}

fn keep<T>(list: &mut VecDeque<T>, item: T) {
    list.push_back(item);
    if list.len() > CLOSES_KEPT {
        list.pop_front();
    }
}

/// State of the simulator at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    pub tally: Tally,
    /// Upstream connections that exist, in the order of their creation.
    pub connections: Vec<ConnectionSeen>,
    /// Present state of each agent that ever had one.
    pub agents: BTreeMap<String, String>,
    /// Number of the newest change.
    pub changes: u64,
    /// Changes that reached a live socket.
    pub written: u64,
}

impl Snapshot {
    /// Requests that arrived on a route.
    #[must_use]
    pub fn requests(&self, route: Route) -> u64 {
        self.tally.requests.get(&route).copied().unwrap_or(0)
    }

    /// Connections with an open socket.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.connections.iter().filter(|connection| connection.connected).count()
    }

    /// Whether an agent has an open socket.
    #[must_use]
    pub fn watches(&self, agent: &str) -> bool {
        self.connections.iter().any(|connection| connection.connected && connection.user_id == agent)
    }

    /// Connections that exist for an agent, open or not.
    #[must_use]
    pub fn connections_of(&self, agent: &str) -> Vec<&ConnectionSeen> {
        self.connections.iter().filter(|connection| connection.user_id == agent).collect()
    }
}
