//! Maintenance of the dispatcher, every few seconds: the clock, its own sign of life, dead dispatchers,
//! probes, recoveries, snapshots.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::actor::DispatcherDeps;
use super::probe::probe;
use super::reconcile::{LaneWalk, LeaseScan};
use super::recovery::recover;
use super::{Dispatch, Report, start};
use crate::clock;
use crate::domain::ids::{DeliveryId, DispatcherId, RecoveryId, WebhookId};
use crate::store::{Store, StoreError};

/// How long one run does each kind of long work piece by piece: the next sign of life must not wait for all
/// of it.
const PIECES_WITHIN: Duration = Duration::from_millis(700);
/// Recoveries that this process works on at a time: each uses a connection to the database most of the time.
const RECOVERIES_AT_ONCE: usize = 4;

/// How far maintenance has come from run to run.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Number of the last change of a webhook that was seen.
    generation: i64,
    walk: LaneWalk,
    scan: LeaseScan,
    /// Recoveries leased to this process.
    recovering: HashSet<RecoveryId>,
    /// Deliveries of dead dispatchers that this scan has released.
    taken_over: u64,
}

/// Result of one run.
pub(super) struct MaintenanceResult {
    /// This dispatcher counted as dead: its leases were released.
    lost: bool,
    leader: bool,
    /// Leases of dead dispatchers that were released.
    freed: u64,
    /// Deliveries became due.
    due: bool,
    /// Recoveries leased to this process now.
    recoveries: Vec<RecoveryId>,
    /// Some of the long work is left.
    more: bool,
    generation: i64,
    /// Webhooks that have changed since the run before; `None`: perhaps all.
    changed: Option<Vec<WebhookId>>,
    walk: LaneWalk,
    scan: LeaseScan,
    /// Deliveries leased to us in the database, each with its attempt; `None`: the scan has not come to the
    /// end.
    leased: Option<Vec<(DeliveryId, i32)>>,
    /// Lanes that a writer added to without learning whether that was committed. Its transaction has ended by
    /// now.
    lanes: HashSet<(WebhookId, i64)>,
}

impl Dispatch {
    /// Starts a run; `checks_leases`: it looks through leases and lanes too.
    pub(super) fn start_maintenance(&mut self, checks_leases: bool) {
        let run = Run {
            deps: self.deps.clone(),
            id: self.id,
            generation: self.progress.generation,
            recovering: self.progress.recovering.iter().copied().collect(),
            walk: self.progress.walk,
            scan: std::mem::take(&mut self.progress.scan),
            checks_leases,
        };
        start(&self.report, async move { Report::Maintained(run.run().await) });
    }

    /// Takes over the result of a run.
    pub(super) fn on_maintained(&mut self, result: Result<MaintenanceResult, StoreError>) {
        self.timers.end_maintenance();
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                tracing::warn!(%error, dispatcher = %self.id, "dispatcher maintenance failed; retrying in 2 s");
                return;
            }
        };
        for id in result.recoveries {
            if self.progress.recovering.insert(id) {
                start(&self.report, recover(self.deps.store.clone(), self.id, id));
            }
        }
        if result.more {
            self.timers.bring_maintenance_forward(Instant::now());
        }
        // Only a dead dispatcher knew which lanes wait for it.
        let walks_again = result.freed > 0 || result.lost;
        if self.queues.set_leader(result.leader) || walks_again || result.due {
            self.cycle.claim_for_all();
        }
        self.progress.walk = if walks_again { LaneWalk::default() } else { result.walk };
        self.progress.scan = result.scan;
        self.progress.generation = result.generation;
        if result.lost {
            // Leased to others by now, or soon. The answers to POSTs under way find that their rows have
            // moved on.
            for webhook in self.queues.ids() {
                self.return_to_queue(webhook, clock::now());
            }
        }
        for webhook in result.changed.unwrap_or_else(|| self.queues.ids()) {
            let is_used = self.queues.get(webhook).is_some_and(|queue| queue.config().is_some());
            if is_used || self.receiver_log.keeps(webhook) {
                self.read_config(webhook);
            }
        }
        self.queues.evict_unused(Instant::now());
        if !self.draining {
            self.cycle.add_lanes(result.lanes);
        }
        self.progress.taken_over += result.freed;
        if let Some(leased) = result.leased {
            let deliveries = std::mem::take(&mut self.progress.taken_over);
            if deliveries > 0 {
                tracing::info!(deliveries, "took over deliveries that a bridge had leased when it ended");
            }
            self.return_unknown(leased, Instant::now());
        }
    }

    /// A recovery has ended, or is leased to another process: there is room for the next one.
    pub(super) fn on_recovery_ended(&mut self, id: RecoveryId) {
        self.progress.recovering.remove(&id);
        self.timers.bring_maintenance_forward(Instant::now());
    }
}

