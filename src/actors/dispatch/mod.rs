//! The loop that sends what is owed, over and over: into our hands → POST → written down.
//!
//! ```text
//!  writers of events ──handed over──┐                        ┌──▶ POST (a task each) ──▶ concluded ─┐
//!                                   ▼                        │                                      ▼
//!  cycle: what is due ─claimed──▶ [outlets: ready] ──room, pace, circuit──┘                 [work: settlements]
//!     ▲                                                                                             │
//!     └──────────────────────────── one short transaction at a time ◀───────────────────────────────┘
//! ```
//!
//! Who is first in a lane is decided in the database (store/delivery/cycle.rs); what an answer means by
//! `domain::delivery::judge`; when a receiver is left alone by `domain::circuit`. The loop never waits for the
//! database: a cycle under way is a task, and meanwhile POSTs begin and end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::clock;
use crate::domain::delivery::capacity::DispatchCapacity;
use crate::domain::delivery::slots::{Places, Risk, WINDOW_FIRST};
use crate::domain::ids::{DeliveryId, DispatcherId, EventId, RecoveryId, WebhookId};
use crate::domain::retry_backoff::RetryBackoff;
use crate::outbound::post::Answer;
use crate::random;
use crate::status::Part;
use crate::store::StoreError;
use crate::store::delivery::direct_dispatch::DirectDispatch;
use crate::store::delivery::targets::WebhookTarget;
use crate::store::delivery::types::{Claimed, Cycle, Work};
use actor::{DispatcherDeps, Order};
use queue::WebhookQueue;

pub mod actor;
mod maintenance;
mod queue;
mod recovery;

mod batches;
mod conclude;
mod cycle;
mod reconcile;
mod send;
mod stop;

/// The poll that finds what no nudge told of: retries, other processes' events, lost nudges.
const POLL: Duration = Duration::from_secs(1);
/// How often we give a sign of life, look for dead dispatchers, for probes, recoveries and snapshots.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(2);
/// Wait between tries while the database is away; grows to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// What tasks report to the loop.
enum Report {
    /// A POST came back; of a batch all its deliveries.
    Posted { webhook: WebhookId, post: u64, items: Vec<Claimed>, batch_id: Option<String>, answer: Answer },
    /// A cycle is over; its work comes back if it failed.
    Cycle { work: Box<Work>, result: Result<Cycle, StoreError> },
    /// A webhook was read.
    Read { webhook: WebhookId, result: Box<Result<WebhookTarget, StoreError>> },
    /// A batch was formed; empty if there was nothing to form.
    Formed { webhook: WebhookId, result: Result<Vec<Claimed>, StoreError> },
    /// A webhook was disabled, or could not be.
    Disabled { webhook: WebhookId },
    /// A recovery is in our hands no more.
    Recovered(RecoveryId),
    /// A round of upkeep is over.
    Maintained(Result<maintenance::Found, StoreError>),
    /// A task panicked: what it was to report will never come.
    Died,
}

/// The loop cannot go on: it would wait for ever for a task that panicked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a task of it panicked")]
pub(super) struct Died;

/// Held by a task. A panic drops it on its way out.
struct Lifeline(mpsc::UnboundedSender<Report>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Report::Died);
        }
    }
}

/// Starts a task that ends with a report, even if it panics.
fn start(report: &mpsc::UnboundedSender<Report>, task: impl Future<Output = Report> + Send + 'static) {
    let lifeline = Lifeline(report.clone());
    tokio::spawn(async move {
        let report = task.await;
        let _ = lifeline.0.send(report);
    });
}

