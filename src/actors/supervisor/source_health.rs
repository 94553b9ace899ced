//! Notices when a source has had no live connection for too long, and when it has one again. Called by the supervisor
//! each second.

use std::collections::{HashMap, HashSet};

use actix::prelude::*;
use time::{Duration, OffsetDateTime};

use crate::actors::supervisor::{Deps, Supervisor};
use crate::clock;
use crate::domain::ids::SourceId;
use crate::domain::presence::connection::DesiredState;
use crate::store::sources::desired_connections::WantedSource;

/// What is known of the sources besides their rows.
#[derive(Default)]
pub struct SourcesHealth {
    /// When each source was looked at first: without any proof, its time counts from then.
    first_seen: HashMap<SourceId, OffsetDateTime>,
    /// Sources whose change is being written down.
    telling: HashSet<SourceId>,
}

impl SourcesHealth {
    /// Compares a source's proofs of life with what is said of it.
    pub fn look(&mut self, source: &WantedSource, deps: &Deps, ctx: &mut Context<Supervisor>) {
        let id = source.source_id;
        // Whoever ended all of them by hand knows.
        let ended = !source.connections.is_empty()
            && source.connections.iter().all(|connection| connection.desired != DesiredState::Open);
        if source.deleted || ended && source.stale_since.is_none() || self.telling.contains(&id) {
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
        // What a former process has proven counts as well: its end began the silence.
        let proven = proven.max(source.connections.iter().filter_map(|c| c.proven_at).max());
        let since = proven.unwrap_or(first_seen);
        let silent = now - since >= Duration::seconds(i64::from(source.stale_after_seconds));
        let stale = match (source.stale_since, live) {
            (Some(_), true) => false,
            (None, false) if silent => true,
            _ => return,
        };
        self.telling.insert(id);
        let (store, name) = (deps.store.clone(), source.name.clone());
        let told = async move {
            let told = if stale {
                store.source_became_stale(id, since, now).await
            } else {
                store.source_recovered(id, now).await
            };
            match told {
                Ok(()) if stale => {
                    tracing::error!(source = %name, "a source has had no live connection for too long");
                }
                Ok(()) => tracing::info!(source = %name, "a source has a live connection again"),
                Err(error) => {
                    tracing::warn!(%error, source = %name, "a source's health cannot be written yet")
                }
            }
            store.wake.deliveries_due();
        };
        let told = actix::fut::wrap_future::<_, Supervisor>(told);
        ctx.spawn(told.map(move |(), actor, _| actor.health_told(id)));
    }

    /// A change is written down, or is to be tried again.
    pub fn told(&mut self, id: SourceId) {
        self.telling.remove(&id);
    }

    /// Forgets sources that are no more.
    pub fn forget_all_but(&mut self, wanted: impl Fn(SourceId) -> bool) {
        self.first_seen.retain(|source, _| wanted(*source));
    }
}
