//! Erasures: what is kept of the person behind an agent goes, while the agent's id stays as a pseudonym and
//! the seals over the audit log hold (docs/adr/0038).
//!
//! Read `requests` (asked for, shown, what goes at once), then `worker` (the rest, piece by
//! piece) and `pieces` (the statement of each).

pub(super) mod pieces;
pub mod requests;
pub mod worker;
