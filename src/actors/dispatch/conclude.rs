//! Conclusion of a POST: what its answer means for each delivery, for the webhook's circuit, and for the
//! audit log.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::batches::Halves;
use super::{Dispatch, Report, start};
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::delivery::outcome::{Attempt, Disposition, EndState, Outcome, judge};
use crate::domain::delivery::reason::Reason;
use crate::domain::delivery::settings::{DeliverySettings, Format, Mode};
use crate::domain::ids::WebhookId;
use crate::domain::presence::EventKind;
use crate::domain::webhook::state::DisableReason;
use crate::outbound::post::Answer;
use crate::random;
use crate::store::delivery::types::{Claimed, HealthChange, Settlement};

/// Part of an answer that goes into the audit entry of a failed attempt, in bytes.
const EXCERPT_BYTES: usize = 4096;

/// A POST that ended.
pub(super) struct Posted {
    pub(super) webhook: WebhookId,
    /// Its number among the POSTs of its webhook.
    pub(super) number: u64,
    /// Deliveries that it carried: one, or those of a batch.
    pub(super) items: Vec<Claimed>,
    /// `None` if it was no batch.
    pub(super) batch_id: Option<String>,
    /// Size of its body.
    pub(super) bytes: usize,
    pub(super) answer: Answer,
}

impl Posted {
    /// The batches in which its deliveries go again if it was a batch that was too large for its receiver.
    fn halves(&self) -> Option<Halves> {
        self.batch_id.as_ref().and_then(|_| Halves::of(&self.items, &self.answer.outcome))
    }
}

impl Dispatch {
    /// Adds what a POST came to to the next cycle, and sends what may go now.
    pub(super) fn conclude(&mut self, posted: &Posted) {
        let Posted { webhook, number, answer, .. } = posted;
        let metrics = self.deps.metrics.clone();
        metrics.in_flight.dec();
        metrics.attempts.of(answer.outcome.class()).inc();
        metrics.attempt_seconds.observe(answer.duration.as_secs_f64());
        let now = clock::now();
        let uptime = self.started.elapsed();
        let mut settings = DeliverySettings::default();
        if let Some(queue) = self.queues.get_mut(*webhook) {
            queue.end_post(*number, Instant::now(), uptime);
            settings = queue.settings();
        }
        let halves = posted.halves();
        if halves.is_some() {
            self.halve_batch(*webhook, posted.bytes);
        } else {
            self.apply_outcome(posted, settings.disable_after, now);
        }
        let promotes_next = !self.draining && self.queues.can_promote_next(*webhook, now);
        let conclusion =
            Conclusion { posted, halves, settings: &settings, now, jitter: random::unit(), promotes_next };
        for (place, claimed) in posted.items.iter().enumerate() {
            let attempt = self.leases.remove(claimed);
            let settlement = conclusion.settlement(place, claimed, attempt);
            if let Disposition::Ended(end) = settlement.disposition {
                metrics.deliveries_ended.of(end.as_str()).inc();
                if end == EndState::Delivered {
                    let received_at = received_at(claimed, now);
                    metrics.event_to_delivery_seconds.observe((now - received_at).as_seconds_f64().max(0.0));
                }
            }
            let entry = conclusion.entry(claimed, &settlement);
            self.cycle.add(settlement, Some(entry));
        }
        if let (Some(_), Some(first)) = (&posted.batch_id, posted.items.first()) {
            self.settle_batch(*webhook, first.delivery_id);
        }
        self.send_ready(*webhook);
    }

    /// Applies what came back to the webhook's circuit, and does what follows from that.
    fn apply_outcome(&mut self, posted: &Posted, disable_after: Duration, now: OffsetDateTime) {
        if posted.answer.outcome.is_success() {
            self.apply_success(posted, now);
        } else {
            self.apply_failure(posted, disable_after, now);
        }
    }

    fn apply_success(&mut self, posted: &Posted, now: OffsetDateTime) {
        let webhook_id = posted.webhook;
        let Some(queue) = self.queues.get_mut(webhook_id) else { return };
        let accepted = queue.receiver.accept();
        self.receiver_log.is_well(webhook_id, queue.host());
        // Who sends a test asks whether the receiver is back.
        let is_test = posted.items.iter().any(is_test);
        if accepted.changed || is_test {
            let circuit = queue.receiver.circuit.clone();
            let is_back = accepted.was_failing || is_test;
            let change = HealthChange {
                webhook_id,
                circuit,
                last_outcome: None,
                last_reason: None,
                is_back,
                succeeds: true,
            };
            self.cycle.add_health(change);
        }
        if accepted.was_failing {
            self.cycle.claim_for_all();
        }
        self.queues.set_proven(webhook_id, true);
        if accepted.was_noticed {
            let store = self.deps.store.clone();
            spawn_notice(webhook_id, async move { store.webhook_succeeds(webhook_id, now).await });
        }
    }