/// The loop and what it keeps between steps.
pub(super) struct Dispatch {
    deps: DispatcherDeps,
    /// Who we are in the database.
    id: DispatcherId,
    /// The moment that paces count from.
    started: Instant,
    outlets: HashMap<WebhookId, WebhookQueue>,
    /// Those of them with anything in hand, to wait for, or wrong: a turn looks at these, and not at thousands that are kept
    /// for their settings and connections alone.
    busy: HashSet<WebhookId>,
    /// Attempt of each delivery in hand.
    held: HashMap<DeliveryId, i32>,
    /// Lanes of which we have the first in hand.
    lanes: HashSet<(WebhookId, i64)>,
    /// Texts of the last events.
    told: HashMap<EventId, send::Told>,
    /// To be written down by the next cycle.
    work: Work,
    /// A cycle is under way, with these deliveries' settlements.
    settling: Option<Vec<DeliveryId>>,
    /// The last cycle failed, perhaps after its commit.
    in_doubt: bool,
    /// How far the lanes are looked through for those that nothing wakes.
    walk: reconcile::Walk,
    /// How far the table is read for what is leased.
    scan: reconcile::Scan,
    /// When that goes on, and what is leased to us is compared.
    look_at: Instant,
    /// Leased to us, and unknown to us.
    unknown: reconcile::Unknown,
    /// Claim with the next cycle.
    claim: bool,
    /// Not before this moment, because the database was away.
    wait_until: Option<Instant>,
    backoff: RetryBackoff,
    maintenance_at: Instant,
    maintenance_runs: bool,
    /// Recoveries in our hands.
    recovering: HashSet<RecoveryId>,
    poll_at: Instant,
    /// Changes of webhooks, counted, when their settings were read last.
    generation: i64,
    /// No dispatcher that lives is older: we serve the webhooks that are limited.
    leader: bool,
    draining: bool,
    /// A task panicked.
    died: bool,
    /// How the places are taken.
    places: Places,
    /// Webhooks whose present address has accepted a POST.
    proven: Arc<HashSet<WebhookId>>,
    /// Number of the last POST.
    last_post: u64,
    report: mpsc::UnboundedSender<Report>,
}

impl Dispatch {
    /// A loop with nothing in hand, and what its tasks will report.
    fn new(deps: DispatcherDeps) -> (Self, mpsc::UnboundedReceiver<Report>) {
        // Unbounded is bounded here: each item is one of at most `places::ALL` POSTs or of a few other tasks.
        let (report, reports) = mpsc::unbounded_channel();
        let now = Instant::now();
        let dispatch = Self {
            deps,
            id: DispatcherId::generate(),
            started: now,
            outlets: HashMap::new(),
            busy: HashSet::new(),
            held: HashMap::new(),
            lanes: HashSet::new(),
            told: HashMap::new(),
            work: Work::default(),
            settling: None,
            in_doubt: false,
            walk: reconcile::Walk::default(),
            scan: reconcile::Scan::default(),
            look_at: now,
            unknown: reconcile::Unknown::default(),
            claim: true,
            wait_until: None,
            backoff: RetryBackoff::new(RETRY_FIRST, RETRY_LONGEST),
            maintenance_at: now,
            maintenance_runs: false,
            recovering: HashSet::new(),
            poll_at: now,
            generation: 0,
            leader: false,
            draining: false,
            died: false,
            places: Places::default(),
            proven: Arc::default(),
            last_post: 0,
            report,
        };
        (dispatch, reports)
    }

    /// Inputs of the loop: what tasks report, what is handed over, the nudge, the poll, and the order to drain.
    /// Ends when it has drained.
    ///
    /// # Errors
    /// If a task panicked: another loop is to take this one's place, and what it held is free once its lease has ended.
    pub(super) async fn run(deps: DispatcherDeps, mut orders: watch::Receiver<Order>) -> Result<(), Died> {
        let (mut dispatch, mut reports) = Self::new(deps);
        dispatch.begin().await;
        let store = dispatch.deps.store.clone();
        loop {
            dispatch.deps.status.alive(Part::Dispatcher);
            let order = *orders.borrow_and_update();
            if let Order::DrainUntil(by) = order {
                dispatch.drain();
                let idle =
                    dispatch.held.is_empty() && dispatch.settling.is_none() && dispatch.work.is_empty();
                if idle || Instant::now() >= by {
                    break;
                }
            }
            dispatch.turn();
            let wait = dispatch.next_moment(order).saturating_duration_since(Instant::now());
            tokio::select! {
                Some(report) = reports.recv() => {
                    dispatch.hear(report);
                    // What came meanwhile goes into the same cycle.
                    while let Ok(report) = reports.try_recv() {
                        dispatch.hear(report);
                    }
                }
                () = store.handoff.notified() => {}
                () = store.wake.wait_deliveries_due() => {
                    dispatch.claim = true;
                    dispatch.maintenance_at = Instant::now();
                }
                Ok(()) = orders.changed() => {}
                () = sleep(wait) => {}
            }
            if dispatch.died {
                return Err(Died);
            }
        }
        dispatch.end(reports).await;
        Ok(())
    }

