//! `event` as the API shows it: a feed in commit order, and single events.

use crate::domain::ids::{AgentId, EventId, SourceId};
use crate::domain::presence::Event;
use crate::store::event_rows::EventRow;
use crate::store::session::choose_plan_by_values;
use crate::store::{Result, Store, StoreError};

/// Restricts the feed; a field that is `None` lets every event pass.
#[derive(Clone, Debug, Default)]
pub struct FeedFilter {
    /// Only of these agents.
    pub agents: Option<Vec<String>>,
    /// Only of this source.
    pub source: Option<SourceId>,
}

impl Store {
    /// Presence updates behind a position, oldest first. Positions are given in commit order
    /// (`store/ingest/record.rs`), so a reader that goes on from the last one it saw misses none.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn feed(&self, filter: &FeedFilter, after: i64, limit: i64) -> Result<Vec<Event>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let rows = sqlx::query_as!(
            EventRow,
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
            EventRow,
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
}
