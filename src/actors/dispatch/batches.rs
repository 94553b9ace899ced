//! Webhooks that take several deliveries in one POST: when a batch is formed, and its way out. One batch of a webhook is
//! under way at a time, so its order is that of the events.

use std::time::{Duration, Instant};

use super::{Dispatch, Report, start};
use crate::actors::dispatch::queue::{WebhookQueue, expires_at};
use crate::clock;
use crate::domain::delivery::outcome::EndState;
use crate::domain::delivery::slots::Places;
use crate::domain::ids::{BatchId, WebhookId};
use crate::domain::webhook::state::WebhookState;
use crate::store::StoreError;
use crate::store::delivery::types::Claimed;

impl Dispatch {
    /// Hears of deliveries that wait for their batch.
    pub(super) fn collect(&mut self, webhook: WebhookId, count: usize) {
        let outlet = self.outlet(webhook);
        outlet.collecting += count;
        outlet.collecting_since.get_or_insert_with(Instant::now);
        if outlet.prepared.is_none() {
            self.read(webhook);
        }
    }

    /// Starts to form the batches that are full or have waited long enough.
    pub(super) fn form_batches(&mut self, now: Instant) {
        if self.draining {
            return;
        }
        let wall = clock::now();
        let due: Vec<_> = self
            .busy()
            .filter(|(_, outlet)| outlet.batch_due_at().is_some_and(|at| at <= now))
            .filter(|(_, outlet)| !outlet.circuit.holds(wall))
            .map(|(webhook, _)| webhook)
            .collect();
        if due.is_empty() {
            return;
        }
        self.count_places();
        for webhook in due {
            if self.outlets.get(&webhook).is_some_and(|outlet| outlet.may_form(&self.places)) {
                self.form(webhook);
                if let Some(outlet) = self.outlets.get(&webhook) {
                    self.places.take(outlet.owner(), outlet.risk(), outlet.places());
                }
            }
        }
    }

    fn form(&mut self, webhook: WebhookId) {
        let Some(outlet) = self.outlets.get_mut(&webhook) else { return };
        let Some(prepared) = outlet.prepared.clone() else { return };
        (outlet.collecting, outlet.collecting_since) = (0, None);
        let ours = prepared.state == WebhookState::Active && (self.leader || !prepared.settings.is_limited());
        if !ours {
            return;
        }
        // One that takes no batches any more may have one to be tried again.
        let (max_items, max_wait) =
            prepared.settings.batch.map_or((0, Duration::ZERO), |batch| (batch.max_items, batch.max_wait));
        if let Some(limit) = prepared.settings.rate_limit {
            let at = self.started.elapsed();
            if let Err(next) = outlet.rate.acquire(limit, at) {
                let then = Instant::now() + next.saturating_sub(at);
                outlet.collecting = 1;
                outlet.collecting_since = Some(then.checked_sub(max_wait).unwrap_or(then)); // it has waited
                return;
            }
        }
        outlet.forming = true;
        let (store, id) = (self.deps.store.clone(), self.id);
        start(&self.report, async move {
            let result = store.form_batch(id, webhook, max_items, clock::now()).await;
            Report::Formed { webhook, result }
        });
    }

    /// Sends a batch that was formed.
    pub(super) fn formed(&mut self, webhook: WebhookId, result: Result<Vec<Claimed>, StoreError>) {
        let max_items = match self.outlets.get_mut(&webhook) {
            Some(outlet) => {
                outlet.forming = false;
                outlet.prepared.as_ref().and_then(|p| p.settings.batch).map_or(1, |batch| batch.max_items)
            }
            None => return,
        };
        let items = match result {
            Ok(items) => items,
            Err(error) => {
                tracing::warn!(%error, %webhook, "a batch waits for the database");
                // The poll finds it again; what a lost commit put into our hands is given back as unknown to us.
                return self.no_post(webhook);
            }
        };
        if items.is_empty() {
            return self.no_post(webhook);
        }
        if items.len() >= max_items {
            self.collect(webhook, 1); // there may be more, and it has waited
            if let Some(outlet) = self.outlets.get_mut(&webhook) {
                outlet.collecting_since = Some(self.started);
            }
        }
        for claimed in &items {
            self.held.insert(claimed.delivery_id, claimed.attempt);
        }
        if self.draining {
            self.outlet(webhook).ready.extend(items); // goes back with the rest
            return;
        }
        let items = self.without_unsent(webhook, items);
        if items.is_empty() {
            return self.no_post(webhook);
        }
        let ids: Vec<_> = items.iter().map(|claimed| claimed.delivery_id).collect();
        self.send(webhook, items, Some(BatchId::of(&ids).to_string()));
    }

    /// Gives the rate limit its place back.
    fn no_post(&mut self, webhook: WebhookId) {
        if let Some(outlet) = self.outlets.get_mut(&webhook) {
            outlet.rate.cancel();
        }
    }

    /// Ends what is too old, or whose event is gone, and gives the rest: a batch of others, and so with another id.
    fn without_unsent(&mut self, webhook: WebhookId, items: Vec<Claimed>) -> Vec<Claimed> {
        let prepared = self.outlets.get(&webhook).and_then(|outlet| outlet.prepared.clone());
        let Some(prepared) = prepared else { return items };
        let now = clock::now();
        let unsent = |claimed: &Claimed| match &claimed.event {
            None => Some((EndState::Dead, "event_gone")),
            Some(event) => expires_at(&prepared.settings, event.received_at)
                .is_some_and(|at| at <= now)
                .then_some((EndState::Expired, "expired")),
        };
        let mut rest = Vec::with_capacity(items.len());
        for claimed in items {
            match unsent(&claimed) {
                Some((end, outcome)) => self.end_unsent(&claimed, end, outcome, false),
                None => rest.push(claimed),
            }
        }
        rest
    }
}

impl WebhookQueue {
    /// Whether there is a place for a batch; one that was under way before may be larger than what is left.
    pub(super) fn may_form(&self, places: &Places) -> bool {
        places.room(self.owner(), self.risk(), 0) > 0
    }

    /// When the next batch is to be formed; `None` if nothing waits for one, or one is under way.
    pub(super) fn batch_due_at(&self) -> Option<Instant> {
        let prepared = self.prepared.as_ref().filter(|_| !self.loading && !self.closing)?;
        let since = self.collecting_since?;
        if self.forming || self.circuit.holds(clock::now()) {
            return None;
        }
        let Some(batch) = prepared.settings.batch else {
            return Some(since); // a former one, beside what is sent alone
        };
        if !self.posts.is_empty() {
            return None;
        }
        Some(if self.collecting >= batch.max_items { since } else { since + batch.max_wait })
    }
}
