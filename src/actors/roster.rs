//! Decides which agents a source of protocol `notifications` watches, and on which connection: reads rosters
//! on a timer and on demand, plans (`genesys/plan.rs`) and writes the plan, which the supervisor carries to
//! the connections. Also keeps the presence definitions of the source up to date.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::token::Tokens;
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::{ConnectionId, SourceId};
use crate::domain::secret::Secret;
use crate::genesys::definitions::Definitions;
use crate::genesys::plan::{CHANNEL_AGENTS_MAX, CHANNELS_MAX, ChannelPlan, plan_channels};
use crate::genesys::protocol::{ErrorKind, Person, Upstream, UpstreamError, Watch};
use crate::genesys::reconnect::ReconnectBackoff;
use crate::random;
use crate::store::sources::assignments::{Assigned, Assignments};
use crate::store::{Store, StoreError};

/// How often the definitions are read again even if nothing unknown came.
const DEFINITIONS_EVERY: Duration = Duration::from_secs(3600);
/// How often the actor checks whether the definitions are too old, or an unknown one was met.
const CHECK_DEFINITIONS_EVERY: Duration = Duration::from_secs(10);
/// Agents that one entry names.
const NAMED_MAX: usize = 100;

/// One source and what its planner works with.
#[derive(Clone)]
pub struct RosterDeps {
    pub store: Store,
    pub source_id: SourceId,
    pub source_name: String,
    pub watch: Watch,
    /// Time between two readings of the rosters.
    pub interval: Duration,
    pub upstream: Rc<dyn Upstream>,
    pub tokens: Tokens,
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

/// The planner of one source.
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
    /// Agents without a place in the last plan.
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
        let (deps, over_limit_before) = (self.deps.clone(), self.over_limit);
        let read = async move { deps.read_and_plan(over_limit_before).await };
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

    fn refresh_definitions(&mut self, ctx: &mut Context<Self>) {
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
                    tracing::warn!(
                        %error,
                        source = %actor.deps.source_name,
                        "failed to read presence definitions; events carry no labels until it succeeds"
                    );
                    if error.kind == ErrorKind::Forbidden {
                        // A permission is missing: asking every few seconds does not help.
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
        F: AsyncFn(&Secret) -> Result<T, UpstreamError>,
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
            // An organisation has users; to believe this answer would be to stop watching all of them.
            return Err(UpstreamError {
                kind: ErrorKind::BadAnswer,
                status: None,
                what: "users: none at all".to_owned(),
            });
        }
        Ok(people)
    }

    /// Reads rosters and writes the plan; gives how many agents stay unwatched. Errors are logged here.
    async fn read_and_plan(&self, over_limit_before: usize) -> Result<usize, ()> {
        let people = match self.people().await {
            Ok(people) => people,
            Err(error) => {
                tracing::warn!(
                    %error,
                    source = %self.source_name,
                    "failed to read rosters; keeping the agents that are watched now"
                );
                let mut entry = Entry::new(clock::now(), Kind::RosterFailed)
                    .level(Level::Error)
                    .data("error", error.to_string());
                entry.source_id = Some(self.source_id);
                drop(self.store.roster_failed(self.source_id, &error.to_string(), &entry).await);
                return Err(());
            }
        };
        self.plan(people, over_limit_before).await.map_err(|error| {
            tracing::warn!(%error, source = %self.source_name, "failed to write the plan of a source; retrying");
        })
    }

    async fn plan(&self, mut people: Vec<Person>, over_limit_before: usize) -> Result<usize, StoreError> {
        let excluded = self.store.excluded_agents(self.source_id).await?;
        people.retain(|person| !excluded.contains(&person.agent_id));
        let connections = self.store.assignments(self.source_id).await?;
        let wanted: Vec<String> = people.iter().map(|person| person.agent_id.clone()).collect();
        let watched: Vec<Vec<String>> = connections.iter().map(|assigned| assigned.agents.clone()).collect();
        let plan = plan_channels(&wanted, &watched, CHANNEL_AGENTS_MAX, CHANNELS_MAX);
        let over_limit = plan.over_limit.clone();
        let assignments = assignments(plan, &connections, wanted.len());
        let mut entries = Vec::new();
        if !assignments.changed.is_empty() || !assignments.removed.is_empty() {
            entries.push(roster_changed(&wanted, &watched));
        }
        if !over_limit.is_empty() && over_limit.len() != over_limit_before {
            tracing::error!(
                source = %self.source_name,
                agents = over_limit.len(),
                "OAuth client has no more channels; the remaining agents stay unwatched"
            );
            entries.push(limit_met(&over_limit));
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
        self.store.assign(self.source_id, &assignments, clock::now(), &entries).await?;
        self.store.wake.connections_changed();
        Ok(over_limit.len())
    }
}

/// The plan with ids of connections in the place of its indices, and new ids for channels to be made.
fn assignments(plan: ChannelPlan, connections: &[Assigned], wanted: usize) -> Assignments {
    let id = |index: usize| connections.get(index).map(|assigned| assigned.connection_id);
    let changed =
        plan.changed.into_iter().filter_map(|(i, agents)| Some(Assigned { connection_id: id(i)?, agents }));
    let added =
        plan.added.into_iter().map(|agents| Assigned { connection_id: ConnectionId::generate(), agents });
    Assignments {
        changed: changed.chain(added).collect(),
        removed: plan.removed.into_iter().filter_map(id).collect(),
        wanted,
        over_limit: plan.over_limit.len(),
    }
}

fn roster_changed(wanted: &[String], watched: &[Vec<String>]) -> Entry {
    let before: HashSet<&str> = watched.iter().flatten().map(String::as_str).collect();
    let after: HashSet<&str> = wanted.iter().map(String::as_str).collect();
    let joined: Vec<&str> =
        wanted.iter().map(String::as_str).filter(|agent| !before.contains(agent)).collect();
    let left: Vec<&str> = before.iter().copied().filter(|agent| !after.contains(agent)).collect();
    let named =
        |agents: &[&str]| agents.iter().take(NAMED_MAX).map(|agent| (*agent).to_owned()).collect::<Vec<_>>();
    Entry::new(clock::now(), Kind::RosterChanged)
        .data("agents", wanted.len())
        .data("joined", joined.len())
        .data("left", left.len())
        .data("joined_agents", named(&joined))
        .data("left_agents", named(&left))
}

fn limit_met(over_limit: &[String]) -> Entry {
    Entry::new(clock::now(), Kind::LimitMet)
        .level(Level::Error)
        .data("agents_without_connection", over_limit.len())
        .data("named", over_limit.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>())
        .data("limit", CHANNEL_AGENTS_MAX * CHANNELS_MAX)
        .data("remedy", "watch the rest through a second source with an OAuth client of its own")
}

impl Actor for RosterActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.refresh_definitions(ctx);
        self.read(ctx);
        ctx.run_interval(CHECK_DEFINITIONS_EVERY, |actor, ctx| actor.refresh_definitions(ctx));
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