    /// Says in the database that we live. Nothing else is done before.
    async fn begin(&mut self) {
        // What was handed to a loop before us, which died, is free once its lease has ended.
        self.deps.store.handoff.close();
        loop {
            let begun = self.deps.store.begin_dispatcher(self.id, clock::now()).await;
            let error = match begun.map(|()| self.deps.store.proven_webhooks()) {
                Err(error) => error,
                Ok(proven) => match proven.await {
                    Err(error) => error,
                    Ok(proven) => {
                        self.proven = Arc::new(proven);
                        break;
                    }
                },
            };
            tracing::warn!(%error, "the dispatcher waits for the database");
            self.deps.status.alive(Part::Dispatcher);
            sleep(self.backoff.after_failure(random::unit())).await;
        }
        self.backoff.reset();
    }

    /// One turn: takes what was handed over, sends what may go, and starts the tasks that are due.
    fn turn(&mut self) {
        for handed in self.deps.store.handoff.take() {
            match handed {
                DirectDispatch::Delivery(claimed) => self.take(*claimed),
                DirectDispatch::Behind { webhook, lane } => {
                    if !self.lanes.contains(&(webhook, lane)) {
                        self.work.lanes.push((webhook, lane));
                    }
                }
                DirectDispatch::Left { webhook } => self.left(webhook),
                DirectDispatch::Collecting { webhook, count } => self.collect(webhook, count),
            }
        }
        let now = Instant::now();
        if now >= self.poll_at {
            self.claim = true;
            self.poll_at = now + POLL;
        }
        self.pump_paced(now);
        self.form_batches(now);
        self.start_cycle(now);
        if now >= self.maintenance_at && !self.maintenance_runs {
            self.start_maintenance();
        }
        self.publish_capacity();
    }

    /// Takes a delivery in hand.
    fn take(&mut self, claimed: Claimed) {
        let webhook = claimed.webhook_id;
        if let Some(attempt) = self.held.get_mut(&claimed.delivery_id) {
            // It was freed behind our back, while the database was away, and came to us again: what is under way goes on.
            *attempt = claimed.attempt;
            return;
        }
        self.held.insert(claimed.delivery_id, claimed.attempt);
        self.lanes.insert((webhook, claimed.lane));
        let outlet = self.outlet(webhook);
        let known = outlet.prepared.as_ref().map_or(-1, |prepared| prepared.version);
        outlet.used_at = Instant::now();
        let version = claimed.webhook_version;
        outlet.ready.push_back(claimed);
        if known < version {
            self.read(webhook);
        }
        self.pump(webhook);
    }

    /// Hears that something due of a webhook is left in the database. If we have nothing of it, the poll finds it.
    fn left(&mut self, webhook: WebhookId) {
        if let Some(outlet) = self.outlets.get_mut(&webhook) {
            outlet.has_backlog = true;
            self.busy.insert(webhook);
        }
    }

    /// What we know of a webhook that is about to have something to do.
    fn outlet(&mut self, webhook: WebhookId) -> &mut WebhookQueue {
        self.busy.insert(webhook);
        let is_proven = self.proven.contains(&webhook);
        self.outlets.entry(webhook).or_insert_with(|| WebhookQueue::new(is_proven))
    }

