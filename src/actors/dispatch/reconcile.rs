//! What we hold according to the database, held against what we have in hand. A transaction may be committed without our
//! being told: its answer was lost, or came too late. Whoever wrote it (a writer of events, a snapshot, a claim, a batch), the
//! delivery would stay leased to us, and its lane blocked, for as long as we live.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Dispatch;
use crate::domain::ids::DeliveryId;
use crate::store::delivery::leases::{LaneCursor, Leases};

/// A delivery stays unknown for so long before it is given back: twice what any step may wait for the database, so that the
/// word about it is not on its way any more.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// Attempts that are leased to us and that we do not know of, each since when.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    since: HashMap<(DeliveryId, i32), Instant>,
}

impl Unknown {
    /// Takes in what was leased to us and unknown at `now`; gives what has been so for too long.
    fn seen(&mut self, unknown: HashSet<(DeliveryId, i32)>, now: Instant) -> Vec<(DeliveryId, i32)> {
        self.since.retain(|attempt, _| unknown.contains(attempt));
        for attempt in unknown {
            self.since.entry(attempt).or_insert(now);
        }
        let overdue = self.since.iter().filter(|(_, since)| now.duration_since(**since) >= UNKNOWN_FOR);
        overdue.map(|(attempt, _)| *attempt).collect()
    }
}

/// A walk through all lanes, over and over, for those whose first delivery nobody holds and nothing wakes: the word about it was
/// lost, with a commit or with a process. One piece at a time, without a pause at first and after a dispatcher's death.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// Behind this lane it goes on.
    pub(super) from: LaneCursor,
    /// It does not pause until it has come to the end.
    pub(super) hurries: bool,
}

impl Default for Walk {
    fn default() -> Self {
        Self { from: LaneCursor::default(), hurries: true }
    }
}

impl Walk {
    /// Takes in how far a piece came; `None`: to the end.
    pub(super) fn go_on(&mut self, to: Option<LaneCursor>) {
        self.hurries &= to.is_some();
        self.from = to.unwrap_or_default();
    }
}

/// A reading of the whole table for what is leased, over and over, as the walk: an index over it would cost every delivery
/// more than this costs all of them (docs/adr/0036).
#[derive(Debug)]
pub(super) struct Scan {
    /// The page where the next piece begins.
    pub(super) from: i64,
    /// It does not pause until it has come to the end.
    pub(super) hurries: bool,
    /// What is leased to us, as far as this reading has come.
    ours: Vec<(DeliveryId, i32)>,
}

impl Default for Scan {
    fn default() -> Self {
        Self { from: 0, hurries: true, ours: Vec::new() }
    }
}

impl Scan {
    /// Takes in a piece; at the end of a reading gives all that is leased to us.
    pub(super) fn go_on(&mut self, piece: Leases) -> Option<Vec<(DeliveryId, i32)>> {
        self.ours.extend(piece.ours);
        self.hurries &= piece.next.is_some();
        self.from = piece.next.unwrap_or_default();
        piece.next.is_none().then(|| std::mem::take(&mut self.ours))
    }
}

impl Dispatch {
    /// Gives back what has been leased to us for long without our knowing of it. If that fails, the next round does it.
    pub(super) fn reconcile(&mut self, leased: Vec<(DeliveryId, i32)>, now: Instant) {
        let settled = self.work.settlements.iter().map(|settlement| settlement.delivery_id);
        let settled: HashSet<_> = settled.chain(self.settling.iter().flatten().copied()).collect();
        let unknown = leased
            .into_iter()
            .filter(|(delivery, _)| !self.held.contains_key(delivery) && !settled.contains(delivery))
            .collect();
        let overdue = self.unknown.seen(unknown, now);
        if overdue.is_empty() {
            return;
        }
        let (store, id, metrics) = (self.deps.store.clone(), self.id, self.deps.metrics.clone());
        tokio::spawn(async move {
            match store.return_leases(id, &overdue).await {
                Ok(0) => {}
                Ok(returned) => {
                    metrics.leases_returned.inc_by(returned);
                    tracing::warn!(
                        returned,
                        "deliveries were leased to us by commits that we were not told of"
                    );
                    store.wake.deliveries_due();
                }
                Err(error) => tracing::warn!(%error, "unknown leases wait for the database"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{EventId, WebhookId};

    #[test]
    fn an_attempt_is_overdue_only_if_it_was_unknown_all_the_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let id = DeliveryId::of(EventId::generate(), WebhookId::generate());
        let mut unknown = Unknown::default();
        assert_eq!(unknown.seen(HashSet::from([(id, 1)]), at(0)), []);
        assert_eq!(unknown.seen(HashSet::new(), at(6)), [], "the word about it came");
        assert_eq!(unknown.seen(HashSet::from([(id, 1)]), at(8)), []);
        assert_eq!(unknown.seen(HashSet::from([(id, 2)]), at(16)), [], "another attempt is another one");
        assert_eq!(unknown.seen(HashSet::from([(id, 2)]), at(25)), []);
        assert_eq!(unknown.seen(HashSet::from([(id, 2)]), at(26)), [(id, 2)]);
        assert_eq!(unknown.seen(HashSet::from([(id, 2)]), at(28)), [(id, 2)], "until it is given back");
    }
}
