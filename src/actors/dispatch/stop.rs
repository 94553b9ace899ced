//! A stop of the loop: it claims nothing more, POSTs under way may end, and nothing stays leased to this
//! process.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Dispatch, Report};
use crate::clock;

/// How long the end waits for transactions under way; the whole stop has little time left by then.
const END_WITHIN: Duration = Duration::from_secs(1);

impl Dispatch {
    /// Claims nothing more, and returns what is leased and not under way.
    pub(super) fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.deps.store.handoff.close();
        }
        let now = clock::now();
        for webhook in self.queues.ids() {
            self.return_to_queue(webhook, now);
        }
    }

    /// Writes the answers that came at the last moment, so that their deliveries are not sent again, and
    /// returns the rest. It waits for the transactions under way, which could lease something that nobody
    /// returns any more.
    pub(super) async fn end(mut self, mut reports: mpsc::UnboundedReceiver<Report>) {
        let by = Instant::now() + END_WITHIN;
        while self.cycle.is_under_way()
            || self.timers.is_maintenance_under_way()
            || self.queues.is_forming_batch()
        {
            let Ok(Some(report)) = timeout_at(by, reports.recv()).await else { break };
            self.handle_report(report);
        }
        while let Ok(report) = reports.try_recv() {
            self.handle_report(report);
        }
        self.drain();
        let work = self.cycle.take_work();
        let mut under_way: Vec<_> = self.leases.ids().collect();
        let settled = self.deps.store.settle_and_claim(self.id, clock::now(), &work).await;
        if let Err(error) = settled {
            let deliveries = work.settlements.len();
            tracing::warn!(
                %error, deliveries,
                "failed to settle deliveries before the stop; those that were sent are sent again"
            );
            under_way.extend(work.settlements.iter().map(|settlement| settlement.delivery_id));
        }
        if let Err(error) = self.deps.store.end_dispatcher(self.id, &under_way).await {
            tracing::warn!(
                %error, dispatcher = %self.id,
                "failed to release this dispatcher's leases before the stop; they expire in seconds"
            );
        }
    }
}
