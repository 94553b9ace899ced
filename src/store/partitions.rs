//! Day partitions of `event` and `audit_log`: made ahead, dropped when their time is over, a day of the audit log only once it
//! is sealed and its seals hold.

use time::{Date, Duration};

use super::{Result, Store, answered};
use crate::domain::secret::MasterKey;

/// Days made ahead, so that a bridge without a sweep for a week still writes into proper partitions.
const DAYS_AHEAD: i32 = 8;

impl Store {
    /// Makes the partitions of the coming days, from yesterday on (clocks differ); says how many were made.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn make_partitions(&self, today: Date) -> Result<i32> {
        answered(async {
            let first = today.saturating_sub(Duration::days(1));
            let mut tx = self.begin_in_turn().await?;
            let made =
                sqlx::query_scalar!(r#"select make_day_partitions($1, $2) as "made!""#, first, DAYS_AHEAD)
                    .fetch_one(&mut *tx)
                    .await?;
            tx.commit().await?;
            Ok(made)
        })
        .await
    }

    /// Drops partitions older than `retention_days`, but none that an open delivery needs; says how many. Of the audit log only
    /// days in which nothing was written: for the others see [`drop_audit_days`](Self::drop_audit_days).
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn drop_partitions(&self, today: Date, retention_days: u32) -> Result<i32> {
        answered(async {
            let before = today.saturating_sub(Duration::days(i64::from(retention_days)));
            let dropped = sqlx::query_scalar!(r#"select drop_day_partitions($1) as "dropped!""#, before)
                .fetch_one(&self.pool)
                .await?;
            Ok(dropped)
        })
        .await
    }

    /// Drops the days of the audit log that are older than `retention_days`, sealed, and as they were when they were sealed;
    /// says how many. One that is not as it was is evidence: it stays.
    ///
    /// # Errors
    /// If the database refuses, or the audit key does not open.
    pub async fn drop_audit_days(
        &self,
        today: Date,
        retention_days: u32,
        master_key: &MasterKey,
    ) -> Result<u32> {
        let before = today.saturating_sub(Duration::days(i64::from(retention_days)));
        let mut dropped = 0;
        for day in self.over_audit_days(before).await? {
            let (key_id, key) = self.audit_key(master_key).await?;
            let keys = self.audit_keys(master_key).await?;
            let Some((first, last)) = self.seals_of_day(day).await? else {
                continue;
            };
            if let Some(fault) = self.verify_seals(&keys, first, last).await?.fault {
                tracing::error!(%day, ?fault, "a day of the audit log stays: it is not as it was sealed");
                continue;
            }
            dropped += u32::from(self.drop_audit_day(day, (key_id, &key)).await?);
        }
        Ok(dropped)
    }
}
