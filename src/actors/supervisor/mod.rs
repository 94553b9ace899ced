//! Runs one connection actor for each row that is to be open.
//!
//! The database holds the desired connections. The supervisor compares its actors with them each second, and
//! at once when it is notified. An actor that died (actix ends one that panics and does not restart it) is
//! missing in the comparison and so replaced.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::connection::{self, ConnectionActor, Reassign, Terminate};
use crate::actors::connection::assignment::{Agents, Assignment};
use crate::actors::recorder::Recorder;
use crate::clock;
use crate::config::EgressProxy;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::{ConnectionId, SourceId};
use crate::domain::presence::connection::{CloseCause, DesiredState};
use crate::domain::presence::source::PROTOCOL_NOTIFICATIONS;
use crate::domain::presence::topics;
use crate::domain::secret::MasterKey;
use crate::domain::webhook::target::TargetPolicy;
use crate::genesys::plan::{ConnectionPlan, REALTIME_CONNECTIONS_MAX};
use crate::metrics::Metrics;
use crate::status::{Part, Status};
use crate::store::Store;
use crate::store::sources::desired_connections::{WantedConnection, WantedSource};
use cleanups::CleanUps;
use desired::{DesiredSource, read_desired};
use rosters::Rosters;
use source_clients::{Shared, SharedClients};
use source_health::SourcesHealth;

mod cleanups;
mod desired;
pub mod failover;
mod proofs;
mod rosters;
mod source_clients;
mod source_health;
mod source_log;

/// How often the actors are compared with the desired connections.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Distance between two replacements of one dead actor, so that a cause that stays does not spin.
const REPLACE_APART: Duration = Duration::from_secs(5);
/// All sockets are closed and deleted upstream within this when the bridge stops.
const STOP_WITHIN: Duration = Duration::from_secs(7);
/// How often a stop checks whether all actors have ended.
const CHECK_STOPPED_EVERY: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub struct Deps {
    pub store: Store,
    pub recorder: Recorder,
    pub status: Arc<Status>,
    pub metrics: Metrics,
    /// Opens client secrets.
    pub master_key: MasterKey,
    /// Policy for addresses of sources that are not the operator's own.
    pub targets: TargetPolicy,
    /// The only way to Genesys; `None`: straight.
    pub genesys_proxy: Option<EgressProxy>,
}

/// Closes every socket properly and deletes our connections upstream; answered when that is done, or time is
/// up.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

/// A connection actor, and what it was started with.
struct Managed {
    addr: Addr<ConnectionActor>,
    source_version: i64,
    /// Version of the agents it was given.
    assignment: i64,
    generation: i64,
    started: Instant,
    /// Set once the actor was asked to end.
    closing: Option<CloseCause>,
}

pub struct Supervisor {
    deps: Deps,
    managed: HashMap<ConnectionId, Managed>,
    shared: SharedClients,
    /// Planners of sources that need one.
    rosters: Rosters,
    health: SourcesHealth,
    /// Agents over a source's limit that were reported already.
    over_limit: HashMap<SourceId, Vec<String>>,
    cleanups: CleanUps,
    comparing: bool,
    /// Something changed during a comparison.
    compare_again: bool,
    stopping: bool,
}

impl Supervisor {
    /// A supervisor that starts to compare when it is started.
    #[must_use]
    pub fn new(deps: Deps) -> Self {
        Self {
            shared: SharedClients::new(&deps),
            deps,
            managed: HashMap::new(),
            rosters: Rosters::default(),
            health: SourcesHealth::default(),
            over_limit: HashMap::new(),
            cleanups: CleanUps::default(),
            comparing: false,
            compare_again: false,
            stopping: false,
        }
    }

    fn listen(&self, ctx: &mut Context<Self>) {
        let wake = self.deps.store.wake.clone();
        let notified = async move { wake.wait_connections_changed().await };
        ctx.spawn(notified.into_actor(self).map(|(), actor, ctx| {
            actor.compare(ctx);
            actor.listen(ctx);
        }));
    }

