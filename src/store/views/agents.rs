//! `agent` as the API shows it: the last known state of each Genesys user.

use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::ids::{AgentId, ConnectionId, EventId, SourceId};
use crate::domain::presence::agent_state::AgentState;
use crate::store::{Result, Store};

/// Last known state of an agent.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// Short internal key; orders the list.
    pub agent_key: i64,
    /// Its source.
    pub source_id: SourceId,
    /// Name of that organisation.
    pub source_name: String,
    /// Genesys user id.
    pub agent_id: AgentId,
    /// Its id in the CRM.
    pub external_id: Option<String>,
    /// Number of its last event; 0 before the first.
    pub sequence: i64,
    /// Last readable system presence.
    pub presence: Option<String>,
    /// Topic of the last event.
    pub topic: Option<String>,
    /// Begin of the present presence.
    pub since: Option<OffsetDateTime>,
    /// Upstream's time of the last event.
    pub occurred_at: Option<OffsetDateTime>,
    /// When the last event arrived.
    pub received_at: Option<OffsetDateTime>,
    pub event_id: Option<EventId>,
    /// Name as the organisation keeps it.
    pub name: Option<String>,
    /// E-mail address as the organisation keeps it.
    pub email: Option<String>,
    /// State, part by part.
    pub state: Json<AgentState>,
    /// Whether a connection that watches it is open.
    pub connected: bool,
    /// Reason why upstream does not let us watch it.
    pub rejected: Option<String>,
    /// When its person was erased.
    pub erased_at: Option<OffsetDateTime>,
    /// It is not left out of what its source watches.
    pub watched: bool,
}

/// An agent that upstream does not let us watch.
#[derive(Clone, Debug)]
pub struct RejectedTopic {
    /// Orders the list.
    pub place: i64,
    /// Its source.
    pub source_id: SourceId,
    /// Connection that was to watch it.
    pub connection_id: ConnectionId,
    pub agent_id: AgentId,
    /// Topic that was asked for.
    pub topic: Option<String>,
    /// Upstream's reason.
    pub reason: String,
    /// Permissions that it says are missing.
    pub missing_permissions: Vec<String>,
    /// When it was rejected first.
    pub rejected_at: Option<OffsetDateTime>,
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
        external_id: Option<&str>,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AgentRow>> {
        let rows = sqlx::query_as!(
            AgentRow,
            r#"select agent_key, a.source_id as "source_id: SourceId", s.name as source_name,
                      a.agent_id as "agent_id: AgentId", x.external_id as "external_id?", sequence, presence, topic,
                      since, occurred_at, received_at, event_id as "event_id: EventId", a.name, a.email, a.state as "state: Json<AgentState>",
                      exists (
                          select from connection_agent w
                          join connection c on c.connection_id = w.connection_id
                          where w.source_id = a.source_id
                            and w.agent_id = a.agent_id
                            and w.rejected_reason is null
                            and c.state = 'open') as "connected!",
                      (select w.rejected_reason
                       from connection_agent w
                       where w.source_id = a.source_id
                         and w.agent_id = a.agent_id) as rejected,
                      a.erased_at, a.excluded_at is null as "watched!"
               from agent a
               join source s on s.source_id = a.source_id
               left join agent_external_id x on x.source_id = a.source_id and x.agent_id = a.agent_id
               where s.deleted_at is null
                 and ($1::uuid is null or a.source_id = $1)
                 and ($2::text is null or presence = $2)
                 and ($3::bigint is null or agent_key > $3)
                 and ($5::text is null or x.external_id = $5)
               order by agent_key
               limit $4"#,
            source as _,
            presence,
            after,
            limit,
            external_id,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(rows)
    }

    /// Agents of this Genesys id: one for each source that knows it. At most two are read, enough to see that
    /// the id alone is ambiguous.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn agents_by_id(&self, agent: &str, source: Option<SourceId>) -> Result<Vec<AgentRow>> {
        let rows = sqlx::query_as!(
            AgentRow,
            r#"select agent_key, a.source_id as "source_id: SourceId", s.name as source_name,
                      a.agent_id as "agent_id: AgentId", x.external_id as "external_id?", sequence, presence, topic,
                      since, occurred_at, received_at, event_id as "event_id: EventId", a.name, a.email, a.state as "state: Json<AgentState>",
                      exists (
                          select from connection_agent w
                          join connection c on c.connection_id = w.connection_id
                          where w.source_id = a.source_id
                            and w.agent_id = a.agent_id
                            and w.rejected_reason is null
                            and c.state = 'open') as "connected!",
                      (select w.rejected_reason
                       from connection_agent w
                       where w.source_id = a.source_id
                         and w.agent_id = a.agent_id) as rejected,
                      a.erased_at, a.excluded_at is null as "watched!"
               from source s
               join agent a on a.source_id = s.source_id
               left join agent_external_id x on x.source_id = a.source_id and x.agent_id = a.agent_id
               where s.deleted_at is null
                 and a.agent_id = $1
                 and ($2::uuid is null or a.source_id = $2)
               limit 2"#,
            agent,
            source as _,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(rows)
    }

    /// A page of agents that upstream does not let us watch.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn rejected_topics(
        &self,
        source: Option<SourceId>,
        connection: Option<ConnectionId>,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<RejectedTopic>> {
        let rows = sqlx::query_as!(
            RejectedTopic,
            r#"select place, w.source_id as "source_id: SourceId", connection_id as "connection_id: ConnectionId",
                      agent_id as "agent_id: AgentId", topic, rejected_reason as "reason!", missing_permissions,
                      rejected_at
               from connection_agent w
               join source s on s.source_id = w.source_id
               where rejected_reason is not null
                 and s.deleted_at is null
                 and ($1::uuid is null or w.source_id = $1)
                 and ($2::uuid is null or connection_id = $2)
                 and ($3::bigint is null or place > $3)
               order by place
               limit $4"#,
            source as _,
            connection as _,
            after,
            limit,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(rows)
    }
}
