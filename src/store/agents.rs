//! `agent` as the API shows it: the last known state of each Genesys user.

use time::OffsetDateTime;

use super::{Result, Store};
use crate::domain::ids::{AgentId, EventId, SourceId};

/// Last known state of an agent.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// Short internal key; orders the list.
    pub agent_key: i64,
    /// The organisation it belongs to.
    pub source_id: SourceId,
    /// What people call that organisation.
    pub source_name: String,
    /// Genesys user id.
    pub agent_id: AgentId,
    /// Number of its last event; 0 before the first.
    pub sequence: i64,
    /// Last readable system presence.
    pub presence: Option<String>,
    /// Topic of the last event.
    pub topic: Option<String>,
    /// Since when the presence is what it is.
    pub since: Option<OffsetDateTime>,
    /// Upstream's time of the last event.
    pub occurred_at: Option<OffsetDateTime>,
    /// When the last event arrived.
    pub received_at: Option<OffsetDateTime>,
    /// The last event.
    pub event_id: Option<EventId>,
    /// Whether a connection that watches it is open.
    pub connected: bool,
}

impl Store {
    /// A page of agents of sources that are in use, in the order we first heard of them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn agents(
        &self,
        source: Option<SourceId>,
        presence: Option<&str>,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AgentRow>> {
        let rows = sqlx::query_as!(
            AgentRow,
            r#"select agent_key, a.source_id as "source_id: SourceId", s.name as source_name,
                      agent_id as "agent_id: AgentId", sequence, presence, topic, since, occurred_at, received_at,
                      event_id as "event_id: EventId",
                      exists (
                          select from connection c
                          where c.source_id = a.source_id
                            and c.agent_id = a.agent_id
                            and c.state = 'open') as "connected!"
               from agent a
               join source s on s.source_id = a.source_id
               where s.deleted_at is null
                 and ($1::uuid is null or a.source_id = $1)
                 and ($2::text is null or presence = $2)
                 and ($3::bigint is null or agent_key > $3)
               order by agent_key
               limit $4"#,
            source as _,
            presence,
            after,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The agents of this Genesys id: one for each source that knows it. At most two are read, which is enough to
    /// see that the id alone does not say who is meant.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn agents_by_id(&self, agent: &str, source: Option<SourceId>) -> Result<Vec<AgentRow>> {
        let rows = sqlx::query_as!(
            AgentRow,
            r#"select agent_key, a.source_id as "source_id: SourceId", s.name as source_name,
                      agent_id as "agent_id: AgentId", sequence, presence, topic, since, occurred_at, received_at,
                      event_id as "event_id: EventId",
                      exists (
                          select from connection c
                          where c.source_id = a.source_id
                            and c.agent_id = a.agent_id
                            and c.state = 'open') as "connected!"
               from source s
               join agent a on a.source_id = s.source_id
               where s.deleted_at is null
                 and agent_id = $1
                 and ($2::uuid is null or a.source_id = $2)
               limit 2"#,
            agent,
            source as _,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}
