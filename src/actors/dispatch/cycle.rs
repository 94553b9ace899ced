//! Cycles of the loop: one begins when there is anything to write or to claim, one at a time.

use std::time::Instant;

use super::{Dispatch, Report, start};
use crate::clock;
use crate::domain::delivery::outcome::EndState;
use crate::domain::ids::WebhookId;
use crate::random;
use crate::store::StoreError;
use crate::store::delivery::types::{ClaimRoom, Cycle, Work};

impl Dispatch {
    /// Starts a cycle, unless one is under way or there is nothing for it.
    pub(super) fn start_cycle(&mut self, now: Instant) {
        if !self.cycle.may_begin(now) {
            return;
        }
        let room = match self.draining {
            true => ClaimRoom::default(),
            false => self.queues.claimable(self.cycle.claims_for_all(), clock::now()),
        };
        let Some(cycle) = self.cycle.begin(room) else { return };
        let known: Vec<_> = self.leases.ids().chain(self.cycle.unsettled()).collect();
        let (store, id) = (self.deps.store.clone(), self.id);
        start(&self.report, async move {
            let mut work = cycle.work;
            let cycled = async {
                if cycle.reconciles {
                    // What the failed cycle wrote is not written again; what it leased without our knowing is
                    // returned.
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

    /// Takes over what a cycle claimed, or keeps its work for the next one.
    pub(super) fn on_cycle(&mut self, work: Work, result: Result<Cycle, StoreError>) {
        let cycle = match result {
            Ok(cycle) => cycle,
            Err(error) => {
                let settlements = work.settlements.len();
                if matches!(error, StoreError::GoneOn) {
                    self.cycle.backoff.reset();
                }
                let delay = self.cycle.fail(work, Instant::now(), random::unit());
                tracing::warn!(
                    %error, settlements, ?delay,
                    "failed to settle and claim deliveries; retrying after the delay"
                );
                return;
            }
        };
        self.cycle.succeed(work.health, &cycle);
        let unsettled = &self.cycle;
        self.queues.end_settling(|id| unsettled.unsettled().any(|other| other == id));
        if let Some(took) = cycle.claim_took {
            self.deps.metrics.claim_seconds.observe(took.as_secs_f64());
        }
        if cycle.superseded > 0 {
            let ended = &self.deps.metrics.deliveries_ended;
            ended.of(EndState::Superseded.as_str()).inc_by(cycle.superseded);
        }
        for webhook in cycle.batches_due {
            self.collect_due(webhook);
        }
        for claimed in cycle.claimed {
            self.end_hold(claimed.webhook_id);
            self.accept(claimed);
        }
        for webhook in cycle.filled {
            self.queues.mark_backlog(webhook);
        }
    }

    /// Ends the hold of a webhook of which something was claimed: an operator may have ended it in the
    /// database, which decides as soon as it knows our health.
    fn end_hold(&mut self, webhook: WebhookId) {
        if self.cycle.has_health_of(webhook) {
            return;
        }
        if let Some(queue) = self.queues.get_mut(webhook) {
            queue.receiver.circuit.hold_until = None;
        }
    }
}
