//! State of a registered webhook: whether it gets deliveries, and why not.

use crate::domain::closed_set::closed_set;

/// Column `webhook.state`, field `state` of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WebhookState {
    /// Gets deliveries.
    Active,
    /// Gets deliveries, which wait until its owner resumes it.
    Paused,
    /// Gets none until its owner enables it or a probe finds its receiver well.
    Disabled,
    /// Gets none until its receiver has shown that it wants them.
    Unverified,
}

closed_set!(WebhookState {
    Active = "active",
    Paused = "paused",
    Disabled = "disabled",
    Unverified = "unverified",
});

impl WebhookState {
    /// Whether new events become deliveries to it.
    #[must_use]
    pub const fn takes_part(self) -> bool {
        matches!(self, Self::Active | Self::Paused)
    }
}

/// Cause of a webhook's being disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DisableReason {
    /// Its receiver answered 410.
    Gone,
    /// No attempt succeeded for as long as `disable_after_seconds` says.
    Failing,
}

closed_set!(DisableReason { Gone = "gone", Failing = "failing" });

/// Column `webhook.state_reason`, field `state_reason` of the API; null while it takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateReason {
    /// It is disabled.
    Disabled(DisableReason),
    /// It is unverified: its receiver has not answered the question yet.
    VerificationPending,
}

impl StateReason {
    const VERIFICATION_PENDING: &'static str = "verification_pending";

    /// Name as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled(reason) => reason.as_str(),
            Self::VerificationPending => Self::VERIFICATION_PENDING,
        }
    }

    /// Value of this name; `None` if there is none.
    #[must_use]
    pub fn from_name(word: &str) -> Option<Self> {
        match word {
            Self::VERIFICATION_PENDING => Some(Self::VerificationPending),
            other => DisableReason::from_name(other).map(Self::Disabled),
        }
    }
}

/// Column `webhook_work.kind`: what a change of state does to the webhook's open deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkKind {
    /// They end.
    End,
    /// Suspended ones become due.
    Resume,
    /// Ones that wait for their next attempt become due.
    Wake,
}

closed_set!(WorkKind { End = "end", Resume = "resume", Wake = "wake" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_reasons_have_the_names_of_the_database_and_the_api() {
        assert_eq!(WebhookState::WORDS, ["active", "paused", "disabled", "unverified"]);
        for word in WebhookState::WORDS {
            assert_eq!(WebhookState::from_name(word).map(WebhookState::as_str), Some(*word));
        }
        for word in ["gone", "failing", "verification_pending"] {
            assert_eq!(StateReason::from_name(word).map(StateReason::as_str), Some(word));
        }
        assert_eq!(DisableReason::WORDS, ["gone", "failing"]);
        assert_eq!(WorkKind::WORDS, ["end", "resume", "wake"]);
        assert_eq!(WebhookState::from_name("Active"), None);
        assert_eq!(StateReason::from_name("paused"), None);
    }

    #[test]
    fn active_and_paused_webhooks_take_part() {
        let taking: Vec<_> = WebhookState::WORDS
            .iter()
            .filter_map(|word| WebhookState::from_name(word))
            .filter(|state| state.takes_part())
            .collect();
        assert_eq!(taking, [WebhookState::Active, WebhookState::Paused]);
    }
}
