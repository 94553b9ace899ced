//! `erasure`: requests to erase a person, and how far each one is. A request erases what the agent's own rows
//! hold at once; `store/erasure/worker.rs` does the rest.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::erasure::{ErasureAsked, ErasureState};
use crate::domain::ids::{AgentId, ErasureId, SourceId};
use crate::store::locks::lock_writers;
use crate::store::session::choose_plan_by_values;
use crate::store::transaction::once_committed;
use crate::store::{Result, Store, StoreError, audit, with_timeout};

/// A request as the API shows it.
#[derive(Clone, Debug)]
pub struct Erasure {
    pub erasure_id: ErasureId,
    /// Source of the agent.
    pub source_id: SourceId,
    /// Genesys user id of the agent, which stays.
    pub agent_id: AgentId,
    /// Whether the agent is watched further.
    pub watch: bool,
    /// Step that it is at.
    pub state: ErasureState,
    /// Events that were erased so far.
    pub events: i64,
    /// Open deliveries that were ended for it so far.
    pub deliveries: i64,
    /// Audit entries that were erased so far.
    pub audit_entries: i64,
    /// Pieces of malformed content that were removed.
    pub quarantined: i64,
    /// When it was asked for.
    pub requested_at: OffsetDateTime,
    /// When it was done; `None` while it runs.
    pub ended_at: Option<OffsetDateTime>,
}

/// Restricts a list; a field that is `None` lets every request pass.
#[derive(Clone, Debug, Default)]
pub struct ErasureFilter {
    /// Only this one.
    pub erasure: Option<ErasureId>,
    /// Only of agents of this source.
    pub source: Option<SourceId>,
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only at this step.
    pub state: Option<ErasureState>,
}

/// An agent whose rows are locked.
struct LockedAgent {
    agent_key: i64,
    is_excluded: bool,
}

impl Store {
    /// Erases what the agent's own rows hold of a person, and asks for the rest to be erased.
    ///
    /// # Errors
    /// If there is no such source or agent, if another request for the agent runs, or the database refuses.
    pub async fn request_erasure(
        &self,
        source: SourceId,
        agent: &AgentId,
        watch: bool,
        principal: &str,
    ) -> Result<Erasure> {
        let id = ErasureId::generate();
        let mut tx = self.begin().await?;
        if !watch {
            // Before the writers' lock: whoever ends a gap takes that while it holds the connection's row.
            unassign(&mut tx, source, agent).await?;
        }
        // What a writer of events has read of the agent it would write back.
        lock_writers(&mut tx).await?;
        self.check_settled()?;
        let now = clock::now();
        let locked = lock_agent(&mut tx, source, agent).await?;
        refuse_second(&mut tx, locked.agent_key).await?;
        erase_agent(&mut tx, locked.agent_key, watch, now).await?;
        if !watch || locked.is_excluded {
            read_rosters_again(&mut tx, source).await?;
        }
        let row = sqlx::query!(
            r#"insert into erasure (
                   erasure_id, source_id, agent_id, agent_key, before_position, watch, principal, requested_at)
               values ($1, $2, $3, $4, nextval('event_position_seq'), $5, $6, $7)
               returning before_position"#,
            id as _,
            source as _,
            agent as _,
            locked.agent_key,
            watch,
            principal,
            now,
        )
        .fetch_one(&mut *tx)
        .await?;
        let entry = entry(now, (source, agent.clone()), principal)
            .data("state", "requested")
            .data("erasure", id.to_string())
            .data("watch", watch);
        audit::write(&mut tx, &[entry]).await?;
        tx.commit().await?;
        let (handoff, recent, lane) = (self.handoff.clone(), self.recent.clone(), locked.agent_key);
        let asked = ErasureAsked {
            erasure_id: id,
            source_id: source,
            agent_id: agent.clone(),
            watch,
            principal: principal.to_owned(),
        };
        once_committed(move || {
            handoff.erase(lane, row.before_position);
            recent.keep_erasure(asked);
        });
        self.wake.connections_changed();
        Ok(Erasure {
            erasure_id: id,
            source_id: source,
            agent_id: agent.clone(),
            watch,
            state: ErasureState::Deliveries,
            events: 0,
            deliveries: 0,
            audit_entries: 0,
            quarantined: 0,
            requested_at: now,
            ended_at: None,
        })
    }

    /// Asks again for what was asked for in the last minute and a failover has lost: the person is back with
    /// it. Such a request gets another id.
    ///
    /// # Errors
    /// If the database is unavailable; the next call does the rest.
    pub async fn repeat_lost_erasures(&self) -> Result<()> {
        for asked in self.recent.erasures() {
            let ErasureAsked { erasure_id, source_id, agent_id, watch, principal } = &asked;
            match self.erasure(*erasure_id).await {
                Ok(_) => continue,
                Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            match self.request_erasure(*source_id, agent_id, *watch, principal).await {
                Ok(again) => tracing::warn!(
                    lost = %erasure_id, again = %again.erasure_id,
                    "the database has failed over and lost a request to erase a person; asked for it again"
                ),
                Err(error) if error.is_transient() => return Err(error),
                // Nothing of the person is there, or another request runs.
                Err(error) => {
                    tracing::info!(%error, lost = %erasure_id, "a lost request to erase a person is void")
                }
            }
        }
        Ok(())
    }

    /// A page of requests, newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn erasures(
        &self,
        filter: &ErasureFilter,
        before: Option<ErasureId>,
        limit: i64,
    ) -> Result<Vec<Erasure>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let rows = sqlx::query_as!(
            Erasure,
            r#"select erasure_id as "erasure_id: ErasureId", source_id as "source_id: SourceId",
                      agent_id as "agent_id: AgentId", watch, state as "state: ErasureState", events, deliveries,
                      audit_entries, quarantined, requested_at, ended_at
               from erasure
               where ($1::uuid is null or erasure_id = $1)
                 and ($2::uuid is null or source_id = $2)
                 and ($3::text is null or agent_id = $3)
                 and ($4::text is null or state = $4)
                 and ($5::uuid is null or erasure_id < $5)
               order by erasure_id desc
               limit $6"#,
            filter.erasure as _,
            filter.source as _,
            filter.agent.as_deref(),
            filter.state.map(ErasureState::as_str),
            before as _,
            limit,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// One request.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn erasure(&self, id: ErasureId) -> Result<Erasure> {
        let only = ErasureFilter { erasure: Some(id), ..ErasureFilter::default() };
        let rows = self.erasures(&only, None, 1).await?;
        rows.into_iter().next().ok_or(StoreError::NotFound("erasure"))
    }

    /// Lets the dispatcher of this process know of requests that another process has taken: no POST begins of
    /// what is being erased.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn learn_erasures(&self) -> Result<()> {
        with_timeout(async {
            let running =
                sqlx::query!("select agent_key, before_position from erasure where ended_at is null")
                    .fetch_all(&self.pool)
                    .await?;
            for row in running {
                self.handoff.erase(row.agent_key, row.before_position);
            }
            Ok(())
        })
        .await
    }
}

