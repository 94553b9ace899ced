//! Export of the audit log: read by cursor, oldest first, up to the end of the last seal, so that a row that
//! commits late is never skipped. For `presence-bridge audit export`, `/v1/audit/export` and the push to
//! syslog.

use serde::{Serialize, Serializer};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::clock;
use crate::store::{Result, Store, with_timeout};

/// Most rows of a page.
pub const PAGE_ROWS: i64 = 1000;
/// Entries that one statement of an export looks through: a tenant may have few of many.
const LOOKED_THROUGH: i64 = 20_000;

/// A row, with the names that `/v1/audit` gives it.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// Place in the log; the cursor.
    pub id: i64,
    #[serde(serialize_with = "rfc3339")]
    pub at: OffsetDateTime,
    /// Its tenant.
    pub tenant_id: Option<Uuid>,
    /// Name of its kind.
    pub kind: String,
    /// `info`, `warn` or `error`.
    pub level: String,
    pub source_id: Option<Uuid>,
    pub connection_id: Option<Uuid>,
    pub agent_id: Option<String>,
    pub webhook_id: Option<Uuid>,
    pub event_id: Option<Uuid>,
    pub delivery_id: Option<Uuid>,
    /// Number of the attempt.
    pub attempt: Option<i32>,
    /// HTTP status or socket close code.
    pub status: Option<i32>,
    /// Duration of the step, in milliseconds.
    pub duration_ms: Option<i32>,
    /// Outcome class of an attempt.
    pub outcome: Option<String>,
    /// End of the delivery; `None` while it is open.
    pub end_state: Option<String>,
    /// Principal that asked for it; `None`: the bridge itself.
    pub principal: Option<String>,
    /// Fields of its kind.
    pub data: Value,
}

fn rfc3339<S: Serializer>(at: &OffsetDateTime, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let text = at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(&text)
}

/// Restricts an export; `None` lets every row pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportFilter {
    /// Only of this tenant.
    pub tenant: Option<Uuid>,
    /// Only before this time.
    pub until: Option<OffsetDateTime>,
}

/// An export under way: up to the seal that was the last one when it began.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    after: i64,
    through: i64,
    filter: ExportFilter,
}

impl Export {
    /// The id behind which the next page begins.
    #[must_use]
    pub fn after(&self) -> i64 {
        self.after
    }

    /// The next page, which may be empty; `None` at the end.
    ///
    /// # Errors
    /// If the database does not answer; the same page may be asked for again.
    pub async fn next(&mut self, store: &Store) -> Result<Option<Vec<Exported>>> {
        if self.after >= self.through {
            return Ok(None);
        }
        let end = self.through.min(self.after.saturating_add(LOOKED_THROUGH));
        let rows = store.export_audit(self.after, end, self.filter).await?;
        self.after = match rows.last() {
            Some(last) if i64::try_from(rows.len()).is_ok_and(|count| count == PAGE_ROWS) => last.id,
            _ => end,
        };
        Ok(Some(rows))
    }
}

impl Store {
    /// Begins an export behind this entry.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn begin_export(&self, after: i64, filter: ExportFilter) -> Result<Export> {
        let through = self.sealed_through().await?;
        let oldest = with_timeout(async {
            Ok(sqlx::query_scalar!("select min(audit_id) from audit_log").fetch_one(&self.pool).await?)
        })
        .await?;
        // What retention has dropped need not be looked through.
        let after = after.max(oldest.unwrap_or(0).saturating_sub(1));
        Ok(Export { after, through, filter })
    }

    /// Next rows behind `after`, up to `through`, oldest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn export_audit(
        &self,
        after: i64,
        through: i64,
        filter: ExportFilter,
    ) -> Result<Vec<Exported>> {
        with_timeout(async {
            Ok(sqlx::query_as!(
                Exported,
                r#"select l.audit_id as id, l.at, whose.tenant_id, l.kind, l.level, l.source_id, l.connection_id, l.agent_id,
                          l.webhook_id, l.event_id, l.delivery_id, l.attempt, l.status, l.duration_ms, l.outcome,
                          l.end_state, l.principal, l.data
                   from audit_log l
                   -- docs/adr/0019: without a source or webhook it belongs to the caller's tenant, or the operator.
                   cross join lateral (
                       select coalesce(
                           (select s.tenant_id from source s where s.source_id = l.source_id),
                           (select w.tenant_id from webhook w where w.webhook_id = l.webhook_id),
                           l.tenant_id,
                           '00000000-0000-0000-0000-000000000001') as tenant_id) whose
                   where l.audit_id > $1
                     and l.audit_id <= $2
                     and ($3::uuid is null or whose.tenant_id = $3)
                     and ($4::timestamptz is null or l.at < $4)
                   order by l.audit_id
                   limit $5"#,
                after,
                through,
                filter.tenant,
                filter.until,
                PAGE_ROWS,
            )
            .fetch_all(&self.pool)
            .await?)
        })
        .await
    }

    /// Last `audit_id` that a seal covers: the log may be exported up to it; 0 before the first seal.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn sealed_through(&self) -> Result<i64> {
        Ok(self.last_seal().await?.map_or(0, |last| last.last_audit_id))
    }

    /// Number of rows without a seal.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn unsealed_rows(&self) -> Result<i64> {
        let sealed = self.sealed_through().await?;
        with_timeout(async {
            let count = sqlx::query_scalar!(
                r#"select count(*) as "count!" from audit_log where audit_id > $1"#,
                sealed,
            );
            Ok(count.fetch_one(&self.pool).await?)
        })
        .await
    }

    /// Last `audit_id` that was pushed to a receiver; 0 before the first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn pushed_through(&self, receiver: &str) -> Result<i64> {
        with_timeout(async {
            let pushed = sqlx::query_scalar!("select audit_id from audit_push where receiver = $1", receiver)
                .fetch_optional(&self.pool)
                .await?;
            Ok(pushed.unwrap_or(0))
        })
        .await
    }

    /// Notes the last `audit_id` that was pushed to a receiver.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn note_pushed(&self, receiver: &str, audit_id: i64) -> Result<()> {
        with_timeout(async {
            sqlx::query!(
                "insert into audit_push (receiver, audit_id, pushed_at)
                 values ($1, $2, $3)
                 on conflict (receiver) do update
                 set audit_id = greatest(audit_push.audit_id, excluded.audit_id),
                     pushed_at = excluded.pushed_at",
                receiver,
                audit_id,
                clock::now(),
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}
