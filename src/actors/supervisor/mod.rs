//! Makes what is held match what is wanted: one connection actor for each row that is to be open.
//!
//! What is wanted stands in the database; the supervisor compares each second, and at once when nudged. An actor that
//! died (actix ends one that panics and does not bring it back) is missing in the comparison and so replaced.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use time::OffsetDateTime;

use super::connection::{self, ConnectionActor, Reassign, Terminate};
use crate::actors::connection::assignment::{Agents, Assignment};
use crate::actors::recorder::Recorder;
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::{ConnectionId, SourceId};
use crate::domain::presence::connection::{CloseCause, DesiredState};
use crate::domain::presence::source::PROTOCOL_NOTIFICATIONS;
use crate::domain::presence::topics;
use crate::domain::secret::MasterKey;
use crate::domain::webhook::target::TargetPolicy;
use crate::genesys::plan::{Plan, REALTIME_CONNECTIONS_MAX};
use crate::metrics::{Metrics, ReasonLabels};
use crate::status::{Part, Status};
use crate::store::Store;
use crate::store::sources::desired_connections::{WantedConnection, WantedSource};
use cleanups::CleanUps;
use desired::{Wanted, read_wanted};
use rosters::Rosters;
use source_clients::{Shared, SharedClients};
use source_health::SourcesHealth;

mod cleanups;
mod desired;
mod rosters;
mod source_clients;
mod source_health;

/// How often what is held is compared with what is wanted.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// How often proofs of life are written down: a kill makes a gap begin at most this much too early.
const PROOFS_EVERY: Duration = Duration::from_secs(5);
/// Distance between two replacements of one dead actor, so that a cause that stays does not spin.
const REPLACE_APART: Duration = Duration::from_secs(5);
/// All sockets are closed and deleted upstream within this when the bridge stops.
const STOP_WITHIN: Duration = Duration::from_secs(7);
/// How often the end of the actors is looked for while stopping.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the supervisor needs.
#[derive(Clone)]
pub struct Deps {
    /// What is wanted.
    pub store: Store,
    /// Where updates go.
    pub recorder: Recorder,
    /// Where it says that it is alive.
    pub status: Arc<Status>,
    /// Where it counts.
    pub metrics: Metrics,
    /// Opens client secrets.
    pub master_key: MasterKey,
    /// Where sources may lead that are not the operator's own.
    pub targets: TargetPolicy,
}

/// Closes every socket properly and deletes what we hold upstream; answered when that is done, or time is up.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

/// One actor that is held.
struct Held {
    addr: Addr<ConnectionActor>,
    source_version: i64,
    /// Version of the agents it was given.
    assignment: i64,
    generation: i64,
    started: Instant,
    /// Asked to end, and why.
    ending: Option<CloseCause>,
}

/// The actor that keeps all others of the left half.
pub struct Supervisor {
    deps: Deps,
    held: HashMap<ConnectionId, Held>,
    shared: SharedClients,
    /// Planners of sources that need one.
    rosters: Rosters,
    health: SourcesHealth,
    /// Agents over a source's ceiling that were told of already.
    over_limit: HashMap<SourceId, Vec<String>>,
    cleanups: CleanUps,
    comparing: bool,
    /// Something changed while comparing.
    again: bool,
    stopping: bool,
}

impl Supervisor {
    /// A supervisor that starts to compare when it is started.
    #[must_use]
    pub fn new(deps: Deps) -> Self {
        let shared = SharedClients::new(deps.store.clone(), deps.metrics.clone(), deps.targets.clone());
        Self {
            deps,
            held: HashMap::new(),
            shared,
            rosters: Rosters::default(),
            health: SourcesHealth::default(),
            over_limit: HashMap::new(),
            cleanups: CleanUps::default(),
            comparing: false,
            again: false,
            stopping: false,
        }
    }

    fn listen(&self, ctx: &mut Context<Self>) {
        let wake = self.deps.store.wake.clone();
        let nudged = async move { wake.wait_connections_changed().await };
        ctx.spawn(nudged.into_actor(self).map(|(), actor, ctx| {
            actor.compare(ctx);
            actor.listen(ctx);
        }));
    }

