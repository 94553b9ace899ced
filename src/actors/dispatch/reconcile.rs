//! How the loop finds what no message tells of: leases and lanes in the database, compared with what it
//! knows. The answer to a commit may be lost or come too late. Whoever committed (a writer of events, a
//! snapshot, a claim, a batch), the delivery would stay leased to us, and its lane blocked, for as long as
//! this process lives.

use std::time::Instant;

use super::Dispatch;
use crate::domain::ids::DeliveryId;
use crate::store::delivery::leases::{LaneCursor, Leases};

/// A walk through all lanes, over and over, for those whose first delivery is neither leased nor due: the
/// message about it was lost, with a commit or with a process. One piece at a time, without a pause at first
/// and after a dispatcher's death.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneWalk {
    /// It goes on after this lane.
    pub(super) from: LaneCursor,
    /// It does not pause until it has come to the end.
    pub(super) hurries: bool,
}

impl Default for LaneWalk {
    fn default() -> Self {
        Self { from: LaneCursor::default(), hurries: true }
    }
}

impl LaneWalk {
    /// Takes over how far a piece came; `None`: to the end.
    pub(super) fn advance(&mut self, to: Option<LaneCursor>) {
        self.hurries &= to.is_some();
        self.from = to.unwrap_or_default();
    }
}

/// A scan of the whole table for leases, over and over, as the walk: an index over them would cost every
/// delivery more than this costs all of them (docs/adr/0036).
#[derive(Debug)]
pub(super) struct LeaseScan {
    /// Page where the next piece begins.
    pub(super) from: i64,
    /// It does not pause until it has come to the end.
    pub(super) hurries: bool,
    /// Deliveries leased to us, as far as this scan has come, each with its attempt.
    ours: Vec<(DeliveryId, i32)>,
}

impl Default for LeaseScan {
    fn default() -> Self {
        Self { from: 0, hurries: true, ours: Vec::new() }
    }
}

impl LeaseScan {
    /// Takes over a piece; at the end of the table gives all that is leased to us.
    pub(super) fn advance(&mut self, piece: Leases) -> Option<Vec<(DeliveryId, i32)>> {
        self.ours.extend(piece.ours);
        self.hurries &= piece.next.is_some();
        self.from = piece.next.unwrap_or_default();
        piece.next.is_none().then(|| std::mem::take(&mut self.ours))
    }
}

impl Dispatch {
    /// Returns what has been leased to us for long without our knowing of it. If that fails, the next run
    /// does it.
    pub(super) fn return_unknown(&mut self, leased: Vec<(DeliveryId, i32)>, now: Instant) {
        let unsettled = self.cycle.unsettled().collect();
        let overdue = self.leases.overdue(leased, &unsettled, now);
        if overdue.is_empty() {
            return;
        }
        let (store, id, metrics) = (self.deps.store.clone(), self.id, self.deps.metrics.clone());
        tokio::spawn(async move {
            match store.return_leases(id, &overdue).await {
                Ok(0) => {}
                Ok(returned) => {
                    metrics.leases_returned.inc_by(returned);
                    tracing::warn!(returned, "returned leases whose commit this dispatcher was not told of");
                    store.wake.deliveries_due();
                }
                Err(error) => {
                    let leases = overdue.len();
                    tracing::warn!(
                        %error, leases,
                        "failed to return leases whose commit this dispatcher was not told of; retrying in 2 s"
                    );
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{EventId, WebhookId};

    #[test]
    fn a_scan_gives_what_is_leased_to_us_at_the_end_of_the_table() {
        let mut scan = LeaseScan::default();
        let lease = || (DeliveryId::of(EventId::generate(), WebhookId::generate()), 1);
        let (first, last) = (lease(), lease());
        let piece = |ours, next| Leases { ours: vec![ours], freed: 0, next };
        assert_eq!(scan.advance(piece(first, Some(4096))), None);
        assert!(scan.hurries && scan.from == 4096);
        assert_eq!(scan.advance(piece(last, None)), Some(vec![first, last]));
        assert!(!scan.hurries && scan.from == 0, "the next scan begins, and takes its time");
    }

    #[test]
    fn a_walk_hurries_until_its_first_end() {
        let mut walk = LaneWalk::default();
        walk.advance(Some(LaneCursor::default()));
        assert!(walk.hurries);
        walk.advance(None);
        walk.advance(Some(LaneCursor::default()));
        assert!(!walk.hurries);
    }
}
