//! Snapshots: the present state of every agent that a webhook watches, written into its lanes, so that it has a true
//! picture before the first change. How far one has come is kept with the webhook: a crash in the middle costs nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sqlx::types::Json;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{AgentId, EventId, SourceId, TenantId, WebhookId};
use crate::domain::presence::agent_state::{AgentState, EventState};
use crate::domain::presence::{Detail, Event, EventKind, Origin};
use crate::domain::webhook::fan_out::NewEvent;
use crate::domain::webhook::filter_index::Filters;
use crate::store::ingest::filters::shared_generation;
use crate::store::ingest::write::Written;
use crate::store::locks::BEGIN_WRITING;
use crate::store::{Result, Store, audit, with_timeout};

/// Agents of one transaction: live changes wait for it.
const CHUNK: i64 = 500;

impl Store {
    /// Writes snapshots that are asked for, for so long. True if some are still to be written.
    ///
    /// # Errors
    /// If the database is unavailable; what is written stays, and the next call goes on from there.
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
            // So that it seldom begins in vain: it holds up writers.
            self.read_filters().await?;
            if let Some(written) = self.by_filters(|insist| self.write_chunk(webhook, insist)).await? {
                self.announce(written).await;
            }
        }
    }

    /// Writes the next chunk. `None` if the filters in memory are not those that count; `Some(None)` if there is none to write.
    async fn write_chunk(&self, webhook: WebhookId, insist: bool) -> Result<Option<Option<Written>>> {
        let mut tx = self.pipeline_pool.begin_with(BEGIN_WRITING).await?;
        // The webhook's row first locks out an owner who asks anew meanwhile.
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
        let rows = sqlx::query!(
            r#"select a.agent_key, a.source_id as "source_id: SourceId", s.name as source_name,
                          a.agent_id as "agent_id: AgentId", a.sequence, a.presence, a.topic, a.occurred_at,
                          a.received_at, a.name, a.email, a.state as "state: Json<AgentState>",
                          x.external_id as "external_id?",
                          (select nextval('event_position_seq')) as "position!"
                   from agent a
                   join source s on s.source_id = a.source_id and s.tenant_id = $3 and s.deleted_at is null
                   left join agent_external_id x on x.source_id = a.source_id and x.agent_id = a.agent_id
                   where a.agent_key >= $1
                     and a.sequence > 0
                   order by a.agent_key
                   limit $2"#,
            asked.from,
            CHUNK,
            asked.tenant_id as _,
        )
        .fetch_all(&mut *tx)
        .await?;
        let now = clock::now();
        let next = rows.last().map(|row| row.agent_key + 1);
        let events: Vec<NewEvent> = (0..)
            .zip(rows)
            .map(|(place, row)| NewEvent {
                tenant: asked.tenant_id,
                event: Arc::new(Event {
                    event_id: EventId::generate(),
                    kind: EventKind::PresenceSnapshot,
                    position: row.position + place,
                    source: Some((row.source_id, row.source_name)),
                    agent_id: Some(row.agent_id),
                    sequence: Some(row.sequence),
                    topic: row.topic,
                    external_id: row.external_id,
                    presence: row.presence,
                    previous: None,
                    occurred_at: row.occurred_at,
                    received_at: now,
                    committed_at: Some(now),
                    origin: Origin::Live,
                    detail: Some(Detail::Agent(Box::new(EventState {
                        state: row.state.0,
                        changed: Vec::new(),
                        name: row.name,
                        email: row.email,
                    }))),
                    raw: Bytes::from_static(b"null"),
                }),
                agent_key: row.agent_key,
                connection_id: None,
            })
            .collect();
        let only = self.filters.ask(|filters| filters.get(webhook));
        let shows = |new: &NewEvent| Some(only.as_ref()?.shows(&new.facts()?));
        let shown: Vec<NewEvent> = events.into_iter().filter(|new| shows(new).unwrap_or_default()).collect();
        let filters: Filters = only.into_iter().collect();
        let intent = self.intend(&shown, &filters, |_, _, _| true, now);
        let written = self.write_events(&mut tx, &shown, intent).await?;
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

/// Notes how far a snapshot has come. No change of the webhook itself: filters need not be read again.
async fn set_next(conn: &mut sqlx::PgConnection, webhook: WebhookId, next: Option<i64>) -> Result<()> {
    sqlx::query!("update webhook set snapshot_next = $2 where webhook_id = $1", webhook as _, next)
        .execute(conn)
        .await?;
    Ok(())
}
