//! Reads the present states of a connection's agents once its socket is open: what changed while nobody looked comes
//! out as ordinary events of origin `resync`.
//!
//! Subscribe first, ask second: an answer may then be older than what a socket told meanwhile, and loses against it by
//! its time. The pace is the limiter's. A reading that fails goes on where it stood; it ends with its socket.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::actors::connection::assignment::Assignment;
use crate::actors::connection::link::{LinkId, Role};
use crate::actors::connection::{ConnectionActor, Deps, Place};
use crate::actors::token::{Held, Tokens};
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::presence::Origin;
use crate::domain::presence::agent_state::{Merged, Seen};
use crate::genesys::definitions::Definitions;
use crate::genesys::protocol::{ErrorKind, SNAPSHOT_MAX, Snapshot, Update, Upstream, UpstreamError};
use crate::genesys::reconnect::ReconnectBackoff;
use crate::metrics::OutcomeLabels;
use crate::random;
use crate::store::StoreError;
use crate::store::sources::assignments::KnownAgent;

/// What stands for the topic of a state that no frame told.
const TOPIC: &str = "resync";
/// An answer that is ahead of a socket is held back for so long: told first, it would make stale what is on its way.
const CATCH_UP: Duration = Duration::from_millis(250);
/// The same while the former socket still tells every change, so that there is no hurry.
const CATCH_UP_COVERED: Duration = Duration::from_secs(2);
/// Wait before a state that found no room in the queue is handed in again.
const ROOM_AGAIN: Duration = Duration::from_millis(200);

impl ConnectionActor {
    /// Starts to read these agents' states; a reading of the same strand that is under way is left.
    pub(super) fn start_resync(&mut self, place: Place, agents: Vec<String>, ctx: &mut Context<Self>) {
        self.stop_resync(place.link, ctx);
        let covered =
            self.in_role(Role::Primary).is_some_and(|primary| primary.id != place.link && primary.is_open());
        let Some(token) = self.link(place.link).and_then(|link| link.token.clone()) else {
            return;
        };
        let reading = Reading {
            covered,
            ahead: Vec::new(),
            deps: self.deps.clone(),
            assignment: self.assignment.clone(),
            upstream: self.upstream.clone(),
            tokens: self.tokens.clone(),
            definitions: self.definitions.clone(),
            token,
        };
        let read = async move { reading.run(&agents).await };
        let handle = ctx.spawn(read.into_actor(self).map(move |entry, actor, ctx| {
            let Some(link) = actor.link(place.link) else { return };
            link.resync = None;
            let sees = link.is_open() && link.role == Role::Successor;
            actor.journal.tell(entry);
            if sees {
                actor.prove_and_hand_over(ctx);
            }
            actor.write(ctx);
        }));
        if let Some(link) = self.link(place.link) {
            link.resync = Some(handle);
        }
    }

    /// Whether a strand is reading states.
    pub(super) fn resyncs(&mut self, id: LinkId) -> bool {
        self.link(id).is_some_and(|link| link.resync.is_some())
    }

    /// Leaves a reading: its socket is gone, and the next one begins anew.
    pub(super) fn stop_resync(&mut self, id: LinkId, ctx: &mut Context<Self>) {
        if let Some(handle) = self.link(id).and_then(|link| link.resync.take()) {
            ctx.cancel_future(handle);
        }
    }
}

/// One reading of states.
struct Reading {
    /// Another socket sees the agents meanwhile.
    covered: bool,
    /// States that were ahead of it, with the time of the question.
    ahead: Vec<(OffsetDateTime, Snapshot)>,
    deps: Deps,
    assignment: Assignment,
    upstream: Rc<dyn Upstream>,
    tokens: Tokens,
    definitions: Definitions,
    token: Held,
}

impl Reading {
    /// Reads all, however long it takes; gives the entry that tells of it.
    async fn run(mut self, agents: &[String]) -> Entry {
        let (began, mut differences, mut found) = (Instant::now(), 0_usize, 0_usize);
        for part in agents.chunks(SNAPSHOT_MAX) {
            let mut backoff = ReconnectBackoff::default();
            loop {
                match self.part(part).await {
                    Ok((states, differing)) => {
                        found += states;
                        differences += differing;
                        break;
                    }
                    Err(error) => self.failed(&error, &mut backoff).await,
                }
            }
        }
        let mut backoff = ReconnectBackoff::default();
        loop {
            match self.catch_up().await {
                Ok(differing) => {
                    differences += differing;
                    break;
                }
                Err(error) => self.failed(&error, &mut backoff).await,
            }
        }
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.deps.metrics.resyncs.get_or_create(&OutcomeLabels { outcome: "ok" }).inc();
        self.deps.metrics.resync_differences.inc_by(count(differences));
        let mut entry = Entry::new(clock::now(), Kind::ResyncDone)
            .data("agents", agents.len())
            .data("unknown", agents.len().saturating_sub(found))
            .data("differences", differences);
        entry.duration_ms = i32::try_from(began.elapsed().as_millis()).ok();
        entry
    }

