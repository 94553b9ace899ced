//! What a POST's answer means: verdict, circuit, and what is written down of it.

use std::time::Instant;

use time::OffsetDateTime;

use super::Dispatch;
use crate::actors::dispatch::queue::expires_at;
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::delivery::circuit::OPENS_AFTER;
use crate::domain::delivery::outcome::{Attempt, Disposition, EndState, Outcome, judge};
use crate::domain::delivery::settings::{DeliverySettings, Format, Mode};
use crate::domain::ids::WebhookId;
use crate::domain::presence::EventKind;
use crate::metrics::OutcomeLabels;
use crate::outbound::post::Answer;
use crate::random;
use crate::store::delivery::types::{Claimed, HealthChange, Settlement};

/// Part of an answer that goes into the audit entry of a failed attempt, in bytes.
const EXCERPT_BYTES: usize = 4096;

impl Dispatch {
    /// Judges what came back and keeps settlements and audit entries for the next cycle.
    pub(super) fn conclude(
        &mut self,
        webhook: WebhookId,
        post: u64,
        items: Vec<Claimed>,
        batch_id: Option<String>,
        answer: &Answer,
    ) {
        self.deps.metrics.in_flight.dec();
        let metrics = self.deps.metrics.clone();
        metrics.attempts.get_or_create(&OutcomeLabels { outcome: answer.outcome.class() }).inc();
        metrics.attempt_seconds.observe(answer.duration.as_secs_f64());
        let now = clock::now();
        if let Some(outlet) = self.outlets.get_mut(&webhook) {
            outlet.posts.remove(&post);
        }
        let is_test = |claimed: &Claimed| {
            claimed.event.as_ref().is_some_and(|event| event.kind == EventKind::WebhookTest)
        };
        let settings = self.heed(webhook, &answer.outcome, items.iter().any(is_test), now);
        let jitter = random::unit();
        let goes_on = !self.draining
            && self.outlets.get(&webhook).is_some_and(|outlet| {
                outlet.ready.len() < settings.max_concurrency
                    && outlet.room(&self.places) > 0
                    && !outlet.circuit.holds(now)
                    && outlet.circuit.failures < OPENS_AFTER
            });
        let alone = batch_id.is_none() && settings.batch.is_none();
        for claimed in &items {
            let attempt = self.let_go(claimed);
            let received_at = claimed.event.as_ref().map_or(now, |event| event.received_at);
            let judged = Attempt {
                outcome: &answer.outcome,
                number: u32::try_from(attempt).unwrap_or(1),
                now,
                expires_at: expires_at(&settings, received_at),
            };
            let disposition = judge(judged, &settings, jitter);
            if let Disposition::Ended(end) = disposition {
                metrics.deliveries_ended.get_or_create(&OutcomeLabels { outcome: end.as_str() }).inc();
                if end == EndState::Delivered {
                    metrics.event_to_delivery_seconds.observe((now - received_at).as_seconds_f64().max(0.0));
                }
            }
            let mut entry = entry(claimed, attempt, disposition, now, answer);
            if let Some(batch) = &batch_id {
                entry = entry.data("batch", batch.as_str());
            }
            self.work.entries.push(entry);
            self.work.settlements.push(Settlement {
                delivery_id: claimed.delivery_id,
                attempt,
                disposition,
                status: answer.outcome.status().map(i32::from),
                outcome: answer.outcome.class(),
                goes_on: goes_on && alone,
                latest: settings.mode == Mode::Latest && alone,
            });
        }
        self.pump(webhook);
    }

