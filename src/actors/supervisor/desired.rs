//! Reads the sources, their desired connections and the agents of each. Called by the supervisor.

use std::collections::HashMap;

use crate::actors::connection::assignment::Agents;
use crate::domain::ids::ConnectionId;
use crate::domain::presence::source::PROTOCOL_NOTIFICATIONS;
use crate::domain::secret::MasterKey;
use crate::genesys::plan::{ConnectionPlan, REALTIME_CONNECTIONS_MAX, plan};
use crate::store::sources::desired_connections::WantedSource;
use crate::store::{Store, StoreError};

/// A source and the changes that its connections need.
pub struct DesiredSource {
    pub source: WantedSource,
    /// Connections to add and to remove (protocol `realtime`).
    pub plan: ConnectionPlan,
    /// Agents of the connections whose present assignment the supervisor does not know yet.
    pub agents: HashMap<ConnectionId, Agents>,
}

/// Reads the sources with their plans, after making the rows that the plans miss. `known` has the version of
/// the agents that the supervisor knows, by connection.
///
/// # Errors
/// If the database is unavailable.
pub async fn read_desired(
    store: &Store,
    master_key: &MasterKey,
    known: &HashMap<ConnectionId, i64>,
) -> Result<Vec<DesiredSource>, StoreError> {
    let planned = |source: WantedSource| {
        let connected: Vec<String> =
            source.connections.iter().filter_map(|c| Some(c.agent_id.as_ref()?.0.clone())).collect();
        let plan = if source.deleted || source.protocol == PROTOCOL_NOTIFICATIONS {
            // No agent is wanted, or a planner assigns them (actors/roster.rs).
            ConnectionPlan { remove: connected, ..ConnectionPlan::default() }
        } else {
            let mut wanted = source.agents.clone();
            wanted.retain(|agent| !source.excluded.contains(agent));
            plan(&wanted, &connected, REALTIME_CONNECTIONS_MAX)
        };
        DesiredSource { source, plan, agents: HashMap::new() }
    };
    let mut desired: Vec<_> = store.wanted_sources(master_key).await?.into_iter().map(planned).collect();
    let mut added = false;
    for DesiredSource { source, plan, .. } in desired.iter().filter(|one| !one.plan.add.is_empty()) {
        store.add_connections(source.source_id, &plan.add).await?;
        added = true;
    }
    if added {
        desired = store.wanted_sources(master_key).await?.into_iter().map(planned).collect();
    }
    for DesiredSource { source, agents, .. } in &mut desired {
        for connection in &source.connections {
            let (id, version) = (connection.connection_id, connection.assignment);
            if known.get(&id) == Some(&version) {
                continue;
            }
            let list = match &connection.agent_id {
                Some(only) => vec![only.clone()],
                None => store.agents_of_connection(id).await?,
            };
            agents.insert(id, Agents::new(version, list));
        }
    }
    Ok(desired)
}
