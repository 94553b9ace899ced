//! Settings of a simulated Genesys Cloud.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Headers of a 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateHeaders {
    /// `Retry-After` and `inin-ratelimit-reset`.
    #[default]
    Both,
    /// `Retry-After` alone.
    RetryAfter,
    /// `inin-ratelimit-reset` alone.
    Reset,
    /// Neither header.
    Neither,
}

/// Settings of [`Cloud`](super::Cloud); the defaults are the platform's figures.
#[derive(Debug, Clone)]
pub struct CloudOptions {
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Origin under which clients reach us when it is not `listen`; `connectUri` is built from it.
    pub public_url: Option<String>,
    /// OAuth clients as `(id, secret)`.
    pub clients: Vec<(String, String)>,
    /// Users that exist.
    pub agents: Vec<String>,
    /// Time until a new access token expires.
    pub token_lifetime: Duration,
    /// Time until a channel expires; subscribing to it restarts the time.
    pub channel_life: Duration,
    /// Channels one OAuth client may have; the next one ends the least used.
    pub channel_limit: usize,
    /// Topics one channel takes.
    pub topic_limit: usize,
    /// How often a socket says that it lives.
    pub heartbeat: Duration,
    /// Requests one OAuth client may make in a window; `None`: any number.
    pub rate_limit: Option<u32>,
    /// How long requests are counted together.
    pub rate_window: Duration,
    /// Headers of the answer when the limit is reached.
    pub rate_headers: RateHeaders,
    /// How long every answer takes.
    pub latency: Duration,
    /// Status of a handshake with a channel that is gone.
    pub gone_status: u16,
    /// Changes that the ledger remembers; the oldest are forgotten first.
    pub ledger_capacity: usize,
}

impl Default for CloudOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            public_url: None,
            clients: vec![("sim-client".into(), "sim-secret".into())],
            agents: Vec::new(),
            token_lifetime: Duration::from_hours(24),
            channel_life: Duration::from_hours(24),
            channel_limit: 20,
            topic_limit: 1_000,
            heartbeat: Duration::from_secs(30),
            rate_limit: Some(300),
            rate_window: Duration::from_mins(1),
            rate_headers: RateHeaders::Both,
            latency: Duration::ZERO,
            gone_status: 404,
            ledger_capacity: 1_000_000,
        }
    }
}
