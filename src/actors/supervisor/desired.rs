//! Reads what is wanted: sources, their connections, and whom these watch. Called by the supervisor.

use std::collections::HashMap;

use crate::actors::connection::assignment::Agents;
use crate::domain::ids::ConnectionId;
use crate::domain::presence::source::PROTOCOL_NOTIFICATIONS;
use crate::domain::secret::MasterKey;
use crate::genesys::plan::{Plan, REALTIME_CONNECTIONS_MAX, plan};
use crate::store::sources::desired_connections::WantedSource;
use crate::store::{Store, StoreError};

/// A source, what its connections are to become, and the agents of those that we do not know yet.
pub struct Wanted {
    /// The source.
    pub source: WantedSource,
    /// What its connections are to become (protocol `realtime`).
    pub plan: Plan,
    /// Agents of the connections whose agents we do not know yet.
    pub agents: HashMap<ConnectionId, Agents>,
}

/// Reads the sources with their plans, after making the rows that the plans miss. `held` says which agents are known.
///
/// # Errors
/// If the database is away.
pub async fn read_wanted(
    store: &Store,
    master_key: &MasterKey,
    held: &HashMap<ConnectionId, i64>,
) -> Result<Vec<Wanted>, StoreError> {
    let planned = |source: WantedSource| {
        let connected: Vec<String> =
            source.connections.iter().filter_map(|c| Some(c.agent_id.as_ref()?.0.clone())).collect();
        let plan = if source.deleted || source.protocol == PROTOCOL_NOTIFICATIONS {
            // Nobody is wanted, or a planner of its own says who (actors/roster.rs).
            Plan { remove: connected, ..Plan::default() }
        } else {
            plan(&source.agents, &connected, REALTIME_CONNECTIONS_MAX)
        };
        Wanted { source, plan, agents: HashMap::new() }
    };
    let mut wanted: Vec<_> = store.wanted_sources(master_key).await?.into_iter().map(planned).collect();
    let mut added = false;
    for Wanted { source, plan, .. } in wanted.iter().filter(|one| !one.plan.add.is_empty()) {
        store.add_connections(source.source_id, &plan.add).await?;
        added = true;
    }
    if added {
        wanted = store.wanted_sources(master_key).await?.into_iter().map(planned).collect();
    }
    for Wanted { source, agents, .. } in &mut wanted {
        for connection in &source.connections {
            let (id, version) = (connection.connection_id, connection.assignment);
            if held.get(&id) == Some(&version) {
                continue;
            }
            let list = match &connection.agent_id {
                Some(only) => vec![only.clone()],
                None => store.agents_of_connection(id).await?,
            };
            agents.insert(id, Agents::new(version, list));
        }
    }
    Ok(wanted)
}
