//! Floor 2, the left edge: the protocols of Genesys Cloud, and the life of a connection to it.
//!
//! `protocol` is the trait that `realtime` and `notifications` implement; `session` decides (pure), `rest`
//! and `socket` transport. Called by the actors; `examination` tries a source out.

pub mod client;
pub mod definitions;
mod dialer;
pub mod examination;
pub mod latency;
pub mod limiter;
pub mod notifications;
pub mod plan;
pub mod protocol;
pub mod realtime;
pub mod reconnect;
pub mod rest;
pub mod session;
pub mod socket;
mod values;