    /// Webhooks that a turn has to look at.
    fn busy(&self) -> impl Iterator<Item = (WebhookId, &WebhookQueue)> {
        self.busy.iter().filter_map(|webhook| Some((*webhook, self.outlets.get(webhook)?)))
    }

    /// Reads a webhook's settings, address and keys.
    fn read(&mut self, webhook: WebhookId) {
        let outlet = self.outlet(webhook);
        if std::mem::replace(&mut outlet.loading, true) {
            return;
        }
        let (store, key) = (self.deps.store.clone(), self.deps.master_key.clone());
        start(&self.report, async move {
            let result = Box::new(store.webhook_target(webhook, clock::now(), &key).await);
            Report::Read { webhook, result }
        });
    }

    fn hear(&mut self, report: Report) {
        match report {
            Report::Posted { webhook, post, items, batch_id, answer } => {
                self.conclude(webhook, post, items, batch_id, &answer);
            }
            Report::Cycle { work, result } => self.cycled(*work, result),
            Report::Read { webhook, result } => self.know(webhook, *result),
            Report::Formed { webhook, result } => self.formed(webhook, result),
            Report::Disabled { webhook } => self.disabled(webhook),
            Report::Recovered(id) => self.recovered(id),
            Report::Maintained(result) => self.maintained(result),
            Report::Died => self.died = true,
        }
    }

    /// Tells writers of events what they may put into our hands.
    fn publish_capacity(&mut self) {
        if self.draining {
            return;
        }
        let now = clock::now();
        let outlets = &self.outlets;
        self.busy.retain(|webhook| outlets.get(webhook).is_some_and(|outlet| !outlet.is_drained()));
        self.count_places();
        let room = |outlet: &WebhookQueue| if outlet.is_closed(now) { 0 } else { outlet.room(&self.places) };
        let rooms = self.busy().map(|(webhook, outlet)| (webhook, room(outlet))).collect();
        self.deps.store.handoff.publish_capacity(DispatchCapacity {
            dispatcher: Some(self.id),
            // Half of what is free, as several may take their leave before we look again.
            room: self.places.free(Risk::Low).div_ceil(2),
            rooms: Arc::new(rooms),
            others: WINDOW_FIRST,
            proven: self.proven.clone(),
            unproven: self.places.free(Risk::Unproven).div_ceil(2),
            limited: self.leader,
        });
    }

    /// Counts anew who has how many places.
    fn count_places(&mut self) {
        let mut places = Places::default();
        for (_, outlet) in self.busy() {
            let taken = outlet.places();
            if taken > 0 {
                places.take(outlet.owner(), outlet.risk(), taken);
            }
        }
        self.places = places;
    }

    /// When the loop has something to do even if nothing happens.
    fn next_moment(&self, order: Order) -> Instant {
        let mut moment = self.poll_at;
        if !self.maintenance_runs {
            moment = moment.min(self.maintenance_at.max(Instant::now() + Duration::from_millis(1)));
        }
        if let Order::DrainUntil(by) = order {
            moment = moment.min(by);
        }
        if let Some(until) = self.wait_until {
            moment = moment.min(until);
        }
        for (_, outlet) in self.busy() {
            moment = moment.min(outlet.paced_until.unwrap_or(moment));
            if !self.draining && outlet.may_form(&self.places) {
                moment = moment.min(outlet.batch_due_at().unwrap_or(moment));
            }
        }
        moment
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_reported_and_one_that_ends_reports() {
        let (report, mut reports) = mpsc::unbounded_channel();
        start(&report, async { panic!("on purpose") });
        assert!(matches!(reports.recv().await, Some(Report::Died)));
        let webhook = WebhookId::generate();
        start(&report, async move { Report::Disabled { webhook } });
        assert!(matches!(reports.recv().await, Some(Report::Disabled { webhook: told }) if told == webhook));
        drop(report);
        assert!(reports.recv().await.is_none(), "nothing more is told of it");
    }
}