/// Entry about a request.
pub(super) fn entry(now: OffsetDateTime, (source, agent): (SourceId, AgentId), principal: &str) -> Entry {
    let mut entry = Entry::new(now, Kind::AgentErased);
    entry.source_id = Some(source);
    entry.agent_id = Some(agent);
    entry.principal = Some(principal.to_owned());
    entry
}

/// Locks the source, and the agent with it: one that is watched or mapped but was not seen yet gets its row.
async fn lock_agent(conn: &mut PgConnection, source: SourceId, agent: &AgentId) -> Result<LockedAgent> {
    let known = sqlx::query_scalar!(
        r#"select $2 = any (s.agents)
                  or exists (select from agent a where a.source_id = s.source_id and a.agent_id = $2)
                  or exists (select from agent_external_id x where x.source_id = s.source_id and x.agent_id = $2)
                  or exists (select from connection_agent w where w.source_id = s.source_id and w.agent_id = $2)
                  as "known!"
           from source s
           where s.source_id = $1
             and coalesce(s.tenant_id = tenant_asking(), true)
             and s.deleted_at is null
           for no key update of s"#,
        source as _,
        agent as _,
    )
    .fetch_optional(&mut *conn)
    .await?;
    match known {
        None => return Err(StoreError::NotFound("source")),
        Some(false) => return Err(StoreError::NotFound("agent")),
        Some(true) => {}
    }
    sqlx::query!(
        "insert into agent (source_id, agent_id)
         values ($1, $2)
         on conflict on constraint agent_id_unique do nothing",
        source as _,
        agent as _,
    )
    .execute(&mut *conn)
    .await?;
    Ok(sqlx::query_as!(
        LockedAgent,
        r#"select agent_key, excluded_at is not null as "is_excluded!"
           from agent
           where source_id = $1
             and agent_id = $2
           for update"#,
        source as _,
        agent as _,
    )
    .fetch_one(conn)
    .await?)
}

async fn refuse_second(conn: &mut PgConnection, agent_key: i64) -> Result<()> {
    let running = sqlx::query_scalar!(
        r#"select erasure_id as "id: ErasureId" from erasure where agent_key = $1 and ended_at is null"#,
        agent_key,
    )
    .fetch_optional(conn)
    .await?;
    match running {
        None => Ok(()),
        Some(id) => {
            Err(StoreError::Conflict(format!("its erasure {id} is running; ask again when it is done")))
        }
    }
}

/// Erases what the agent's own rows hold. Its sequence stays: numbers are not given twice.
async fn erase_agent(
    conn: &mut PgConnection,
    agent_key: i64,
    watch: bool,
    now: OffsetDateTime,
) -> Result<()> {
    sqlx::query!(
        "with agent as (
             update agent
             set name = null,
                 email = null,
                 state = '{}',
                 presence = null,
                 topic = null,
                 since = null,
                 occurred_at = null,
                 received_at = null,
                 event_id = null,
                 erased_at = $3,
                 excluded_at = case when not $2 then coalesce(excluded_at, $3) end
             where agent_key = $1
             returning source_id, agent_id)
         delete from agent_external_id x
         using agent a
         where x.source_id = a.source_id
           and x.agent_id = a.agent_id",
        agent_key,
        watch,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes the agent off the channel that watches it. In protocol `realtime` the supervisor ends its connection.
async fn unassign(conn: &mut PgConnection, source: SourceId, agent: &AgentId) -> Result<()> {
    sqlx::query!(
        "with gone as (
             delete from connection_agent w
             using connection c
             where w.source_id = $1
               and w.agent_id = $2
               and c.connection_id = w.connection_id
               and c.agent_id is null
             returning w.connection_id)
         update connection c
         set assignment = c.assignment + 1
         from gone
         where c.connection_id = gone.connection_id",
        source as _,
        agent as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn read_rosters_again(conn: &mut PgConnection, source: SourceId) -> Result<()> {
    sqlx::query!(
        "update source
         set refreshes_asked = refreshes_asked + 1
         where source_id = $1",
        source as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}
