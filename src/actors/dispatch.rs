//! The loop that sends what is owed: claim → POST → settle, over and over. Its one step is [`Dispatch::cycle`].
//!
//! What is due and who is first in a lane is decided in the database (store/deliveries.rs); what an answer means is
//! decided by `domain::delivery::judge`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::dispatcher::{DispatcherDeps, Order};
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::delivery::{EndState, Outcome, Verdict, judge};
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::domain::presence::Event;
use crate::domain::signature::SigningKey;
use crate::metrics::OutcomeLabels;
use crate::outbound::envelope;
use crate::outbound::post::{Answer, Post, Target};
use crate::random;
use crate::status::Part;
use crate::store::StoreError;
use crate::store::deliveries::{Claimed, LEASE, Next, Room, Settlement};

/// POSTs under way in this process at most: each costs a socket and some 20 KiB.
const IN_FLIGHT_MAX: usize = 4096;
/// Lanes of one webhook under way side by side: one hanging receiver holds at most these.
const LANES_PER_WEBHOOK: i64 = 100;
/// The poll that finds what no nudge told of: retries, other processes' events, lost nudges.
const POLL: Duration = Duration::from_secs(1);
/// A lease is renewed when this much of it has passed.
const RENEW_AFTER: Duration = Duration::from_secs(3);
/// Wait between tries while the database is away; grows to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// Part of an answer that goes into the audit entry of a failed attempt, in bytes.
const EXCERPT_BYTES: usize = 4096;

/// One POST under way.
struct InFlight {
    webhook_id: WebhookId,
    attempt: i32,
    leased_at: Instant,
}

/// One POST that came back.
struct Finished {
    delivery_id: DeliveryId,
    webhook_id: WebhookId,
    event: Event,
    answer: Answer,
}

/// A webhook's address and keys, prepared for sending.
struct PreparedTarget {
    version: i64,
    target: Target,
    keys: Vec<(SigningKey, Option<OffsetDateTime>)>,
}

/// The loop and what it keeps between steps.
pub(super) struct Dispatch {
    deps: DispatcherDeps,
    /// Addresses and keys by webhook; an entry of another version is replaced.
    targets: HashMap<WebhookId, PreparedTarget>,
    in_flight: HashMap<DeliveryId, InFlight>,
    lanes: HashMap<WebhookId, i64>,
    finished: mpsc::UnboundedReceiver<Finished>,
    finish: mpsc::UnboundedSender<Finished>,
    /// Judged and not yet written down.
    settlements: Vec<Settlement>,
    /// Audit entries of the same attempts.
    entries: Vec<Entry>,
    /// The last cycle failed, perhaps after its commit.
    in_doubt: bool,
}

impl Dispatch {
    /// A loop with nothing under way.
    pub(super) fn new(deps: DispatcherDeps) -> Self {
        // Unbounded is bounded here: each item is one of at most IN_FLIGHT_MAX POSTs.
        let (finish, finished) = mpsc::unbounded_channel();
        Self {
            deps,
            targets: HashMap::new(),
            in_flight: HashMap::new(),
            lanes: HashMap::new(),
            finished,
            finish,
            settlements: Vec::new(),
            entries: Vec::new(),
            in_doubt: false,
        }
    }

