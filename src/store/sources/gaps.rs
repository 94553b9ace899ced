//! `gap` as the API shows it.

use time::OffsetDateTime;

use crate::domain::ids::{ConnectionId, GapId, SourceId};
use crate::store::session::choose_plan_by_values;
use crate::store::{Result, Store, StoreError};

/// A time in which agents were not covered.
#[derive(Clone, Debug)]
pub struct GapRow {
    pub gap_id: GapId,
    /// Source of the agents.
    pub source_id: SourceId,
    /// Connection that was down.
    pub connection_id: ConnectionId,
    /// Genesys ids of the agents.
    pub agents: Vec<String>,
    /// Cause, one of the names of `GapCause`, or of an earlier version's.
    pub cause: String,
    /// Last moment that the connection was proven live.
    pub from_at: OffsetDateTime,
    /// When it was open again; `None` while it lasts.
    pub to_at: Option<OffsetDateTime>,
}

/// Restricts a list; a field that is `None` lets every gap pass.
#[derive(Clone, Debug, Default)]
pub struct GapFilter {
    /// Only this one.
    pub gap: Option<GapId>,
    /// Only of this source.
    pub source: Option<SourceId>,
    /// Only of this connection.
    pub connection: Option<ConnectionId>,
    /// Only those of one of these agents.
    pub agents: Option<Vec<String>>,
    /// Only those that last, or that are over.
    pub open: Option<bool>,
    /// Only those that last or ended at or after this time.
    pub since: Option<OffsetDateTime>,
    /// Only those that began before this time.
    pub until: Option<OffsetDateTime>,
}

impl Store {
    /// A page of gaps, newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn gaps(&self, filter: &GapFilter, before: Option<GapId>, limit: i64) -> Result<Vec<GapRow>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let gaps = sqlx::query_as!(
            GapRow,
            r#"select gap_id as "gap_id: GapId", source_id as "source_id: SourceId",
                      connection_id as "connection_id: ConnectionId", agents, cause, from_at, to_at
               from gap
               where ($1::uuid is null or gap_id < $1)
                 and ($2::uuid is null or source_id = $2)
                 and ($3::uuid is null or connection_id = $3)
                 and ($4::text[] is null or agents && $4)
                 and ($5::boolean is null or (to_at is null) = $5)
                 and ($6::uuid is null or gap_id = $6)
                 and ($7::timestamptz is null or to_at is null or to_at >= $7)
                 and ($8::timestamptz is null or from_at < $8)
               order by gap_id desc
               limit $9"#,
            before as _,
            filter.source as _,
            filter.connection as _,
            filter.agents.as_deref(),
            filter.open,
            filter.gap as _,
            filter.since,
            filter.until,
            limit,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(gaps)
    }

    /// One gap.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn gap(&self, id: GapId) -> Result<GapRow> {
        let only = GapFilter { gap: Some(id), ..GapFilter::default() };
        self.gaps(&only, None, 1).await?.pop().ok_or(StoreError::NotFound("gap"))
    }
}
