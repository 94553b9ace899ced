//! Dispatch loop: leases pending deliveries, POSTs them, and settles them.
//!
//! ```text
//!  writers of events ──direct dispatch──┐                            ┌──▶ POST (a task) ──▶ conclude ──┐
//!                                       ▼                            │                                 ▼
//!  cycle: claims due ones ──▶ [queues: ready] ──room, rate, circuit──┘          [cycle state: settlements]
//!     ▲                                                                                                │
//!     └─────────────────────────────── one short transaction at a time ────────────────────────────────┘
//! ```
//!
//! The database decides who is first in a lane (store/delivery/cycle.rs), `domain::delivery::outcome` what an
//! answer means, and `domain::delivery::circuit` when a receiver is left alone. The loop never waits for the
//! database: a cycle is a task, and meanwhile POSTs begin and end.

use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::actors::receiver_log::ReceiverLog;
use crate::clock;
use crate::domain::ids::{DispatcherId, RecoveryId, WebhookId};
use crate::domain::webhook::state::DisableReason;
use crate::random;
use crate::status::Part;
use crate::store::StoreError;
use crate::store::delivery::batches::FormedBatch;
use crate::store::delivery::direct_dispatch::DirectDispatch;
use crate::store::delivery::targets::WebhookTarget;
use crate::store::delivery::types::{Cycle, Work};
use actor::{DispatcherDeps, Order};
use conclude::Posted;
use cycle_state::CycleState;
use leases::LeasedDeliveries;
use maintenance::{MaintenanceResult, Progress};
use queues::WebhookQueues;
use send::RenderedEvents;
use timers::Timers;

pub mod actor;

mod batches;
mod conclude;
mod cycle;
mod cycle_state;
mod leases;
mod maintenance;
mod probe;
mod queue;
mod queues;
mod reconcile;
mod recovery;
mod send;
mod stop;
mod timers;

/// What tasks report to the loop.
enum Report {
    /// A POST ended.
    Posted(Posted),
    /// A cycle ended; its work comes back in case it failed.
    Cycle { work: Box<Work>, result: Result<Cycle, StoreError> },
    /// A webhook's settings, address and keys were read.
    ConfigRead { webhook: WebhookId, result: Box<Result<WebhookTarget, StoreError>> },
    /// A batch was formed; empty if there was nothing to form.
    BatchFormed { webhook: WebhookId, result: Result<FormedBatch, StoreError> },
    /// A webhook was disabled; `None`: it could not be, or need not be any more.
    Disabled { webhook: WebhookId, reason: Option<DisableReason> },
    /// A recovery ended, or is leased to another process.
    RecoveryEnded(RecoveryId),
    /// A run of maintenance ended.
    Maintained(Result<MaintenanceResult, StoreError>),
    /// A task panicked: its report will never come.
    TaskPanicked,
}

/// The loop cannot go on: it would wait for ever for a task that panicked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a task of the dispatch loop panicked")]
pub(super) struct TaskPanicked;

/// Owned by a task. A panic drops it on its way out.
struct Lifeline(mpsc::UnboundedSender<Report>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Report::TaskPanicked);
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

/// Dispatch loop, and what it keeps between turns.
pub(super) struct Dispatch {
    deps: DispatcherDeps,
    /// Id of this dispatcher in the database.
    id: DispatcherId,
    /// Moment that rate limits count from.
    started: Instant,
    queues: WebhookQueues,
    leases: LeasedDeliveries,
    cycle: CycleState,
    timers: Timers,
    progress: Progress,
    rendered: RenderedEvents,
    receiver_log: ReceiverLog,
    draining: bool,
    task_panicked: bool,
    report: mpsc::UnboundedSender<Report>,
}

