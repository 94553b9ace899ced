//! Works out whom a source of protocol `notifications` watches, and on which connection: reads rosters on a timer and on
//! demand, plans (`genesys/plan.rs`), writes the plan down. The supervisor does the rest. Also keeps the presence
//! definitions of the source up to date.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::token::Tokens;
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::{ConnectionId, SourceId};
use crate::genesys::definitions::Definitions;
use crate::genesys::plan::{CHANNEL_AGENTS_MAX, CHANNELS_MAX, plan_channels};
use crate::genesys::protocol::{ErrorKind, Person, Upstream, UpstreamError, Watch};
use crate::genesys::reconnect::ReconnectBackoff;
use crate::random;
use crate::store::sources::assignments::{Assigned, Assignments};
use crate::store::{Store, StoreError};

/// How often the definitions are read again even if nothing unknown came.
const DEFINITIONS_EVERY: Duration = Duration::from_secs(3600);
/// How often it is looked whether something unknown came, or the definitions' time is over.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Agents that one entry names.
const NAMED_MAX: usize = 100;

/// What a planner works with.
#[derive(Clone)]
pub struct RosterDeps {
    /// Where the plan goes.
    pub store: Store,
    /// The source.
    pub source_id: SourceId,
    /// Its name.
    pub source_name: String,
    /// Whom it watches.
    pub watch: Watch,
    /// How often rosters are read again.
    pub interval: Duration,
    /// Speaks with the platform.
    pub upstream: Rc<dyn Upstream>,
    /// Gives tokens.
    pub tokens: Tokens,
    /// Where definitions go.
    pub definitions: Definitions,
}

/// Reads the rosters at once.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Refresh;

/// Ends the actor.
#[derive(Message)]
#[rtype(result = "()")]
pub struct End;

/// The actor of one source.
pub struct RosterActor {
    deps: RosterDeps,
    backoff: ReconnectBackoff,
    /// A reading is under way.
    reading: bool,
    /// Another one is wanted after it.
    again: bool,
    next: Option<SpawnHandle>,
    definitions_read: Option<Instant>,
    reading_definitions: bool,
    over_limit: usize,
}

impl RosterActor {
    /// An actor that begins to read when it is started.
    #[must_use]
    pub fn new(deps: RosterDeps) -> Self {
        Self {
            deps,
            backoff: ReconnectBackoff::default(),
            reading: false,
            again: false,
            next: None,
            definitions_read: None,
            reading_definitions: false,
            over_limit: 0,
        }
    }

    fn read(&mut self, ctx: &mut Context<Self>) {
        if self.reading {
            self.again = true;
            return;
        }
        self.reading = true;
        if let Some(next) = self.next.take() {
            ctx.cancel_future(next);
        }
        let (deps, told_before) = (self.deps.clone(), self.over_limit);
        let read = async move { deps.read_and_plan(told_before).await };
        ctx.spawn(read.into_actor(self).map(|over_limit, actor, ctx| {
            actor.reading = false;
            let wait = match over_limit {
                Ok(over_limit) => {
                    actor.backoff.reset();
                    actor.over_limit = over_limit;
                    actor.deps.interval
                }
                Err(()) => actor.backoff.next(random::unit()).min(actor.deps.interval),
            };
            if std::mem::take(&mut actor.again) {
                actor.read(ctx);
            } else {
                actor.next = Some(ctx.run_later(wait, |actor, ctx| actor.read(ctx)));
            }
        }));
    }

    fn look_at_definitions(&mut self, ctx: &mut Context<Self>) {
        let old = self.definitions_read.is_none_or(|at| at.elapsed() >= DEFINITIONS_EVERY);
        let unknown = self.deps.definitions.take_unknown_seen();
        if self.reading_definitions || !(old || unknown) {
            return;
        }
        self.reading_definitions = true;
        let deps = self.deps.clone();
        let read = async move { deps.read_definitions().await };
        ctx.spawn(read.into_actor(self).map(|read, actor, _| {
            actor.reading_definitions = false;
            match read {
                Ok(()) => actor.definitions_read = Some(Instant::now()),
                Err(error) => {
                    tracing::warn!(%error, source = %actor.deps.source_name, "presence definitions cannot be read: labels are missing");
                    if error.kind == ErrorKind::Forbidden {
                        // A permission is missing: asking every half minute does not help.
                        actor.definitions_read = Some(Instant::now());
                    }
                }
            }
        }));
    }
}

impl RosterDeps {
    /// Makes a call with a token, once more with another one if that is refused.
    async fn with_token<T, F>(&self, call: F) -> Result<T, UpstreamError>
    where
        F: AsyncFn(&crate::domain::secret::Secret) -> Result<T, UpstreamError>,
    {
        let token = self.tokens.get(None).await?;
        match call(&token.secret).await {
            Err(error) if error.kind == ErrorKind::Unauthorized => {
                let token = self.tokens.get(Some(token.serial)).await?;
                call(&token.secret).await
            }
            answer => answer,
        }
    }

    async fn read_definitions(&self) -> Result<(), UpstreamError> {
        let definitions = self.with_token(async |token| self.upstream.definitions(token).await).await?;
        self.definitions.replace(definitions);
        Ok(())
    }

