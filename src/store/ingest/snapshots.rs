//! Snapshots: the present state of every agent that a webhook watches, written into its lanes, so that it has
//! a true picture before the first change. The webhook's row holds the progress: a crash in the middle costs
//! nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{AgentId, EventId, SourceId, TenantId, WebhookId};
use crate::domain::presence::agent_state::{AgentState, EventState};
use crate::domain::presence::{Detail, Event, EventKind, Origin};
use crate::domain::webhook::fan_out::NewEvent;
use crate::domain::webhook::filter_index::Filters;
use crate::store::ingest::filters::shared_generation;
use crate::store::ingest::write::WriteResult;
use crate::store::locks::BEGIN_WRITING;
use crate::store::{Result, Store, audit, with_timeout};

/// Agents of one transaction: live changes wait for it.
const CHUNK: i64 = 500;

impl Store {
    /// Writes pending snapshots for the time `within`. True if some are left.
    ///
    /// # Errors
    /// If the database is unavailable; written chunks stay, and the next call goes on from there.
    pub async fn write_snapshots(&self, within: Duration) -> Result<bool> {
        let by = Instant::now() + within;
        loop {
            let asked = with_timeout(async {
                Ok(sqlx::query_scalar!(
                    r#"select webhook_id as "webhook_id: WebhookId"
                       from webhook
                       where snapshot_next is not null
                         and deleted_at is null
                         and state in ('active', 'paused')
                       order by webhook_id
                       limit 1"#,
                )
                .fetch_optional(&self.pool)
                .await?)
            });
            let Some(webhook) = asked.await? else { return Ok(false) };
            if Instant::now() >= by {
                return Ok(true);
            }
            self.settle().await?;
            // A chunk holds up writers, so it should seldom begin in vain.
            self.read_filters().await?;
            if let Some(written) = self.by_filters(|insist| self.write_chunk(webhook, insist)).await? {
                self.announce(written).await;
            }
        }
    }

    /// Writes the next chunk. `None` if the cached filters are out of date; `Some(None)` if there is no chunk
    /// to write.
    async fn write_chunk(&self, webhook: WebhookId, insist: bool) -> Result<Option<Option<WriteResult>>> {
        let mut tx = self.begin_settled(BEGIN_WRITING).await?;
        // The webhook's row comes first: it keeps out an owner who asks again meanwhile.
        let asked = sqlx::query!(
            r#"select snapshot_next as "from!", tenant_id as "tenant_id: TenantId"
               from webhook
               where webhook_id = $1
                 and snapshot_next is not null
               for update"#,
            webhook as _,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(asked) = asked else { return Ok(Some(None)) };
        let generation = shared_generation(&mut tx).await?;
        if !self.filters.are_current(&mut tx, generation, insist).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let agents = next_agents(&mut tx, asked.tenant_id, asked.from).await?;
        let now = clock::now();
        let next = agents.last().map(|agent| agent.agent_key + 1);
        let events =
            (0..).zip(agents).map(|(place, agent)| snapshot_event(agent, asked.tenant_id, place, now));
        let only = self.filters.ask(|filters| filters.get(webhook));
        let shows = |new: &NewEvent| Some(only.as_ref()?.shows(&new.facts()?));
        let shown: Vec<NewEvent> = events.filter(|new| shows(new).unwrap_or_default()).collect();
        let filters: Filters = only.into_iter().collect();
        let planned = self.plan_write(&shown, &filters, |_, _, _| true, now);
        let written = self.write_events(&mut tx, &shown, planned).await?;
        set_next(&mut tx, webhook, next).await?;
        if next.is_none() {
            let mut entry = Entry::new(now, Kind::SnapshotWritten);
            entry.webhook_id = Some(webhook);
            audit::write(&mut tx, &[entry]).await?;
        }
        tx.commit().await?;
        Ok(Some(Some(written)))
    }
}

struct SnapshotAgent {
    agent_key: i64,
    source_id: SourceId,
    source_name: String,
    agent_id: AgentId,
    sequence: i64,
    presence: Option<String>,
    topic: Option<String>,
    occurred_at: Option<OffsetDateTime>,
    name: Option<String>,
    email: Option<String>,
    state: Json<AgentState>,
    external_id: Option<String>,
    position: i64,
}

/// Agents of a chunk, of which an event is known.
async fn next_agents(conn: &mut PgConnection, tenant: TenantId, from: i64) -> Result<Vec<SnapshotAgent>> {
    Ok(sqlx::query_as!(
        SnapshotAgent,
        r#"select a.agent_key, a.source_id as "source_id: SourceId", s.name as source_name,
                  a.agent_id as "agent_id: AgentId", a.sequence, a.presence, a.topic, a.occurred_at, a.name,
                  a.email, a.state as "state: Json<AgentState>", x.external_id as "external_id?",
                  (select nextval('event_position_seq')) as "position!"
           from agent a
           join source s on s.source_id = a.source_id and s.tenant_id = $3 and s.deleted_at is null
           left join agent_external_id x on x.source_id = a.source_id and x.agent_id = a.agent_id
           where a.agent_key >= $1
             and a.sequence > 0
             -- Of a person who was erased nothing is known until the next event.
             and (a.erased_at is null or a.event_id is not null)
           order by a.agent_key
           limit $2"#,
        from,
        CHUNK,
        tenant as _,
    )
    .fetch_all(conn)
    .await?)
}

/// The statement gives all agents one position, and `place` tells them apart.
fn snapshot_event(agent: SnapshotAgent, tenant: TenantId, place: i64, now: OffsetDateTime) -> NewEvent {
    NewEvent {
        tenant,
        event: Arc::new(Event {
            event_id: EventId::generate(),
            kind: EventKind::PresenceSnapshot,
            position: agent.position + place,
            source: Some((agent.source_id, agent.source_name)),
            agent_id: Some(agent.agent_id),
            sequence: Some(agent.sequence),
            topic: agent.topic,
            external_id: agent.external_id,
            presence: agent.presence,
            previous: None,
            occurred_at: agent.occurred_at,
            received_at: now,
            committed_at: Some(now),
            origin: Origin::Live,
            detail: Some(Detail::Agent(Box::new(EventState {
                state: agent.state.0.without_history(),
                changed: Vec::new(),
                left_queues: Vec::new(),
                name: agent.name,
                email: agent.email,
            }))),
            raw: Bytes::from_static(b"null"),
            erased_at: None,
        }),
        agent_key: agent.agent_key,
        connection_id: None,
    }
}

/// Notes the progress of a snapshot. The webhook's filters stay as they are: nobody need read them again.
async fn set_next(conn: &mut PgConnection, webhook: WebhookId, next: Option<i64>) -> Result<()> {
    sqlx::query!("update webhook set snapshot_next = $2 where webhook_id = $1", webhook as _, next)
        .execute(conn)
        .await?;
    Ok(())
}
