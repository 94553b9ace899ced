//! `event` as the API shows it: a feed in commit order, single events, and test pings.

use bytes::Bytes;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::history::choose_plan_by_values;
use super::{Result, Store, StoreError, audit, webhooks};
use crate::clock;
use crate::domain::agent_state::EventState;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{AgentId, DeliveryId, EventId, SourceId, WebhookId};
use crate::domain::presence::{Detail, Event, EventKind, Origin};

/// Which changes are asked for.
#[derive(Clone, Debug, Default)]
pub struct FeedFilter {
    /// Only of this agent.
    pub agent: Option<String>,
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
    origin: String,
    state: Option<Json<EventState>>,
    raw: Vec<u8>,
}

impl From<Row> for Event {
    fn from(row: Row) -> Self {
        Self {
            event_id: row.event_id,
            kind: EventKind::PresenceUpdated,
            position: row.position,
            source: row.source_id.zip(row.source_name),
            agent_id: row.agent_id,
            sequence: row.sequence,
            topic: row.topic,
            presence: row.presence,
            previous: row.previous,
            occurred_at: row.occurred_at,
            received_at: row.received_at,
            origin: Origin::from_name(&row.origin),
            detail: row.state.map(|state| Detail::Agent(Box::new(state.0))),
            raw: Bytes::from(row.raw),
        }
    }
}

impl Store {
    /// Presence updates behind a position, oldest first. Positions are given in commit order (`store/events.rs`),
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
                      received_at, origin, state as "state: Json<EventState>", raw
               from event
               where kind = 'presence.updated'
                 and position > $1
                 and ($2::text is null or agent_id = $2)
                 and ($3::uuid is null or source_id = $3)
               order by position
               limit $4"#,
            after,
            filter.agent.as_deref(),
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
                      received_at, origin, state as "state: Json<EventState>", raw
               from event
               where kind = 'presence.updated'
                 and event_id = $1"#,
            id as _,
        )
        .fetch_optional(&self.pool)
        .await?
        .map(Event::from)
        .ok_or(StoreError::NotFound("event"))
    }

    /// Makes a test ping of one webhook: an event without an agent and its delivery, in lane 0. Ring
    /// [`deliveries_due`](super::wake::Wake::deliveries_due) afterwards.
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
        let delivery = sqlx::query_scalar!(
            r#"select delivery_id($1, $2) as "id!: DeliveryId""#,
            event as _,
            webhook as _
        )
        .fetch_one(&mut *tx)
        .await?;
        // Keeps other pings of this webhook out: only one of them may be the first of the lane.
        webhooks::lock(&mut tx, webhook).await?;
        let position = sqlx::query_scalar!(
            "insert into event (event_id, received_at, kind, raw)
             values ($1, $2, $3, $4)
             returning position",
            event as _,
            now,
            EventKind::WebhookTest.as_str(),
            b"{}",
        )
        .fetch_one(&mut *tx)
        .await?;
        let lane = super::history::Lane { webhook, lane: 0 };
        super::history::open_delivery(&mut tx, lane, delivery, event, now, position, now).await?;
        let mut told = Entry::new(now, Kind::WebhookTested);
        told.webhook_id = Some(webhook);
        told.event_id = Some(event);
        told.delivery_id = Some(delivery);
        told.principal = Some(principal.to_owned());
        audit::write(&mut tx, &[told]).await?;
        tx.commit().await?;
        Ok((event, delivery))
    }
}
