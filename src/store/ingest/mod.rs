//! Presence changes become events and pending deliveries, in the one transaction where both halves of the
//! bridge meet.
//!
//! Read `record` (a batch of changes, the hot path), `filters` (the webhooks' filters in memory), `write`
//! (events and planned deliveries to rows; `domain/webhook/fan_out.rs` plans them), then `snapshots` (the
//! present state of every agent for one webhook). `recent` keeps what was committed in the last minute, and
//! after a failover that lost it `incarnation` has `again` store it.

mod again;
mod failover_notice;
pub mod filters;
pub mod incarnation;
pub mod recent;
pub mod record;
pub(super) mod snapshots;
pub(super) mod write;
