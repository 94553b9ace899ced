//! Agents of each connection: the planner of a source writes them, the supervisor starts connections with
//! them.
//!
//! Protocol `notifications` only: in protocol `realtime` a connection watches the one agent that its row
//! names.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::audit::Entry;
use crate::domain::ids::{AgentId, ConnectionId, SourceId};
use crate::domain::presence::agent_state::AgentState;
use crate::store::{Result, Store, audit, with_timeout};

/// A connection and its agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub connection_id: ConnectionId,
    /// Genesys ids of the agents that it watches.
    pub agents: Vec<String>,
}

/// Changes that a plan makes, with its counts for the source's health.
#[derive(Clone, Debug, Default)]
pub struct Assignments {
    /// Connections that get other agents, with all of them; new ones are made.
    pub changed: Vec<Assigned>,
    /// Connections that are to end.
    pub removed: Vec<ConnectionId>,
    /// Agents that are wanted.
    pub wanted: usize,
    /// Of those, how many stay unwatched because the channels are full.
    pub over_limit: usize,
}

/// An agent that upstream does not let us watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedAgent {
    pub agent_id: AgentId,
    /// Topic that was asked for.
    pub topic: String,
    /// Upstream's reason.
    pub reason: String,
    /// Permissions that it says are missing.
    pub missing_permissions: Vec<String>,
}

/// State of an agent that a resync compares with the answer of REST.
#[derive(Clone, Debug, Default)]
pub struct KnownAgent {
    /// Its state.
    pub state: AgentState,
    /// Our time of the last event.
    pub received_at: Option<OffsetDateTime>,
    pub name: Option<String>,
    /// Its e-mail address.
    pub email: Option<String>,
}

