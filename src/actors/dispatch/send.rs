//! From a webhook's outlet to a POST under way.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use time::OffsetDateTime;

use super::{Dispatch, Report, start};
use crate::actors::dispatch::queue::{Next, Prepared, Unsent, WebhookQueue};
use crate::clock;
use crate::domain::audit::{Kind, Level};
use crate::domain::delivery::outcome::{Disposition, EndState};
use crate::domain::delivery::slots;
use crate::domain::delivery::slots::Places;
use crate::domain::ids::{EventId, WebhookId};
use crate::metrics::OutcomeLabels;
use crate::outbound::body::envelope::{self, Item};
use crate::outbound::post::Post;
use crate::store::StoreError;
use crate::store::delivery::targets::WebhookTarget;
use crate::store::delivery::types::{Claimed, Settlement};

/// The text of an event, written by the first POST that needs it.
pub(super) type Told = Arc<OnceLock<envelope::Prepared>>;

/// Events whose text is kept at most: those of the last moments, for all their webhooks.
const TOLD_MAX: usize = 1024;

impl Dispatch {
    /// Takes in a webhook that was read.
    pub(super) fn know(&mut self, webhook: WebhookId, result: Result<WebhookTarget, StoreError>) {
        let Some(outlet) = self.outlets.get_mut(&webhook) else { return };
        outlet.loading = false;
        if std::mem::take(&mut outlet.outdated) {
            return self.read(webhook);
        }
        match result {
            Ok(read) => {
                // Our own figures are newer, except where an owner has just given the receiver a clean record.
                let known = outlet.prepared.as_ref().map(|prepared| prepared.version);
                if known.is_none_or(|version| version < read.version && read.circuit.failures == 0) {
                    outlet.circuit = read.circuit.clone();
                }
                outlet.noticed |= read.noticed;
                // That it has succeeded may not be written yet.
                outlet.is_proven = read.is_proven
                    || (outlet.is_proven
                        && outlet.prepared.as_ref().is_some_and(|prepared| prepared.goes_to(&read.url)));
                let is_proven = outlet.is_proven;
                let target = self.deps.poster.target(&read.url, &read.access, read.settings.timeout);
                outlet.prepared = Some(Arc::new(Prepared::new(read, target)));
                self.prove(webhook, is_proven);
                self.pump(webhook);
            }
            Err(StoreError::NotFound(_)) => {
                for claimed in std::mem::take(&mut outlet.ready) {
                    self.end_unsent(&claimed, EndState::WebhookGone, "webhook_gone", false);
                }
            }
            Err(error) => {
                tracing::error!(%error, %webhook, "a webhook's address or secret cannot be read");
                let later = clock::now() + time::Duration::seconds(5);
                self.give_back(webhook, later);
            }
        }
    }

    /// Keeps whether a webhook's present address has accepted a POST.
    pub(super) fn prove(&mut self, webhook: WebhookId, is_proven: bool) {
        if self.proven.contains(&webhook) != is_proven {
            let proven = Arc::make_mut(&mut self.proven);
            if is_proven {
                proven.insert(webhook);
            } else {
                proven.remove(&webhook);
            }
        }
    }

    /// Sends what may go of one webhook; in the drain nothing, and it goes back.
    pub(super) fn pump(&mut self, webhook: WebhookId) {
        if self.draining {
            return;
        }
        loop {
            let Some(outlet) = self.outlets.get_mut(&webhook) else { return };
            match outlet.next(clock::now(), self.started, self.leader) {
                Next::Wait => return,
                Next::HoldUntil(until) => return self.give_back(webhook, until),
                Next::Send(claimed) => self.send(webhook, vec![claimed], None),
                Next::End(claimed, unsent) => {
                    let (end, outcome) = match unsent {
                        Unsent::Superseded => (EndState::Superseded, "superseded"),
                        Unsent::Expired => (EndState::Expired, "expired"),
                        Unsent::Disabled => (EndState::WebhookDisabled, "webhook_disabled"),
                        Unsent::EventGone => (EndState::Dead, "event_gone"),
                    };
                    self.end_unsent(&claimed, end, outcome, true);
                }
            }
        }
    }

    /// Sends what the rate limits let go by now.
    pub(super) fn pump_paced(&mut self, now: Instant) {
        let due: Vec<_> = self
            .busy()
            .filter(|(_, outlet)| outlet.paced_until.is_some_and(|until| until <= now))
            .map(|(webhook, _)| webhook)
            .collect();
        for webhook in due {
            if let Some(outlet) = self.outlets.get_mut(&webhook) {
                outlet.paced_until = None;
            }
            self.pump(webhook);
        }
    }

    /// Gives back all that is in hand of a webhook and not under way, due at a time.
    pub(super) fn give_back(&mut self, webhook: WebhookId, due_at: OffsetDateTime) {
        let Some(outlet) = self.outlets.get_mut(&webhook) else { return };
        outlet.paced_until = None;
        for claimed in std::mem::take(&mut outlet.ready) {
            let attempt = self.let_go(&claimed);
            self.work.settlements.push(Settlement {
                delivery_id: claimed.delivery_id,
                attempt,
                disposition: Disposition::Returned(due_at),
                status: None,
                outcome: "",
                goes_on: false,
                latest: false,
            });
        }
    }