    /// Inputs of the loop: what came back, the nudge, the poll, and the order to drain.
    pub(super) async fn run(mut self, mut orders: watch::Receiver<Order>) {
        let mut retry_after = RETRY_FIRST;
        loop {
            self.deps.status.alive(Part::Dispatcher);
            let order = *orders.borrow_and_update();
            if let Order::DrainUntil(by) = order
                && (self.in_flight.is_empty() && self.settlements.is_empty() || Instant::now() >= by)
            {
                break;
            }
            match self.cycle(order).await {
                Ok(true) => continue,
                Ok(false) => retry_after = RETRY_FIRST,
                Err(error) => {
                    tracing::warn!(%error, settlements = self.settlements.len(), "dispatch waits for the database");
                    sleep(retry_after.mul_f64(1.0 + 0.3 * random::unit())).await;
                    retry_after = (retry_after * 2).min(RETRY_LONGEST);
                    continue;
                }
            }
            let wait = match order {
                Order::Run => POLL,
                Order::DrainUntil(by) => by.saturating_duration_since(Instant::now()).min(POLL),
            };
            tokio::select! {
                Some(finished) = self.finished.recv() => self.conclude(finished),
                () = self.deps.store.wake.wait_deliveries_due() => {}
                _ = orders.changed() => {}
                () = sleep(wait) => {}
            }
        }
        if let Err(error) = self.settle_last().await {
            tracing::warn!(%error, settlements = self.settlements.len(), "answers could not be written down; they are repeated");
        }
        if let Err(error) = self.deps.store.release_leases(clock::now()).await {
            tracing::warn!(%error, "claimed deliveries could not be given back; their leases end by themselves");
        }
    }

    /// Writes down what came back at the last moment, so that it is not sent again.
    async fn settle_last(&mut self) -> Result<(), StoreError> {
        while let Ok(finished) = self.finished.try_recv() {
            self.conclude(finished);
        }
        if self.settlements.is_empty() {
            return Ok(());
        }
        self.deps
            .store
            .dispatch_cycle(clock::now(), &self.settlements, &self.entries, &Room::default())
            .await?;
        Ok(())
    }

    /// One step: writes down what came back, claims what is due, and sends it. Says whether there may be more.
    async fn cycle(&mut self, order: Order) -> Result<bool, StoreError> {
        while let Ok(finished) = self.finished.try_recv() {
            self.conclude(finished);
        }
        if self.in_doubt {
            self.resolve_doubt().await?;
        }
        self.renew_leases().await?;
        let free = IN_FLIGHT_MAX.saturating_sub(self.in_flight.len());
        let room = Room {
            total: if order == Order::Run { i64::try_from(free).unwrap_or(0) } else { 0 },
            per_webhook: LANES_PER_WEBHOOK,
            in_flight: self.lanes.iter().map(|(webhook, count)| (*webhook, *count)).collect(),
        };
        let now = clock::now();
        self.in_doubt = true;
        let cycle = self.deps.store.dispatch_cycle(now, &self.settlements, &self.entries, &room).await?;
        self.in_doubt = false;
        self.settlements.clear();
        self.entries.clear();
        let mut bodies = HashMap::new();
        for claimed in cycle.claimed {
            self.send(claimed, &mut bodies).await;
        }
        Ok(cycle.more || !self.settlements.is_empty())
    }

    /// Finds out what a failed cycle did: what it wrote is not written again, what it claimed unheard is given back.
    async fn resolve_doubt(&mut self) -> Result<(), StoreError> {
        let settled = self.settlements.iter().map(|settlement| settlement.delivery_id);
        let known: Vec<_> = self.in_flight.keys().copied().chain(settled).collect();
        let written = self.deps.store.resolve_doubt(clock::now(), &known, &self.entries).await?;
        self.entries.retain(|entry| {
            entry.delivery_id.is_none_or(|delivery| !written.contains(&(delivery, entry.at)))
        });
        self.in_doubt = false;
        Ok(())
    }

    async fn renew_leases(&mut self) -> Result<(), StoreError> {
        let old: Vec<_> = self
            .in_flight
            .iter()
            .filter(|(_, post)| post.leased_at.elapsed() > RENEW_AFTER)
            .map(|(delivery, _)| *delivery)
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        let renewed_at = Instant::now();
        self.deps.store.renew_leases(clock::now(), &old).await?;
        for delivery in &old {
            if let Some(post) = self.in_flight.get_mut(delivery) {
                post.leased_at = renewed_at;
            }
        }
        Ok(())
    }

