//! The audit log: entries are written in the transaction of the change that they record, and read in pages.
//!
//! Read `request_origin` (address of a caller in its entries) and `quarantine` (malformed content of an
//! entry), then `seals`, `sealed_rows`, `stored_seals`, `verify` and `verdict` (the chain of seals, the bytes
//! it covers, what it reads back, its check and what that comes to), `verifications` (checks that somebody
//! asked for), `lost_heads` (ends of the chain that a failover lost), `erased_rows` (particulars of a person
//! that go while the chain holds), `outcomes` (attempts by webhook and hour, counted as they are sealed),
//! `retention` (day partitions), `export` and `push_lock` (the way out, one pushing process at a time).

use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Result, Store, StoreError};
use crate::domain::audit::{Entry, FREQUENT, Level};
use crate::domain::ids::{AgentId, ConnectionId, DeliveryId, EventId, SourceId, WebhookId};
use crate::store::session::{choose_plan_by_values, read_by_index};

pub(super) mod erased_rows;
pub mod export;
pub(super) mod lost_heads;
pub mod outcomes;
pub mod push_lock;
pub mod quarantine;
pub mod request_origin;
pub mod retention;
pub(super) mod sealed_rows;
pub mod seals;
pub(super) mod stored_seals;
pub(super) mod verdict;
pub mod verifications;
pub mod verify;

/// How many ids the first piece of a search covers, and the longest one.
const FIRST_PIECE: i64 = 10_000;
const LONGEST_PIECE: i64 = 160_000;
/// How long the log is searched for piece by piece; after that the page ends where the search is.
const PIECES_WITHIN: Duration = Duration::from_secs(1);

impl Store {
    /// Writes entries that belong to no other change.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn write_audit(&self, entries: &[Entry]) -> Result<()> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            write(&mut tx, entries).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }
}

/// Writes entries within the caller's transaction, with one statement.
///
/// # Errors
/// If the database refuses.
pub(super) async fn write(conn: &mut PgConnection, entries: &[Entry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    macro_rules! column {
        ($entry:ident => $value:expr) => {
            entries.iter().map(|$entry| $value).collect::<Vec<_>>()
        };
    }
    sqlx::query!(
        "insert into audit_log (
             at, kind, level, source_id, connection_id, agent_id, webhook_id, event_id, delivery_id,
             attempt, status, duration_ms, outcome, end_state, principal, data)
         select * from unnest(
             $1::timestamptz[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::text[], $7::uuid[], $8::uuid[],
             $9::uuid[], $10::int[], $11::int[], $12::int[], $13::text[], $14::text[], $15::text[], $16::jsonb[])",
        &column!(e => e.at),
        &column!(e => e.kind.as_str()) as _,
        &column!(e => e.level.as_str()) as _,
        &column!(e => e.source_id) as _,
        &column!(e => e.connection_id) as _,
        &column!(e => e.agent_id.as_ref()) as _,
        &column!(e => e.webhook_id) as _,
        &column!(e => e.event_id) as _,
        &column!(e => e.delivery_id) as _,
        &column!(e => e.attempt) as _,
        &column!(e => e.status) as _,
        &column!(e => e.duration_ms) as _,
        &column!(e => e.outcome) as _,
        &column!(e => e.end_state) as _,
        &column!(e => e.principal.as_deref()) as _,
        &column!(e => Value::Object(request_origin::data_with_origin(e))),
    )
    .execute(&mut *conn)
    .await?;
    quarantine::write(conn, entries).await
}

/// One row of the log as the API shows it.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// Place in the log.
    pub audit_id: i64,
    pub at: OffsetDateTime,
    /// Name of its kind.
    pub kind: String,
    /// `info`, `warn` or `error`.
    pub level: String,
    pub source_id: Option<SourceId>,
    pub connection_id: Option<ConnectionId>,
    pub agent_id: Option<AgentId>,
    pub webhook_id: Option<WebhookId>,
    pub event_id: Option<EventId>,
    pub delivery_id: Option<DeliveryId>,
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

/// Restricts a list; a field that is `None` lets every entry pass.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only about these agents.
    pub agents: Option<Vec<String>>,
    /// Only about this webhook.
    pub webhook: Option<WebhookId>,
    /// Only about this event.
    pub event: Option<EventId>,
    /// Only about this delivery.
    pub delivery: Option<DeliveryId>,
    /// Only about this connection.
    pub connection: Option<ConnectionId>,
    /// Only about this source.
    pub source: Option<SourceId>,
    /// Only what this principal asked for.
    pub principal: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this level.
    pub level: Option<String>,
    /// Only at or after this time.
    pub since: Option<OffsetDateTime>,
    /// Only before this time.
    pub until: Option<OffsetDateTime>,
}