    /// Starts one POST; of a batch all of its deliveries go in it.
    pub(super) fn send(&mut self, webhook: WebhookId, items: Vec<Claimed>, batch_id: Option<String>) {
        if self.deps.store.handoff.is_removed(webhook) {
            for claimed in &items {
                self.end_unsent(claimed, EndState::WebhookGone, "webhook_gone", false);
            }
            return;
        }
        let Some(outlet) = self.outlets.get_mut(&webhook) else { return };
        let Some(prepared) = outlet.prepared.clone() else { return };
        self.last_post += 1;
        let number = self.last_post;
        let places = if batch_id.is_some() { slots::of_batch(items.len()) } else { 1 };
        outlet.posts.insert(number, (Instant::now(), places));
        outlet.used_at = Instant::now();
        self.deps.metrics.in_flight.inc();
        let told: Vec<_> = items.iter().map(|claimed| self.told(claimed.event_id)).collect();
        let poster = self.deps.poster.clone();
        start(&self.report, async move {
            let post = post(&prepared, &items, &told, batch_id.clone());
            let answer = poster.post(post).await;
            Report::Posted { webhook, post: number, items, batch_id, answer }
        });
    }

    /// Where the text of an event is, or will be: webhooks of one event share it.
    fn told(&mut self, event: EventId) -> Told {
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.entry(event).or_default().clone()
    }

    /// Ends a delivery without a POST.
    pub(super) fn end_unsent(
        &mut self,
        claimed: &Claimed,
        end: EndState,
        outcome: &'static str,
        goes_on: bool,
    ) {
        let attempt = self.let_go(claimed);
        // It took the place of one that can be sent: a receiver that is tried with one POST would wait for the poll.
        self.claim = true;
        let level = if end == EndState::Superseded { Level::Info } else { Level::Warn };
        let mut entry = claimed.entry(clock::now(), Kind::DeliveryEnded).level(level);
        entry.outcome = Some(outcome);
        entry.end_state = Some(end.as_str());
        self.work.entries.push(entry);
        self.work.settlements.push(Settlement {
            delivery_id: claimed.delivery_id,
            attempt,
            disposition: Disposition::Ended(end),
            status: None,
            outcome,
            goes_on: goes_on && !self.draining,
            latest: false,
        });
        self.deps.metrics.deliveries_ended.get_or_create(&OutcomeLabels { outcome: end.as_str() }).inc();
    }

    /// Takes a delivery out of hand; says which attempt of it that was.
    pub(super) fn let_go(&mut self, claimed: &Claimed) -> i32 {
        self.lanes.remove(&(claimed.webhook_id, claimed.lane));
        self.held.remove(&claimed.delivery_id).unwrap_or(claimed.attempt)
    }
}

impl WebhookQueue {
    /// Deliveries or batches in hand.
    pub(super) fn in_hand(&self) -> usize {
        self.ready.len() + self.posts.len()
    }

    /// Whether it could take more than it has in hand.
    pub(super) fn can_claim_more(&self, now: OffsetDateTime, places: &Places) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| {
            let most = self.circuit.room(now, prepared.settings.max_concurrency).min(self.window);
            // Half empty, so that one claim brings many.
            self.ready.is_empty() && self.posts.len() <= most / 2 && most > 0 && self.room(places) > 0
        })
    }
}

/// The POST of some deliveries of one webhook.
fn post(prepared: &Prepared, items: &[Claimed], told: &[Told], batch_id: Option<String>) -> Post {
    let now = clock::now();
    let events: Vec<_> = items
        .iter()
        .zip(told)
        .filter_map(|(claimed, told)| {
            let event = claimed.event.as_ref()?;
            Some((claimed, told.get_or_init(|| envelope::Prepared::of(event))))
        })
        .collect();
    let rendered: Vec<_> = events
        .iter()
        .map(|(claimed, event)| Item {
            event,
            delivery_id: claimed.delivery_id,
            superseded: claimed.superseded,
            sent_at: claimed.sent_at,
        })
        .collect();
    // All of a batch have the same.
    let format = items.first().map_or(prepared.settings.format, |claimed| claimed.format);
    let (id, rendered) = match (batch_id, rendered.as_slice()) {
        (None, [only]) => (only.delivery_id.to_string(), envelope::render(only, format)),
        (batch_id, all) => (batch_id.unwrap_or_default(), envelope::render_batch(all, format)),
    };
    let attempt = items.first().map_or(1, |claimed| u32::try_from(claimed.attempt).unwrap_or(1));
    Post {
        target: prepared.target.clone(),
        id,
        attempt,
        rendered,
        keys: prepared.keys(now),
        timestamp: now.unix_timestamp(),
    }
}
