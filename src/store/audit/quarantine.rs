//! `quarantine`: malformed content from upstream, written with its audit entry (`store/audit/mod.rs`) and
//! shown by the API.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::audit::Entry;
use crate::domain::audit::quarantine::{Budget, Room};
use crate::domain::ids::{AgentId, ConnectionId, QuarantineId, SourceId};
use crate::store::{Result, Store, StoreError, with_timeout};

/// Content that was stored recently, by source, over all connections of this process.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Budgets(Arc<Mutex<HashMap<SourceId, Budget>>>);

/// A piece as the API shows it.
#[derive(Clone, Debug)]
pub struct Quarantined {
    pub quarantine_id: QuarantineId,
    pub received_at: OffsetDateTime,
    pub source_id: Option<SourceId>,
    pub connection_id: Option<ConnectionId>,
    /// Agent, if that could be read.
    pub agent_id: Option<AgentId>,
    /// Reason why it is malformed.
    pub reason: String,
    /// Length of the content, in bytes.
    pub size: i64,
    /// First bytes of the content; `None` in lists.
    pub bytes: Option<Vec<u8>>,
}

impl Store {
    /// Room for one more malformed piece of this source now.
    #[must_use]
    pub fn room_in_quarantine(&self, source: SourceId, now: OffsetDateTime) -> Room {
        let mut budgets = self.quarantined.0.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.entry(source).or_default().take(now.unix_timestamp().div_euclid(60))
    }

    /// A page of pieces, newest first, without their bytes.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn quarantine(
        &self,
        source: Option<SourceId>,
        before: Option<QuarantineId>,
        limit: i64,
    ) -> Result<Vec<Quarantined>> {
        Ok(sqlx::query_as!(
            Quarantined,
            r#"select quarantine_id as "quarantine_id: QuarantineId", received_at, source_id as "source_id: SourceId",
                      connection_id as "connection_id: ConnectionId", agent_id as "agent_id: AgentId", reason, size,
                      null::bytea as bytes
               from quarantine
               where ($1::uuid is null or source_id = $1)
                 and ($2::uuid is null or quarantine_id < $2)
               order by quarantine_id desc
               limit $3"#,
            source as _,
            before as _,
            limit,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?)
    }

    /// One piece with its bytes.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn quarantined(&self, id: QuarantineId) -> Result<Quarantined> {
        sqlx::query_as!(
            Quarantined,
            r#"select quarantine_id as "quarantine_id: QuarantineId", received_at, source_id as "source_id: SourceId",
                      connection_id as "connection_id: ConnectionId", agent_id as "agent_id: AgentId", reason, size,
                      bytes as "bytes?"
               from quarantine
               where quarantine_id = $1"#,
            id as _,
        )
        .fetch_optional(&mut *self.begin().await?)
        .await?
        .ok_or(StoreError::NotFound("quarantined content"))
    }

    /// Removes pieces from before this time.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn forget_quarantine(&self, before: OffsetDateTime) -> Result<u64> {
        with_timeout(async {
            let gone = sqlx::query!("delete from quarantine where received_at < $1", before)
                .execute(&mut *self.begin().await?)
                .await?;
            Ok(gone.rows_affected())
        })
        .await
    }
}

/// Stores the content of entries that have some. A write whose answer was lost may be repeated.
pub(in crate::store) async fn write(conn: &mut PgConnection, entries: &[Entry]) -> Result<()> {
    for entry in entries {
        let Some(kept) = &entry.kept else { continue };
        sqlx::query!(
            "insert into quarantine (
                 quarantine_id, received_at, source_id, connection_id, agent_id, reason, size, bytes)
             values ($1, $2, $3, $4, $5, $6, $7, $8)
             on conflict (quarantine_id) do nothing",
            kept.id as _,
            entry.at,
            entry.source_id as _,
            entry.connection_id as _,
            entry.agent_id.as_ref() as _,
            kept.reason,
            i64::try_from(kept.size).unwrap_or(i64::MAX),
            &kept.bytes[..],
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