/// One run of maintenance.
struct Run {
    deps: DispatcherDeps,
    id: DispatcherId,
    generation: i64,
    recovering: Vec<RecoveryId>,
    walk: LaneWalk,
    scan: LeaseScan,
    checks_leases: bool,
}

impl Run {
    async fn run(mut self) -> Result<MaintenanceResult, StoreError> {
        let deps = self.deps.clone();
        let store = &deps.store;
        store.sync_clock().await?;
        let now = clock::now();
        let lost = !store.is_alive(self.id, now).await?;
        if lost {
            store.begin_dispatcher(self.id, now).await?;
        }
        let leader = store.is_leader(self.id, now).await?;
        if store.end_the_dead(now).await? > 0 {
            self.scan = LeaseScan::default();
        }
        let (freed, leased) = self.scan_leases(now).await?;
        for webhook in store.begin_probes(now).await? {
            tokio::spawn(probe(deps.clone(), webhook));
        }
        store.learn_erasures().await?;
        let recoveries = self.take_recoveries(now).await?;
        let more_snapshots = store.write_snapshots(PIECES_WITHIN).await?;
        let worked = store.work_on_webhooks(PIECES_WITHIN).await?;
        for (end, count) in &worked.ended {
            let outcome = end.as_str();
            deps.metrics.deliveries_ended.of(outcome).inc_by(*count);
        }
        if worked.lanes {
            self.walk = LaneWalk::default();
        }
        let woken = self.walk_lanes(now).await?;
        let (generation, changed) = store.webhooks_changed(self.generation).await?;
        let (lanes, released) = release_uncertain(store).await?;
        Ok(MaintenanceResult {
            lost,
            leader,
            freed,
            due: worked.due + woken + released > 0,
            recoveries,
            more: more_snapshots || worked.more || self.walk.hurries || self.scan.hurries,
            generation,
            changed,
            walk: self.walk,
            scan: self.scan,
            leased,
            lanes,
        })
    }

    /// Scans the next pieces of the table for leases; gives how many of dead dispatchers were released, and
    /// at the end of the table all that is leased to us.
    async fn scan_leases(
        &mut self,
        now: OffsetDateTime,
    ) -> Result<(u64, Option<Vec<(DeliveryId, i32)>>), StoreError> {
        let (mut freed, mut leased) = (0, None);
        let by = Instant::now() + PIECES_WITHIN;
        while self.scan.hurries || self.checks_leases {
            let piece = self.deps.store.leases_in(self.id, self.scan.from, now).await?;
            freed += piece.freed;
            leased = self.scan.advance(piece);
            if !self.scan.hurries || Instant::now() >= by {
                break;
            }
        }
        Ok((freed, leased))
    }

    /// Leases as many recoveries to this process as there is room for.
    async fn take_recoveries(&self, now: OffsetDateTime) -> Result<Vec<RecoveryId>, StoreError> {
        let room = RECOVERIES_AT_ONCE.saturating_sub(self.recovering.len());
        if room == 0 {
            return Ok(Vec::new());
        }
        let room = i64::try_from(room).unwrap_or(i64::MAX);
        self.deps.store.take_recoveries(self.id, &self.recovering, now, room).await
    }

    /// Walks through the next lanes; gives how many of them nothing would have woken.
    async fn walk_lanes(&mut self, now: OffsetDateTime) -> Result<u64, StoreError> {
        let by = Instant::now() + PIECES_WITHIN;
        let mut woken = 0;
        while self.walk.hurries || self.checks_leases {
            let (to, lanes) = self.deps.store.wake_stranded(self.walk.from, now).await?;
            self.walk.advance(to);
            woken += lanes;
            if !self.walk.hurries || Instant::now() >= by {
                break;
            }
        }
        Ok(woken)
    }
}

/// Releases what a writer leased at insert without learning whether that was committed, once its transaction
/// has ended: no dispatcher was told of it. Gives the lanes that it added to, and how many leases were
/// released.
async fn release_uncertain(store: &Store) -> Result<(HashSet<(WebhookId, i64)>, u64), StoreError> {
    let uncertain = store.handoff.take_uncertain();
    if uncertain.is_empty() {
        return Ok((uncertain.lanes, 0));
    }
    let released = async {
        store.writers_ended().await?;
        store.release_unannounced(&uncertain.leased_at_insert).await
    };
    match released.await {
        Ok(released) => Ok((uncertain.lanes, released)),
        Err(error) => {
            store.handoff.look_into(uncertain);
            Err(error)
        }
    }
}
