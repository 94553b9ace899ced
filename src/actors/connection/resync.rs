//! Reads the present states of a connection's agents once its socket is open: states that changed without
//! coverage become ordinary events of origin `resync`.
//!
//! Subscribe first, ask second: an answer may then be older than a report of the socket, and loses against it
//! by its time. The limiter sets the pace. A reading that fails goes on where it stood; it ends with its
//! socket.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::actors::connection::assignment::Assignment;
use crate::actors::connection::link::{AttemptRef, LinkId, Role};
use crate::actors::connection::{ConnectionActor, Deps};
use crate::actors::token::{CachedToken, Tokens};
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::presence::Origin;
use crate::domain::presence::merge::{Merged, Seen};
use crate::genesys::definitions::Definitions;
use crate::genesys::protocol::{ErrorKind, SNAPSHOT_MAX, Snapshot, Update, Upstream, UpstreamError};
use crate::genesys::reconnect::ReconnectBackoff;
use crate::random;
use crate::store::StoreError;
use crate::store::sources::assignments::KnownAgent;

/// Topic of a state that no frame reported.
const TOPIC: &str = "resync";
/// An answer that is ahead of the socket waits this long: recorded first, it would make the frame on its way
/// stale.
const CATCH_UP: Duration = Duration::from_millis(250);
/// The same while the active link still reports every change, so that there is no hurry.
const CATCH_UP_COVERED: Duration = Duration::from_secs(2);
/// Wait before a state that found no room in the queue is handed in again.
const ROOM_AGAIN: Duration = Duration::from_millis(200);

impl ConnectionActor {
    /// Starts to read these agents' states; a reading of the same link that is under way ends.
    pub(super) fn start_resync(&mut self, attempt: AttemptRef, agents: Vec<String>, ctx: &mut Context<Self>) {
        self.stop_resync(attempt.link, ctx);
        let covered = self.links.open_active().is_some_and(|active| active.id != attempt.link);
        let Some(token) = self.links.get(attempt.link).and_then(|link| link.token.clone()) else {
            return;
        };
        let reading = Reading {
            covered,
            ahead: Vec::new(),
            unreadable_times: 0,
            deps: self.deps.clone(),
            assignment: self.assignment.clone(),
            upstream: self.upstream.clone(),
            tokens: self.tokens.clone(),
            definitions: self.definitions.clone(),
            token,
        };
        let read = async move { reading.run(&agents).await };
        let handle = ctx.spawn(read.into_actor(self).map(move |entry, actor, ctx| {
            let Some(link) = actor.links.get_mut(attempt.link) else { return };
            link.resync = None;
            let can_take_over = link.is_open() && link.role == Role::Standby;
            actor.journal.audit(entry);
            if can_take_over {
                actor.prove_and_hand_over(ctx);
            }
            actor.write(ctx);
        }));
        if let Some(link) = self.links.get_mut(attempt.link) {
            link.resync = Some(handle);
        }
    }

    /// Whether a link is reading states.
    pub(super) fn reads_states(&self, id: LinkId) -> bool {
        self.links.get(id).is_some_and(|link| link.resync.is_some())
    }

    /// Ends a reading: its socket is gone, and the next one starts from the beginning.
    pub(super) fn stop_resync(&mut self, id: LinkId, ctx: &mut Context<Self>) {
        if let Some(handle) = self.links.get_mut(id).and_then(|link| link.resync.take()) {
            ctx.cancel_future(handle);
        }
    }
}

/// One reading of states.
struct Reading {
    /// Another socket covers the agents meanwhile.
    covered: bool,
    /// States that were ahead of it, with the time of the request.
    ahead: Vec<(OffsetDateTime, Snapshot)>,
    /// Times in the answers that could not be read.
    unreadable_times: usize,
    deps: Deps,
    assignment: Assignment,
    upstream: Rc<dyn Upstream>,
    tokens: Tokens,
    definitions: Definitions,
    token: CachedToken,
}

impl Reading {
    /// Reads all, however long it takes; gives the audit entry about it.
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
        self.deps.metrics.resyncs.of("ok").inc();
        self.deps.metrics.resync_differences.inc_by(count(differences));
        let mut entry = Entry::new(clock::now(), Kind::ResyncDone)
            .data("agents", agents.len())
            .data("unknown", agents.len().saturating_sub(found))
            .data("differences", differences);
        if self.unreadable_times > 0 {
            entry = entry.level(Level::Warn).data("unreadable_times", self.unreadable_times);
        }
        entry.duration_ms = i32::try_from(began.elapsed().as_millis()).ok();
        entry
    }

    /// Reads some agents; gives how many states there were, and how many of them are new.
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
        let unreadable = snapshots.iter().map(|snapshot| snapshot.unreadable_times.len()).sum();
        self.deps.metrics.count_unreadable_times(unreadable);
        self.unreadable_times += unreadable;
        for Snapshot { person, .. } in &snapshots {
            let known = known.get(&person.agent_id);
            let differs =
                |read: &Option<String>, known: Option<&Option<String>>| read.is_some() && known != Some(read);
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

    /// Records the states that are still ahead of the active link after a while; gives how many they are.
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

    /// Those of the states that are still new, once everything that arrived is stored.
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
            unreadable_times: Vec::new(),
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
        self.deps.metrics.resyncs.of("failed").inc();
        if backoff.attempts() == 0 {
            let connection = self.assignment.connection_id;
            tracing::warn!(%error, %connection, "failed to read present states; retrying");
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

/// Those of the states that are new.
fn differing(
    snapshots: Vec<Snapshot>,
    known: &HashMap<String, KnownAgent>,
    asked_at: OffsetDateTime,
) -> Vec<Snapshot> {
    let is_new = |snapshot: &Snapshot| {
        let known = known.get(&snapshot.person.agent_id).cloned().unwrap_or_default();
        let seen = Seen { origin: Origin::Resync, at: asked_at, known_at: known.received_at };
        matches!(known.state.clone().merge(&snapshot.state, seen), Merged::Changed(_))
    };
    snapshots.into_iter().filter(is_new).collect()
}

/// Error while reading one part.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
