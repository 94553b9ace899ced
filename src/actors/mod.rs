//! Floor 3: what lives. Thin shells with a mailbox and timers around rules that are pure.
//!
//! - [`supervisor`] keeps one [`connection`] actor for each connection that is wanted, and one [`token`] actor for
//!   each source; it builds a new one when one dies.
//! - a [`connection`] holds its socket in a `strand`; `calls` goes upstream, `handover` replaces one strand by another, `subscription` follows
//!   a change of agents, `resync` reads present states.
//! - [`roster`] says which agents a source of protocol `notifications` watches, and on which connection.
//! - [`dispatcher`] sends what is owed, by the loop in `dispatch`.
//!
//! Mailboxes are bounded: whoever sends waits for the answer, or gives up; data never goes by `do_send`.

pub mod assignment;
pub mod audit_push;
mod calls;
mod cleanups;
pub mod connection;
mod deletions;
mod dispatch;
pub mod dispatcher;
mod handover;
mod journal;
mod resync;
pub mod roster;
mod rosters;
mod shared;
mod sources_health;
mod strand;
mod subscription;
pub mod supervisor;
pub mod token;
mod wanted;

/// How long something that panicked rests before it is started again.
pub(crate) const RESTART_AFTER: std::time::Duration = std::time::Duration::from_secs(1);
