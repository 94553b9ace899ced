//! Settings of a simulated Genesys Cloud.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Topics that the original specification allows; everything else is refused with 422.
pub const TOPICS: [&str; 3] =
    ["routing:agent:state", "routing:agent:state:history", "routing:agent:state:queue"];

/// Settings of [`Genesys`](super::Genesys); the defaults are those of the original specification
/// (docs/realtime.md).
#[derive(Debug, Clone)]
pub struct GenesysOptions {
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Origin under which clients reach us when it is not `listen` (a compose service name); `wsUrl` is built
    /// from it.
    pub public_url: Option<String>,
    /// OAuth clients as `(id, secret)`.
    pub clients: Vec<(String, String)>,
    /// Agents that exist; a connection for another one is refused with 404. Empty: every id exists.
    pub agents: Vec<String>,
    /// Time until a new access token expires.
    pub token_lifetime: Duration,
    /// Connections one OAuth client may hold, open or not; the next one is refused with 409.
    pub connection_limit: usize,
    /// Topics one connection may name; more are refused with 422.
    pub topic_limit: usize,
    /// Heartbeat intervals that are accepted, in milliseconds; others are refused with 422.
    pub heartbeat_range_ms: RangeInclusive<u64>,
    /// Send the specification's `{"type":"ping"}` at each heartbeat.
    pub json_pings: bool,
    /// Send an RFC 6455 ping frame at each heartbeat: the specification's prose says so, its code does the
    /// other.
    pub rfc_pings: bool,
    /// Time to answer a ping before 1001; by default the connection's own heartbeat interval.
    pub pong_window: Option<Duration>,
    /// Refuse to open a `wsUrl` a second time after its socket ended.
    pub single_use_ws_url: bool,
    /// Changes that the ledger remembers; the oldest are forgotten first.
    pub ledger_capacity: usize,
}

impl Default for GenesysOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            public_url: None,
            clients: vec![("sim-client".into(), "sim-secret".into())],
            agents: Vec::new(),
            token_lifetime: Duration::from_hours(24),
            connection_limit: 10,
            topic_limit: 100,
            heartbeat_range_ms: 100..=300_000,
            json_pings: true,
            rfc_pings: true,
            pong_window: None,
            single_use_ws_url: false,
            ledger_capacity: 1_000_000,
        }
    }
}