    /// Reads the desired connections, makes the rows that are missing, and applies the rest.
    fn compare(&mut self, ctx: &mut Context<Self>) {
        self.deps.status.alive(Part::Supervisor);
        if self.comparing || self.stopping {
            self.compare_again = true;
            return;
        }
        (self.comparing, self.compare_again) = (true, false);
        let (store, master_key) = (self.deps.store.clone(), self.deps.master_key.clone());
        let managed = self.managed.iter().map(|(id, managed)| (*id, managed.assignment)).collect();
        let read = async move { read_desired(&store, &master_key, &managed).await };
        ctx.spawn(read.into_actor(self).map(|desired, actor, ctx| {
            actor.comparing = false;
            match desired {
                Ok(desired) if !actor.stopping => actor.apply(&desired, ctx),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "failed to load desired connections; keeping the current ones")
                }
            }
            if std::mem::take(&mut actor.compare_again) {
                actor.deps.store.wake.connections_changed();
            }
        }));
    }

    fn apply(&mut self, desired: &[DesiredSource], ctx: &mut Context<Self>) {
        for DesiredSource { source, plan, agents } in desired {
            self.report_over_limit(source, plan, ctx);
            if source.is_planned() {
                self.rosters.ensure(source, &mut self.shared, &self.deps.store);
            }
            for connection in &source.connections {
                let agent = connection.agent_id.as_ref();
                let unwanted = source.deleted
                    || connection.desired == DesiredState::Removed
                    // A row of the protocol that the source spoke before.
                    || connection.agent_id.is_some() == source.is_planned()
                    || agent.is_some_and(|agent| plan.remove.contains(&agent.0));
                let agents = agents.get(&connection.connection_id);
                self.apply_one(source, connection, agents, unwanted, ctx);
            }
            self.health.check(source, &self.deps, ctx);
        }
        let stale = desired.iter().filter(|one| !one.source.deleted && one.source.stale_since.is_some());
        self.deps.metrics.sources_stale.set(i64::try_from(stale.count()).unwrap_or(i64::MAX));
        self.rosters.end_all_but(|id| {
            desired.iter().any(|one| one.source.source_id == id && one.source.is_planned())
        });
        self.health
            .forget_all_but(|id| desired.iter().any(|one| one.source.source_id == id && !one.source.deleted));
        // A row that vanished (only the supervisor removes rows, so the database was replaced).
        let known: Vec<_> = desired.iter().flat_map(|one| &one.source.connections).collect();
        for (id, managed) in &mut self.managed {
            if managed.closing.is_none() && !known.iter().any(|connection| connection.connection_id == *id) {
                managed.close(CloseCause::Replaced);
            }
        }
        // Actors that ended are dropped only here, so the next comparison reads what they wrote last before
        // deciding.
        let before = self.managed.len();
        self.managed.retain(|_, managed| managed.addr.connected() || managed.closing.is_none());
        self.compare_again |= self.managed.len() < before;
        self.cleanups.forget_all_but(|id| {
            known.iter().any(|row| row.connection_id == id && !row.leftovers.is_empty())
        });
        self.shared.forget_all_but(|id| desired.iter().any(|one| one.source.source_id == id));
    }

    fn apply_one(
        &mut self,
        source: &WantedSource,
        connection: &WantedConnection,
        agents: Option<&Agents>,
        unwanted: bool,
        ctx: &mut Context<Self>,
    ) {
        let id = connection.connection_id;
        let open = connection.desired == DesiredState::Open && !unwanted;
        let Some(managed) = self.managed.get_mut(&id) else {
            if open {
                // The agents of a row that was made meanwhile are read at the next comparison.
                if let Some(agents) = agents {
                    self.start(source, connection, agents, None);
                }
            } else if !connection.leftovers.is_empty() {
                // It has no actor, but something of it may still exist upstream: start an actor that only
                // cleans up. The row stays until that is done, since nothing else knows of the leftovers.
                if self.cleanups.due(id, Instant::now()) {
                    let cause = if unwanted { CloseCause::Replaced } else { CloseCause::Terminated };
                    self.start(source, connection, agents.unwrap_or(&Agents::default()), Some(cause));
                }
            } else if unwanted {
                self.remove(id, ctx);
            }
            return;
        };
        if !managed.addr.connected() {
            if managed.closing.is_none() && managed.started.elapsed() >= REPLACE_APART {
                self.managed.remove(&id);
                self.report_death(source, connection, ctx);
                self.compare_again = true;
            }
            return;
        }
        if managed.closing.is_some() {
            return;
        }
        if unwanted {
            managed.close(CloseCause::Replaced);
        } else if connection.desired != DesiredState::Open {
            managed.close(CloseCause::Terminated);
        } else if managed.generation != connection.generation || managed.source_version != source.version {
            managed.close(CloseCause::Replaced);
        } else if let Some(agents) = agents.filter(|agents| agents.version != managed.assignment) {
            // A full mailbox is tried again at the next comparison.
            if managed.addr.try_send(Reassign(agents.clone())).is_ok() {
                managed.assignment = agents.version;
            }
        }
    }

    fn start(
        &mut self,
        source: &WantedSource,
        connection: &WantedConnection,
        agents: &Agents,
        ends_at_once: Option<CloseCause>,
    ) {
        let topics = if source.protocol == PROTOCOL_NOTIFICATIONS {
            topics::notification_parts(&source.topic_matrix)
        } else {
            topics::flatten(&source.topic_matrix)
        };
        let topics = match topics {
            Ok(topics) => topics,
            Err(error) => {
                tracing::error!(%error, source = %source.name, "invalid topics of a source; not starting its connection");
                return;
            }
        };
        let Some(Shared { upstream, tokens, definitions, spare_slots, .. }) = self.shared.of(source) else {
            return;
        };
        let assignment = Assignment {
            connection_id: connection.connection_id,
            source_id: source.source_id,
            source_name: source.name.clone(),
            agents: Arc::new(agents.clone()),
            topics,
            heartbeat: Duration::from_millis(u64::try_from(source.heartbeat_interval_ms).unwrap_or(15_000)),
            leftovers: connection.leftovers.clone(),
            proven_at: connection.proven_at,
            ends_at_once,
        };
        let deps = connection::Deps {
            store: self.deps.store.clone(),
            recorder: self.deps.recorder.clone(),
            status: self.deps.status.clone(),
            metrics: self.deps.metrics.clone(),
        };
        let addr = ConnectionActor::new(deps, assignment, upstream, tokens, definitions, spare_slots).start();
        let managed = Managed {
            addr,
            source_version: source.version,
            assignment: agents.version,
            generation: connection.generation,
            started: Instant::now(),
            closing: ends_at_once,
        };
        self.managed.insert(connection.connection_id, managed);
    }

    /// A change of a source's health was written, or failed to be.
    pub(super) fn on_health_written(&mut self, id: SourceId) {
        self.health.on_written(id);
    }

    fn remove(&self, id: ConnectionId, ctx: &mut Context<Self>) {
        let store = self.deps.store.clone();
        let removed = async move {
            if let Err(error) = store.remove_connection(id, clock::now()).await {
                tracing::warn!(%error, connection = %id, "failed to remove the row of an ended connection; retrying");
            }
        };
        ctx.spawn(removed.into_actor(self));
    }

    fn report_death(&self, source: &WantedSource, connection: &WantedConnection, ctx: &mut Context<Self>) {
        tracing::error!(connection = %connection.connection_id, "connection actor panicked; restarting it");
        self.deps.metrics.actors_restarted.of("connection").inc();
        let mut entry =
            Entry::new(clock::now(), Kind::ActorRestarted).level(Level::Error).data("actor", "connection");
        entry.source_id = Some(source.source_id);
        entry.connection_id = Some(connection.connection_id);
        entry.agent_id.clone_from(&connection.agent_id);
        let store = self.deps.store.clone();
        ctx.spawn(async move { drop(store.write_audit(&[entry]).await) }.into_actor(self));
    }

    /// Reports once which agents stay without a connection.
    fn report_over_limit(&mut self, source: &WantedSource, plan: &ConnectionPlan, ctx: &mut Context<Self>) {
        let reported = self.over_limit.entry(source.source_id).or_default();
        if *reported == plan.over_limit {
            return;
        }
        reported.clone_from(&plan.over_limit);
        if plan.over_limit.is_empty() {
            return;
        }
        tracing::error!(
            source = %source.name,
            agents = plan.over_limit.len(),
            "OAuth client has no more connections; the remaining agents stay unwatched"
        );
        let mut entry = Entry::new(clock::now(), Kind::LimitMet)
            .level(Level::Error)
            .data("agents_without_connection", plan.over_limit.clone())
            .data("limit", REALTIME_CONNECTIONS_MAX);
        entry.source_id = Some(source.source_id);
        let store = self.deps.store.clone();
        ctx.spawn(async move { drop(store.write_audit(&[entry]).await) }.into_actor(self));
    }
}

impl Managed {
    fn close(&mut self, cause: CloseCause) {
        // A full mailbox is tried again at the next comparison.
        if self.addr.try_send(Terminate(cause)).is_ok() {
            self.closing = Some(cause);
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.compare(ctx);
        self.listen(ctx);
        ctx.run_interval(COMPARE_EVERY, |actor, ctx| actor.compare(ctx));
        ctx.run_interval(proofs::WRITE_EVERY, |actor, ctx| actor.write_proofs(ctx));
    }
}

impl Handler<Stop> for Supervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, _ctx: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        self.rosters.end_all_but(|_| false);
        for managed in self.managed.values_mut().filter(|managed| managed.closing.is_none()) {
            managed.close(CloseCause::BridgeStopped);
        }
        let actors: Vec<_> = self.managed.values().map(|managed| managed.addr.clone()).collect();
        Box::pin(async move {
            let by = Instant::now() + STOP_WITHIN;
            while actors.iter().any(Addr::connected) && Instant::now() < by {
                actix::clock::sleep(CHECK_STOPPED_EVERY).await;
            }
        })
    }
}
