//! The dispatcher's statements: leases, claims, batches, results of attempts, and the health of receivers.

pub mod batches;
pub(super) mod claim;
pub mod cycle;
pub mod direct_dispatch;
pub(super) mod lanes;
pub mod leases;
pub mod receiver_health;
pub(super) mod receiver_notices;
pub(super) mod reopen;
pub(super) mod settle;
pub(super) mod suspended;
pub mod targets;
mod test_ping;
pub mod types;
