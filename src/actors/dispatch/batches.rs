//! Webhooks that take several deliveries in one POST: when a batch is formed, and its way out. One batch of a
//! webhook is under way at a time, so batches keep the order of the events.

use std::time::{Duration, Instant};

use super::{Dispatch, Report, start};
use crate::clock;
use crate::domain::delivery::outcome::EndState;
use crate::domain::delivery::settings::Batch;
use crate::domain::ids::{BatchId, WebhookId};
use crate::domain::webhook::state::WebhookState;
use crate::store::StoreError;
use crate::store::delivery::types::Claimed;

/// Deliveries of one webhook that wait in the database for their batch, as far as this process was told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchBuffer {
    waiting: usize,
    /// Since when the first of them waits; `None` if none does.
    since: Option<Instant>,
    /// A batch is being formed.
    forming: bool,
}

impl BatchBuffer {
    /// Adds deliveries that wait from `now` on.
    pub(super) fn add(&mut self, count: usize, now: Instant) {
        self.waiting += count;
        self.since.get_or_insert(now);
    }

    /// Adds at least one delivery that has waited since `since`.
    pub(super) fn add_since(&mut self, since: Instant) {
        self.waiting += 1;
        self.since = Some(since);
    }

    /// Takes out all that waits, to form a batch of it.
    fn clear(&mut self) {
        (self.waiting, self.since) = (0, None);
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    pub(super) fn is_forming(&self) -> bool {
        self.forming
    }

    /// When the next batch is to be formed by these settings; `None` if nothing waits for one, or one is
    /// under way.
    pub(super) fn due_at(&self, batch: Option<Batch>, has_post: bool) -> Option<Instant> {
        let since = self.since.filter(|_| !self.forming)?;
        let Some(batch) = batch else {
            return Some(since); // formed before the webhook gave up batches, and not sent alone
        };
        if has_post {
            return None;
        }
        Some(if self.waiting >= batch.max_items { since } else { since + batch.max_wait })
    }
}

impl Dispatch {
    /// Counts deliveries that wait for their batch.
    pub(super) fn collect(&mut self, webhook: WebhookId, count: usize) {
        let queue = self.queues.open(webhook);
        queue.batch.add(count, Instant::now());
        if queue.config().is_none() {
            self.read_config(webhook);
        }
    }

    /// Counts a delivery that has waited long enough for its batch.
    pub(super) fn collect_due(&mut self, webhook: WebhookId) {
        let queue = self.queues.open(webhook);
        queue.batch.add_since(self.started);
        if queue.config().is_none() {
            self.read_config(webhook);
        }
    }

    /// Starts to form the batches that are full or have waited long enough.
    pub(super) fn form_batches(&mut self, now: Instant) {
        if self.draining {
            return;
        }
        for webhook in self.queues.batches_due_by(now, clock::now()) {
            if self.queues.can_form_batch(webhook) {
                self.form_batch(webhook);
                self.queues.reserve_batch(webhook);
            }
        }
    }

    fn form_batch(&mut self, webhook: WebhookId) {
        let (leader, uptime) = (self.queues.is_leader(), self.started.elapsed());
        let Some(queue) = self.queues.get_mut(webhook) else { return };
        let Some(config) = queue.config().cloned() else { return };
        queue.batch.clear();
        if config.state != WebhookState::Active || (config.settings.is_limited() && !leader) {
            return;
        }
        // A webhook that takes no batches any more may have one to be tried again.
        let (max_items, max_wait) =
            config.settings.batch.map_or((0, Duration::ZERO), |batch| (batch.max_items, batch.max_wait));
        if let Err(wait) = queue.acquire_rate(uptime) {
            let due_at = Instant::now() + wait;
            queue.batch.add_since(due_at.checked_sub(max_wait).unwrap_or(due_at));
            return;
        }
        queue.batch.forming = true;
        let (store, id) = (self.deps.store.clone(), self.id);
        start(&self.report, async move {
            let result = store.form_batch(id, webhook, max_items, clock::now()).await;
            Report::BatchFormed { webhook, result }
        });
    }

    /// Sends a batch that was formed.
    pub(super) fn on_batch_formed(&mut self, webhook: WebhookId, result: Result<Vec<Claimed>, StoreError>) {
        let Some(queue) = self.queues.get_mut(webhook) else { return };
        queue.batch.forming = false;
        let max_items = queue.settings().batch.map_or(1, |batch| batch.max_items);
        let items = match result {
            Ok(items) => items,
            Err(error) => {
                tracing::warn!(%error, %webhook, "failed to form a batch; the next poll finds its deliveries");
                // If the commit was lost, the leases that it wrote are returned as unknown.
                return queue.cancel_rate();
            }
        };
        if items.is_empty() {
            return queue.cancel_rate();
        }
        if items.len() >= max_items {
            self.collect_due(webhook); // there may be more
        }
        self.leases.add_batch(&items);
        if self.draining {
            return self.queues.open(webhook).accept_unsent(items); // returned with the rest
        }
        let items = self.end_unsendable(webhook, items);
        if items.is_empty() {
            if let Some(queue) = self.queues.get_mut(webhook) {
                queue.cancel_rate();
            }
            return;
        }
        let ids: Vec<_> = items.iter().map(|claimed| claimed.delivery_id).collect();
        self.send(webhook, items, Some(BatchId::of(&ids).to_string()));
    }

    /// Ends the deliveries of a batch that are too old or whose event is gone. Gives the rest, a batch with
    /// another id.
    fn end_unsendable(&mut self, webhook: WebhookId, items: Vec<Claimed>) -> Vec<Claimed> {
        let Some(config) = self.queues.get(webhook).and_then(|queue| queue.config().cloned()) else {
            return items;
        };
        let now = clock::now();
        let end_of = |claimed: &Claimed| match &claimed.event {
            None => Some((EndState::Dead, "event_gone")),
            Some(event) => config
                .settings
                .expires_at(event.received_at)
                .is_some_and(|at| at <= now)
                .then_some((EndState::Expired, "expired")),
        };
        let mut rest = Vec::with_capacity(items.len());
        for claimed in items {
            match end_of(&claimed) {
                Some((end, outcome)) => self.end_unsent(&claimed, end, outcome, false),
                None => rest.push(claimed),
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Batch = Batch { max_items: 3, max_wait: Duration::from_secs(5) };

    #[test]
    fn a_batch_is_due_when_it_is_full_or_has_waited_long_enough() {
        let (mut buffer, start) = (BatchBuffer::default(), Instant::now());
        assert_eq!(buffer.due_at(Some(BATCH), false), None, "nothing waits");
        buffer.add(2, start);
        buffer.add(0, start + BATCH.max_wait);
        assert_eq!(buffer.due_at(Some(BATCH), false), Some(start + BATCH.max_wait));
        buffer.add(1, start + BATCH.max_wait);
        assert_eq!(buffer.due_at(Some(BATCH), false), Some(start));
        buffer.clear();
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_batch_waits_for_the_one_under_way() {
        let (mut buffer, start) = (BatchBuffer::default(), Instant::now());
        buffer.add_since(start);
        assert_eq!(buffer.due_at(Some(BATCH), true), None, "its POST is under way");
        buffer.forming = true;
        assert_eq!(buffer.due_at(Some(BATCH), false), None, "it is being formed");
    }

    #[test]
    fn a_batch_of_a_webhook_that_takes_none_any_more_is_due_at_once_next_to_single_posts() {
        let (mut buffer, start) = (BatchBuffer::default(), Instant::now());
        buffer.add(1, start);
        assert_eq!(buffer.due_at(None, true), Some(start));
    }
}