impl Store {
    /// Connections of a source that are not to end, with their agents.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn assignments(&self, source: SourceId) -> Result<Vec<Assigned>> {
        with_timeout(async {
            let rows = sqlx::query!(
                r#"select c.connection_id as "connection_id: ConnectionId",
                          coalesce(array_agg(a.agent_id) filter (where a.agent_id is not null), '{}') as "agents!"
                   from connection c
                   left join connection_agent a on a.connection_id = c.connection_id
                   where c.source_id = $1
                     and c.desired <> 'removed'
                     and c.agent_id is null
                   group by c.connection_id
                   order by c.connection_id"#,
                source as _,
            )
            .fetch_all(&mut *self.begin().await?)
            .await?;
            Ok(rows
                .into_iter()
                .map(|row| Assigned { connection_id: row.connection_id, agents: row.agents })
                .collect())
        })
        .await
    }

    /// Writes a plan down, and that the rosters were read. Wake the supervisor afterwards.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn assign(
        &self,
        source: SourceId,
        plan: &Assignments,
        now: OffsetDateTime,
        entries: &[Entry],
    ) -> Result<()> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            let changed: Vec<_> = plan.changed.iter().map(|assigned| assigned.connection_id).collect();
            sqlx::query!(
                "insert into connection (connection_id, source_id)
                 select *, $2
                 from unnest($1::uuid[])
                 on conflict (connection_id) do update
                 set assignment = connection.assignment + 1",
                &changed as _,
                source as _,
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!(
                "update connection
                 set desired = 'removed'
                 where connection_id = any ($1)",
                &plan.removed as _,
            )
            .execute(&mut *tx)
            .await?;
            move_agents(&mut tx, source, plan, &changed).await?;
            note_roster_read(&mut tx, source, plan, now).await?;
            audit::write(&mut tx, entries).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Notes that a roster could not be read; the assignments stay.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn roster_failed(&self, source: SourceId, why: &str, entry: &Entry) -> Result<()> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            sqlx::query!(
                "insert into source_health (source_id, roster_error)
                 values ($1, $2)
                 on conflict (source_id) do update
                 set roster_error = excluded.roster_error",
                source as _,
                why,
            )
            .execute(&mut *tx)
            .await?;
            audit::write(&mut tx, std::slice::from_ref(entry)).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Replaces the list of agents that upstream does not let a connection watch.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn write_rejected(
        &self,
        connection: ConnectionId,
        rejected: &[RejectedAgent],
        now: OffsetDateTime,
        entries: &[Entry],
    ) -> Result<()> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            sqlx::query!(
                "update connection_agent
                 set topic = null,
                     rejected_reason = null,
                     missing_permissions = '{}',
                     rejected_at = null
                 where connection_id = $1
                   and rejected_reason is not null
                   and agent_id <> all ($2)",
                connection as _,
                &rejected.iter().map(|r| &r.agent_id).collect::<Vec<_>>() as _,
            )
            .execute(&mut *tx)
            .await?;
            for one in rejected {
                reject(&mut tx, connection, one, now).await?;
            }
            audit::write(&mut tx, entries).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// State, name and e-mail address of each agent that has a row.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn known_agents(
        &self,
        source: SourceId,
        agents: &[String],
    ) -> Result<HashMap<String, KnownAgent>> {
        with_timeout(async {
            let rows = sqlx::query!(
                r#"select agent_id, state as "state: Json<AgentState>", received_at, name, email
                   from agent
                   where source_id = $1
                     and agent_id = any ($2)"#,
                source as _,
                agents,
            )
            .fetch_all(&self.pool)
            .await?;
            let known = rows.into_iter().map(|row| {
                let known = KnownAgent {
                    state: row.state.0,
                    received_at: row.received_at,
                    name: row.name,
                    email: row.email,
                };
                (row.agent_id, known)
            });
            Ok(known.collect())
        })
        .await
    }

    /// Agents that a connection is to watch, in the order of their ids.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn agents_of_connection(&self, connection: ConnectionId) -> Result<Vec<AgentId>> {
        with_timeout(async {
            Ok(sqlx::query_scalar!(
                r#"select agent_id as "agent_id: AgentId"
                   from connection_agent
                   where connection_id = $1
                   order by agent_id"#,
                connection as _,
            )
            .fetch_all(&self.pool)
            .await?)
        })
        .await
    }

    /// Genesys ids of agents that are left out of everything that a source watches.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn excluded_agents(&self, source: SourceId) -> Result<HashSet<String>> {
        with_timeout(async {
            let excluded = sqlx::query_scalar!(
                "select agent_id from agent where source_id = $1 and excluded_at is not null",
                source as _,
            )
            .fetch_all(&self.pool)
            .await?;
            Ok(excluded.into_iter().collect())
        })
        .await
    }

    /// Notes names and e-mail addresses, and makes rows for new agents.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn write_profiles(
        &self,
        source: SourceId,
        profiles: &[(String, Option<String>, Option<String>)],
    ) -> Result<()> {
        with_timeout(async {
            sqlx::query!(
                "insert into agent (source_id, agent_id, name, email)
                 select $1, *
                 from unnest($2::text[], $3::text[], $4::text[])
                 on conflict on constraint agent_id_unique do update
                 set name = coalesce(excluded.name, agent.name),
                     email = coalesce(excluded.email, agent.email)
                 where agent.excluded_at is null
                   and ((excluded.name is not null and excluded.name is distinct from agent.name)
                        or (excluded.email is not null and excluded.email is distinct from agent.email))",
                source as _,
                &profiles.iter().map(|(id, _, _)| id.clone()).collect::<Vec<_>>(),
                &profiles.iter().map(|(_, name, _)| name.clone()).collect::<Vec<_>>() as _,
                &profiles.iter().map(|(_, _, email)| email.clone()).collect::<Vec<_>>() as _,
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}

/// One value for each agent of each changed connection.
fn pairs<T>(plan: &Assignments, value: impl Fn(&Assigned, &String) -> T) -> Vec<T> {
    let value = &value;
    plan.changed
        .iter()
        .flat_map(|assigned| assigned.agents.iter().map(move |agent| value(assigned, agent)))
        .collect()
}

async fn move_agents(
    conn: &mut PgConnection,
    source: SourceId,
    plan: &Assignments,
    changed: &[ConnectionId],
) -> Result<()> {
    // Removals first, so that an agent may move from one connection to another.
    sqlx::query!(
        "delete from connection_agent
         where connection_id = any ($1)
           and (connection_id, agent_id) not in (
               select * from unnest($2::uuid[], $3::text[]))",
        &changed.iter().chain(&plan.removed).copied().collect::<Vec<_>>() as _,
        &pairs(plan, |assigned, _| assigned.connection_id) as _,
        &pairs(plan, |_, agent| agent.clone()),
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "insert into connection_agent (source_id, connection_id, agent_id)
         select $1, *
         from unnest($2::uuid[], $3::text[])
         on conflict (source_id, agent_id) do update
         set connection_id = excluded.connection_id,
             topic = null,
             rejected_reason = null,
             missing_permissions = '{}',
             rejected_at = null
         where connection_agent.connection_id <> excluded.connection_id",
        source as _,
        &pairs(plan, |assigned, _| assigned.connection_id) as _,
        &pairs(plan, |_, agent| agent.clone()),
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn note_roster_read(
    conn: &mut PgConnection,
    source: SourceId,
    plan: &Assignments,
    now: OffsetDateTime,
) -> Result<()> {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    sqlx::query!(
        "insert into source_health (source_id, roster_read_at, agents_wanted, agents_over_limit)
         values ($1, $2, $3, $4)
         on conflict (source_id) do update
         set roster_read_at = excluded.roster_read_at,
             roster_error = null,
             agents_wanted = excluded.agents_wanted,
             agents_over_limit = excluded.agents_over_limit",
        source as _,
        now,
        count(plan.wanted),
        count(plan.over_limit),
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn reject(
    conn: &mut PgConnection,
    connection: ConnectionId,
    rejected: &RejectedAgent,
    now: OffsetDateTime,
) -> Result<()> {
    sqlx::query!(
        "update connection_agent
         set topic = $3,
             rejected_reason = $4,
             missing_permissions = $5,
             rejected_at = coalesce(rejected_at, $6)
         where connection_id = $1
           and agent_id = $2",
        connection as _,
        &rejected.agent_id as _,
        rejected.topic,
        rejected.reason,
        &rejected.missing_permissions,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
