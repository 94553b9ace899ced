//! `event` as the API shows it: a feed in commit order, single events, and test pings.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{AgentId, DeliveryId, EventId, SourceId, WebhookId};
use crate::domain::presence::{Event, EventKind, Origin};
use crate::store::types::detail;
use crate::store::views::deliveries::choose_plan_by_values;
use crate::store::webhooks::lifecycle::must_take_part;
use crate::store::webhooks::rows::read;
use crate::store::{Result, Store, StoreError, audit, webhooks};

/// Which changes are asked for.
#[derive(Clone, Debug, Default)]
pub struct FeedFilter {
    /// Only of these agents.
    pub agents: Option<Vec<String>>,
    /// Only of this source.
    pub source: Option<SourceId>,
}

struct Row {
    event_id: EventId,
    position: i64,
    source_id: Option<SourceId>,
    source_name: Option<String>,
    agent_id: Option<AgentId>,
    sequence: Option<i64>,
    topic: Option<String>,
    presence: Option<String>,
    previous: Option<String>,
    occurred_at: Option<OffsetDateTime>,
    received_at: OffsetDateTime,
    external_id: Option<String>,
    committed_at: Option<OffsetDateTime>,
    origin: String,
    kind: String,
    state: Option<Value>,
    raw: Vec<u8>,
}

impl From<Row> for Event {
    fn from(row: Row) -> Self {
        let kind = EventKind::from_name(&row.kind).unwrap_or(EventKind::PresenceUpdated);
        Self {
            event_id: row.event_id,
            kind,
            position: row.position,
            source: row.source_id.zip(row.source_name),
            agent_id: row.agent_id,
            sequence: row.sequence,
            topic: row.topic,
            presence: row.presence,
            previous: row.previous,
            occurred_at: row.occurred_at,
            received_at: row.received_at,
            external_id: row.external_id,
            committed_at: row.committed_at,
            origin: Origin::from_name(&row.origin),
            detail: row.state.and_then(|state| detail(kind, state)),
            raw: Bytes::from(row.raw),
        }
    }
}

impl Store {
    /// Presence updates behind a position, oldest first. Positions are given in commit order (`store/ingest/record.rs`),
    /// so a reader that goes on from the last one it saw misses none.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn feed(&self, filter: &FeedFilter, after: i64, limit: i64) -> Result<Vec<Event>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let rows = sqlx::query_as!(
            Row,
            r#"select event_id as "event_id: EventId", position, source_id as "source_id: SourceId", source_name,
                      agent_id as "agent_id: AgentId", sequence, topic, presence, previous, occurred_at,
                      received_at, external_id, committed_at, origin, kind, state, raw
               from event
               where kind = 'presence.updated'
                 and position > $1
                 and ($2::text[] is null or agent_id = any ($2))
                 and ($3::uuid is null or source_id = $3)
               order by position
               limit $4"#,
            after,
            filter.agents.as_deref(),
            filter.source as _,
            limit,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows.into_iter().map(Event::from).collect())
    }

    /// One presence update.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn event(&self, id: EventId) -> Result<Event> {
        sqlx::query_as!(
            Row,
            r#"select event_id as "event_id: EventId", position, source_id as "source_id: SourceId", source_name,
                      agent_id as "agent_id: AgentId", sequence, topic, presence, previous, occurred_at,
                      received_at, external_id, committed_at, origin, kind, state, raw
               from event
               where kind = 'presence.updated'
                 and event_id = $1"#,
            id as _,
        )
        .fetch_optional(&mut *self.begin().await?)
        .await?
        .map(Event::from)
        .ok_or(StoreError::NotFound("event"))
    }

    /// Makes a test ping of one webhook: an event without an agent and its delivery, in lane 0. Ring
    /// [`deliveries_due`](crate::store::wake::Wake::deliveries_due) afterwards.
    ///
    /// # Errors
    /// If there is no such webhook, or the database refuses.
    pub async fn create_test_ping(
        &self,
        webhook: WebhookId,
        principal: &str,
    ) -> Result<(EventId, DeliveryId)> {
        let (event, now) = (EventId::generate(), clock::now());
        let mut tx = self.begin().await?;
        let delivery = DeliveryId::of(event, webhook);
        // Keeps other pings of this webhook out: only one of them may be the first of the lane.
        webhooks::lock(&mut tx, webhook).await?;
        must_take_part(&read(&mut tx, webhook).await?)?;
        let position = sqlx::query_scalar!(
            "insert into event (event_id, received_at, kind, webhook_id, raw, committed_at)
             values ($1, $2, $3, $4, $5, $2)
             returning position",
            event as _,
            now,
            EventKind::WebhookTest.as_str(),
            webhook as _,
            b"{}",
        )
        .fetch_one(&mut *tx)
        .await?;
        let lane = crate::store::delivery::reopen::Lane { webhook, lane: 0 };
        crate::store::delivery::reopen::open_delivery(&mut tx, lane, delivery, event, now, position, now)
            .await?;
        let mut told = Entry::for_delivery(now, Kind::WebhookTested, webhook, event, delivery);
        told.principal = Some(principal.to_owned());
        audit::write(&mut tx, &[told]).await?;
        tx.commit().await?;
        Ok((event, delivery))
    }
}

/// Events by id, of whatever kind; those that are gone are left out.
pub(in crate::store) async fn read_events(
    conn: &mut PgConnection,
    ids: &[EventId],
) -> Result<HashMap<EventId, Arc<Event>>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query_as!(
        Row,
        r#"select e.event_id as "event_id: EventId", position, source_id as "source_id: SourceId", source_name,
                  agent_id as "agent_id: AgentId", sequence, topic, presence, previous, occurred_at,
                  received_at, external_id, committed_at, origin, kind, state, raw
           from unnest($1::uuid[]) as wanted (event_id)
           join event e on e.event_id = wanted.event_id"#,
        ids as _,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.event_id, Arc::new(Event::from(row)))).collect())
}
