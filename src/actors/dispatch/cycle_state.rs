//! What the next cycle writes, and whether one may begin. A cycle is one transaction that settles deliveries
//! and claims others; one is under way at a time.

use std::time::{Duration, Instant};

use crate::domain::audit::Entry;
use crate::domain::ids::{DeliveryId, WebhookId};
use crate::domain::retry_backoff::RetryBackoff;
use crate::store::delivery::types::{ClaimRoom, Cycle, HealthChange, Settlement, Work};

/// First and longest wait between tries while the database is unavailable.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// What the next cycle writes, and whether one may begin.
#[derive(Debug)]
pub(super) struct CycleState {
    work: Work,
    /// A cycle is under way, with the settlements of these deliveries.
    under_way: Option<Vec<DeliveryId>>,
    /// The last cycle failed, perhaps after its commit.
    commit_unknown: bool,
    /// The next cycle claims for all webhooks, and not only for those with a backlog.
    claims_for_all: bool,
    /// No cycle before: the database was unavailable.
    not_before: Option<Instant>,
    pub(super) backoff: RetryBackoff,
}

/// A cycle that begins.
pub(super) struct BeginningCycle {
    pub(super) work: Work,
    /// The one before it may have been committed: its traces are looked for first.
    pub(super) reconciles: bool,
}

impl Default for CycleState {
    fn default() -> Self {
        Self {
            work: Work::default(),
            under_way: None,
            commit_unknown: false,
            claims_for_all: true,
            not_before: None,
            backoff: RetryBackoff::new(RETRY_FIRST, RETRY_LONGEST),
        }
    }
}

impl CycleState {
    /// Adds what an attempt came to.
    pub(super) fn add(&mut self, settlement: Settlement, entry: Option<Entry>) {
        self.work.settlements.push(settlement);
        self.work.entries.extend(entry);
    }

    /// Adds how a receiver does, in place of what was added before.
    pub(super) fn add_health(&mut self, change: HealthChange) {
        self.work.record_health(change);
    }

    /// Adds lanes whose first delivery nobody may know of.
    pub(super) fn add_lanes(&mut self, lanes: impl IntoIterator<Item = (WebhookId, i64)>) {
        self.work.lanes.extend(lanes);
    }

    /// Makes the next cycle claim for all webhooks.
    pub(super) fn claim_for_all(&mut self) {
        self.claims_for_all = true;
    }

    pub(super) fn claims_for_all(&self) -> bool {
        self.claims_for_all
    }

    /// Whether a cycle may begin: none is under way, and the wait after a failure is over.
    pub(super) fn may_begin(&self, now: Instant) -> bool {
        self.under_way.is_none() && self.not_before.is_none_or(|at| at <= now)
    }

    /// Begins a cycle that claims what there is room for; `None` if there is nothing to write or to claim.
    pub(super) fn begin(&mut self, room: ClaimRoom) -> Option<BeginningCycle> {
        self.not_before = None;
        if room.total > 0 {
            self.claims_for_all = false;
        }
        self.work.room = room;
        if self.work.is_empty() && !self.commit_unknown {
            return None;
        }
        let work = std::mem::take(&mut self.work);
        self.under_way = Some(work.settlements.iter().map(|settlement| settlement.delivery_id).collect());
        // Until its answer has come.
        let reconciles = std::mem::replace(&mut self.commit_unknown, true);
        Some(BeginningCycle { work, reconciles })
    }

    /// The cycle was committed. Keeps the health that it could not write, unless there is a newer one.
    pub(super) fn succeed(&mut self, written: Vec<HealthChange>, cycle: &Cycle) {
        self.under_way = None;
        self.commit_unknown = false;
        self.backoff.reset();
        for change in written {
            if cycle.health_left.contains(&change.webhook_id) && !self.has_health_of(change.webhook_id) {
                self.work.record_health(change);
            }
        }
        self.claims_for_all |= cycle.more;
    }

    /// The cycle failed: puts its work before what has been added since. Gives the wait before the next one;
    /// `jitter` is random, at least 0 and below 1.
    pub(super) fn fail(&mut self, mut failed: Work, now: Instant, jitter: f64) -> Duration {
        self.under_way = None;
        failed.settlements.append(&mut self.work.settlements);
        failed.entries.append(&mut self.work.entries);
        failed.lanes.append(&mut self.work.lanes);
        for change in std::mem::take(&mut self.work.health) {
            failed.record_health(change);
        }
        failed.room = ClaimRoom::default();
        self.work = failed;
        self.claims_for_all = true;
        let delay = self.backoff.after_failure(jitter);
        self.not_before = Some(now + delay);
        delay
    }

    /// Whether health of this webhook waits to be written.
    pub(super) fn has_health_of(&self, webhook: WebhookId) -> bool {
        self.work.health.iter().any(|change| change.webhook_id == webhook)
    }

