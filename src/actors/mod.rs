//! Floor 3: what lives. Thin shells with a mailbox and timers around rules that are pure.
//!
//! - [`supervisor`] keeps one [`connection`] actor for each connection that is wanted, and one [`token`] actor for
//!   each source; it builds a new one when one dies.
//! - a [`connection`] holds its socket, replaces it, follows a change of agents, and reads present states.
//! - [`roster`] says which agents a source of protocol `notifications` watches, and on which connection.
//! - [`dispatch`] sends pending deliveries.
//!
//! Mailboxes are bounded: whoever sends waits for the answer, or gives up; data never goes by `do_send`.

pub mod audit_push;
pub mod audit_sealer;
pub mod connection;
pub mod dispatch;
pub mod maintenance;
pub mod recorder;
pub mod roster;
pub mod supervisor;
pub mod token;

/// How long something that panicked rests before it is started again.
pub(crate) const RESTART_AFTER: std::time::Duration = std::time::Duration::from_secs(1);
