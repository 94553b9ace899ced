//! The transaction of the loop: started when there is anything to write or to claim, one at a time.

use std::time::Instant;

use super::{Dispatch, Report, start};
use crate::clock;
use crate::domain::delivery::outcome::EndState;
use crate::domain::delivery::slots::{Risk, WINDOW_FIRST, WINDOW_UNPROVEN};
use crate::domain::ids::WebhookId;
use crate::metrics::OutcomeLabels;
use crate::random;
use crate::store::StoreError;
use crate::store::delivery::types::{Cycle, Known, Room, Work};

impl Dispatch {
    /// Starts a cycle, unless one is under way or there is nothing for it.
    pub(super) fn start_cycle(&mut self, now: Instant) {
        if self.settling.is_some() || self.wait_until.is_some_and(|until| until > now) {
            return;
        }
        self.wait_until = None;
        self.work.room = self.room();
        if self.work.is_empty() && !self.in_doubt {
            return;
        }
        let work = std::mem::take(&mut self.work);
        self.settling = Some(work.settlements.iter().map(|settlement| settlement.delivery_id).collect());
        let doubt = std::mem::replace(&mut self.in_doubt, true);
        let known: Vec<_> =
            self.held.keys().copied().chain(self.settling.iter().flatten().copied()).collect();
        let (store, id) = (self.deps.store.clone(), self.id);
        start(&self.report, async move {
            let mut work = work;
            let cycled = async {
                if doubt {
                    // What the failed cycle wrote is not written again, what it took unheard is given back.
                    let written =
                        store.reconcile_after_unknown_commit(id, clock::now(), &known, &work.entries).await?;
                    work.entries.retain(|entry| {
                        entry.delivery_id.is_none_or(|delivery| !written.contains(&(delivery, entry.at)))
                    });
                }
                store.settle_and_claim(id, clock::now(), &work).await
            };
            let result = cycled.await;
            Report::Cycle { work: Box::new(work), result }
        });
    }

    /// What may be claimed now; nothing if nobody asks for a claim.
    fn room(&mut self) -> Room {
        if self.draining || !(self.claim || self.busy().any(|(_, outlet)| outlet.has_backlog)) {
            return Room::default();
        }
        self.count_places();
        // Half of what is free: what we do not know yet of those that we have nothing of, we know at the next claim.
        let free = self.places.free(Risk::Low).div_ceil(2);
        if free == 0 {
            return Room::default();
        }
        let now = clock::now();
        let places = &self.places;
        let has_backlog: Vec<_> = self
            .busy()
            .filter(|(_, outlet)| outlet.has_backlog && outlet.can_claim_more(now, places))
            .map(|(webhook, _)| webhook)
            .collect();
        for webhook in &has_backlog {
            self.outlet(*webhook).has_backlog = false;
        }
        if !self.claim && has_backlog.is_empty() {
            return Room::default();
        }
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let only = (!self.claim).then_some(has_backlog);
        self.claim = false;
        let known = self.busy().map(|(webhook, outlet)| Known {
            webhook_id: webhook,
            held: count(outlet.in_hand()),
            room: count(outlet.room(&self.places)),
            risk: outlet.risk(),
        });
        Room {
            total: count(free),
            suspect: count(self.places.free(Risk::Suspect).div_ceil(2)),
            unproven: count(self.places.free(Risk::Unproven).div_ceil(2)),
            known: known.collect(),
            others: count(WINDOW_FIRST),
            others_unproven: count(WINDOW_UNPROVEN),
            only,
            limited: self.leader,
        }
    }

    /// Takes in what a cycle found, or keeps its work for the next one.
    pub(super) fn cycled(&mut self, work: Work, result: Result<Cycle, StoreError>) {
        self.settling = None;
        let cycle = match result {
            Ok(cycle) => cycle,
            Err(error) => {
                tracing::warn!(%error, settlements = work.settlements.len(), "dispatch waits for the database");
                self.keep(work);
                self.claim = true;
                self.wait_until = Some(Instant::now() + self.backoff.after_failure(random::unit()));
                return;
            }
        };
        self.in_doubt = false;
        self.backoff.reset();
        for change in work.health {
            let known = self.work.health.iter().any(|newer| newer.webhook_id == change.webhook_id);
            if cycle.health_left.contains(&change.webhook_id) && !known {
                self.work.note(change);
            }
        }
        self.claim |= cycle.more;
        if let Some(took) = cycle.claim_took {
            self.deps.metrics.claim_seconds.observe(took.as_secs_f64());
        }
        if cycle.superseded > 0 {
            let superseded = OutcomeLabels { outcome: EndState::Superseded.as_str() };
            self.deps.metrics.deliveries_ended.get_or_create(&superseded).inc_by(cycle.superseded);
        }
        for webhook in cycle.batches_due {
            self.collect(webhook, 1);
            if let Some(outlet) = self.outlets.get_mut(&webhook) {
                outlet.collecting_since = Some(self.started);
            }
        }
        for claimed in cycle.claimed {
            self.end_hold(claimed.webhook_id);
            self.take(claimed);
        }
        for webhook in cycle.filled {
            if let Some(outlet) = self.outlets.get_mut(&webhook) {
                outlet.has_backlog = true;
            }
        }
    }

    /// What was claimed may be sent: whether a webhook is held is for the database to say, where an operator ends a hold.
    fn end_hold(&mut self, webhook: WebhookId) {
        let unwritten = self.work.health.iter().any(|change| change.webhook_id == webhook);
        if let Some(outlet) = self.outlets.get_mut(&webhook).filter(|_| !unwritten) {
            outlet.circuit.hold_until = None;
        }
    }

    /// Puts the work of a failed cycle before what has come since.
    fn keep(&mut self, mut failed: Work) {
        failed.settlements.append(&mut self.work.settlements);
        failed.entries.append(&mut self.work.entries);
        failed.lanes.append(&mut self.work.lanes);
        for change in std::mem::take(&mut self.work.health) {
            failed.note(change);
        }
        failed.room = Room::default();
        self.work = failed;
    }
}
