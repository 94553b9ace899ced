//! From presence changes to events and their pending deliveries, in the one transaction that both halves meet in.

pub mod filters;
pub mod record;
pub(super) mod snapshots;
pub(super) mod write;