    fn apply_failure(&mut self, posted: &Posted, disable_after: Duration, now: OffsetDateTime) {
        let Answer { outcome, reason, .. } = &posted.answer;
        let webhook_id = posted.webhook;
        let Some(queue) = self.queues.get_mut(webhook_id) else { return };
        let begins_hold = queue.receiver.fail(now, rest(outcome), random::unit());
        let circuit = queue.receiver.circuit.clone();
        let class = outcome.class();
        if begins_hold {
            let why = reason.as_ref().map(Reason::as_str);
            self.receiver_log.is_failing(webhook_id, queue.host(), class, why, circuit.failures);
            let (store, circuit, reason) = (self.deps.store.clone(), circuit.clone(), reason.clone());
            spawn_notice(webhook_id, async move {
                store.webhook_fails(webhook_id, &circuit, class, reason.as_ref(), now).await
            });
        }
        let failing_for = circuit.failing_since.map_or(time::Duration::ZERO, |since| now - since);
        let change = HealthChange {
            webhook_id,
            circuit,
            last_outcome: Some(class),
            last_reason: reason.clone(),
            is_back: false,
            succeeds: false,
        };
        self.cycle.add_health(change);
        if outcome.is_gone() {
            self.disable(webhook_id, DisableReason::Gone, now);
        } else if failing_for >= disable_after {
            self.disable(webhook_id, DisableReason::Failing, now);
        }
    }
}

impl Dispatch {
    /// Disables a webhook. Nothing is sent to it until that is done and its configuration is read again.
    fn disable(&mut self, webhook: WebhookId, reason: DisableReason, now: OffsetDateTime) {
        let Some(queue) = self.queues.get_mut(webhook) else { return };
        if !queue.begin_disabling() {
            return;
        }
        let store = self.deps.store.clone();
        start(&self.report, async move {
            let disabled = match store.disable_webhook(webhook, reason, now).await {
                Ok(disabled) => disabled,
                Err(error) => {
                    tracing::warn!(
                        %error, %webhook, reason = reason.as_str(),
                        "failed to disable a webhook; its next failed delivery tries again"
                    );
                    false
                }
            };
            if disabled {
                store.wake.deliveries_due();
            }
            Report::Disabled { webhook, reason: disabled.then_some(reason) }
        });
    }

    /// A webhook was disabled, or could not be.
    pub(super) fn on_disabled(&mut self, webhook: WebhookId, reason: Option<DisableReason>) {
        let Some(queue) = self.queues.get_mut(webhook) else { return };
        if let Some(reason) = reason {
            self.receiver_log.is_disabled(webhook, queue.host(), reason);
        }
        if queue.end_disabling() {
            self.read_config(webhook);
        }
    }
}

/// What the deliveries of one POST have in common when they are settled.
struct Conclusion<'a> {
    posted: &'a Posted,
    /// Its batch was too large and goes again in halves.
    halves: Option<Halves>,
    settings: &'a DeliverySettings,
    now: OffsetDateTime,
    /// Random, at least 0 and below 1.
    jitter: f64,
    /// There is room for the next delivery of the same lane.
    promotes_next: bool,
}

