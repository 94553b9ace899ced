//! Deliveries leased to this process, as far as it knows, and what the database says of them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::domain::ids::{DeliveryId, WebhookId};
use crate::store::delivery::types::Claimed;

/// A delivery stays unknown for ten seconds before it is returned: twice the time that any step may wait for
/// the database, so that the message about it is not on its way any more.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// Deliveries leased to this process, from the lease until they are settled.
#[derive(Debug, Default)]
pub(super) struct LeasedDeliveries {
    /// Attempt of each delivery.
    attempts: HashMap<DeliveryId, i32>,
    /// Lanes whose first delivery is among them, those of batches left out.
    lanes: HashSet<(WebhookId, i64)>,
    unknown: Unknown,
}

impl LeasedDeliveries {
    /// Adds a delivery. False if it was leased to us before: its lease was released while the database was
    /// unavailable, and it came to us again. Its POST under way continues, and counts as the new attempt.
    pub(super) fn add(&mut self, claimed: &Claimed) -> bool {
        if let Some(attempt) = self.attempts.get_mut(&claimed.delivery_id) {
            *attempt = claimed.attempt;
            return false;
        }
        self.attempts.insert(claimed.delivery_id, claimed.attempt);
        self.lanes.insert((claimed.webhook_id, claimed.lane));
        true
    }

    /// Adds the deliveries of a batch, which are in no lane.
    pub(super) fn add_batch(&mut self, items: &[Claimed]) {
        self.attempts.extend(items.iter().map(|claimed| (claimed.delivery_id, claimed.attempt)));
    }

    /// Removes a delivery; gives the number of the attempt that it was leased for last.
    pub(super) fn remove(&mut self, claimed: &Claimed) -> i32 {
        self.lanes.remove(&(claimed.webhook_id, claimed.lane));
        self.attempts.remove(&claimed.delivery_id).unwrap_or(claimed.attempt)
    }

    /// Whether the first delivery of a lane is leased.
    pub(super) fn has_lane(&self, webhook: WebhookId, lane: i64) -> bool {
        self.lanes.contains(&(webhook, lane))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Deliveries that are leased.
    pub(super) fn ids(&self) -> impl Iterator<Item = DeliveryId> {
        self.attempts.keys().copied()
    }

    /// Compares with what is leased to us in the database; `unsettled` are the deliveries whose settlement is
    /// not written. Gives what has been leased to us for too long without our knowing of it.
    pub(super) fn overdue(
        &mut self,
        leased: Vec<(DeliveryId, i32)>,
        unsettled: &HashSet<DeliveryId>,
        now: Instant,
    ) -> Vec<(DeliveryId, i32)> {
        let is_unknown = |id: &DeliveryId| !self.attempts.contains_key(id) && !unsettled.contains(id);
        let unknown = leased.into_iter().filter(|(id, _)| is_unknown(id)).collect();
        self.unknown.seen(unknown, now)
    }
}

/// Attempts that are leased to us and that we do not know of, each since when.
#[derive(Debug, Default)]
struct Unknown {
    since: HashMap<(DeliveryId, i32), Instant>,
}

impl Unknown {
    /// Takes over what is leased to us and unknown at `now`; gives what has been so for too long.
    fn seen(&mut self, unknown: HashSet<(DeliveryId, i32)>, now: Instant) -> Vec<(DeliveryId, i32)> {
        self.since.retain(|attempt, _| unknown.contains(attempt));
        for attempt in unknown {
            self.since.entry(attempt).or_insert(now);
        }
        let overdue = self.since.iter().filter(|(_, since)| now.duration_since(**since) >= UNKNOWN_FOR);
        overdue.map(|(attempt, _)| *attempt).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::dispatch::testing::claimed;
    use crate::domain::ids::EventId;

    #[test]
    fn a_delivery_that_comes_again_counts_as_the_new_attempt() {
        let mut leases = LeasedDeliveries::default();
        let first = claimed(WebhookId::generate());
        assert!(leases.add(&first) && leases.has_lane(first.webhook_id, first.lane));
        assert!(!leases.add(&Claimed { attempt: 2, ..first.clone() }));
        assert_eq!(leases.remove(&first), 2);
        assert!(leases.is_empty() && !leases.has_lane(first.webhook_id, first.lane));
    }

    #[test]
    fn a_batch_leaves_lanes_to_others() {
        let mut leases = LeasedDeliveries::default();
        let item = claimed(WebhookId::generate());
        leases.add_batch(std::slice::from_ref(&item));
        assert!(!leases.has_lane(item.webhook_id, item.lane));
        assert_eq!(leases.ids().collect::<Vec<_>>(), [item.delivery_id]);
    }

    #[test]
    fn what_is_leased_here_or_waits_for_its_settlement_is_not_unknown() {
        let mut leases = LeasedDeliveries::default();
        let (known, settled, lost) =
            (claimed(WebhookId::generate()), claimed(WebhookId::generate()), claimed(WebhookId::generate()));
        leases.add(&known);
        let unsettled = HashSet::from([settled.delivery_id]);
        let leased =
            || [&known, &settled, &lost].map(|claimed| (claimed.delivery_id, claimed.attempt)).to_vec();
        let start = Instant::now();
        assert_eq!(leases.overdue(leased(), &unsettled, start), []);
        assert_eq!(leases.overdue(leased(), &unsettled, start + UNKNOWN_FOR), [(lost.delivery_id, 1)]);
    }

    #[test]
    fn an_attempt_is_overdue_only_if_it_was_unknown_all_the_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let id = DeliveryId::of(EventId::generate(), WebhookId::generate());
        let mut unknown = Unknown::default();
        assert_eq!(unknown.seen(HashSet::from([(id, 1)]), at(0)), []);
        assert_eq!(unknown.seen(HashSet::new(), at(6)), [], "the message about it came");
        assert_eq!(unknown.seen(HashSet::from([(id, 1)]), at(8)), []);
        assert_eq!(unknown.seen(HashSet::from([(id, 2)]), at(16)), [], "another attempt is another one");
        assert_eq!(unknown.seen(HashSet::from([(id, 2)]), at(25)), []);
        assert_eq!(unknown.seen(HashSet::from([(id, 2)]), at(26)), [(id, 2)]);
        assert_eq!(unknown.seen(HashSet::from([(id, 2)]), at(28)), [(id, 2)], "until it is returned");
    }
}
