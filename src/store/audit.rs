//! `audit_log`: written in the transaction of whatever it tells, read in pages.

use serde_json::Value;
use sqlx::PgConnection;

use super::{Result, Store};
use crate::domain::audit::Entry;

impl Store {
    /// Writes entries that belong to no other change.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn write_audit(&self, entries: &[Entry]) -> Result<()> {
        let mut tx = self.begin().await?;
        write(&mut tx, entries).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Writes entries within the caller's transaction; one statement however many there are.
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
        &column!(e => Value::Object(e.data.clone())),
    )
    .execute(conn)
    .await?;
    Ok(())
}