impl Conclusion<'_> {
    /// What the attempt leaves of the delivery at this place of the POST.
    fn settlement(&self, place: usize, claimed: &Claimed, attempt: i32) -> Settlement {
        let outcome = &self.posted.answer.outcome;
        let ended = Attempt {
            outcome,
            number: u32::try_from(attempt - i32::from(claimed.halvings)).unwrap_or(1),
            now: self.now,
            expires_at: self.settings.expires_at(received_at(claimed, self.now)),
        };
        let is_single = self.posted.batch_id.is_none() && self.settings.batch.is_none();
        Settlement {
            delivery_id: claimed.delivery_id,
            attempt,
            disposition: match &self.halves {
                Some(halves) => Disposition::RetryAt(self.now + halves.wait),
                None => judge(ended, self.settings, self.jitter),
            },
            half: self.halves.as_ref().map(|halves| halves.at(place)),
            status: outcome.status().map(i32::from),
            outcome: outcome.class(),
            promotes_next: self.promotes_next && is_single,
            latest_only: self.settings.mode == Mode::Latest && is_single,
        }
    }

    /// Audit entry of the attempt. Only a refusal is quoted: its text helps.
    fn entry(&self, claimed: &Claimed, settlement: &Settlement) -> Entry {
        let Answer { outcome, reason, remade, duration, excerpt, head } = &self.posted.answer;
        let mut entry = claimed.entry(self.now, Kind::DeliveryAttempt);
        let source = claimed.event.as_ref().and_then(|event| event.source.as_ref());
        entry.source_id = source.map(|(source, _)| *source);
        entry.attempt = Some(settlement.attempt);
        entry.status = settlement.status;
        entry.duration_ms = i32::try_from(duration.as_millis()).ok();
        entry.outcome = Some(settlement.outcome);
        // By these the body can be rendered once more (store/views/deliveries.rs).
        entry = entry.data("sent_at", clock::rfc3339(claimed.sent_at));
        if claimed.format != Format::default() {
            entry = entry.data("format", claimed.format.as_str());
        }
        if claimed.superseded > 0 {
            entry = entry.data("superseded", claimed.superseded);
        }
        match settlement.disposition {
            Disposition::Ended(end) => {
                entry.level = if end == EndState::Delivered { Level::Info } else { Level::Error };
                entry.end_state = Some(end.as_str());
            }
            Disposition::RetryAt(at) | Disposition::Returned(at) => {
                entry = entry.level(Level::Warn).data("retry_at", clock::rfc3339(at));
            }
        }
        if let Some(reason) = reason {
            entry = entry.data("reason", reason.as_str());
        }
        if *remade {
            entry = entry.data("remade", true);
        }
        if !excerpt.is_empty() && !outcome.is_success() {
            let quoted = String::from_utf8_lossy(excerpt.get(..EXCERPT_BYTES).unwrap_or(excerpt));
            entry = entry.data("answer", quoted.into_owned());
        }
        if !head.is_empty() {
            entry = entry.data("answer_head", head.as_slice());
        }
        if let Some(half) = settlement.half {
            entry = entry.data("halved_into", half.to_string());
        }
        match &self.posted.batch_id {
            Some(batch) => entry.data("batch", batch.as_str()),
            None => entry,
        }
    }
}

/// When the delivery's event arrived; `now` if it is gone.
fn received_at(claimed: &Claimed, now: OffsetDateTime) -> OffsetDateTime {
    claimed.event.as_ref().map_or(now, |event| event.received_at)
}

fn is_test(claimed: &Claimed) -> bool {
    claimed.event.as_ref().is_some_and(|event| event.kind == EventKind::WebhookTest)
}

/// How long a receiver asks to be left alone as a whole: it says when it has room again.
fn rest(outcome: &Outcome) -> Option<Duration> {
    match outcome {
        Outcome::Answered { status: 429 | 503, retry_after } => *retry_after,
        _ => None,
    }
}

