//! Metrics that differ in one label. Its values are a closed set, and all of them are on the page from the
//! start: `increase()` over a counter that appears with its first count sees nothing of that count.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::domain::ids::WebhookId;

/// A counter for each value of a label.
pub type CounterBy = ByLabel<Counter>;
/// A gauge for each value of a label.
pub type GaugeBy<N, A> = ByLabel<Gauge<N, A>>;

type OneLabel = [(&'static str, &'static str); 1];

/// A metric for each value of a label.
#[derive(Clone)]
pub struct ByLabel<M> {
    label: &'static str,
    values: Arc<[&'static str]>,
    family: Family<OneLabel, M>,
}

impl<M: Clone + Default> ByLabel<M> {
    /// All of them at zero.
    #[must_use]
    pub fn new(label: &'static str, values: &[&'static str]) -> Self {
        let new = Self { label, values: values.into(), family: Family::default() };
        for value in values {
            let _ = new.of(value);
        }
        new
    }

    /// The one with this value of the label.
    #[must_use]
    pub fn of(&self, value: &'static str) -> M {
        debug_assert!(self.values.contains(&value), "{value} is not among the values of {}", self.label);
        self.family.get_or_create_owned(&[(self.label, value)])
    }

    /// Every value of the label.
    #[must_use]
    pub fn values(&self) -> &[&'static str] {
        &self.values
    }

    pub(super) fn family(&self) -> Family<OneLabel, M> {
        self.family.clone()
    }
}

impl<M> fmt::Debug for ByLabel<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByLabel").field("label", &self.label).finish_non_exhaustive()
    }
}

/// Backlogs of single webhooks. A webhook has figures only while it is among those that were set last.
#[derive(Clone, Debug, Default)]
pub struct WebhookBacklogs {
    open: Family<[(&'static str, String); 1], Gauge<i64, AtomicI64>>,
    oldest_seconds: Family<[(&'static str, String); 1], Gauge<f64, AtomicU64>>,
    shown: Arc<Mutex<HashSet<String>>>,
}

impl WebhookBacklogs {
    /// Sets the figures of these webhooks (open deliveries, age of the oldest in seconds), and drops all
    /// others.
    pub fn set(&self, backlogs: impl IntoIterator<Item = (WebhookId, i64, f64)>) {
        let label = |webhook: &str| [("webhook", webhook.to_owned())];
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut *shown);
        for (webhook, open, oldest_seconds) in backlogs {
            let webhook = webhook.to_string();
            self.open.get_or_create(&label(&webhook)).set(open);
            self.oldest_seconds.get_or_create(&label(&webhook)).set(oldest_seconds);
            gone.remove(&webhook);
            shown.insert(webhook);
        }
        for webhook in gone {
            self.open.remove(&label(&webhook));
            self.oldest_seconds.remove(&label(&webhook));
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("webhook_backlog_deliveries", "Open deliveries of a webhook", self.open.clone());
        registry.register(
            "webhook_oldest_pending_seconds",
            "Age of a webhook's oldest open delivery",
            self.oldest_seconds.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_that_has_caught_up_leaves_the_page() {
        let (mut registry, backlogs) = (Registry::default(), WebhookBacklogs::default());
        backlogs.register(&mut registry);
        let (slow, dead) = (WebhookId::generate(), WebhookId::generate());
        backlogs.set([(slow, 2, 1.5), (dead, 7, 300.0)]);
        backlogs.set([(dead, 8, 310.0)]);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap_or_default();
        assert!(!page.contains(&slow.to_string()), "{page}");
        assert!(page.contains(&format!("webhook_backlog_deliveries{{webhook=\"{dead}\"}} 8")), "{page}");
        assert!(
            page.contains(&format!("webhook_oldest_pending_seconds{{webhook=\"{dead}\"}} 310.0")),
            "{page}"
        );
    }
}
