//! From a leased delivery to a POST under way, or to its end or return without one.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use time::OffsetDateTime;

use super::conclude::Posted;
use super::queue::{QueueDecision, Unsent, WebhookConfig};
use super::{Dispatch, Report, start};
use crate::clock;
use crate::domain::audit::{Kind, Level};
use crate::domain::delivery::outcome::{Disposition, EndState};
use crate::domain::delivery::slots;
use crate::domain::ids::{EventId, WebhookId};
use crate::outbound::body::envelope::{self, Item, RenderedEvent};
use crate::outbound::post::Post;
use crate::store::StoreError;
use crate::store::delivery::targets::WebhookTarget;
use crate::store::delivery::types::{Claimed, Settlement};

/// Wait before the next try if a webhook's address or keys cannot be read.
const UNREADABLE_RETRY: time::Duration = time::Duration::seconds(5);

/// What all POSTs of an event have in common, rendered by the first of them.
type SharedRendering = Arc<OnceLock<RenderedEvent>>;

/// Renderings of the last events: webhooks of one event share them.
#[derive(Default)]
pub(super) struct RenderedEvents {
    events: HashMap<EventId, SharedRendering>,
}

impl RenderedEvents {
    /// Events kept at most: those of the last moments, for all their webhooks.
    const MAX: usize = 1024;

    fn of(&mut self, event: EventId) -> SharedRendering {
        if self.events.len() >= Self::MAX {
            self.events.clear();
        }
        self.events.entry(event).or_default().clone()
    }
}

impl Dispatch {
    /// Takes over a leased delivery, and sends what may go of its webhook.
    pub(super) fn accept(&mut self, claimed: Claimed) {
        if !self.leases.add(&claimed) {
            return;
        }
        let webhook = claimed.webhook_id;
        if self.queues.open(webhook).accept(claimed, Instant::now()) {
            self.read_config(webhook);
        }
        self.send_ready(webhook);
    }

    /// Reads a webhook's settings, address and keys.
    pub(super) fn read_config(&mut self, webhook: WebhookId) {
        if !self.queues.open(webhook).begin_config_read() {
            return;
        }
        let (store, key) = (self.deps.store.clone(), self.deps.master_key.clone());
        start(&self.report, async move {
            let result = Box::new(store.webhook_target(webhook, clock::now(), &key).await);
            Report::ConfigRead { webhook, result }
        });
    }

    /// Takes over what was read of a webhook.
    pub(super) fn on_config_read(&mut self, webhook: WebhookId, result: Result<WebhookTarget, StoreError>) {
        let Some(queue) = self.queues.get_mut(webhook) else { return };
        if queue.end_config_read() {
            return self.read_config(webhook);
        }
        match result {
            Ok(read) => {
                let target = self.deps.poster.target(&read.url, &read.access, read.settings.timeout);
                queue.configure(read, target);
                let is_proven = queue.receiver.is_proven();
                self.queues.set_proven(webhook, is_proven);
                self.send_ready(webhook);
            }
            Err(StoreError::NotFound(_)) => {
                self.receiver_log.forget(webhook);
                for claimed in queue.take_ready() {
                    self.end_unsent(&claimed, EndState::WebhookGone, "webhook_gone", false);
                }
            }
            Err(error) => {
                tracing::error!(
                    %error, %webhook,
                    "failed to read a webhook's address or keys; its deliveries are due again in 5 s"
                );
                self.return_to_queue(webhook, clock::now() + UNREADABLE_RETRY);
            }
        }
    }