/// Writes a notice about a webhook's health without the loop's waiting for it.
fn spawn_notice(
    webhook: WebhookId,
    notice: impl Future<Output = Result<(), crate::store::StoreError>> + Send + 'static,
) {
    tokio::spawn(async move {
        if let Err(error) = notice.await {
            tracing::warn!(
                %error, %webhook,
                "failed to write a notice about a webhook's health; it is written with the next change"
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::actors::dispatch::testing::claimed;
    use crate::domain::ids::BatchId;

    const NOW: OffsetDateTime = datetime!(2026-11-23 15:00:00 UTC);

    fn posted(status: u16, excerpt: &str, batch_id: Option<&str>) -> Posted {
        let webhook = WebhookId::generate();
        let outcome = Outcome::Answered { status, retry_after: None };
        let answer = Answer {
            outcome,
            reason: None,
            remade: false,
            duration: Duration::from_millis(12),
            excerpt: excerpt.into(),
            head: if status < 300 { vec![] } else { vec!["server: crm".to_owned()] },
        };
        let batch_id = batch_id.map(str::to_owned);
        Posted { webhook, number: 1, items: vec![claimed(webhook)], batch_id, bytes: 0, answer }
    }

    fn conclude(posted: &Posted, settings: &DeliverySettings) -> (Settlement, Entry) {
        let halves = posted.halves();
        let conclusion = Conclusion { posted, halves, settings, now: NOW, jitter: 0.0, promotes_next: true };
        let claimed = claimed(posted.webhook);
        let settlement = conclusion.settlement(0, &claimed, claimed.attempt);
        let entry = conclusion.entry(&claimed, &settlement);
        (settlement, entry)
    }

    #[test]
    fn a_success_ends_its_delivery_and_is_not_quoted() {
        let (settlement, entry) = conclude(&posted(200, "thanks", None), &DeliverySettings::default());
        assert_eq!(settlement.disposition, Disposition::Ended(EndState::Delivered));
        assert!(settlement.promotes_next);
        assert_eq!(
            (entry.level, entry.end_state, entry.outcome),
            (Level::Info, Some("delivered"), Some("ok"))
        );
        assert!(!entry.data.contains_key("answer"));
    }

    #[test]
    fn a_refusal_is_quoted_and_tried_again() {
        let (settlement, entry) = conclude(&posted(500, "out of order", None), &DeliverySettings::default());
        assert_eq!(settlement.disposition, Disposition::RetryAt(NOW + Duration::from_secs(5)));
        assert_eq!((entry.level, entry.end_state, entry.duration_ms), (Level::Warn, None, Some(12)));
        assert_eq!(entry.data.get("answer").and_then(|text| text.as_str()), Some("out of order"));
        assert_eq!(entry.data.get("answer_head"), Some(&vec!["server: crm"].into()));
        assert!(entry.data.contains_key("retry_at"));
    }

    #[test]
    fn the_reason_and_a_second_try_at_once_are_written_down() {
        let mut posted = posted(204, "", None);
        posted.answer.remade = true;
        let (settlement, entry) = conclude(&posted, &DeliverySettings::default());
        assert_eq!(settlement.disposition, Disposition::Ended(EndState::Delivered));
        assert_eq!(entry.data.get("remade"), Some(&true.into()));
        posted.answer.outcome = Outcome::TlsFailed;
        posted.answer.reason = Some(Reason::new("its certificate has expired"));
        let (_, entry) = conclude(&posted, &DeliverySettings::default());
        assert_eq!(entry.data.get("reason"), Some(&"its certificate has expired".into()));
    }

    #[test]
    fn an_end_without_success_is_an_error() {
        let settings = DeliverySettings { retry_schedule: Some(vec![]), ..DeliverySettings::default() };
        let (settlement, entry) = conclude(&posted(404, "", None), &settings);
        assert_eq!(settlement.disposition, Disposition::Ended(EndState::Dead));
        assert_eq!((entry.level, entry.end_state), (Level::Error, Some("dead")));
        assert!(!entry.data.contains_key("answer"), "there is nothing to quote");
    }

    #[test]
    fn the_deliveries_of_a_batch_promote_nothing_and_name_their_batch() {
        let settings = DeliverySettings { mode: Mode::Latest, ..DeliverySettings::default() };
        let (settlement, entry) = conclude(&posted(200, "", Some("batch-1")), &settings);
        assert!(!settlement.promotes_next && !settlement.latest_only);
        assert_eq!(entry.data.get("batch").and_then(|text| text.as_str()), Some("batch-1"));
        assert!(conclude(&posted(200, "", None), &settings).0.latest_only);
    }

    #[test]
    fn a_batch_that_is_too_large_goes_again_at_once_in_halves_and_uses_up_no_attempt() {
        let settings = DeliverySettings { retry_schedule: Some(vec![]), ..DeliverySettings::default() };
        let mut posted = posted(413, "", Some("batch-1"));
        let (alone, _) = conclude(&posted, &settings);
        assert_eq!((alone.disposition, alone.half), (Disposition::Ended(EndState::Dead), None));
        posted.items = (0..3).map(|_| claimed(posted.webhook)).collect();
        let ids: Vec<_> = posted.items.iter().map(|claimed| claimed.delivery_id).collect();
        let (halved, entry) = conclude(&posted, &settings);
        assert_eq!(halved.disposition, Disposition::RetryAt(NOW));
        assert_eq!(halved.half, Some(BatchId::of(&ids[..2])));
        assert_eq!(posted.halves().map(|halves| halves.at(2)), Some(BatchId::of(&ids[2..])));
        assert!(entry.end_state.is_none() && entry.data.contains_key("halved_into"));

        let settings = DeliverySettings { retry_schedule: Some(vec![60]), ..DeliverySettings::default() };
        posted.items.truncate(1);
        let halved_before = Claimed { attempt: 10, halvings: 9, ..posted.items[0].clone() };
        let conclusion = Conclusion {
            posted: &posted,
            halves: None,
            settings: &settings,
            now: NOW,
            jitter: 0.0,
            promotes_next: true,
        };
        let settlement = conclusion.settlement(0, &halved_before, 10);
        assert_eq!(settlement.disposition, Disposition::RetryAt(NOW + Duration::from_secs(60)));
    }

    #[test]
    fn only_a_receiver_without_room_asks_for_rest() {
        let retry_after = Some(Duration::from_secs(7));
        let asks = |status| rest(&Outcome::Answered { status, retry_after });
        assert_eq!([429, 503, 500, 400].map(asks), [retry_after, retry_after, None, None]);
    }
}
