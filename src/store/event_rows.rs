//! Rows of `event` as events.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::Result;
use super::types::detail;
use crate::domain::ids::{AgentId, EventId, SourceId};
use crate::domain::presence::{Event, EventKind, Origin};

/// Columns that every reader of events selects.
pub(super) struct EventRow {
    pub(super) event_id: EventId,
    pub(super) position: i64,
    pub(super) source_id: Option<SourceId>,
    pub(super) source_name: Option<String>,
    pub(super) agent_id: Option<AgentId>,
    pub(super) sequence: Option<i64>,
    pub(super) topic: Option<String>,
    pub(super) presence: Option<String>,
    pub(super) previous: Option<String>,
    pub(super) occurred_at: Option<OffsetDateTime>,
    pub(super) received_at: OffsetDateTime,
    pub(super) external_id: Option<String>,
    pub(super) committed_at: Option<OffsetDateTime>,
    pub(super) origin: String,
    pub(super) kind: String,
    pub(super) state: Option<Value>,
    pub(super) raw: Vec<u8>,
    pub(super) erased_at: Option<OffsetDateTime>,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
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
            erased_at: row.erased_at,
        }
    }
}

/// Events by id, of whatever kind; those that are gone are left out.
pub(super) async fn read_events(
    conn: &mut PgConnection,
    ids: &[EventId],
) -> Result<HashMap<EventId, Arc<Event>>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query_as!(
        EventRow,
        r#"select e.event_id as "event_id: EventId", position, source_id as "source_id: SourceId", source_name,
                  agent_id as "agent_id: AgentId", sequence, topic, presence, previous, occurred_at,
                  received_at, external_id, committed_at, origin, kind, state, raw, erased_at
           from unnest($1::uuid[]) as wanted (event_id)
           join event e on e.event_id = wanted.event_id"#,
        ids as _,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.event_id, Arc::new(Event::from(row)))).collect())
}