    /// Sends what may go of one webhook; nothing in the drain.
    pub(super) fn send_ready(&mut self, webhook: WebhookId) {
        if self.draining {
            return;
        }
        let leader = self.queues.is_leader();
        loop {
            let Some(queue) = self.queues.get_mut(webhook) else { return };
            let decision = queue.decide(clock::now(), self.started.elapsed(), leader);
            match decision {
                QueueDecision::Wait => return,
                QueueDecision::ReturnUntil(due_at) => return self.return_to_queue(webhook, due_at),
                QueueDecision::Send(claimed) if self.is_erased(&claimed) => {
                    if let Some(queue) = self.queues.get_mut(webhook) {
                        queue.cancel_rate();
                    }
                    self.end_unsent(&claimed, EndState::Erased, "erased", true);
                }
                QueueDecision::Send(claimed) => self.send(webhook, vec![claimed], None),
                QueueDecision::End(claimed, unsent) => {
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

    /// Whether the person that a delivery is about was erased, in the database or by a request just now.
    pub(super) fn is_erased(&self, claimed: &Claimed) -> bool {
        claimed.event.as_ref().is_some_and(|event| {
            event.erased_at.is_some() || self.deps.store.handoff.is_erased(claimed.lane, event.position)
        })
    }

    /// Sends what rate limits allow by now.
    pub(super) fn send_paced(&mut self, now: Instant) {
        for webhook in self.queues.paced_by(now) {
            if let Some(queue) = self.queues.get_mut(webhook) {
                queue.end_pause();
            }
            self.send_ready(webhook);
        }
    }

    /// Returns all deliveries of a webhook that are leased and not under way to the database, due at a time.
    pub(super) fn return_to_queue(&mut self, webhook: WebhookId, due_at: OffsetDateTime) {
        let Some(queue) = self.queues.get_mut(webhook) else { return };
        for claimed in queue.take_ready() {
            let settlement = Settlement {
                delivery_id: claimed.delivery_id,
                attempt: self.leases.remove(&claimed),
                disposition: Disposition::Returned(due_at),
                half: None,
                status: None,
                outcome: "",
                promotes_next: false,
                latest_only: false,
            };
            self.cycle.add(settlement, None);
        }
    }

    /// Starts one POST, of one delivery or of a batch.
    pub(super) fn send(&mut self, webhook: WebhookId, items: Vec<Claimed>, batch_id: Option<String>) {
        if self.deps.store.handoff.is_removed(webhook) {
            for claimed in &items {
                self.end_unsent(claimed, EndState::WebhookGone, "webhook_gone", false);
            }
            return;
        }
        let Some(queue) = self.queues.get_mut(webhook) else { return };
        let Some(config) = queue.config().cloned() else { return };
        let places = if batch_id.is_some() { slots::of_batch(items.len()) } else { 1 };
        let number = queue.begin_post(places, Instant::now());
        self.deps.metrics.in_flight.inc();
        self.deps.store.keep_sent(&items);
        let rendered: Vec<_> = items.iter().map(|claimed| self.rendered.of(claimed.event_id)).collect();
        let poster = self.deps.poster.clone();
        start(&self.report, async move {
            let post = post(&config, &items, &rendered, batch_id.clone());
            let bytes = post.rendered.body.len();
            let answer = poster.post(post).await;
            Report::Posted(Posted { webhook, number, items, batch_id, bytes, answer })
        });
    }

    /// Ends a delivery without a POST.
    pub(super) fn end_unsent(
        &mut self,
        claimed: &Claimed,
        end: EndState,
        outcome: &'static str,
        promotes_next: bool,
    ) {
        // It took the place of one that can be sent: a receiver that is tried with one POST would wait for
        // the poll.
        self.cycle.claim_for_all();
        let level = if end == EndState::Superseded { Level::Info } else { Level::Warn };
        let mut entry = claimed.entry(clock::now(), Kind::DeliveryEnded).level(level);
        entry.outcome = Some(outcome);
        entry.end_state = Some(end.as_str());
        let settlement = Settlement {
            delivery_id: claimed.delivery_id,
            attempt: self.leases.remove(claimed),
            disposition: Disposition::Ended(end),
            half: None,
            status: None,
            outcome,
            promotes_next: promotes_next && !self.draining,
            latest_only: false,
        };
        self.cycle.add(settlement, Some(entry));
        self.deps.metrics.deliveries_ended.of(end.as_str()).inc();
    }
}

/// POST of some deliveries of one webhook.
fn post(
    config: &WebhookConfig,
    items: &[Claimed],
    rendered: &[SharedRendering],
    batch_id: Option<String>,
) -> Post {
    let now = clock::now();
    let events: Vec<_> = items
        .iter()
        .zip(rendered)
        .filter_map(|(claimed, rendered)| {
            let event = claimed.event.as_ref()?;
            Some((claimed, rendered.get_or_init(|| RenderedEvent::of(event))))
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
    let format = items.first().map_or(config.settings.format, |claimed| claimed.format);
    let (id, rendered) = match (batch_id, rendered.as_slice()) {
        (None, [only]) => (only.delivery_id.to_string(), envelope::render(only, format)),
        (batch_id, all) => (batch_id.unwrap_or_default(), envelope::render_batch(all, format)),
    };
    let attempt = items.first().map_or(1, |claimed| u32::try_from(claimed.attempt).unwrap_or(1));
    Post {
        target: config.target.clone(),
        id,
        attempt,
        rendered,
        keys: config.keys(now),
        timestamp: now.unix_timestamp(),
    }
}
