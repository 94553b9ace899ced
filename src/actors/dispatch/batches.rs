//! Webhooks that take several deliveries in one POST: when a batch is formed, and its way out. One batch of a
//! webhook is under way at a time, so batches keep the order of the events.

use std::time::{Duration, Instant};

use super::{Dispatch, Report, start};
use crate::clock;
use crate::domain::delivery::outcome::{EndState, Outcome};
use crate::domain::delivery::settings::Batch;
use crate::domain::ids::{BatchId, DeliveryId, WebhookId};
use crate::domain::webhook::state::WebhookState;
use crate::outbound::body::envelope::{self, Item, RenderedEvent};
use crate::store::StoreError;
use crate::store::delivery::batches::{BatchLimits, FormedBatch};
use crate::store::delivery::types::Claimed;

/// The answer of a receiver for which a POST was too large.
const CONTENT_TOO_LARGE: u16 = 413;

/// Deliveries of one webhook that wait in the database for their batch, as far as this process was told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchBuffer {
    waiting: usize,
    /// Since when the first of them waits; `None` if none does.
    since: Option<Instant>,
    /// A batch is being formed.
    forming: bool,
    /// One of the deliveries of the last batch, until their settlement is written: no other batch is formed.
    settling: Option<DeliveryId>,
    /// How many deliveries the last batch held, if it was full by its bytes.
    cut_at: Option<usize>,
    /// Bytes of the smallest batch of several that was too large for the receiver.
    refused: Option<usize>,
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

    pub(super) fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// Settlements were written: the one of the last batch too, unless it is among the others.
    pub(super) fn end_settling(&mut self, is_unsettled: impl Fn(DeliveryId) -> bool) {
        self.settling = self.settling.filter(|id| is_unsettled(*id));
    }

    /// Forgets what earlier batches told about sizes: the webhook has changed.
    pub(super) fn forget_sizes(&mut self) {
        (self.cut_at, self.refused) = (None, None);
    }

    /// Most bytes of the next batch. After one that was too large it is half of that, so that not each new
    /// batch is refused first.
    fn max_bytes(&self, batch: Batch) -> usize {
        self.refused.map_or(batch.max_bytes, |bytes| batch.max_bytes.min(bytes / 2))
    }

    /// When the next batch is to be formed by these settings; `None` if nothing waits for one, or one is
    /// under way.
    pub(super) fn due_at(&self, batch: Option<Batch>, has_post: bool) -> Option<Instant> {
        let since = self.since.filter(|_| !self.forming && self.settling.is_none())?;
        let Some(batch) = batch else {
            return Some(since); // formed before the webhook gave up batches, and not sent alone
        };
        if has_post {
            return None;
        }
        let full_at = self.cut_at.map_or(batch.max_items, |cut_at| cut_at.min(batch.max_items));
        Some(if self.waiting >= full_at { since } else { since + batch.max_wait })
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
        let none = Batch { max_items: 0, max_wait: Duration::ZERO, max_bytes: 0 };
        let batch = config.settings.batch.unwrap_or(none);
        if let Err(wait) = queue.acquire_rate(uptime) {
            let due_at = Instant::now() + wait;
            queue.batch.add_since(due_at.checked_sub(batch.max_wait).unwrap_or(due_at));
            return;
        }
        queue.batch.forming = true;
        let max_bytes = queue.batch.max_bytes(batch).saturating_sub(envelope::BATCH_FRAME);
        let limits = BatchLimits { max_items: batch.max_items, max_bytes };
        let (store, id) = (self.deps.store.clone(), self.id);
        start(&self.report, async move {
            let result = store.form_batch(id, webhook, limits, clock::now(), len_in_batch).await;
            Report::BatchFormed { webhook, result }
        });
    }

    /// Sends a batch that was formed.
    pub(super) fn on_batch_formed(&mut self, webhook: WebhookId, result: Result<FormedBatch, StoreError>) {
        let Some(queue) = self.queues.get_mut(webhook) else { return };
        queue.batch.forming = false;
        let FormedBatch { items, is_full, is_cut } = match result {
            Ok(formed) => formed,
            Err(error) => {
                tracing::warn!(%error, %webhook, "failed to form a batch; the next poll finds its deliveries");
                // If the commit was lost, the leases that it wrote are returned as unknown.
                return queue.cancel_rate();
            }
        };
        if items.is_empty() {
            return queue.cancel_rate();
        }
        queue.batch.cut_at = is_cut.then_some(items.len());
        if is_full {
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

    /// The POST of a batch has ended; the next one is formed once its settlement is written.
    pub(super) fn settle_batch(&mut self, webhook: WebhookId, delivery: DeliveryId) {
        if let Some(queue) = self.queues.get_mut(webhook) {
            queue.batch.settling = Some(delivery);
        }
    }

    /// A batch of this size was too large for its receiver. That is no failure of the receiver's: its halves
    /// go at once.
    pub(super) fn halve_batch(&mut self, webhook: WebhookId, bytes: usize) {
        if let Some(queue) = self.queues.get_mut(webhook) {
            let smallest = queue.batch.refused.map_or(bytes, |refused| refused.min(bytes));
            queue.batch.refused = Some(smallest);
        }
        // The cycle that writes the settlements finds the first half.
        self.cycle.claim_for_all();
    }

    /// Ends the deliveries of a batch that are too old, or whose event is gone or erased. Gives the rest, a batch with
    /// another id.
    fn end_unsendable(&mut self, webhook: WebhookId, items: Vec<Claimed>) -> Vec<Claimed> {
        let Some(config) = self.queues.get(webhook).and_then(|queue| queue.config().cloned()) else {
            return items;
        };
        let now = clock::now();
        let end_of = |dispatch: &Self, claimed: &Claimed| match &claimed.event {
            None => Some((EndState::Dead, "event_gone")),
            Some(_) if dispatch.is_erased(claimed) => Some((EndState::Erased, "erased")),
            Some(event) => config
                .settings
                .expires_at(event.received_at)
                .is_some_and(|at| at <= now)
                .then_some((EndState::Expired, "expired")),
        };
        let mut rest = Vec::with_capacity(items.len());
        for claimed in items {
            match end_of(self, &claimed) {
                Some((end, outcome)) => self.end_unsent(&claimed, end, outcome, false),
                None => rest.push(claimed),
            }
        }
        rest
    }
}

/// Bytes that a delivery takes in the body of a batch; one whose event is gone is not sent.
fn len_in_batch(claimed: &Claimed) -> usize {
    let Some(event) = &claimed.event else { return 0 };
    let item = Item {
        event: &RenderedEvent::of(event),
        delivery_id: claimed.delivery_id,
        superseded: claimed.superseded,
        sent_at: claimed.sent_at,
    };
    envelope::len_in_batch(&item, claimed.format)
}

/// The two batches in which the deliveries of one go again that was too large for its receiver.
pub(super) struct Halves {
    first: BatchId,
    second: BatchId,
    /// Place at which the second begins.
    middle: usize,
    /// How long its receiver asks to wait.
    pub(super) wait: Duration,
}

impl Halves {
    /// `None` if the batch held one delivery, or was not refused for its size.
    pub(super) fn of(items: &[Claimed], outcome: &Outcome) -> Option<Self> {
        let Outcome::Answered { status: CONTENT_TOO_LARGE, retry_after } = *outcome else {
            return None;
        };
        let ids: Vec<_> = items.iter().map(|claimed| claimed.delivery_id).collect();
        if ids.len() < 2 {
            return None;
        }
        let (first, second) = ids.split_at(ids.len().div_ceil(2));
        let (middle, wait) = (first.len(), retry_after.unwrap_or_default());
        Some(Self { first: BatchId::of(first), second: BatchId::of(second), middle, wait })
    }

    /// The batch of the delivery at this place of the POST.
    pub(super) fn at(&self, place: usize) -> BatchId {
        if place < self.middle { self.first } else { self.second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::EventId;

    const BATCH: Batch = Batch { max_items: 3, max_wait: Duration::from_secs(5), max_bytes: 96_000 };

    #[test]
    fn a_batch_that_its_bytes_filled_says_how_many_fill_the_next() {
        let (mut buffer, start) = (BatchBuffer::default(), Instant::now());
        buffer.add(2, start);
        buffer.cut_at = Some(2);
        assert_eq!(buffer.due_at(Some(BATCH), false), Some(start));
        buffer.forget_sizes();
        assert_eq!(buffer.due_at(Some(BATCH), false), Some(start + BATCH.max_wait));
    }

    #[test]
    fn after_a_batch_that_was_too_large_the_next_are_half_as_large_until_the_webhook_changes() {
        let mut buffer = BatchBuffer { refused: Some(50_000), ..BatchBuffer::default() };
        assert_eq!(buffer.max_bytes(BATCH), 25_000);
        buffer.refused = Some(1_000_000);
        assert_eq!(buffer.max_bytes(BATCH), BATCH.max_bytes);
        buffer.refused = Some(50_000);
        buffer.forget_sizes();
        assert_eq!(buffer.max_bytes(BATCH), BATCH.max_bytes);
    }

    #[test]
    fn a_batch_waits_until_the_settlement_of_the_one_before_it_is_written() {
        let (mut buffer, start) = (BatchBuffer::default(), Instant::now());
        let delivery = DeliveryId::of(EventId::generate(), WebhookId::generate());
        buffer.add(3, start);
        buffer.settling = Some(delivery);
        buffer.end_settling(|id| id == delivery);
        assert_eq!(buffer.due_at(Some(BATCH), false), None, "that was another settlement");
        buffer.end_settling(|_| false);
        assert_eq!(buffer.due_at(Some(BATCH), false), Some(start));
    }

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
