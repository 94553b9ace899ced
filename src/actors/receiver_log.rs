//! Lines in the log about receivers: that one begins to fail, that its webhook was disabled, that it has
//! recovered. A line for each change, never one for each delivery.

use std::time::Instant;

use crate::domain::ids::WebhookId;
use crate::domain::state_log::{Line, StateLog};
use crate::domain::webhook::state::DisableReason;

/// How a receiver is, as the log says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Well,
    Failing,
    Disabled,
}

/// What the log has said of receivers. `host` is host and port that a webhook's POSTs go to.
pub struct ReceiverLog(StateLog<WebhookId, Condition, Instant>);

impl Default for ReceiverLog {
    fn default() -> Self {
        Self(StateLog::new(Some(Condition::Well)))
    }
}

impl ReceiverLog {
    /// A receiver is left alone since it failed several times in a row; `reason` says in words why.
    pub fn is_failing(
        &mut self,
        webhook: WebhookId,
        host: Option<&str>,
        outcome: &str,
        reason: Option<&str>,
        failures: u32,
    ) {
        if let Some(Line { omitted }) = self.0.report(webhook, Condition::Failing, Instant::now()) {
            tracing::warn!(%webhook, host, outcome, reason, failures, omitted, "a webhook's receiver fails");
        }
    }

    /// A webhook was disabled.
    pub fn is_disabled(&mut self, webhook: WebhookId, host: Option<&str>, reason: DisableReason) {
        if let Some(Line { omitted }) = self.0.report(webhook, Condition::Disabled, Instant::now()) {
            tracing::warn!(%webhook, host, reason = reason.as_str(), omitted, "disabled a webhook");
        }
    }

    /// A receiver has accepted a POST.
    pub fn is_well(&mut self, webhook: WebhookId, host: Option<&str>) {
        if let Some(Line { omitted }) = self.0.report(webhook, Condition::Well, Instant::now()) {
            tracing::info!(%webhook, host, omitted, "a webhook's receiver has recovered");
        }
    }

    /// Whether anything is kept about a webhook's receiver.
    pub fn keeps(&self, webhook: WebhookId) -> bool {
        self.0.keeps(webhook)
    }

    /// Forgets a webhook that was removed.
    pub fn forget(&mut self, webhook: WebhookId) {
        self.0.forget(webhook);
    }
}
