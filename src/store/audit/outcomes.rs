//! `webhook_outcome`: what came of the attempts at each webhook, by hour. Counted from the entries that a seal
//! covers, in its transaction: each of them once, by one process at a time. Called by `store/audit/seals.rs`.

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::domain::ids::WebhookId;
use crate::store::{Result, Store};

/// How long the counts are kept.
pub const KEPT_FOR: Duration = Duration::hours(48);

/// Attempts of one hour with one outcome.
#[derive(Clone, Debug)]
pub struct HourOutcome {
    /// Begin of the hour.
    pub hour: OffsetDateTime,
    /// Outcome class.
    pub outcome: String,
    /// How many.
    pub attempts: i64,
    /// Milliseconds that they took together.
    pub duration_ms: i64,
}

/// Counts the attempts among the entries behind one `audit_id` up to another.
///
/// # Errors
/// If the database refuses.
pub(in crate::store) async fn count(conn: &mut PgConnection, behind: i64, through: i64) -> Result<()> {
    sqlx::query!(
        "insert into webhook_outcome (webhook_id, hour, outcome, attempts, duration_ms)
         select webhook_id, date_trunc('hour', at, 'UTC'), outcome, count(*), coalesce(sum(duration_ms), 0)
         from audit_log
         where audit_id > $1
           and audit_id <= $2
           and kind = 'DELIVERY_ATTEMPT'
           and webhook_id is not null
           and outcome is not null
         group by 1, 2, 3
         on conflict on constraint webhook_outcome_pkey do update
         set attempts = webhook_outcome.attempts + excluded.attempts,
             duration_ms = webhook_outcome.duration_ms + excluded.duration_ms",
        behind,
        through,
    )
    .execute(conn)
    .await?;
    Ok(())
}

impl Store {
    /// What came of the attempts at a webhook since an hour, by hour and outcome.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn outcomes(&self, webhook: WebhookId, since: OffsetDateTime) -> Result<Vec<HourOutcome>> {
        Ok(sqlx::query_as!(
            HourOutcome,
            "select hour, outcome, attempts, duration_ms
             from webhook_outcome
             where webhook_id = $1
               and (webhook_id, hour) >= ($1, $2)
             order by hour, outcome",
            webhook as _,
            since,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?)
    }

    /// Forgets what was counted for hours before this one.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn forget_outcomes(&self, before: OffsetDateTime) -> Result<u64> {
        let gone = sqlx::query!("delete from webhook_outcome where hour < $1", before);
        Ok(gone.execute(&self.pool).await?.rows_affected())
    }
}
