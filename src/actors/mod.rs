//! Floor 3: what lives. Thin shells with a mailbox and timers around rules that are pure.
//!
//! - [`supervisor`] keeps one [`connection`] actor for each connection that is wanted, and one [`token`] actor for
//!   each source; it builds a new one when one dies.
//! - [`dispatcher`] sends what is owed, by the loop in `dispatch`.
//!
//! Mailboxes are bounded: whoever sends waits for the answer, or gives up; data never goes by `do_send`.

pub mod assignment;
mod cleanups;
pub mod connection;
mod deletions;
mod dispatch;
pub mod dispatcher;
mod journal;
mod shared;
pub mod supervisor;
pub mod token;
