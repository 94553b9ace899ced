//! Starts the planners of sources that need one, asks them to read again, and ends them with their source.

use std::collections::HashMap;
use std::time::Duration;

use actix::prelude::*;

use crate::actors::roster::{End, Refresh, RosterActor, RosterDeps};
use crate::actors::supervisor::source_clients::{Shared, SharedClients};
use crate::domain::ids::SourceId;
use crate::genesys::protocol::Watch;
use crate::store::Store;
use crate::store::sources::desired_connections::WantedSource;

struct Planner {
    addr: Addr<RosterActor>,
    /// Version of the source that it was started for.
    version: i64,
    /// Number of requests to read again that it has received.
    refreshes: i64,
}

/// Planners by source.
#[derive(Default)]
pub struct Rosters {
    by_source: HashMap<SourceId, Planner>,
}

impl Rosters {
    /// Starts the planner of a source if it has none for its version, and passes on requests to read the
    /// rosters.
    pub fn ensure(&mut self, source: &WantedSource, shared: &mut SharedClients, store: &Store) {
        if let Some(planner) = self.by_source.get_mut(&source.source_id) {
            if planner.version == source.version && planner.addr.connected() {
                if planner.refreshes != source.refreshes_asked && planner.addr.try_send(Refresh).is_ok() {
                    planner.refreshes = source.refreshes_asked;
                }
                return;
            }
            planner.addr.do_send(End);
        }
        let Some(Shared { upstream, tokens, definitions, .. }) = shared.of(source) else {
            return;
        };
        let deps = RosterDeps {
            store: store.clone(),
            source_id: source.source_id,
            source_name: source.name.clone(),
            watch: Watch {
                agents: source.agents.clone(),
                all_users: source.all_users,
                queues: source.queues.clone(),
                groups: source.groups.clone(),
            },
            interval: Duration::from_secs(u64::try_from(source.roster_interval_seconds).unwrap_or(600)),
            upstream,
            tokens,
            definitions,
        };
        let planner = Planner {
            addr: RosterActor::new(deps).start(),
            version: source.version,
            refreshes: source.refreshes_asked,
        };
        self.by_source.insert(source.source_id, planner);
    }

    /// Ends the planners of sources that need none any more.
    pub fn end_all_but(&mut self, wanted: impl Fn(SourceId) -> bool) {
        self.by_source.retain(|source, planner| {
            let stays = wanted(*source);
            if !stays {
                planner.addr.do_send(End);
            }
            stays
        });
    }
}
