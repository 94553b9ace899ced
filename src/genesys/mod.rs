//! Floor 2, the left edge: what Genesys Cloud says, and when to speak with it.
//!
//! `protocol` is the trait that a protocol fulfils, `realtime` and `notifications` are the two there are; `session` decides
//! (pure), `rest` and `socket` carry. Called by the actors.

pub mod client;
pub mod definitions;
mod dialer;
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
