//! From presence changes to events and their pending deliveries, in the one transaction that both halves meet in.

pub(super) mod fan_out;
pub mod filters;
pub(super) mod numbering;
pub mod record;
pub(super) mod snapshots;
pub(super) mod write;
