//! State of the upstream half: which connections are wanted, how each one stands, and steps of its gap.
//!
//! Called by the supervisor and by connections. A change of state and its audit entries share a transaction.

use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::Entry;
use crate::domain::ids::{AgentId, ConnectionId, ProvisioningId, SourceId};
use crate::domain::presence::connection::{ConnectionState, DesiredState};
use crate::domain::presence::source::PROTOCOL_NOTIFICATIONS;
use crate::domain::presence::topics::TopicMatrix;
use crate::domain::secret::{MasterKey, Secret};
use crate::store::ingest::write::WriteResult;
use crate::store::sources::gap_tracking::{GapStep, Watcher, close_gap, open_gap};
use crate::store::{Result, Store, StoreError, audit, with_timeout};

/// A source and the connections that it has rows for.
#[derive(Clone, Debug)]
pub struct WantedSource {
    pub source_id: SourceId,
    /// Name that people call it.
    pub name: String,
    /// Counts changes; connections of another version are built again.
    pub version: i64,
    /// Whether variables of the process set it.
    pub from_environment: bool,
    /// Removed: its connections are to end, and their rows to go.
    pub deleted: bool,
    /// Upstream protocol.
    pub protocol: String,
    /// Genesys domain, if set.
    pub region: Option<String>,
    /// REST address, if set.
    pub api_url: Option<String>,
    /// Token address, if set.
    pub login_url: Option<String>,
    /// OAuth client id.
    pub client_id: String,
    /// OAuth client secret.
    pub client_secret: Secret,
    /// Agents to watch.
    pub agents: Vec<String>,
    /// Agents that are left out, whoever names them.
    pub excluded: Vec<String>,
    /// Topic lists.
    pub topic_matrix: TopicMatrix,
    /// Interval of upstream's pings, in milliseconds.
    pub heartbeat_interval_ms: i32,
    /// Whether every active user is watched.
    pub all_users: bool,
    /// Queues whose members are watched.
    pub queues: Vec<String>,
    /// Groups whose members are watched.
    pub groups: Vec<String>,
    /// Language of presence labels.
    pub language: String,
    /// Seconds without a live connection after which it is stale.
    pub stale_after_seconds: i32,
    /// Seconds between two readings of the rosters.
    pub roster_interval_seconds: i32,
    /// Counts requests to read the rosters at once.
    pub refreshes_asked: i64,
    /// Last proof of a live connection; `None` unless it is stale.
    pub stale_since: Option<OffsetDateTime>,
    /// Its rosters are read and empty: there is nothing to connect for.
    pub watches_nobody: bool,
    pub created_at: OffsetDateTime,
    /// Its connections.
    pub connections: Vec<WantedConnection>,
}

impl WantedSource {
    /// Whether a planner assigns agents to its connections.
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.protocol == PROTOCOL_NOTIFICATIONS && !self.deleted
    }
}

/// A connection as its row wants it, and leftovers of a former process.
#[derive(Clone, Debug)]
pub struct WantedConnection {
    pub connection_id: ConnectionId,
    /// Agent that it watches; `None` if it can watch several.
    pub agent_id: Option<AgentId>,
    /// State that it is to be brought to.
    pub desired: DesiredState,
    /// Raised when other agents are assigned.
    pub assignment: i64,
    /// Whether its row says that it was open.
    pub was_open: bool,
    /// Raised by a restart request.
    pub generation: i64,
    /// Upstream ids of ours that may still exist; empty if another live process of this database uses them.
    pub leftovers: Vec<String>,
    /// Last moment that the connection was proven live.
    pub proven_at: Option<OffsetDateTime>,
}

/// State of a connection, as its row is written.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    pub connection_id: ConnectionId,
    /// Its state.
    pub state: ConnectionState,
    /// Reason of the state, in words.
    pub reason: Option<String>,
    /// Reconnect attempts since the last healthy minute.
    pub attempts: u32,
    /// Upstream's id of the present connection.
    pub upstream_id: Option<String>,
    /// Upstream ids of ours not yet seen deleted.
    pub stale: Vec<String>,
    /// When the present socket opened.
    pub opened_at: Option<OffsetDateTime>,
    /// When upstream ends the present connection.
    pub expires_at: Option<OffsetDateTime>,
    /// Last moment of proof; `None` leaves what is there.
    pub proven_at: Option<OffsetDateTime>,
}

impl Store {
    /// Sources that are in use, or that still have connections, with their connections.
    ///
    /// # Errors
    /// If the database is unavailable, or a client secret does not open.
    pub async fn wanted_sources(&self, master_key: &MasterKey) -> Result<Vec<WantedSource>> {
        with_timeout(async {
            let mut sources = self.source_rows(master_key).await?;
            for (source_id, connection) in self.connection_rows().await? {
                // A source that came into being between the two statements has none.
                if let Some(source) = sources.iter_mut().find(|source| source.source_id == source_id) {
                    source.connections.push(connection);
                }
            }
            Ok(sources)
        })
        .await
    }

