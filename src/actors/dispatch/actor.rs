//! Actor around the dispatch loop: it starts the loop on the runtime's own threads, starts it again should
//! the loop or one of its tasks panic, and passes the order to drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::watch;

use crate::actors::RESTART_AFTER;
use crate::actors::dispatch::Dispatch;
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::secret::MasterKey;
use crate::metrics::Metrics;
use crate::outbound::post::Poster;
use crate::status::Status;
use crate::store::Store;

/// What the dispatcher works with.
#[derive(Clone)]
pub struct DispatcherDeps {
    /// Holds the deliveries.
    pub store: Store,
    /// Sends them.
    pub poster: Poster,
    /// Opens signing secrets.
    pub master_key: MasterKey,
    /// Gets a sign of life with each turn of the loop.
    pub status: Arc<Status>,
    /// Counts attempts and ends.
    pub metrics: Metrics,
}

/// Order to claim nothing more, to wait at most this long for POSTs under way, and to return the rest.
/// Answered when that is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain(pub Duration);

/// Order to the loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::actors) enum Order {
    /// Claim and send.
    Run,
    /// Claim nothing more; POSTs under way may end until then.
    DrainUntil(Instant),
}

/// Actor around the dispatch loop.
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
            tracing::error!(%error, restart_in = ?RESTART_AFTER, "dispatch loop panicked; restarting it");
            actor.deps.metrics.actors_restarted.of("dispatcher").inc();
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
