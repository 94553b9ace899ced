//! Floor 2, the left edge: what Genesys Cloud says, and when to speak with it.
//!
//! `protocol` is the trait that a protocol fulfils, `realtime` the first of them; `session` decides (pure), `socket`
//! carries. Called by the actors.

pub mod latency;
pub mod plan;
pub mod protocol;
pub mod realtime;
pub mod reconnect;
pub mod session;
pub mod socket;