    /// Notes in the webhook's circuit how its receiver is, and does what follows from it; gives the settings.
    fn heed(
        &mut self,
        webhook: WebhookId,
        outcome: &Outcome,
        is_test: bool,
        now: OffsetDateTime,
    ) -> DeliverySettings {
        let Some(outlet) = self.outlets.get_mut(&webhook) else { return DeliverySettings::default() };
        let settings = outlet.prepared.as_ref().map(|p| p.settings.clone()).unwrap_or_default();
        outlet.used_at = Instant::now();
        if settings.rate_limit.is_some() {
            outlet.rate.finish(self.started.elapsed());
        }
        let store = self.deps.store.clone();
        if outcome.is_success() {
            let was_failing = outlet.circuit.failures >= OPENS_AFTER;
            // Who sends a test wants to know whether the receiver is back.
            let is_first = outlet.accepts();
            if outlet.circuit.succeed() || is_test || is_first {
                let circuit = outlet.circuit.clone();
                self.claim |= was_failing;
                let is_back = was_failing || is_test;
                self.work.note(HealthChange {
                    webhook_id: webhook,
                    circuit,
                    last_outcome: None,
                    is_back,
                    succeeds: true,
                });
            }
            let noticed = std::mem::take(&mut outlet.noticed);
            self.prove(webhook, true);
            if noticed {
                self.aside(async move { store.webhook_succeeds(webhook, now).await });
            }
            return settings;
        }
        let held_until = outlet.circuit.hold_until;
        outlet.refuses();
        outlet.circuit.fail(now, rest(outcome), random::unit());
        let circuit = outlet.circuit.clone();
        let class = outcome.class();
        let failing_for = circuit.failing_since.map_or(time::Duration::ZERO, |since| now - since);
        // With each new hold, so that it is told at last even if the database was away.
        if circuit.failures >= OPENS_AFTER && circuit.hold_until != held_until {
            let (store, circuit) = (store.clone(), circuit.clone());
            outlet.noticed = true;
            self.aside(async move { store.webhook_fails(webhook, &circuit, class, now).await });
        }
        let change = HealthChange {
            webhook_id: webhook,
            circuit,
            last_outcome: Some(class),
            is_back: false,
            succeeds: false,
        };
        self.work.note(change);
        let reason = if outcome.status() == Some(410) {
            Some("gone")
        } else {
            (failing_for >= settings.disable_after).then_some("failing")
        };
        if let Some(reason) = reason {
            self.disable(webhook, reason, now);
        }
        settings
    }
}

/// How long a receiver asks to be left alone as a whole: it says when it has room again.
fn rest(outcome: &Outcome) -> Option<std::time::Duration> {
    match outcome {
        Outcome::Answered { status: 429 | 503, retry_after } => *retry_after,
        _ => None,
    }
}

/// The audit entry of one attempt. An answer is quoted only when it is a refusal: then its text helps.
fn entry(
    claimed: &Claimed,
    attempt: i32,
    disposition: Disposition,
    now: OffsetDateTime,
    answer: &Answer,
) -> Entry {
    let Answer { outcome, duration, excerpt } = answer;
    let mut entry = claimed.entry(now, Kind::DeliveryAttempt);
    let source = claimed.event.as_ref().and_then(|event| event.source.as_ref());
    entry.source_id = source.map(|(source, _)| *source);
    entry.attempt = Some(attempt);
    entry.status = outcome.status().map(i32::from);
    entry.duration_ms = i32::try_from(duration.as_millis()).ok();
    entry.outcome = Some(outcome.class());
    // What the body said of this delivery, so that it can be said again (store/views/deliveries.rs).
    entry = entry.data("sent_at", clock::rfc3339(claimed.sent_at));
    if claimed.format != Format::default() {
        entry = entry.data("format", claimed.format.as_str());
    }
    if claimed.superseded > 0 {
        entry = entry.data("superseded", claimed.superseded);
    }
    match disposition {
        Disposition::Ended(end) => {
            entry.level = if end == EndState::Delivered { Level::Info } else { Level::Error };
            entry.end_state = Some(end.as_str());
        }
        Disposition::RetryAt(at) | Disposition::Returned(at) => {
            entry = entry.level(Level::Warn).data("retry_at", clock::rfc3339(at));
        }
    }
    if excerpt.is_empty() || outcome.is_success() {
        return entry;
    }
    let quoted = String::from_utf8_lossy(excerpt.get(..EXCERPT_BYTES).unwrap_or(excerpt)).into_owned();
    entry.data("answer", quoted)
}
