//! Sends what is owed. The shell: it starts the loop (dispatch.rs) on the runtime's own threads, starts it again
//! should it or one of its tasks panic, and passes the order to drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::watch;

use crate::actors::RESTART_AFTER;
use crate::actors::dispatch::Dispatch;
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::secret::MasterKey;
use crate::metrics::{Metrics, ReasonLabels};
use crate::outbound::post::Poster;
use crate::status::Status;
use crate::store::Store;

/// What the dispatcher needs.
#[derive(Clone)]
pub struct DispatcherDeps {
    /// Where deliveries are.
    pub store: Store,
    /// How they leave.
    pub poster: Poster,
    /// Opens signing secrets.
    pub master_key: MasterKey,
    /// Where it says that it is alive.
    pub status: Arc<Status>,
    /// Where it counts.
    pub metrics: Metrics,
}

/// Asks the dispatcher to claim nothing more, to wait for what is under way at most this long, and to give the rest
/// back. Answered when that is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain(pub Duration);

/// What the loop is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::actors) enum Order {
    /// Claim and send.
    Run,
    /// Claim nothing more; what is under way may finish until then.
    DrainUntil(Instant),
}

/// The shell around the loop.
pub struct DispatcherActor {
    deps: DispatcherDeps,
    orders: watch::Sender<Order>,
    /// True once the loop has drained.
    drained: watch::Sender<bool>,
}

impl DispatcherActor {
    /// A dispatcher that starts its loop when it is started.
    #[must_use]
    pub fn new(deps: DispatcherDeps) -> Self {
        Self { deps, orders: watch::Sender::new(Order::Run), drained: watch::Sender::new(false) }
    }

    fn start_loop(&mut self, ctx: &mut Context<Self>) {
        let task = tokio::spawn(Dispatch::run(self.deps.clone(), self.orders.subscribe()));
        let ended = task.into_actor(self).map(|ended, actor, ctx| {
            let error = match ended {
                Ok(Ok(())) => {
                    actor.drained.send_replace(true);
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::error!(%error, "the dispatch loop died; it is started again");
            actor.deps.metrics.actors_restarted.get_or_create(&ReasonLabels { reason: "dispatcher" }).inc();
            let entry = Entry::new(clock::now(), Kind::ActorRestarted)
                .level(Level::Error)
                .data("actor", "dispatcher");
            let store = actor.deps.store.clone();
            ctx.spawn(async move { drop(store.write_audit(&[entry]).await) }.into_actor(actor));
            ctx.run_later(RESTART_AFTER, Self::start_loop);
        });
        ctx.spawn(ended);
    }
}

impl Actor for DispatcherActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.start_loop(ctx);
    }
}

impl Handler<Drain> for DispatcherActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, drain: Drain, _ctx: &mut Self::Context) -> Self::Result {
        self.orders.send_replace(Order::DrainUntil(Instant::now() + drain.0));
        let mut drained = self.drained.subscribe();
        Box::pin(async move {
            let _ = drained.wait_for(|done| *done).await;
        })
    }
}
