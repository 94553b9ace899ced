//! States of a check of the audit log that somebody asked for.

use crate::domain::closed_set::closed_set;

/// Column `audit_verification.state`, field `state` of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VerificationState {
    /// It is under way.
    Running,
    /// It has ended by itself: the log holds, unless there is a fault.
    Done,
    /// Somebody ended it early.
    Canceled,
    /// The log could not be read to its end.
    Failed,
}

closed_set!(VerificationState {
    Running = "running",
    Done = "done",
    Canceled = "canceled",
    Failed = "failed",
});
