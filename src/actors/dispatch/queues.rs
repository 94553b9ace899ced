//! Queues of all webhooks that this process works for: which of them a turn has to look at, how they share
//! the places of the process, and what may be claimed or leased for them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;

use super::queue::WebhookQueue;
use crate::domain::delivery::capacity::DispatchCapacity;
use crate::domain::delivery::slots::{Places, Risk, WINDOW_FIRST, WINDOW_UNPROVEN};
use crate::domain::ids::{DeliveryId, DispatcherId, WebhookId};
use crate::store::delivery::types::{ClaimRoom, WebhookRoom};

/// Queues of all webhooks that this process works for.
#[derive(Default)]
pub(super) struct WebhookQueues {
    queues: HashMap<WebhookId, WebhookQueue>,
    /// Queues with anything leased, to wait for, or wrong: a turn looks at these, and not at thousands that
    /// are kept for their configuration and connections alone.
    busy: HashSet<WebhookId>,
    /// Webhooks whose present address has accepted a POST.
    proven: Arc<HashSet<WebhookId>>,
    /// How the places are taken, as they were counted last.
    places: Places,
    /// No dispatcher that is alive is older: this one serves the webhooks that are limited.
    leader: bool,
}

impl WebhookQueues {
    /// Queue of a webhook, if it has one.
    pub(super) fn get(&self, webhook: WebhookId) -> Option<&WebhookQueue> {
        self.queues.get(&webhook)
    }

    /// Queue of a webhook, if it has one.
    pub(super) fn get_mut(&mut self, webhook: WebhookId) -> Option<&mut WebhookQueue> {
        self.queues.get_mut(&webhook)
    }

    /// Queue of a webhook that is about to have something to do.
    pub(super) fn open(&mut self, webhook: WebhookId) -> &mut WebhookQueue {
        self.busy.insert(webhook);
        let is_proven = self.proven.contains(&webhook);
        self.queues.entry(webhook).or_insert_with(|| WebhookQueue::new(is_proven, Instant::now()))
    }

    /// Webhooks that have a queue.
    pub(super) fn ids(&self) -> Vec<WebhookId> {
        self.queues.keys().copied().collect()
    }

    fn busy(&self) -> impl Iterator<Item = (WebhookId, &WebhookQueue)> {
        self.busy.iter().filter_map(|webhook| Some((*webhook, self.queues.get(webhook)?)))
    }

    /// More of a webhook is due in the database. Without a queue the poll finds it.
    pub(super) fn mark_backlog(&mut self, webhook: WebhookId) {
        if let Some(queue) = self.queues.get_mut(&webhook) {
            queue.has_backlog = true;
            self.busy.insert(webhook);
        }
    }

    /// Keeps whether a webhook's present address has accepted a POST.
    pub(super) fn set_proven(&mut self, webhook: WebhookId, is_proven: bool) {
        if self.proven.contains(&webhook) != is_proven {
            let proven = Arc::make_mut(&mut self.proven);
            if is_proven {
                proven.insert(webhook);
            } else {
                proven.remove(&webhook);
            }
        }
    }

    /// Takes over the webhooks whose present address has accepted a POST.
    pub(super) fn set_all_proven(&mut self, proven: HashSet<WebhookId>) {
        self.proven = Arc::new(proven);
    }

    /// Whether this process serves webhooks that are limited.
    pub(super) fn is_leader(&self) -> bool {
        self.leader
    }

    /// Takes over whether this process serves webhooks that are limited; true if that has changed.
    pub(super) fn set_leader(&mut self, leader: bool) -> bool {
        std::mem::replace(&mut self.leader, leader) != leader
    }

    /// Counts who has how many places.
    fn count_places(&mut self) {
        let mut places = Places::default();
        for (_, queue) in self.busy() {
            let taken = queue.places();
            if taken > 0 {
                places.take(queue.owner(), queue.risk(), taken);
            }
        }
        self.places = places;
    }

    /// What may be claimed: for all webhooks, or for those with a backlog that have room again, which are not
    /// asked for once more until something is left of them.
    pub(super) fn claimable(&mut self, for_all: bool, now: OffsetDateTime) -> ClaimRoom {
        if !for_all && !self.busy().any(|(_, queue)| queue.has_backlog) {
            return ClaimRoom::default();
        }
        self.count_places();
        // Half of what is free: the next claim knows the webhooks that have nothing leased yet.
        let free = self.places.free(Risk::Low).div_ceil(2);
        if free == 0 {
            return ClaimRoom::default();
        }
        let with_backlog = self.with_claimable_backlog(now);
        for webhook in &with_backlog {
            self.open(*webhook).has_backlog = false;
        }
        if !for_all && with_backlog.is_empty() {
            return ClaimRoom::default();
        }
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let known = self.busy().map(|(webhook, queue)| WebhookRoom {
            webhook_id: webhook,
            leased: count(queue.leased_count()),
            room: count(queue.room(&self.places)),
            risk: queue.risk(),
        });
        ClaimRoom {
            total: count(free),
            suspect: count(self.places.free(Risk::Suspect).div_ceil(2)),
            unproven: count(self.places.free(Risk::Unproven).div_ceil(2)),
            known: known.collect(),
            others: count(WINDOW_FIRST),
            others_unproven: count(WINDOW_UNPROVEN),
            only: (!for_all).then_some(with_backlog),
            limited: self.leader,
        }
    }