    /// Deliveries whose settlement waits to be written, or is being written.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = DeliveryId> {
        let waiting = self.work.settlements.iter().map(|settlement| settlement.delivery_id);
        waiting.chain(self.under_way.iter().flatten().copied())
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether nothing is under way and nothing waits to be written.
    pub(super) fn has_settled_all(&self) -> bool {
        self.under_way.is_none() && self.work.is_empty()
    }

    /// Takes out what waits to be written, for the end of the loop.
    pub(super) fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// When the wait after a failure is over; `None` if there is none.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::delivery::circuit::Circuit;
    use crate::domain::delivery::outcome::{Disposition, EndState};
    use crate::domain::ids::EventId;

    fn settlement() -> Settlement {
        Settlement {
            delivery_id: DeliveryId::of(EventId::generate(), WebhookId::generate()),
            attempt: 1,
            disposition: Disposition::Ended(EndState::Delivered),
            half: None,
            status: Some(204),
            outcome: "ok",
            promotes_next: false,
            latest_only: false,
        }
    }

    fn health(webhook_id: WebhookId, failures: u32) -> HealthChange {
        let circuit = Circuit { failures, ..Circuit::default() };
        HealthChange {
            webhook_id,
            circuit,
            last_outcome: None,
            last_reason: None,
            succeeds: false,
            is_back: false,
        }
    }

    fn room(total: i64) -> ClaimRoom {
        ClaimRoom { total, ..ClaimRoom::default() }
    }

    #[test]
    fn without_work_and_without_room_no_cycle_begins() {
        let mut state = CycleState::default();
        assert!(state.begin(room(0)).is_none());
        assert!(state.claims_for_all(), "the claim waits for room");
        assert!(state.begin(room(1)).is_some());
        assert!(!state.claims_for_all());
    }

    #[test]
    fn one_cycle_is_under_way_at_a_time_and_its_deliveries_stay_unsettled() {
        let (mut state, now) = (CycleState::default(), Instant::now());
        let (first, second) = (settlement(), settlement());
        state.add(first.clone(), None);
        let cycle = state.begin(room(0)).unwrap();
        assert!(!cycle.reconciles && !state.may_begin(now));
        state.add(second.clone(), None);
        assert_eq!(state.unsettled().collect::<Vec<_>>(), [second.delivery_id, first.delivery_id]);
        state.succeed(cycle.work.health, &Cycle::default());
        assert_eq!(state.unsettled().collect::<Vec<_>>(), [second.delivery_id]);
        assert!(state.may_begin(now) && !state.has_settled_all());
    }

    #[test]
    fn the_work_of_a_failed_cycle_comes_first_in_the_next_one_which_reconciles() {
        let (mut state, now) = (CycleState::default(), Instant::now());
        let (first, second, webhook) = (settlement(), settlement(), WebhookId::generate());
        state.add(first.clone(), None);
        state.add_health(health(webhook, 1));
        let work = state.begin(room(5)).unwrap().work;
        state.add(second.clone(), None);
        state.add_health(health(webhook, 2));
        let delay = state.fail(work, now, 0.0);
        assert_eq!(delay, RETRY_FIRST);
        assert!(!state.may_begin(now) && state.may_begin(now + delay));
        assert_eq!(state.next_at(), Some(now + delay));
        let next = state.begin(room(0)).unwrap();
        assert!(next.reconciles);
        let ids: Vec<_> = next.work.settlements.iter().map(|s| s.delivery_id).collect();
        assert_eq!(ids, [first.delivery_id, second.delivery_id]);
        let failures: Vec<_> = next.work.health.iter().map(|change| change.circuit.failures).collect();
        assert_eq!(failures, [2], "the newer one");
    }

    #[test]
    fn after_an_unknown_commit_a_cycle_begins_even_without_work() {
        let (mut state, now) = (CycleState::default(), Instant::now());
        let work = state.begin(room(1)).unwrap().work;
        state.fail(work, now, 0.0);
        assert!(state.begin(room(0)).is_some_and(|cycle| cycle.reconciles));
        state.succeed(Vec::new(), &Cycle::default());
        assert!(state.begin(room(0)).is_none());
    }

    #[test]
    fn health_that_could_not_be_written_waits_unless_there_is_a_newer_one() {
        let mut state = CycleState::default();
        let (old, left) = (WebhookId::generate(), WebhookId::generate());
        state.add_health(health(old, 1));
        state.add_health(health(left, 1));
        let work = state.begin(room(0)).unwrap().work;
        state.add_health(health(old, 7));
        state.succeed(work.health, &Cycle { health_left: vec![old, left], ..Cycle::default() });
        let next = state.begin(room(0)).unwrap().work;
        let failures =
            |webhook| next.health.iter().find(|c| c.webhook_id == webhook).unwrap().circuit.failures;
        assert_eq!((failures(old), failures(left)), (7, 1));
    }
}