/// A page of the log.
#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    pub rows: Vec<AuditRow>,
    /// Behind which entry to go on if the search was cut off.
    pub stopped_at: Option<i64>,
}

impl AuditFilter {
    /// Whether an index leads to the entries that pass.
    fn is_indexed(&self) -> bool {
        self.agents.is_some()
            || self.webhook.is_some()
            || self.event.is_some()
            || self.delivery.is_some()
            || self.principal.is_some()
            || self.level.as_deref().is_some_and(|level| level != Level::Info.as_str())
            || self
                .kind
                .as_deref()
                .is_some_and(|kind| FREQUENT.iter().all(|frequent| frequent.as_str() != kind))
    }
}

impl Store {
    /// A page of the log, newest first. With a filter that hardly any entry passes and no index helps with,
    /// the server could have to read all there are: after a while the page ends where the search is, even if
    /// it is empty.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn audit_entries(
        &self,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<AuditPage> {
        if filter.is_indexed() {
            let mut tx = self.begin().await?;
            read_by_index(&mut tx).await?;
            let rows = entries_between(&mut tx, filter, (i64::MIN, before), limit).await?;
            tx.commit().await?;
            return Ok(AuditPage { rows, stopped_at: None });
        }
        let began = Instant::now();
        let mut page = AuditPage::default();
        // Of every tenant: those of one would have to be searched for.
        let ends = sqlx::query!("select min(audit_id) as oldest, max(audit_id) as newest from audit_log")
            .fetch_one(&self.pool)
            .await?;
        let (oldest, newest) = (ends.oldest.unwrap_or(0), ends.newest.unwrap_or(0));
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let mut upto = before.unwrap_or(i64::MAX).min(newest.saturating_add(1));
        let mut piece = FIRST_PIECE;
        loop {
            let from = upto.saturating_sub(piece);
            let wanted = limit - i64::try_from(page.rows.len()).unwrap_or(limit);
            page.rows.extend(entries_between(&mut tx, filter, (from, Some(upto)), wanted).await?);
            if from <= oldest || i64::try_from(page.rows.len()).is_ok_and(|found| found >= limit) {
                break;
            }
            if began.elapsed() >= PIECES_WITHIN {
                page.stopped_at = Some(from);
                break;
            }
            upto = from;
            piece = piece.saturating_mul(2).min(LONGEST_PIECE);
        }
        tx.commit().await?;
        Ok(page)
    }

    /// One entry.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn audit_entry(&self, id: i64) -> Result<AuditRow> {
        let mut tx = self.begin().await?;
        let range = (id, Some(id.saturating_add(1)));
        let rows = entries_between(&mut tx, &AuditFilter::default(), range, 1).await?;
        tx.commit().await?;
        rows.into_iter().next().ok_or(StoreError::NotFound("audit entry"))
    }
}

/// Entries from an id on and before another one, the last ones first.
async fn entries_between(
    conn: &mut PgConnection,
    filter: &AuditFilter,
    (from, before): (i64, Option<i64>),
    limit: i64,
) -> Result<Vec<AuditRow>> {
    Ok(sqlx::query_as!(
        AuditRow,
        r#"select audit_id, at, kind, level, source_id as "source_id: SourceId",
                  connection_id as "connection_id: ConnectionId", agent_id as "agent_id: AgentId",
                  webhook_id as "webhook_id: WebhookId", event_id as "event_id: EventId",
                  delivery_id as "delivery_id: DeliveryId", attempt, status, duration_ms, outcome, end_state,
                  principal, data
           from audit_log
           where audit_id >= $1
             and ($2::bigint is null or audit_id < $2)
             and ($3::text[] is null or agent_id = any ($3))
             and ($4::uuid is null or webhook_id = $4)
             and ($5::uuid is null or event_id = $5)
             and ($6::uuid is null or delivery_id = $6)
             and ($7::uuid is null or connection_id = $7)
             and ($8::text is null or kind = $8)
             and ($9::text is null or level = $9)
             and ($10::timestamptz is null or at >= $10)
             and ($11::timestamptz is null or at < $11)
             and ($12::uuid is null or source_id = $12)
             and ($13::text is null or principal = $13)
           order by audit_id desc
           limit $14"#,
        from,
        before,
        filter.agents.as_deref(),
        filter.webhook as _,
        filter.event as _,
        filter.delivery as _,
        filter.connection as _,
        filter.kind.as_deref(),
        filter.level.as_deref(),
        filter.since,
        filter.until,
        filter.source as _,
        filter.principal.as_deref(),
        limit,
    )
    .fetch_all(conn)
    .await?)
}