impl Dispatch {
    /// A loop without leases, and what its tasks will report.
    fn new(deps: DispatcherDeps) -> (Self, mpsc::UnboundedReceiver<Report>) {
        // Unbounded is bounded here: each item is one of at most `slots::ALL` POSTs or of a few other tasks.
        let (report, reports) = mpsc::unbounded_channel();
        let now = Instant::now();
        let dispatch = Self {
            deps,
            id: DispatcherId::generate(),
            started: now,
            queues: WebhookQueues::default(),
            leases: LeasedDeliveries::default(),
            cycle: CycleState::default(),
            timers: Timers::new(now),
            progress: Progress::default(),
            rendered: RenderedEvents::default(),
            receiver_log: ReceiverLog::default(),
            draining: false,
            task_panicked: false,
            report,
        };
        (dispatch, reports)
    }

    /// Runs until it has drained. Each turn begins with a report, a direct dispatch, a wake-up, a timer or an
    /// order.
    ///
    /// # Errors
    /// If a task panicked: another loop takes this one's place, and its leases are released when they have
    /// expired.
    pub(super) async fn run(
        deps: DispatcherDeps,
        mut orders: watch::Receiver<Order>,
    ) -> Result<(), TaskPanicked> {
        let (mut dispatch, mut reports) = Self::new(deps);
        dispatch.begin().await;
        let store = dispatch.deps.store.clone();
        loop {
            dispatch.deps.status.alive(Part::Dispatcher);
            let order = *orders.borrow_and_update();
            if let Order::DrainUntil(by) = order {
                dispatch.drain();
                let is_drained = dispatch.leases.is_empty() && dispatch.cycle.has_settled_all();
                if is_drained || Instant::now() >= by {
                    break;
                }
            }
            dispatch.turn();
            let wait = dispatch.next_turn_at(order).saturating_duration_since(Instant::now());
            tokio::select! {
                Some(report) = reports.recv() => {
                    dispatch.handle_report(report);
                    // Reports that came meanwhile go into the same cycle.
                    while let Ok(report) = reports.try_recv() {
                        dispatch.handle_report(report);
                    }
                }
                () = store.handoff.notified() => {}
                () = store.wake.wait_deliveries_due() => {
                    dispatch.cycle.claim_for_all();
                    dispatch.timers.bring_maintenance_forward(Instant::now());
                }
                Ok(()) = orders.changed() => {}
                () = sleep(wait) => {}
            }
            if dispatch.task_panicked {
                return Err(TaskPanicked);
            }
        }
        dispatch.end(reports).await;
        Ok(())
    }

    /// Registers this dispatcher in the database, before anything else.
    async fn begin(&mut self) {
        // What was dispatched directly to a loop before this one, which panicked, is released when its lease
        // has expired.
        self.deps.store.handoff.close();
        while let Err(error) = self.register().await {
            let delay = self.cycle.backoff.after_failure(random::unit());
            tracing::warn!(
                %error, dispatcher = %self.id, ?delay,
                "failed to register the dispatcher; retrying after the delay"
            );
            self.deps.status.alive(Part::Dispatcher);
            sleep(delay).await;
        }
        self.cycle.backoff.reset();
    }

    async fn register(&mut self) -> Result<(), StoreError> {
        self.deps.store.begin_dispatcher(self.id, clock::now()).await?;
        self.queues.set_all_proven(self.deps.store.proven_webhooks().await?);
        Ok(())
    }

    /// One turn: takes over direct dispatches, sends what may go, and starts the tasks that are due.
    fn turn(&mut self) {
        for handed in self.deps.store.handoff.accept() {
            match handed {
                DirectDispatch::Leased(claimed) => self.accept(*claimed),
                DirectDispatch::Blocked { webhook, lane } => {
                    if !self.leases.has_lane(webhook, lane) {
                        self.cycle.add_lanes([(webhook, lane)]);
                    }
                }
                DirectDispatch::NoRoom { webhook } => self.queues.mark_backlog(webhook),
                DirectDispatch::Batched { webhook, count } => self.collect(webhook, count),
            }
        }
        let now = Instant::now();
        if self.timers.poll(now) {
            self.cycle.claim_for_all();
        }
        self.send_paced(now);
        self.form_batches(now);
        self.start_cycle(now);
        if let Some(checks_leases) = self.timers.begin_maintenance(now) {
            self.start_maintenance(checks_leases);
        }
        if !self.draining {
            self.deps.store.handoff.publish_capacity(self.queues.capacity(self.id, clock::now()));
        }
    }