    /// Reads what is wanted, makes the rows that are missing, and acts on the rest.
    fn compare(&mut self, ctx: &mut Context<Self>) {
        self.deps.status.alive(Part::Supervisor);
        if self.comparing || self.stopping {
            self.again = true;
            return;
        }
        (self.comparing, self.again) = (true, false);
        let (store, master_key) = (self.deps.store.clone(), self.deps.master_key.clone());
        let held = self.held.iter().map(|(id, held)| (*id, held.assignment)).collect();
        let read = async move { read_wanted(&store, &master_key, &held).await };
        ctx.spawn(read.into_actor(self).map(|wanted, actor, ctx| {
            actor.comparing = false;
            match wanted {
                Ok(wanted) if !actor.stopping => actor.act(&wanted, ctx),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "what is wanted cannot be read; what is held stays"),
            }
            if std::mem::take(&mut actor.again) {
                actor.deps.store.wake.connections_changed();
            }
        }));
    }

    fn act(&mut self, wanted: &[Wanted], ctx: &mut Context<Self>) {
        for Wanted { source, plan, agents } in wanted {
            self.tell_over_limit(source, plan, ctx);
            if source.is_planned() {
                self.rosters.keep(source, &mut self.shared, &self.deps.store);
            }
            for connection in &source.connections {
                let agent = connection.agent_id.as_ref();
                let unwanted = source.deleted
                    || connection.desired == DesiredState::Removed
                    // A row of the protocol that the source spoke before.
                    || connection.agent_id.is_some() == source.is_planned()
                    || agent.is_some_and(|agent| plan.remove.contains(&agent.0));
                let agents = agents.get(&connection.connection_id);
                self.act_on(source, connection, agents, unwanted, ctx);
            }
            self.health.look(source, &self.deps, ctx);
        }
        let stale = wanted.iter().filter(|one| !one.source.deleted && one.source.stale_since.is_some());
        self.deps.metrics.sources_stale.set(i64::try_from(stale.count()).unwrap_or(i64::MAX));
        self.rosters
            .end_all_but(|id| wanted.iter().any(|one| one.source.source_id == id && one.source.is_planned()));
        self.health
            .forget_all_but(|id| wanted.iter().any(|one| one.source.source_id == id && !one.source.deleted));
        // A row that went without us (nobody but us removes rows, so this is a former database).
        let known: Vec<_> = wanted.iter().flat_map(|one| &one.source.connections).collect();
        for (id, held) in &mut self.held {
            if held.ending.is_none() && !known.iter().any(|connection| connection.connection_id == *id) {
                held.end(CloseCause::Replaced);
            }
        }
        // What ended is let go of only here, so the next comparison reads what it wrote last before deciding.
        let before = self.held.len();
        self.held.retain(|_, held| held.addr.connected() || held.ending.is_none());
        self.again |= self.held.len() < before;
        self.cleanups.forget_all_but(|id| {
            known.iter().any(|row| row.connection_id == id && !row.leftovers.is_empty())
        });
        self.shared.forget_all_but(|id| wanted.iter().any(|one| one.source.source_id == id));
    }

    fn act_on(
        &mut self,
        source: &WantedSource,
        connection: &WantedConnection,
        agents: Option<&Agents>,
        unwanted: bool,
        ctx: &mut Context<Self>,
    ) {
        let id = connection.connection_id;
        let open = connection.desired == DesiredState::Open && !unwanted;
        let Some(held) = self.held.get_mut(&id) else {
            if open {
                // Those of a row that came into being since are read at the next comparison.
                if let Some(agents) = agents {
                    self.start(source, connection, agents, None);
                }
            } else if !connection.leftovers.is_empty() {
                // Nobody holds it, but something of it may still exist upstream: an actor that only cleans up. The
                // row stays until that is done, since nothing else knows of what was left.
                if self.cleanups.due(id, Instant::now()) {
                    let ending = if unwanted { CloseCause::Replaced } else { CloseCause::Terminated };
                    self.start(source, connection, agents.unwrap_or(&Agents::default()), Some(ending));
                }
            } else if unwanted {
                self.remove(id, ctx);
            }
            return;
        };
        if !held.addr.connected() {
            if held.ending.is_none() && held.started.elapsed() >= REPLACE_APART {
                self.held.remove(&id);
                self.tell_death(source, connection, ctx);
                self.again = true;
            }
            return;
        }
        if held.ending.is_some() {
            return;
        }
        if unwanted {
            held.end(CloseCause::Replaced);
        } else if connection.desired != DesiredState::Open {
            held.end(CloseCause::Terminated);
        } else if held.generation != connection.generation || held.source_version != source.version {
            held.end(CloseCause::Replaced);
        } else if let Some(agents) = agents.filter(|agents| agents.version != held.assignment) {
            // A full mailbox is tried again at the next comparison.
            if held.addr.try_send(Reassign(agents.clone())).is_ok() {
                held.assignment = agents.version;
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
                tracing::error!(%error, source = %source.name, "a source's topics cannot be used");
                return;
            }
        };
        let Some(Shared { upstream, tokens, definitions, spare, .. }) = self.shared.of(source) else {
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
        let addr = ConnectionActor::new(deps, assignment, upstream, tokens, definitions, spare).start();
        let held = Held {
            addr,
            source_version: source.version,
            assignment: agents.version,
            generation: connection.generation,
            started: Instant::now(),
            ending: ends_at_once,
        };
        self.held.insert(connection.connection_id, held);
    }

    /// A change of a source's health is written down.
    pub(super) fn health_told(&mut self, id: SourceId) {
        self.health.told(id);
    }

    fn remove(&self, id: ConnectionId, ctx: &mut Context<Self>) {
        let store = self.deps.store.clone();
        let removed = async move {
            if let Err(error) = store.remove_connection(id, clock::now()).await {
                tracing::warn!(%error, "a connection that ended cannot be removed yet");
            }
        };
        ctx.spawn(removed.into_actor(self));
    }

    fn tell_death(&self, source: &WantedSource, connection: &WantedConnection, ctx: &mut Context<Self>) {
        tracing::error!(connection = %connection.connection_id, "a connection's actor died; another takes its place");
        self.deps.metrics.actors_restarted.get_or_create(&ReasonLabels { reason: "connection" }).inc();
        let mut entry =
            Entry::new(clock::now(), Kind::ActorRestarted).level(Level::Error).data("actor", "connection");
        entry.source_id = Some(source.source_id);
        entry.connection_id = Some(connection.connection_id);
        entry.agent_id.clone_from(&connection.agent_id);
        let store = self.deps.store.clone();
        ctx.spawn(async move { drop(store.write_audit(&[entry]).await) }.into_actor(self));
    }

    /// Says once which agents stay without a connection.
    fn tell_over_limit(&mut self, source: &WantedSource, plan: &Plan, ctx: &mut Context<Self>) {
        let told = self.over_limit.entry(source.source_id).or_default();
        if *told == plan.over_limit {
            return;
        }
        told.clone_from(&plan.over_limit);
        if plan.over_limit.is_empty() {
            return;
        }
        tracing::error!(source = %source.name, agents = plan.over_limit.len(), "a client's ceiling of connections is reached");
        let mut entry = Entry::new(clock::now(), Kind::LimitMet)
            .level(Level::Error)
            .data("agents_without_connection", plan.over_limit.clone())
            .data("limit", REALTIME_CONNECTIONS_MAX);
        entry.source_id = Some(source.source_id);
        let store = self.deps.store.clone();
        ctx.spawn(async move { drop(store.write_audit(&[entry]).await) }.into_actor(self));
    }

    fn write_proofs(&self, ctx: &mut Context<Self>) {
        let proofs: Vec<(ConnectionId, OffsetDateTime)> = self.deps.status.proofs();
        if proofs.is_empty() || self.stopping {
            return;
        }
        let (store, recorder) = (self.deps.store.clone(), self.deps.recorder.clone());
        let written = async move {
            // A proof says "everything before is stored": a gap that begins later than a lost frame would hide it.
            if !recorder.flushed().await {
                return;
            }
            if let Err(error) = store.write_proofs(&proofs).await {
                tracing::debug!(%error, "proofs of life wait for the database");
            }
        };
        ctx.spawn(written.into_actor(self));
    }
}

impl Held {
    fn end(&mut self, ending: CloseCause) {
        // A full mailbox is tried again at the next comparison.
        if self.addr.try_send(Terminate(ending)).is_ok() {
            self.ending = Some(ending);
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.compare(ctx);
        self.listen(ctx);
        ctx.run_interval(COMPARE_EVERY, |actor, ctx| actor.compare(ctx));
        ctx.run_interval(PROOFS_EVERY, |actor, ctx| actor.write_proofs(ctx));
    }
}

impl Handler<Stop> for Supervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, _ctx: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        self.rosters.end_all_but(|_| false);
        for held in self.held.values_mut().filter(|held| held.ending.is_none()) {
            held.end(CloseCause::BridgeStopped);
        }
        let actors: Vec<_> = self.held.values().map(|held| held.addr.clone()).collect();
        Box::pin(async move {
            let by = Instant::now() + STOP_WITHIN;
            while actors.iter().any(Addr::connected) && Instant::now() < by {
                actix::clock::sleep(LOOK_EVERY).await;
            }
        })
    }
}
