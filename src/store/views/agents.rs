//! `agent` as the API shows it: the last known state of each Genesys user.

use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::ids::{AgentId, ConnectionId, EventId, SourceId};
use crate::domain::presence::agent_state::AgentState;
use crate::store::session::choose_plan_by_values;
use crate::store::{Result, Store};

/// Presences that are counted: those of the platform, and custom ones of realtime sources.
const PRESENCES_MAX: i64 = 50;

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
    /// Last moment that a frame proved its connection live, as it was written down last.
    pub proven_at: Option<OffsetDateTime>,
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

/// Restricts agents; a field that is `None` lets every agent pass.
#[derive(Clone, Debug, Default)]
pub struct AgentFilter {
    /// Only of this source.
    pub source: Option<SourceId>,
    /// Only in this system presence, in our spelling.
    pub presence: Option<String>,
    /// Only with this id in the CRM.
    pub external_id: Option<String>,
    /// Only those that work in this queue now.
    pub queue: Option<String>,
    /// Only those whose name holds this, in small letters or capitals.
    pub name: Option<String>,
    /// Only those that an open connection watches, or that none does.
    pub connected: Option<bool>,
}

/// How many agents are in a presence.
#[derive(Clone, Debug)]
pub struct PresenceCount {
    /// System presence; `None` before one was read.
    pub presence: Option<String>,
    pub agents: i64,
}

/// What is asked of agents that pass a filter, those behind a place in their order and of sources in use.
macro_rules! select_agents {
    ($row:path, $head:literal, $tail:literal, $filter:expr, $presence:expr, $after:expr, $limit:expr) => {
        sqlx::query_as!(
            $row,
            $head
                + r#"
               from agent a
               join source s on s.source_id = a.source_id
               left join agent_external_id x on x.source_id = a.source_id and x.agent_id = a.agent_id
               where s.deleted_at is null
                 and ($1::uuid is null or a.source_id = $1)
                 and ($2::text is null or a.presence = $2)
                 and ($3::bigint is null or a.agent_key > $3)
                 and ($4::text is null or x.external_id = $4)
                 and ($5::text is null or a.state->'queues'->'is' ? $5)
                 and ($6::text is null or strpos(a.name_lower, lower($6)) > 0)
                 and ($7::boolean is null or $7 = exists (
                     select from connection_agent w
                     join connection c on c.connection_id = w.connection_id
                     where w.source_id = a.source_id
                       and w.agent_id = a.agent_id
                       and w.rejected_reason is null
                       and c.state = 'open')) "#
                + $tail,
            $filter.source as _,
            $presence,
            $after,
            $filter.external_id.as_deref(),
            $filter.queue.as_deref(),
            $filter.name.as_deref(),
            $filter.connected,
            $limit,
        )
    };
}

impl Store {
    /// A page of agents of sources that are in use, in the order we first heard of them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn agents(
        &self,
        filter: &AgentFilter,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AgentRow>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let rows = select_agents!(
            AgentRow,
            r#"select a.agent_key as "agent_key!", a.source_id as "source_id!: SourceId", a.source_name as "source_name!",
                      a.agent_id as "agent_id!: AgentId", a.external_id as "external_id?", a.sequence as "sequence!",
                      a.presence as "presence?", a.topic as "topic?", a.since as "since?",
                      a.occurred_at as "occurred_at?", a.received_at as "received_at?",
                      a.event_id as "event_id?: EventId", a.name as "name?", a.email as "email?",
                      a.state as "state!: Json<AgentState>",
                      coalesce(c.state = 'open' and w.rejected_reason is null, false) as "connected!",
                      c.proven_at as "proven_at?", w.rejected_reason as "rejected?", a.erased_at as "erased_at?",
                      a.excluded_at is null as "watched!"
               from (
                   select a.*, s.name as source_name, x.external_id"#,
            r#"order by a.agent_key
                   limit $8) a
               left join connection_agent w on w.source_id = a.source_id and w.agent_id = a.agent_id
               left join connection c on c.connection_id = w.connection_id
               order by a.agent_key"#,
            filter,
            filter.presence.as_deref(),
            after,
            limit
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// How many agents pass a filter, by their presence, most first. The filter's own presence is passed over.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn agents_by_presence(&self, filter: &AgentFilter) -> Result<Vec<PresenceCount>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let counts = select_agents!(
            PresenceCount,
            r#"select a.presence as "presence?", count(*) as "agents!""#,
            r#"group by a.presence
               order by count(*) desc, a.presence
               limit $8"#,
            filter,
            None::<&str>,
            None::<i64>,
            PRESENCES_MAX
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(counts)
    }

    /// Agents of this Genesys id: one for each source that knows it. At most two are read, enough to see that
    /// the id alone is ambiguous.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn agents_by_id(&self, agent: &str, source: Option<SourceId>) -> Result<Vec<AgentRow>> {
        let rows = sqlx::query_as!(
            AgentRow,
            r#"select a.agent_key, a.source_id as "source_id: SourceId", s.name as source_name,
                      a.agent_id as "agent_id: AgentId", x.external_id as "external_id?", a.sequence, a.presence,
                      a.topic, a.since, a.occurred_at, a.received_at, a.event_id as "event_id: EventId", a.name,
                      a.email, a.state as "state: Json<AgentState>",
                      coalesce(c.state = 'open' and w.rejected_reason is null, false) as "connected!",
                      c.proven_at as "proven_at?", w.rejected_reason as "rejected?", a.erased_at,
                      a.excluded_at is null as "watched!"
               from source s
               join agent a on a.source_id = s.source_id
               left join agent_external_id x on x.source_id = a.source_id and x.agent_id = a.agent_id
               left join connection_agent w on w.source_id = a.source_id and w.agent_id = a.agent_id
               left join connection c on c.connection_id = w.connection_id
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
