//! Detects when a source has had no live connection for too long, and when it has one again. Called by the
//! supervisor each second.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use actix::prelude::*;
use time::{Duration, OffsetDateTime};

use crate::actors::supervisor::source_log::SourceLog;
use crate::actors::supervisor::{Deps, Supervisor};
use crate::clock;
use crate::domain::ids::SourceId;
use crate::domain::presence::connection::DesiredState;
use crate::store::sources::desired_connections::WantedSource;

#[derive(Default)]
pub struct SourcesHealth {
    /// First check of each source: without any proof, its time without a connection counts from then.
    first_seen: HashMap<SourceId, OffsetDateTime>,
    /// When a source was last seen to have nobody to watch: it needs no connection until then.
    empty_at: HashMap<SourceId, OffsetDateTime>,
    /// Sources whose change is being written.
    writing: HashSet<SourceId>,
    log: SourceLog,
}

impl SourcesHealth {
    /// Compares a source's proofs of coverage with its health as it is written, and has the log tell of it.
    pub fn check(&mut self, source: &WantedSource, deps: &Deps, ctx: &mut Context<Supervisor>) {
        let id = source.source_id;
        if !source.deleted {
            self.log.look(source, &deps.status, Instant::now());
        }
        // An operator who ended all of them by hand needs no notice.
        let ended = !source.connections.is_empty()
            && source.connections.iter().all(|connection| connection.desired != DesiredState::Open);
        if source.deleted || ended && source.stale_since.is_none() || self.writing.contains(&id) {
            return;
        }
        let now = clock::now();
        let first_seen = *self.first_seen.entry(id).or_insert(now);
        let figures = source.connections.iter().map(|c| deps.status.connection(c.connection_id));
        let (mut live, mut proven) = (false, None);
        for figures in figures {
            live |= figures.open;
            proven = proven.max(figures.proven_at);
        }
        if source.watches_nobody {
            live = true;
            self.empty_at.insert(id, now);
        }
        // Proofs of a former process count as well: the silence began with its end.
        let proven = proven.max(source.connections.iter().filter_map(|c| c.proven_at).max());
        let since = proven.max(self.empty_at.get(&id).copied()).unwrap_or(first_seen);
        let silent = now - since >= Duration::seconds(i64::from(source.stale_after_seconds));
        let stale = match (source.stale_since, live) {
            (Some(_), true) => false,
            (None, false) if silent => true,
            _ => return,
        };
        self.writing.insert(id);
        let (store, name) = (deps.store.clone(), source.name.clone());
        let write = async move {
            let written = if stale {
                store.source_became_stale(id, since, now).await
            } else {
                store.source_recovered(id, now).await
            };
            match written {
                // The log tells of it when it is read again (source_log.rs).
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, source = %name, "failed to write a source's health; retrying")
                }
            }
            store.wake.deliveries_due();
        };
        let write = actix::fut::wrap_future::<_, Supervisor>(write);
        ctx.spawn(write.map(move |(), actor, _| actor.on_health_written(id)));
    }

    /// A change was written, or failed to be and is tried again.
    pub fn on_written(&mut self, id: SourceId) {
        self.writing.remove(&id);
    }

    /// Forgets sources that are gone.
    pub fn forget_all_but(&mut self, wanted: impl Fn(SourceId) -> bool) {
        self.first_seen.retain(|source, _| wanted(*source));
        self.log.forget_all_but(&wanted);
        self.empty_at.retain(|source, _| wanted(*source));
    }
}