    async fn people(&self) -> Result<Vec<Person>, UpstreamError> {
        if !self.watch.needs_rosters() {
            let named = |agent: &String| Person { agent_id: agent.clone(), ..Person::default() };
            return Ok(self.watch.agents.iter().map(named).collect());
        }
        let people = self.with_token(async |token| self.upstream.roster(token, &self.watch).await).await?;
        if people.is_empty() && self.watch.all_users {
            // An organisation has users; to take this for an answer would be to let go of everybody.
            return Err(UpstreamError {
                kind: ErrorKind::BadAnswer,
                status: None,
                what: "users: none at all".to_owned(),
            });
        }
        Ok(people)
    }

    /// Reads rosters and writes the plan; gives how many agents stay unwatched. An error has been told.
    async fn read_and_plan(&self, told_before: usize) -> Result<usize, ()> {
        let people = match self.people().await {
            Ok(people) => people,
            Err(error) => {
                tracing::warn!(%error, source = %self.source_name, "a roster cannot be read; who is watched stays");
                let mut entry = Entry::new(clock::now(), Kind::RosterFailed)
                    .level(Level::Error)
                    .data("error", error.to_string());
                entry.source_id = Some(self.source_id);
                drop(self.store.roster_failed(self.source_id, &error.to_string(), &entry).await);
                return Err(());
            }
        };
        self.plan(people, told_before).await.map_err(|error| {
            tracing::warn!(%error, source = %self.source_name, "the plan of a source waits for the database");
        })
    }

    async fn plan(&self, people: Vec<Person>, told_before: usize) -> Result<usize, StoreError> {
        let held = self.store.assignments(self.source_id).await?;
        let wanted: Vec<String> = people.iter().map(|person| person.agent_id.clone()).collect();
        let agents: Vec<Vec<String>> = held.iter().map(|assigned| assigned.agents.clone()).collect();
        let plan = plan_channels(&wanted, &agents, CHANNEL_AGENTS_MAX, CHANNELS_MAX);
        let at = |place: &usize| held.get(*place).map(|assigned| assigned.connection_id);
        let changed = plan
            .changed
            .into_iter()
            .filter_map(|(place, agents)| Some(Assigned { connection_id: at(&place)?, agents }));
        let added =
            plan.added.into_iter().map(|agents| Assigned { connection_id: ConnectionId::generate(), agents });
        let assignments = Assignments {
            changed: changed.chain(added).collect(),
            removed: plan.removed.iter().filter_map(at).collect(),
            wanted: wanted.len(),
            over_limit: plan.over_limit.len(),
        };
        let now = clock::now();
        let mut entries = Vec::new();
        let watched: HashSet<&str> = agents.iter().flatten().map(String::as_str).collect();
        let wanted_set: HashSet<&str> = wanted.iter().map(String::as_str).collect();
        let joined: Vec<&str> =
            wanted.iter().map(String::as_str).filter(|agent| !watched.contains(agent)).collect();
        let left: Vec<&str> = watched.iter().copied().filter(|agent| !wanted_set.contains(agent)).collect();
        if !assignments.changed.is_empty() || !assignments.removed.is_empty() {
            let few = |agents: &[&str]| {
                agents.iter().take(NAMED_MAX).copied().map(str::to_owned).collect::<Vec<_>>()
            };
            let entry = Entry::new(now, Kind::RosterChanged)
                .data("agents", wanted.len())
                .data("joined", joined.len())
                .data("left", left.len())
                .data("joined_agents", few(&joined))
                .data("left_agents", few(&left));
            entries.push(entry);
        }
        if !plan.over_limit.is_empty() && plan.over_limit.len() != told_before {
            tracing::error!(source = %self.source_name, agents = plan.over_limit.len(), "a client's ceiling of channels is reached");
            let named: Vec<_> = plan.over_limit.iter().take(NAMED_MAX).cloned().collect();
            let entry = Entry::new(now, Kind::LimitMet)
                .level(Level::Error)
                .data("agents_without_connection", plan.over_limit.len())
                .data("named", named)
                .data("limit", CHANNEL_AGENTS_MAX * CHANNELS_MAX)
                .data("remedy", "watch the rest through a second source with an OAuth client of its own");
            entries.push(entry);
        }
        entries.iter_mut().for_each(|entry| entry.source_id = Some(self.source_id));
        let profiles: Vec<_> = people
            .into_iter()
            .filter(|person| person.name.is_some() || person.email.is_some())
            .map(|person| (person.agent_id, person.name, person.email))
            .collect();
        for part in profiles.chunks(CHANNEL_AGENTS_MAX) {
            self.store.write_profiles(self.source_id, part).await?;
        }
        self.store.assign(self.source_id, &assignments, now, &entries).await?;
        self.store.wake.connections_changed();
        Ok(plan.over_limit.len())
    }
}

impl Actor for RosterActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look_at_definitions(ctx);
        self.read(ctx);
        ctx.run_interval(LOOK_EVERY, |actor, ctx| actor.look_at_definitions(ctx));
    }
}

impl Handler<Refresh> for RosterActor {
    type Result = ();

    fn handle(&mut self, _: Refresh, ctx: &mut Self::Context) {
        self.read(ctx);
    }
}

impl Handler<End> for RosterActor {
    type Result = ();

    fn handle(&mut self, _: End, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
