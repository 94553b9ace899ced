//! Recoveries: a webhook asks for events of a past time, and the bridge opens deliveries of those that it
//! missed, or of deliveries that ended in certain states.
//!
//! Read `requests` (asked for, shown, cancelled), then `worker` (a dispatcher runs a request piece by piece),
//! then `missed_events` and `ended_deliveries` (what a chunk holds).

pub mod ended_deliveries;
pub(super) mod missed_events;
pub mod requests;
pub(super) mod worker;
