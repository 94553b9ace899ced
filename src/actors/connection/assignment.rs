//! Settings of one connection and the agents that it watches.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::domain::ids::{AgentId, ConnectionId, EventId, SourceId};
use crate::domain::presence::connection::CloseCause;
use crate::domain::presence::history::is_believable;
use crate::domain::presence::{Origin, PresenceChange};
use crate::genesys::definitions::Definitions;
use crate::genesys::protocol::{ConnectionSpec, Update};
use crate::store::sources::gap_tracking::Watcher;

#[derive(Clone)]
pub struct Assignment {
    pub connection_id: ConnectionId,
    pub source_id: SourceId,
    /// Events carry it.
    pub source_name: String,
    pub agents: Arc<Agents>,
    /// Topics, flat; the first stands for updates that name none.
    pub topics: Vec<String>,
    /// How often upstream shall ping.
    pub heartbeat: Duration,
    /// Upstream ids of ours that may still exist.
    pub leftovers: Vec<String>,
    /// Last moment of coverage that a former process or actor proved.
    pub proven_at: Option<OffsetDateTime>,
    /// Set if the connection ends at once, because all that is left to do is to delete leftovers.
    pub ends_at_once: Option<CloseCause>,
}

/// The agents of a connection.
#[derive(Clone, Debug, Default)]
pub struct Agents {
    /// Grows with each other assignment.
    pub version: i64,
    /// In the order of the plan.
    pub list: Arc<Vec<AgentId>>,
    set: HashSet<String>,
}

impl Agents {
    #[must_use]
    pub fn new(version: i64, list: Vec<AgentId>) -> Self {
        let set = list.iter().map(|agent| agent.0.clone()).collect();
        Self { version, list: Arc::new(list), set }
    }

    #[must_use]
    pub fn contains(&self, agent: &str) -> bool {
        self.set.contains(agent)
    }

    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.list.iter().map(|agent| agent.0.clone()).collect()
    }

    /// Those that are not among `others`.
    #[must_use]
    pub fn without(&self, others: &Self) -> Vec<String> {
        self.list.iter().map(|agent| &agent.0).filter(|agent| !others.contains(agent)).cloned().collect()
    }
}

impl Assignment {
    /// The agents whose coverage depends on this connection.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        Watcher {
            source_id: self.source_id,
            connection_id: self.connection_id,
            agents: self.agents.list.clone(),
        }
    }

    /// Request for a connection upstream.
    #[must_use]
    pub fn wanted(&self) -> ConnectionSpec {
        ConnectionSpec {
            agents: self.agents.ids(),
            topics: self.topics.clone(),
            heartbeat_interval: self.heartbeat,
        }
    }

    /// Whether an update is about an agent of this connection.
    #[must_use]
    pub fn watches(&self, update: &Update) -> bool {
        update.agent_id.as_ref().is_none_or(|agent| self.agents.contains(agent))
    }

    /// The presence change that an update reports; `None` if it names no agent and the connection has none.
    #[must_use]
    pub fn change(
        &self,
        mut update: Update,
        origin: Origin,
        raw: String,
        received_at: OffsetDateTime,
        definitions: &Definitions,
    ) -> Option<PresenceChange> {
        let agent_id = update.agent_id.take().map(AgentId).or_else(|| self.agents.list.first().cloned())?;
        if let Some(presence) = update.state.as_mut().and_then(|state| state.presence.as_mut()) {
            let definition = presence.value.definition_id.as_deref().and_then(|id| definitions.get(id));
            if let Some(definition) = definition {
                presence.value.label = definition.label;
                presence.value.system = presence.value.system.take().or(definition.system);
            }
        }
        Some(PresenceChange {
            event_id: EventId::generate(),
            source_id: self.source_id,
            source_name: self.source_name.clone(),
            connection_id: self.connection_id,
            agent_id,
            topic: update.topic.or_else(|| self.topics.first().cloned()).unwrap_or_default(),
            presence: update.presence,
            state: update.state,
            origin,
            occurred_at: update.occurred_at.filter(|at| is_believable(*at, received_at)),
            received_at,
            // It may wait for long, so without the room that its buffer had to spare.
            raw: Bytes::from(raw.into_boxed_str().into_boxed_bytes()),
        })
    }
}