    fn handle_report(&mut self, report: Report) {
        match report {
            Report::Posted(posted) => self.conclude(&posted),
            Report::Cycle { work, result } => self.on_cycle(*work, result),
            Report::ConfigRead { webhook, result } => self.on_config_read(webhook, *result),
            Report::BatchFormed { webhook, result } => self.on_batch_formed(webhook, result),
            Report::Disabled { webhook, reason } => self.on_disabled(webhook, reason),
            Report::RecoveryEnded(id) => self.on_recovery_ended(id),
            Report::Maintained(result) => self.on_maintained(result),
            Report::TaskPanicked => self.task_panicked = true,
        }
    }

    /// When the next turn begins even if nothing happens.
    fn next_turn_at(&self, order: Order) -> Instant {
        let drained_by = match order {
            Order::DrainUntil(by) => Some(by),
            Order::Run => None,
        };
        let others = [drained_by, self.cycle.next_at(), self.queues.next_at(clock::now(), !self.draining)];
        others.into_iter().flatten().fold(self.timers.next_at(Instant::now()), Instant::min)
    }
}

#[cfg(test)]
mod testing {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;
    use crate::actors::dispatch::queue::WebhookQueue;
    use crate::domain::delivery::access::Access;
    use crate::domain::delivery::circuit::Circuit;
    use crate::domain::delivery::settings::{DeliverySettings, Format, Verification};
    use crate::domain::ids::{DeliveryId, EventId, TenantId};
    use crate::domain::presence::{Event, EventKind, Origin};
    use crate::domain::webhook::state::WebhookState;
    use crate::domain::webhook::target::TargetPolicy;
    use crate::outbound::post::Poster;
    use crate::store::delivery::types::Claimed;

    /// A webhook that is active and whose receiver has accepted a POST, in its first version, as it is read.
    pub fn webhook_target(settings: DeliverySettings) -> WebhookTarget {
        WebhookTarget {
            version: 1,
            url: "https://crm.example/hook".to_owned(),
            settings,
            access: Access::default(),
            state: WebhookState::Active,
            circuit: Circuit::default(),
            is_proven: true,
            tenant_id: TenantId(Uuid::nil()),
            noticed: false,
            verification: Verification::None,
            keys: Vec::new(),
            ed25519: Vec::new(),
        }
    }

    /// Configures a queue by what is read of its webhook.
    pub fn configure(queue: &mut WebhookQueue, read: WebhookTarget) {
        let poster = Poster::new(TargetPolicy::default(), None).unwrap();
        let target = poster.target(&read.url, &read.access, read.settings.timeout);
        queue.configure(read, target);
    }

    /// A first attempt to tell a webhook of a new event, at 15:00 on 2026-11-23.
    pub fn claimed(webhook_id: WebhookId) -> Claimed {
        let at = datetime!(2026-11-23 15:00:00 UTC);
        let event_id = EventId::generate();
        let event = Event {
            event_id,
            kind: EventKind::PresenceUpdated,
            position: 1,
            source: None,
            agent_id: None,
            sequence: Some(1),
            topic: None,
            external_id: None,
            presence: None,
            previous: None,
            occurred_at: None,
            received_at: at,
            committed_at: None,
            origin: Origin::Live,
            detail: None,
            raw: bytes::Bytes::new(),
            erased_at: None,
        };
        Claimed {
            delivery_id: DeliveryId::of(event_id, webhook_id),
            webhook_id,
            webhook_version: 1,
            lane: 1,
            attempt: 1,
            halvings: 0,
            superseded: 0,
            sent_at: at,
            format: Format::default(),
            event_id,
            event: Some(Arc::new(event)),
            has_newer_state: false,
        }
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
        assert!(matches!(reports.recv().await, Some(Report::TaskPanicked)));
        let webhook = WebhookId::generate();
        start(&report, async move { Report::Disabled { webhook, reason: None } });
        assert!(
            matches!(reports.recv().await, Some(Report::Disabled { webhook: told, .. }) if told == webhook)
        );
        drop(report);
        assert!(reports.recv().await.is_none(), "nothing more is told of it");
    }
}