    fn with_claimable_backlog(&self, now: OffsetDateTime) -> Vec<WebhookId> {
        let claimable = |queue: &WebhookQueue| queue.has_backlog && queue.can_claim_more(now, &self.places);
        self.busy().filter(|(_, queue)| claimable(queue)).map(|(webhook, _)| webhook).collect()
    }

    /// What writers of events may lease to this dispatcher. Forgets first which queues have nothing to do any
    /// more.
    pub(super) fn capacity(&mut self, dispatcher: DispatcherId, now: OffsetDateTime) -> DispatchCapacity {
        let queues = &self.queues;
        self.busy.retain(|webhook| queues.get(webhook).is_some_and(|queue| !queue.is_drained()));
        self.count_places();
        let room = |queue: &WebhookQueue| if queue.is_open(now) { queue.room(&self.places) } else { 0 };
        let rooms = self.busy().map(|(webhook, queue)| (webhook, room(queue))).collect();
        DispatchCapacity {
            dispatcher: Some(dispatcher),
            // Half of what is free, as several writers may use it before it is published again.
            room: self.places.free(Risk::Low).div_ceil(2),
            rooms: Arc::new(rooms),
            others: WINDOW_FIRST,
            proven: self.proven.clone(),
            unproven: self.places.free(Risk::Unproven).div_ceil(2),
            limited: self.leader,
        }
    }

    /// Whether the next delivery of a lane of this webhook may be leased as soon as the one before it ends.
    pub(super) fn can_promote_next(&self, webhook: WebhookId, now: OffsetDateTime) -> bool {
        self.get(webhook).is_some_and(|queue| queue.can_promote_next(now, &self.places))
    }

    /// Webhooks whose rate limit allows the next POST by now.
    pub(super) fn paced_by(&self, now: Instant) -> Vec<WebhookId> {
        let is_due = |queue: &WebhookQueue| queue.paced_until().is_some_and(|until| until <= now);
        self.busy().filter(|(_, queue)| is_due(queue)).map(|(webhook, _)| webhook).collect()
    }

    /// Webhooks whose batch is full or has waited long enough; counts the places for [`Self::reserve_batch`].
    pub(super) fn batches_due_by(&mut self, now: Instant, wall: OffsetDateTime) -> Vec<WebhookId> {
        let is_due = |queue: &WebhookQueue| queue.batch_due_at(wall).is_some_and(|at| at <= now);
        let due: Vec<_> =
            self.busy().filter(|(_, queue)| is_due(queue)).map(|(webhook, _)| webhook).collect();
        if !due.is_empty() {
            self.count_places();
        }
        due
    }

    /// Whether there is a place for a batch of this webhook.
    pub(super) fn can_form_batch(&self, webhook: WebhookId) -> bool {
        self.get(webhook).is_some_and(|queue| queue.can_form_batch(&self.places))
    }

    /// Counts the places of a batch that is being formed, so that the next one sees them.
    pub(super) fn reserve_batch(&mut self, webhook: WebhookId) {
        if let Some(queue) = self.queues.get(&webhook) {
            self.places.take(queue.owner(), queue.risk(), queue.places());
        }
    }

    /// Whether a batch is being formed for any webhook.
    pub(super) fn is_forming_batch(&self) -> bool {
        self.queues.values().any(|queue| queue.batch.is_forming())
    }

    /// Settlements were written: lets the next batch of each webhook be formed, unless the settlement of the
    /// one before it still waits.
    pub(super) fn end_settling(&mut self, is_unsettled: impl Fn(DeliveryId) -> bool) {
        for webhook in &self.busy {
            if let Some(queue) = self.queues.get_mut(webhook) {
                queue.batch.end_settling(&is_unsettled);
            }
        }
    }

    /// When a rate limit or a batch is due; `forms_batches` is false in the drain.
    pub(super) fn next_at(&self, wall: OffsetDateTime, forms_batches: bool) -> Option<Instant> {
        let batch_at = |queue: &WebhookQueue| {
            (forms_batches && queue.can_form_batch(&self.places)).then(|| queue.batch_due_at(wall)).flatten()
        };
        self.busy().flat_map(|(_, queue)| [queue.paced_until(), batch_at(queue)]).flatten().min()
    }

