//! A stop of the loop: nothing more is taken, what is under way may end, and nothing stays leased to us.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Dispatch, Report};
use crate::clock;

/// How long the end waits for what still writes; the whole stop has little time left by then.
const END_WITHIN: Duration = Duration::from_secs(1);

impl Dispatch {
    /// Takes nothing more: what is in hand and not under way goes back.
    pub(super) fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.deps.store.handoff.close();
        }
        let now = clock::now();
        let webhooks: Vec<_> = self.outlets.keys().copied().collect();
        for webhook in webhooks {
            self.give_back(webhook, now);
        }
    }

    /// Writes down what came back at the last moment, so that it is not sent again, and gives the rest back. What still writes
    /// is awaited: it would take or write something that nobody gives back any more.
    pub(super) async fn end(mut self, mut reports: mpsc::UnboundedReceiver<Report>) {
        let by = Instant::now() + END_WITHIN;
        while self.settling.is_some()
            || self.maintenance_runs
            || self.outlets.values().any(|outlet| outlet.forming)
        {
            let Ok(Some(report)) = timeout_at(by, reports.recv()).await else { break };
            self.hear(report);
        }
        while let Ok(report) = reports.try_recv() {
            self.hear(report);
        }
        self.drain();
        let work = std::mem::take(&mut self.work);
        let mut under_way: Vec<_> = self.held.keys().copied().collect();
        let settled = self.deps.store.settle_and_claim(self.id, clock::now(), &work).await;
        if let Err(error) = settled {
            tracing::warn!(%error, "answers could not be written down; they are repeated");
            under_way.extend(work.settlements.iter().map(|settlement| settlement.delivery_id));
        }
        if let Err(error) = self.deps.store.end_dispatcher(self.id, &under_way).await {
            tracing::warn!(%error, "what we hold could not be given back; it is free once our lease has ended");
        }
    }
}
