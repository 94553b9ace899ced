//! A request to deliver again what a webhook missed: how it stands, and why it failed.

use crate::domain::closed_set::closed_set;

/// Field `state` of a recovery in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecoveryState {
    /// Deliveries are being reopened.
    Running,
    /// Everything of its time was looked at.
    Done,
    /// It ended before that; [`RecoveryFailure`] says why.
    Failed,
}

closed_set!(RecoveryState { Running = "running", Done = "done", Failed = "failed" });

/// Column `recovery.reason`, field `reason` of the API: why a request ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecoveryFailure {
    /// The webhook was removed.
    WebhookGone,
    /// The webhook was disabled.
    WebhookDisabled,
    /// The webhook's receiver must be verified first.
    WebhookUnverified,
    /// A caller cancelled it.
    Cancelled,
    /// The database did not answer in time, again and again.
    TooSlow,
    /// The database refused a statement.
    Refused,
}

closed_set!(RecoveryFailure {
    WebhookGone = "webhook_gone",
    WebhookDisabled = "webhook_disabled",
    WebhookUnverified = "webhook_unverified",
    Cancelled = "cancelled",
    TooSlow = "too_slow",
    Refused = "refused",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recoveries_have_the_names_of_the_database_and_the_api() {
        assert_eq!(RecoveryState::WORDS, ["running", "done", "failed"]);
        assert_eq!(
            RecoveryFailure::WORDS,
            ["webhook_gone", "webhook_disabled", "webhook_unverified", "cancelled", "too_slow", "refused"]
        );
        for word in RecoveryFailure::WORDS {
            assert_eq!(RecoveryFailure::from_name(word).map(RecoveryFailure::as_str), Some(*word));
        }
    }
}