    /// Forgets the queues that were not used for a while.
    pub(super) fn evict_unused(&mut self, now: Instant) {
        self.queues.retain(|_, queue| !queue.is_evictable(now));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;
    use crate::actors::dispatch::testing::{claimed, configure, webhook_target};
    use crate::domain::delivery::settings::{Batch, DeliverySettings};

    const NOW: OffsetDateTime = datetime!(2026-11-23 15:00:00 UTC);

    /// Opens the queue of a new webhook that is proven and has these settings.
    fn open(queues: &mut WebhookQueues, settings: DeliverySettings) -> WebhookId {
        let webhook = WebhookId::generate();
        queues.set_proven(webhook, true);
        configure(queues.open(webhook), webhook_target(settings));
        webhook
    }

    #[test]
    fn a_claim_for_all_tells_what_is_leased_and_has_room() {
        let mut queues = WebhookQueues::default();
        let webhook = open(&mut queues, DeliverySettings::default());
        queues.open(webhook).accept(claimed(webhook), Instant::now());
        assert_eq!(queues.claimable(false, NOW).total, 0, "nobody asks");
        let room = queues.claimable(true, NOW);
        assert!(room.total > 0 && room.only.is_none() && !room.limited);
        let known: Vec<_> = room.known.iter().map(|known| (known.webhook_id, known.leased)).collect();
        assert_eq!(known, [(webhook, 1)]);
    }

    #[test]
    fn a_backlog_is_claimed_once_its_queue_is_half_empty() {
        let mut queues = WebhookQueues::default();
        let webhook = open(&mut queues, DeliverySettings::default());
        queues.open(webhook).accept(claimed(webhook), Instant::now());
        queues.mark_backlog(webhook);
        assert_eq!(queues.claimable(false, NOW).total, 0, "what it has comes first");
        queues.open(webhook).take_ready();
        assert_eq!(queues.claimable(false, NOW).only, Some(vec![webhook]));
        assert_eq!(queues.claimable(false, NOW).total, 0, "until the claim leaves something again");
    }

    #[test]
    fn a_backlog_of_an_unknown_webhook_is_left_to_the_poll() {
        let mut queues = WebhookQueues::default();
        queues.mark_backlog(WebhookId::generate());
        assert_eq!(queues.claimable(false, NOW).total, 0);
        assert_eq!(queues.ids(), []);
    }

    #[test]
    fn writers_lease_nothing_for_a_receiver_that_fails_and_its_queue_is_looked_at_until_it_recovers() {
        let mut queues = WebhookQueues::default();
        let (failing, drained) =
            (open(&mut queues, DeliverySettings::default()), open(&mut queues, DeliverySettings::default()));
        while !queues.open(failing).receiver.fail(NOW, None, 0.0) {}
        let capacity = queues.capacity(DispatcherId::generate(), NOW);
        assert_eq!(capacity.rooms.get(&failing), Some(&0));
        assert_eq!(capacity.rooms.get(&drained), None, "as many as of any other");
        assert!(capacity.proven.contains(&drained) && capacity.room > 0);
    }

    #[test]
    fn a_batch_that_is_due_wakes_the_loop_but_not_in_the_drain() {
        let mut queues = WebhookQueues::default();
        let batch = Some(Batch { max_items: 10, max_wait: Duration::from_secs(5), max_bytes: 96_000 });
        let webhook = open(&mut queues, DeliverySettings { batch, ..DeliverySettings::default() });
        let start = Instant::now();
        queues.open(webhook).batch.add(1, start);
        let due_at = start + Duration::from_secs(5);
        assert_eq!(queues.next_at(NOW, true), Some(due_at));
        assert_eq!(queues.next_at(NOW, false), None);
        assert_eq!(queues.batches_due_by(start, NOW), []);
        assert_eq!(queues.batches_due_by(due_at, NOW), [webhook]);
        assert!(queues.can_form_batch(webhook));
    }

    #[test]
    fn a_queue_that_is_not_used_is_forgotten_and_opens_again() {
        let mut queues = WebhookQueues::default();
        let webhook = open(&mut queues, DeliverySettings::default());
        queues.evict_unused(Instant::now());
        assert_eq!(queues.ids(), [webhook]);
        queues.evict_unused(Instant::now() + Duration::from_secs(31));
        assert_eq!(queues.ids(), []);
        assert!(queues.open(webhook).receiver.is_proven(), "that is known without its queue");
    }

    #[test]
    fn a_change_of_the_leader_is_noticed_once() {
        let mut queues = WebhookQueues::default();
        assert!(queues.set_leader(true) && !queues.set_leader(true));
        assert!(queues.is_leader());
        let webhook = open(&mut queues, DeliverySettings::default());
        assert_eq!(queues.get(webhook).unwrap().leased_count(), 0);
        assert!(queues.claimable(true, NOW).limited);
    }
}
