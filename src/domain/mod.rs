//! Floor 0: the words and the rules. No I/O, no async, no clock, nothing of ours imported from above.
//!
//! Every rule takes what it needs, `now` and randomness included, and returns a value.

pub mod access;
pub mod audit;
mod closed_set;
pub mod delivery;
pub mod erasure;
pub mod explain;
pub mod external_ids;
pub mod ids;
pub mod plural;
pub mod presence;
pub mod retry_backoff;
pub mod secret;
pub mod sliding_window;
pub mod state_log;
pub mod violation;
pub mod webhook;
