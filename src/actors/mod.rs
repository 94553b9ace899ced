//! Floor 3: actors and background tasks. Thin shells with a mailbox and timers around pure rules.
//!
//! - [`supervisor`] runs one [`connection`] actor for each desired connection and one [`token`] actor for
//!   each source; it replaces those that die.
//! - a [`connection`] owns its socket, replaces it, follows a change of agents, and reads present states.
//! - [`roster`] decides which agents a source of protocol `notifications` watches, and on which connection.
//! - [`recorder`] stores the presence changes of all connections.
//! - [`dispatch`] sends pending deliveries.
//! - [`erasures`] erases persons, piece by piece.
//! - [`incarnations`] stores again what a failover of the database lost.
//! - [`examiner`] tries settings of sources out.
//!
//! Mailboxes are bounded: a sender waits for the answer, or gives up; data never goes by `do_send`.

pub mod audit_push;
pub mod audit_sealer;
pub mod connection;
pub mod dispatch;
pub mod erasures;
pub mod examiner;
pub mod incarnations;
pub mod maintenance;
pub mod receiver_log;
pub mod recorder;
pub mod roster;
pub mod supervisor;
pub mod throughput;
pub mod token;

/// Wait before a task that panicked is started again.
pub(crate) const RESTART_AFTER: std::time::Duration = std::time::Duration::from_secs(1);
