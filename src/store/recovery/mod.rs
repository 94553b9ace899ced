//! Recoveries: a webhook asks for events of a past time, and the bridge opens deliveries of those that it
//! missed.
//!
//! Read `requests` (asked for, shown, cancelled), then `worker` (a dispatcher runs a request piece by piece),
//! then `missed_events` (which events a chunk holds).

pub(super) mod missed_events;
pub mod requests;
pub(super) mod worker;