    /// Starts one POST. `bodies` holds the bodies of this cycle's events: webhooks of one event share the bytes.
    async fn send(&mut self, claimed: Claimed, bodies: &mut HashMap<EventId, Bytes>) {
        if let Some(post) = self.in_flight.get_mut(&claimed.delivery_id) {
            // Our own lease ended while the database was away, and we claimed it again: the POST under way goes on.
            post.attempt = claimed.attempt;
            post.leased_at = Instant::now();
            return;
        }
        let Some(event) = claimed.event else {
            let (end, outcome) = if claimed.webhook_gone {
                (EndState::WebhookGone, "webhook_gone")
            } else {
                (EndState::Dead, "event_gone")
            };
            self.end_without_post(&claimed, end, outcome);
            return;
        };
        let prepared = match self.target(claimed.webhook_id, claimed.webhook_version).await {
            Ok(prepared) => prepared,
            Err(StoreError::NotFound(_)) => {
                let claimed = Claimed { event: None, ..claimed };
                self.end_without_post(&claimed, EndState::WebhookGone, "webhook_gone");
                return;
            }
            Err(error) => {
                // Its lease ends by itself and it is claimed again.
                tracing::error!(%error, webhook = %claimed.webhook_id, "a webhook's address or secret cannot be read");
                return;
            }
        };
        let now = clock::now();
        let keys: Vec<_> = prepared
            .keys
            .iter()
            .filter(|(_, expires_at)| expires_at.is_none_or(|at| at > now))
            .map(|(key, _)| key.clone())
            .collect();
        let post = Post {
            target: prepared.target.clone(),
            delivery_id: claimed.delivery_id,
            body: bodies.entry(event.event_id).or_insert_with(|| envelope::body(&event)).clone(),
            keys,
            timestamp: now.unix_timestamp(),
        };
        let in_flight =
            InFlight { webhook_id: claimed.webhook_id, attempt: claimed.attempt, leased_at: Instant::now() };
        self.in_flight.insert(claimed.delivery_id, in_flight);
        *self.lanes.entry(claimed.webhook_id).or_default() += 1;
        self.deps.metrics.in_flight.inc();
        let (poster, finish) = (self.deps.poster.clone(), self.finish.clone());
        tokio::spawn(async move {
            let answer = poster.post(post).await;
            let finished =
                Finished { delivery_id: claimed.delivery_id, webhook_id: claimed.webhook_id, event, answer };
            let _ = finish.send(finished);
        });
    }

    /// Address and keys of a webhook, read again when its version has changed.
    async fn target(&mut self, webhook: WebhookId, version: i64) -> Result<&PreparedTarget, StoreError> {
        if self.targets.get(&webhook).is_none_or(|known| known.version != version) {
            self.targets.remove(&webhook);
            let read = self.deps.store.webhook_target(webhook, clock::now(), &self.deps.master_key).await?;
            let prepared =
                PreparedTarget { version: read.version, target: Target::new(&read.url), keys: read.keys };
            self.targets.insert(webhook, prepared);
        }
        self.targets.get(&webhook).ok_or(StoreError::NotFound("webhook"))
    }

    fn end_without_post(&mut self, claimed: &Claimed, end: EndState, outcome: &'static str) {
        self.targets.remove(&claimed.webhook_id);
        let mut entry = Entry::new(clock::now(), Kind::DeliveryEnded).level(Level::Warn);
        entry.webhook_id = Some(claimed.webhook_id);
        entry.event_id = Some(claimed.event_id);
        entry.delivery_id = Some(claimed.delivery_id);
        entry.outcome = Some(outcome);
        entry.end_state = Some(end.as_str());
        self.entries.push(entry);
        self.settlements.push(Settlement {
            delivery_id: claimed.delivery_id,
            attempt: claimed.attempt,
            next: Next::Ended(end),
            status: None,
            outcome,
        });
        self.deps.metrics.deliveries_ended.get_or_create(&OutcomeLabels { outcome: end.as_str() }).inc();
    }