    async fn source_rows(&self, master_key: &MasterKey) -> Result<Vec<WantedSource>> {
        let rows = sqlx::query!(
            r#"select s.source_id as "source_id: SourceId", s.name, s.version, s.deleted_at, s.protocol, s.region,
                      s.api_url, s.login_url, s.client_id, s.client_secret_sealed, s.agents,
                      s.topic_matrix as "topic_matrix: Json<TopicMatrix>",
                      s.origin = 'environment' as "from_environment!",
                      s.heartbeat_interval_ms, s.all_users, s.queues, s.groups, s.language, s.stale_after_seconds,
                      s.roster_interval_seconds, s.refreshes_asked, s.created_at,
                      array(
                          select a.agent_id
                          from agent a
                          where a.source_id = s.source_id
                            and a.excluded_at is not null) as "excluded!", h.stale_since as "stale_since?",
                      coalesce(h.roster_read_at is not null and h.roster_error is null and h.agents_wanted = 0, false)
                          as "watches_nobody!"
               from source s
               left join source_health h on h.source_id = s.source_id
               where s.deleted_at is null
                  or exists (select from connection c where c.source_id = s.source_id)
               order by s.created_at, s.source_id"#,
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(WantedSource {
                    source_id: row.source_id,
                    name: row.name,
                    version: row.version,
                    from_environment: row.from_environment,
                    deleted: row.deleted_at.is_some(),
                    protocol: row.protocol,
                    region: row.region,
                    api_url: row.api_url,
                    login_url: row.login_url,
                    client_id: row.client_id,
                    client_secret: open_client_secret(master_key, row.source_id, &row.client_secret_sealed)?,
                    agents: row.agents,
                    excluded: row.excluded,
                    topic_matrix: row.topic_matrix.0,
                    heartbeat_interval_ms: row.heartbeat_interval_ms,
                    all_users: row.all_users,
                    queues: row.queues,
                    groups: row.groups,
                    language: row.language,
                    stale_after_seconds: row.stale_after_seconds,
                    roster_interval_seconds: row.roster_interval_seconds,
                    refreshes_asked: row.refreshes_asked,
                    stale_since: row.stale_since,
                    watches_nobody: row.watches_nobody,
                    created_at: row.created_at,
                    connections: Vec::new(),
                })
            })
            .collect()
    }

    async fn connection_rows(&self) -> Result<Vec<(SourceId, WantedConnection)>> {
        let rows = sqlx::query!(
            r#"select connection_id as "connection_id: ConnectionId", source_id as "source_id: SourceId",
                      agent_id as "agent_id: AgentId", desired as "desired: DesiredState", generation, upstream_connection_id,
                      stale_upstream_ids, proven_at, assignment, state as "state: ConnectionState",
                      case
                          when upstream_connection_id is null and stale_upstream_ids = '{}' then true
                          when recorded_by is null or recorded_by = $1 then true
                          else not process_lives(recorded_by)
                      end as "ours!"
               from connection
               order by created_at, connection_id"#,
            self.process as _,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let leftovers = row.stale_upstream_ids.into_iter().chain(row.upstream_connection_id);
                let connection = WantedConnection {
                    connection_id: row.connection_id,
                    agent_id: row.agent_id,
                    desired: row.desired,
                    assignment: row.assignment,
                    was_open: row.state == ConnectionState::Open,
                    generation: row.generation,
                    leftovers: leftovers.filter(|_| row.ours).collect(),
                    proven_at: row.proven_at,
                };
                (row.source_id, connection)
            })
            .collect())
    }

    /// Makes rows for agents that have none.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn add_connections(&self, source_id: SourceId, agents: &[String]) -> Result<()> {
        with_timeout(async {
            let ids: Vec<_> = agents.iter().map(|_| ConnectionId::generate()).collect();
            sqlx::query!(
                "with made as (
                     insert into connection (connection_id, source_id, agent_id)
                     select n.connection_id, $2, n.agent_id
                     from unnest($1::uuid[], $3::text[]) as n (connection_id, agent_id)
                     on conflict on constraint connection_agent_unique do nothing
                     returning connection_id, source_id, agent_id
                 )
                 insert into connection_agent (connection_id, source_id, agent_id)
                 select * from made
                 on conflict (source_id, agent_id) do update
                 set connection_id = excluded.connection_id",
                &ids as _,
                source_id as _,
                agents,
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    /// Removes the row of a connection that is no longer wanted and has ended, and ends its gap.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn remove_connection(&self, connection_id: ConnectionId, now: OffsetDateTime) -> Result<()> {
        with_timeout(async {
            let mut tx = self.begin().await?;
            sqlx::query!(
                "update gap
                 set to_at = greatest(from_at, $2)
                 where connection_id = $1
                   and to_at is null",
                connection_id as _,
                now,
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!("delete from connection where connection_id = $1", connection_id as _)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Writes the state of a connection, the steps of its gap and the audit entries of its way there, all or
    /// nothing. Answered requests for it are forgotten: the state holds their results.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn write_connection(
        &self,
        watcher: &Watcher,
        state: &ConnectionRecord,
        gaps: &[GapStep],
        answered_requests: &[ProvisioningId],
        entries: &[Entry],
    ) -> Result<()> {
        let step =
            |insist| self.try_to_write_connection(watcher, state, gaps, answered_requests, entries, insist);
        for notice in self.by_filters(step).await? {
            self.announce(notice).await;
        }
        Ok(())
    }

    /// `None` if a gap has ended and the cached filters are out of date.
    async fn try_to_write_connection(
        &self,
        watcher: &Watcher,
        state: &ConnectionRecord,
        gaps: &[GapStep],
        answered_requests: &[ProvisioningId],
        entries: &[Entry],
        insist: bool,
    ) -> Result<Option<Vec<WriteResult>>> {
        let mut tx = self.begin().await?;
        self.update_connection(&mut tx, state).await?;
        if !answered_requests.is_empty() {
            sqlx::query!(
                "delete from provisioning where provisioning_id = any ($1)",
                answered_requests as _,
            )
            .execute(&mut *tx)
            .await?;
        }
        let Some((mut gap_entries, notices)) = self.write_gap_steps(&mut tx, watcher, gaps, insist).await?
        else {
            return Ok(None);
        };
        gap_entries.extend_from_slice(entries);
        audit::write(&mut tx, &gap_entries).await?;
        tx.commit().await?;
        Ok(Some(notices))
    }

    async fn update_connection(&self, conn: &mut PgConnection, state: &ConnectionRecord) -> Result<()> {
        sqlx::query!(
            "update connection
             set state = $2,
                 state_reason = $3,
                 attempt_count = $4,
                 upstream_connection_id = $5,
                 stale_upstream_ids = $6,
                 opened_at = $7,
                 proven_at = coalesce($8, proven_at),
                 updated_at = case when state = $2 then updated_at else now() end,
                 expires_at = $9,
                 recorded_by = $10
             where connection_id = $1",
            state.connection_id as _,
            state.state as _,
            state.reason.as_deref(),
            i32::try_from(state.attempts).unwrap_or(i32::MAX),
            state.upstream_id.as_deref(),
            &state.stale,
            state.opened_at,
            state.proven_at,
            state.expires_at,
            self.process as _,
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    /// Audit entries and notices of the steps; `None` if a gap has ended and the cached filters are out of
    /// date.
    async fn write_gap_steps(
        &self,
        conn: &mut PgConnection,
        watcher: &Watcher,
        gaps: &[GapStep],
        insist: bool,
    ) -> Result<Option<(Vec<Entry>, Vec<WriteResult>)>> {
        let (mut entries, mut notices) = (Vec::new(), Vec::new());
        for gap in gaps {
            match gap {
                GapStep::Opened { from, cause } => {
                    entries.extend(open_gap(conn, watcher, *from, *cause).await?);
                }
                GapStep::Closed { to } => {
                    let Some((gap, entry)) = close_gap(conn, watcher, *to).await? else { continue };
                    entries.push(entry);
                    let notice = self.write_gap_notices(conn, watcher, &gap, insist, clock::now()).await?;
                    let Some(notice) = notice else { return Ok(None) };
                    notices.push(notice);
                }
            }
        }
        Ok(Some((entries, notices)))
    }

    /// Notes until when connections were proven live: the gap of a killed process begins there.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn write_proofs(&self, proofs: &[(ConnectionId, OffsetDateTime)]) -> Result<()> {
        with_timeout(async {
            sqlx::query!(
                "update connection c
                 set proven_at = n.proven_at
                 from unnest($1::uuid[], $2::timestamptz[]) as n (connection_id, proven_at)
                 where c.connection_id = n.connection_id",
                &proofs.iter().map(|(connection, _)| *connection).collect::<Vec<_>>() as _,
                &proofs.iter().map(|(_, at)| *at).collect::<Vec<_>>(),
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}

fn open_client_secret(master_key: &MasterKey, id: SourceId, sealed: &[u8]) -> Result<Secret> {
    let corrupt = |what: String| StoreError::Corrupt {
        table: "source",
        column: "client_secret_sealed",
        row: id.to_string(),
        what,
    };
    let plain = master_key.open(sealed, id.0.as_bytes()).map_err(|error| corrupt(error.to_string()))?;
    String::from_utf8(plain).map(Secret::new).map_err(|_| corrupt("not text".to_owned()))
}
