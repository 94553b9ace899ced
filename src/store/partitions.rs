//! Day partitions of `event` and `audit_log`: made ahead, dropped when their time is over.

use time::{Date, Duration};

use super::{Result, Store, answered};

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
            let made =
                sqlx::query_scalar!(r#"select make_day_partitions($1, $2) as "made!""#, first, DAYS_AHEAD)
                    .fetch_one(&self.pool)
                    .await?;
            Ok(made)
        })
        .await
    }

    /// Drops partitions older than `retention_days`, but none that an open delivery needs; says how many.
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
}
