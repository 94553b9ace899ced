//! Floor 0: the words and the rules. No I/O, no async, no clock, nothing of ours imported from above.
//!
//! Every rule takes what it needs, `now` and randomness included, and returns a value.

pub mod access;
pub mod agent_state;
pub mod allowance;
pub mod api_key;
pub mod audit;
pub mod caller;
pub mod circuit;
pub mod delivery;
pub mod delivery_settings;
pub mod dialling;
pub mod event_data;
pub mod explain;
pub mod external_ids;
pub mod filters;
pub mod gap_notice;
pub mod ids;
pub mod matching;
pub mod pace;
pub mod places;
pub mod presence;
pub mod quarantine;
pub mod quota;
pub mod regions;
pub mod retry;
pub mod scope;
pub mod seal;
pub mod secret;
pub mod signature;
pub mod signing_pair;
pub mod source;
pub mod source_notice;
pub mod syslog;
pub mod target;
pub mod tenant;
pub mod topics;
pub mod violation;
pub mod webhook;
pub mod webhook_notice;
