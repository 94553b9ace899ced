//! Floor 0: the words and the rules. No I/O, no async, no clock, nothing of ours imported from above.
//!
//! Every rule takes what it needs, `now` and randomness included, and returns a value.

pub mod agent_state;
pub mod audit;
pub mod delivery;
pub mod event_data;
pub mod ids;
pub mod presence;
pub mod regions;
pub mod retry;
pub mod secret;
pub mod signature;
pub mod source;
pub mod source_notice;
pub mod target;
pub mod topics;
pub mod violation;
pub mod webhook;