    /// Reads some agents; gives how many states there were, and how many of them tell something new.
    async fn part(&mut self, agents: &[String]) -> Result<(usize, usize), Failed> {
        let asked_at = clock::now();
        let snapshots = match self.upstream.snapshot(&self.token.secret, agents).await {
            Err(error) if error.kind == ErrorKind::Unauthorized => {
                self.token = self.tokens.get(Some(self.token.serial)).await?;
                return Err(error.into());
            }
            answer => answer?,
        };
        let (source, store) = (self.assignment.source_id, &self.deps.store);
        let known = store.known_agents(source, agents).await?;
        let (count, mut profiles) = (snapshots.len(), Vec::new());
        for Snapshot { person, .. } in &snapshots {
            let known = known.get(&person.agent_id);
            let differs =
                |told: &Option<String>, known: Option<&Option<String>>| told.is_some() && known != Some(told);
            if differs(&person.name, known.map(|known| &known.name))
                || differs(&person.email, known.map(|known| &known.email))
            {
                profiles.push((person.agent_id.clone(), person.name.clone(), person.email.clone()));
            }
        }
        let mut changes = differing(snapshots, &known, asked_at);
        if !changes.is_empty() && !self.covered {
            sleep(CATCH_UP).await;
            changes = self.still_ahead(changes, asked_at).await?;
        }
        // Names first, so that the events carry them.
        if !profiles.is_empty() {
            store.write_profiles(source, &profiles).await?;
        }
        if self.covered {
            self.ahead.extend(changes.into_iter().map(|change| (asked_at, change)));
            return Ok((count, 0));
        }
        let differences = changes.len();
        for snapshot in changes {
            self.hand_in(snapshot, asked_at).await;
        }
        Ok((count, differences))
    }

    /// Hands in what is still ahead of the former socket after a while; gives how much that is.
    async fn catch_up(&mut self) -> Result<usize, Failed> {
        if self.ahead.is_empty() {
            return Ok(0);
        }
        sleep(CATCH_UP_COVERED).await;
        let mut differences = 0;
        while let Some(asked_at) = self.ahead.last().map(|(asked_at, _)| *asked_at) {
            let asked_then = self.ahead.iter().filter(|(at, _)| *at == asked_at);
            let changes = asked_then.map(|(_, change)| change.clone()).collect();
            for change in self.still_ahead(changes, asked_at).await? {
                self.hand_in(change, asked_at).await;
                differences += 1;
            }
            self.ahead.retain(|(at, _)| *at != asked_at);
        }
        Ok(differences)
    }

    /// Those of the states that still tell something new, once everything that arrived is stored.
    async fn still_ahead(
        &self,
        changes: Vec<Snapshot>,
        asked_at: OffsetDateTime,
    ) -> Result<Vec<Snapshot>, Failed> {
        self.deps.recorder.flushed().await;
        let agents: Vec<String> = changes.iter().map(|change| change.person.agent_id.clone()).collect();
        let known = self.deps.store.known_agents(self.assignment.source_id, &agents).await?;
        Ok(differing(changes, &known, asked_at))
    }

    async fn hand_in(&self, snapshot: Snapshot, asked_at: OffsetDateTime) {
        let update = Update {
            agent_id: Some(snapshot.person.agent_id),
            topic: Some(TOPIC.to_owned()),
            presence: None,
            occurred_at: None,
            state: Some(snapshot.state),
        };
        let Some(change) =
            self.assignment.change(update, Origin::Resync, snapshot.raw, asked_at, &self.definitions)
        else {
            return;
        };
        while self.deps.recorder.try_record(change.clone()).is_err() {
            sleep(ROOM_AGAIN).await;
        }
    }

    async fn failed(&self, error: &Failed, backoff: &mut ReconnectBackoff) {
        self.deps.metrics.resyncs.get_or_create(&OutcomeLabels { outcome: "failed" }).inc();
        if backoff.attempts() == 0 {
            tracing::warn!(%error, connection = %self.assignment.connection_id, "present states cannot be read yet");
            let mut entry = Entry::new(clock::now(), Kind::ResyncFailed)
                .level(Level::Warn)
                .data("error", error.to_string());
            entry.source_id = Some(self.assignment.source_id);
            entry.connection_id = Some(self.assignment.connection_id);
            drop(self.deps.store.write_audit(&[entry]).await);
        }
        sleep(backoff.next(random::unit())).await;
    }
}

/// Those of the states that tell something new.
fn differing(
    snapshots: Vec<Snapshot>,
    known: &HashMap<String, KnownAgent>,
    asked_at: OffsetDateTime,
) -> Vec<Snapshot> {
    let news = |snapshot: &Snapshot| {
        let known = known.get(&snapshot.person.agent_id).cloned().unwrap_or_default();
        let seen = Seen { origin: Origin::Resync, at: asked_at, known_at: known.received_at };
        matches!(known.state.clone().merge(&snapshot.state, seen), Merged::Changed(_))
    };
    snapshots.into_iter().filter(news).collect()
}

/// Why a part could not be read.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
