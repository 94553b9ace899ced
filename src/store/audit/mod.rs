//! The audit log: entries are written in the transaction of the change that they record, and read in pages.
//!
//! Read `request_origin` (address of a caller in its entries) and `quarantine` (malformed content of an
//! entry), then `seals`, `sealed_rows`, `stored_seals` and `verify` (the chain of seals, the bytes it
//! covers, what it reads back, its check),
//! `erased_rows` (particulars of a person that go while the chain holds),
//! `outcomes` (attempts by webhook and hour, counted as they are sealed), `retention` (day partitions), `export` and `push_lock` (the way out, one pushing process at a time).

use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Result, Store, with_timeout};
use crate::domain::audit::Entry;
use crate::domain::ids::{AgentId, ConnectionId, DeliveryId, EventId, SourceId, WebhookId};
use crate::store::session::choose_plan_by_values;

pub(super) mod erased_rows;
pub mod export;
pub mod outcomes;
pub mod push_lock;
pub mod quarantine;
pub mod request_origin;
pub mod retention;
pub(super) mod sealed_rows;
pub mod seals;
pub(super) mod stored_seals;
pub mod verify;

impl Store {
    /// Writes entries that belong to no other change.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn write_audit(&self, entries: &[Entry]) -> Result<()> {
        with_timeout(async {
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
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this level.
    pub level: Option<String>,
    /// Only at or after this time.
    pub since: Option<OffsetDateTime>,
    /// Only before this time.
    pub until: Option<OffsetDateTime>,
}

impl Store {
    /// A page of the log, newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn audit_entries(
        &self,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditRow>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let rows = sqlx::query_as!(
            AuditRow,
            r#"select audit_id, at, kind, level, source_id as "source_id: SourceId",
                      connection_id as "connection_id: ConnectionId", agent_id as "agent_id: AgentId",
                      webhook_id as "webhook_id: WebhookId", event_id as "event_id: EventId",
                      delivery_id as "delivery_id: DeliveryId", attempt, status, duration_ms, outcome, end_state,
                      principal, data
               from audit_log
               where ($1::bigint is null or audit_id < $1)
                 and ($2::text[] is null or agent_id = any ($2))
                 and ($3::uuid is null or webhook_id = $3)
                 and ($4::uuid is null or event_id = $4)
                 and ($5::uuid is null or delivery_id = $5)
                 and ($6::uuid is null or connection_id = $6)
                 and ($7::text is null or kind = $7)
                 and ($8::text is null or level = $8)
                 and ($9::timestamptz is null or at >= $9)
                 and ($10::timestamptz is null or at < $10)
               order by audit_id desc
               limit $11"#,
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
            limit,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    }
}