    /// Judges what came back and keeps settlement and audit entry for the next cycle.
    fn conclude(&mut self, finished: Finished) {
        let Some(post) = self.in_flight.remove(&finished.delivery_id) else {
            return;
        };
        self.deps.metrics.in_flight.dec();
        if let Some(count) = self.lanes.get_mut(&post.webhook_id) {
            *count -= 1;
            if *count <= 0 {
                self.lanes.remove(&post.webhook_id);
            }
        }
        let now = clock::now();
        let Answer { outcome, duration, excerpt } = &finished.answer;
        let verdict = judge(outcome, u32::try_from(post.attempt).unwrap_or(1), now, random::unit());
        self.count(outcome, *duration, verdict, &finished.event, now);
        self.entries.push(entry(&finished, post.attempt, verdict, now, excerpt));
        self.settlements.push(Settlement {
            delivery_id: finished.delivery_id,
            attempt: post.attempt,
            next: match verdict {
                Verdict::Delivered => Next::Ended(EndState::Delivered),
                Verdict::Dead => Next::Ended(EndState::Dead),
                Verdict::RetryAt(at) => Next::RetryAt(at),
            },
            status: outcome.status().map(i32::from),
            outcome: outcome.class(),
        });
    }

    fn count(
        &self,
        outcome: &Outcome,
        duration: Duration,
        verdict: Verdict,
        event: &Event,
        now: OffsetDateTime,
    ) {
        let metrics = &self.deps.metrics;
        metrics.attempts.get_or_create(&OutcomeLabels { outcome: outcome.class() }).inc();
        metrics.attempt_seconds.observe(duration.as_secs_f64());
        let end = match verdict {
            Verdict::Delivered => EndState::Delivered,
            Verdict::Dead => EndState::Dead,
            Verdict::RetryAt(_) => return,
        };
        metrics.deliveries_ended.get_or_create(&OutcomeLabels { outcome: end.as_str() }).inc();
        if end == EndState::Delivered {
            metrics.event_to_delivery_seconds.observe((now - event.received_at).as_seconds_f64().max(0.0));
        }
    }
}

/// The audit entry of one attempt. An answer is quoted only when it is a refusal: then its text helps.
fn entry(finished: &Finished, attempt: i32, verdict: Verdict, now: OffsetDateTime, excerpt: &[u8]) -> Entry {
    let Answer { outcome, duration, .. } = &finished.answer;
    let mut entry = Entry::new(now, Kind::DeliveryAttempt);
    entry.source_id = finished.event.source.as_ref().map(|(source, _)| *source);
    entry.agent_id.clone_from(&finished.event.agent_id);
    entry.webhook_id = Some(finished.webhook_id);
    entry.event_id = Some(finished.event.event_id);
    entry.delivery_id = Some(finished.delivery_id);
    entry.attempt = Some(attempt);
    entry.status = outcome.status().map(i32::from);
    entry.duration_ms = i32::try_from(duration.as_millis()).ok();
    entry.outcome = Some(outcome.class());
    match verdict {
        Verdict::Delivered => {
            entry.end_state = Some(EndState::Delivered.as_str());
            return entry;
        }
        Verdict::RetryAt(at) => {
            entry.level = Level::Warn;
            entry = entry.data("retry_at", clock::rfc3339(at));
        }
        Verdict::Dead => {
            entry.level = Level::Error;
            entry.end_state = Some(EndState::Dead.as_str());
        }
    }
    if excerpt.is_empty() {
        return entry;
    }
    let quoted = String::from_utf8_lossy(excerpt.get(..EXCERPT_BYTES).unwrap_or(excerpt)).into_owned();
    entry.data("answer", quoted)
}

// A lease must outlast the wait before it is renewed, with time for a slow database.
const _: () = assert!(LEASE.whole_seconds().unsigned_abs() > 2 * RENEW_AFTER.as_secs());
