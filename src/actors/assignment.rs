//! Which connection an actor holds, and whom it watches.

use std::time::Duration;

use time::OffsetDateTime;

use crate::domain::ids::{AgentId, ConnectionId, EventId, SourceId};
use crate::domain::presence::{Origin, PresenceChange};
use crate::genesys::protocol::Update;
use crate::genesys::session::Ending;
use crate::store::upstream::Watcher;

/// Which connection, and whom it watches.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Its id.
    pub connection_id: ConnectionId,
    /// The source.
    pub source_id: SourceId,
    /// The source's name, which events carry.
    pub source_name: String,
    /// The agent.
    pub agent_id: AgentId,
    /// Topics, flat; the first stands for updates that name none.
    pub topics: Vec<String>,
    /// How often upstream shall ping.
    pub heartbeat: Duration,
    /// Upstream ids of ours that may still exist.
    pub leftovers: Vec<String>,
    /// Last moment of proof by a former process or actor.
    pub proven_at: Option<OffsetDateTime>,
    /// It is to end at once, for this reason: there is nothing to do but to delete leftovers.
    pub ends_at_once: Option<Ending>,
}

impl Assignment {
    /// Whose sight is gained and lost with this connection.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        Watcher {
            source_id: self.source_id,
            connection_id: self.connection_id,
            agent_id: self.agent_id.clone(),
        }
    }

    /// The presence change that an update of this connection tells.
    #[must_use]
    pub fn change(&self, update: Update, frame: String, received_at: OffsetDateTime) -> PresenceChange {
        PresenceChange {
            event_id: EventId::generate(),
            source_id: self.source_id,
            source_name: self.source_name.clone(),
            connection_id: self.connection_id,
            agent_id: self.agent_id.clone(),
            topic: update.topic.or_else(|| self.topics.first().cloned()).unwrap_or_default(),
            presence: update.presence,
            state: None,
            origin: Origin::Live,
            occurred_at: update.occurred_at,
            received_at,
            raw: frame.into(),
        }
    }
}
