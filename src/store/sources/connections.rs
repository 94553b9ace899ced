//! `connection` as the API shows it, and what an operator may ask of one. The supervisor does the rest.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{AgentId, ConnectionId, SourceId};
use crate::domain::presence::connection::{ConnectionState, DesiredState};
use crate::store::{Result, Store, StoreError, audit};

/// One upstream connection, as its row says.
#[derive(Clone, Debug)]
pub struct ConnectionRow {
    /// Its id; ours.
    pub connection_id: ConnectionId,
    /// Source whose credentials it uses.
    pub source_id: SourceId,
    /// Genesys user that it watches; `None` in protocol `notifications`.
    pub agent_id: Option<AgentId>,
    /// Number of agents that it watches.
    pub agents: i64,
    /// Of those, how many upstream rejects.
    pub rejected_topics: i64,
    /// When upstream ends the present connection.
    pub expires_at: Option<OffsetDateTime>,
    /// State that it is to be brought to.
    pub desired: DesiredState,
    /// State that it was in last.
    pub state: ConnectionState,
    /// Reason of the state, in words.
    pub state_reason: Option<String>,
    /// Reconnect attempts since the last healthy minute.
    pub attempt_count: i32,
    /// Upstream's id of it.
    pub upstream_connection_id: Option<String>,
    /// When the present socket opened.
    pub opened_at: Option<OffsetDateTime>,
    /// Last moment a frame proved the socket live.
    pub proven_at: Option<OffsetDateTime>,
    /// When the row was made.
    pub created_at: OffsetDateTime,
    /// When the state changed last.
    pub updated_at: OffsetDateTime,
}

/// Restricts a list; a field that is `None` lets every connection pass.
#[derive(Clone, Debug, Default)]
pub struct ConnectionFilter {
    /// Only of this source.
    pub source: Option<SourceId>,
    /// Only those that watch this agent.
    pub agent: Option<String>,
    /// Only those in this state.
    pub state: Option<ConnectionState>,
}

/// Whether the bridge can see anything at all.
#[derive(Clone, Copy, Debug)]
pub struct Coverage {
    /// Whether a source has anybody to watch, or does not know yet.
    pub any_wanted: bool,
    /// Whether a connection is open.
    pub any_open: bool,
}

impl Store {
    /// A page of the connections of sources that are in use.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn connections(
        &self,
        filter: &ConnectionFilter,
        after: Option<ConnectionId>,
        limit: i64,
    ) -> Result<Vec<ConnectionRow>> {
        let rows = sqlx::query_as!(
            ConnectionRow,
            r#"select connection_id as "connection_id: ConnectionId", c.source_id as "source_id: SourceId",
                      agent_id as "agent_id: AgentId", desired as "desired: DesiredState",
                      state as "state: ConnectionState", state_reason, attempt_count,
                      upstream_connection_id, opened_at, proven_at, expires_at, c.created_at, c.updated_at,
                      (select count(*) from connection_agent w
                       where w.connection_id = c.connection_id) as "agents!",
                      (select count(*) from connection_agent w
                       where w.connection_id = c.connection_id
                         and w.rejected_reason is not null) as "rejected_topics!"
               from connection c
               join source s on s.source_id = c.source_id
               where s.deleted_at is null
                 and ($1::uuid is null or connection_id > $1)
                 and ($2::uuid is null or c.source_id = $2)
                 and ($3::text is null or connection_id in (
                     select connection_id from connection_agent where agent_id = $3))
                 and ($4::text is null or state = $4)
               order by connection_id
               limit $5"#,
            after as _,
            filter.source as _,
            filter.agent.as_deref(),
            filter.state as _,
            limit,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(rows)
    }

    /// One connection.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn connection(&self, id: ConnectionId) -> Result<ConnectionRow> {
        read(&mut *self.begin().await?, id).await
    }

    /// Wants a connection closed until a restart is asked for.
    ///
    /// # Errors
    /// If there is none, or the database refuses.
    pub async fn terminate_connection(&self, id: ConnectionId, principal: &str) -> Result<ConnectionRow> {
        let mut tx = self.begin().await?;
        let changed = sqlx::query!(
            "update connection
             set desired = 'terminated'
             where connection_id = $1
               and desired = 'open'",
            id as _,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        let row = read(&mut tx, id).await?;
        if changed > 0 {
            audit::write(&mut tx, &[entry(Kind::TerminateRequested, &row, principal)]).await?;
        }
        tx.commit().await?;
        self.wake.connections_changed();
        Ok(row)
    }

    /// Wants a connection opened again.
    ///
    /// # Errors
    /// If there is none, or the database refuses.
    pub async fn restart_connection(&self, id: ConnectionId, principal: &str) -> Result<ConnectionRow> {
        let mut tx = self.begin().await?;
        // One that nobody needs any more stays as it is.
        let changed = sqlx::query!(
            "update connection
             set desired = 'open',
                 generation = generation + 1
             where connection_id = $1
               and desired <> 'removed'",
            id as _,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        let row = read(&mut tx, id).await?;
        if changed > 0 {
            audit::write(&mut tx, &[entry(Kind::RestartRequested, &row, principal)]).await?;
        }
        tx.commit().await?;
        self.wake.connections_changed();
        Ok(row)
    }

    /// Whether a source has anybody to watch, and whether any connection is open. Also a sign of life of the database.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn coverage(&self) -> Result<Coverage> {
        let coverage = sqlx::query_as!(
            Coverage,
            r#"select exists (
                          select from source s
                          left join source_health h on h.source_id = s.source_id
                          where s.deleted_at is null
                            and (h.roster_read_at is null or h.roster_error is not null or h.agents_wanted > 0))
                          as "any_wanted!",
                      exists (
                          select from connection c
                          join source s on s.source_id = c.source_id
                          where s.deleted_at is null
                            and c.state = 'open') as "any_open!""#,
        )
        .fetch_one(&self.readiness)
        .await?;
        Ok(coverage)
    }
}

async fn read(conn: &mut PgConnection, id: ConnectionId) -> Result<ConnectionRow> {
    sqlx::query_as!(
        ConnectionRow,
        r#"select connection_id as "connection_id: ConnectionId", c.source_id as "source_id: SourceId",
                  agent_id as "agent_id: AgentId", desired as "desired: DesiredState",
                      state as "state: ConnectionState", state_reason, attempt_count,
                  upstream_connection_id, opened_at, proven_at, expires_at, c.created_at, c.updated_at,
                  (select count(*) from connection_agent w
                   where w.connection_id = c.connection_id) as "agents!",
                  (select count(*) from connection_agent w
                   where w.connection_id = c.connection_id
                     and w.rejected_reason is not null) as "rejected_topics!"
           from connection c
           join source s on s.source_id = c.source_id
           where s.deleted_at is null
             and connection_id = $1"#,
        id as _,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("connection"))
}

fn entry(kind: Kind, row: &ConnectionRow, principal: &str) -> Entry {
    let mut entry = Entry::new(clock::now(), kind);
    entry.source_id = Some(row.source_id);
    entry.connection_id = Some(row.connection_id);
    entry.agent_id.clone_from(&row.agent_id);
    entry.principal = Some(principal.to_owned());
    entry
}
