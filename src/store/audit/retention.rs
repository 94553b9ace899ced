//! Day partitions of `event` and `audit_log`: made ahead, and dropped when their retention is over; a day of
//! the audit log only if it is sealed and its seals hold. Each day is a step of its own that waits for locks
//! only briefly: one that fails holds up neither the others nor readers and writers (docs/adr/0030).

use std::time::Duration as Wait;

use time::{Date, Duration};
use tokio::time::sleep;

use crate::domain::secret::MasterKey;
use crate::store::{Result, Store, StoreError, Transaction, session, with_long_timeout, with_timeout};

/// Days made ahead: a bridge without a retention run for a week still writes into proper partitions.
const DAYS_AHEAD: i32 = 8;
/// Pause between two days, so that sessions waiting behind one of them go first.
const BETWEEN_DAYS: Wait = Wait::from_millis(20);

/// Result of a run over some days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Days {
    /// Days that were made or dropped.
    pub done: u32,
    /// Days that failed; the next run tries again.
    pub left: u32,
}

impl Days {
    /// Counts one day; false if the run should end: a table that is in use for one day is in use for the next
    /// one too.
    fn count(&mut self, table: &str, day: Date, step: Result<bool>) -> bool {
        match step {
            Ok(done) => {
                self.done += u32::from(done);
                true
            }
            Err(error) => {
                self.left += 1;
                let busy = error.is_lock_busy();
                if busy {
                    tracing::info!(table, %day, "day partition is in use; retrying in the next retention run");
                } else {
                    tracing::error!(table, %day, %error, "failed to make or drop a day partition; retrying in the next retention run");
                }
                !busy
            }
        }
    }
}

impl Store {
    /// Makes the partitions of the coming days, from yesterday on (clocks differ), and of days that have rows
    /// in a default partition, which are moved. Rows of a day whose partition fails go into the default
    /// partition meanwhile.
    ///
    /// # Errors
    /// If the database does not say which days are missing.
    pub async fn make_partitions(&self, today: Date) -> Result<Days> {
        let first = today.saturating_sub(Duration::days(1));
        let missing = with_timeout(async {
            let missing = sqlx::query!(
                r#"select parent as "parent!", day as "day!" from missing_day_partitions($1, $2)"#,
                first,
                DAYS_AHEAD
            );
            Ok(missing.fetch_all(&self.pool).await?)
        })
        .await?;
        let mut days = Days::default();
        for row in missing {
            let made = with_long_timeout(async {
                let mut tx = self.begin_briefly().await?;
                let make = sqlx::query_scalar!(
                    r#"select make_day_partition($1, $2) as "made!""#,
                    row.parent,
                    row.day
                );
                let made = make.fetch_one(&mut *tx).await?;
                tx.commit().await?;
                Ok(made)
            })
            .await;
            if !days.count(&row.parent, row.day, made) {
                break;
            }
            sleep(BETWEEN_DAYS).await;
        }
        Ok(days)
    }

    /// Drops days of `event` that are older than `retention_days`, but none that an open delivery needs.
    ///
    /// # Errors
    /// If the database does not say which days these are.
    pub async fn drop_event_days(&self, today: Date, retention_days: u32) -> Result<Days> {
        let mut days = Days::default();
        for day in self.over_days("event", before(today, retention_days)).await? {
            let dropped = with_long_timeout(async {
                let mut tx = self.begin_briefly().await?;
                let drop = sqlx::query_scalar!(r#"select drop_event_day($1) as "dropped!""#, day);
                // False: a delivery of that day was opened since. The day stays.
                if !drop.fetch_one(&mut *tx).await? {
                    return Ok(false);
                }
                tx.commit().await?;
                Ok(true)
            })
            .await;
            if !days.count("event", day, dropped) {
                break;
            }
            sleep(BETWEEN_DAYS).await;
        }
        Ok(days)
    }

    /// Drops the days of the audit log that are older than `retention_days`, that no open delivery needs, and
    /// that match their seals, or are empty. A day that does not match them is evidence: it stays.
    ///
    /// # Errors
    /// If the database does not say which days these are.
    pub async fn drop_audit_days(
        &self,
        today: Date,
        retention_days: u32,
        master_key: &MasterKey,
    ) -> Result<Days> {
        let mut days = Days::default();
        for day in self.over_days("audit_log", before(today, retention_days)).await? {
            let dropped = self.drop_if_as_sealed(day, master_key).await;
            if !days.count("audit_log", day, dropped) {
                break;
            }
            sleep(BETWEEN_DAYS).await;
        }
        Ok(days)
    }

    async fn drop_if_as_sealed(&self, day: Date, master_key: &MasterKey) -> Result<bool> {
        let Some((first, last)) = self.seals_of_day(day).await? else {
            return with_long_timeout(async {
                let mut tx = self.begin_briefly().await?;
                let drop = sqlx::query_scalar!(r#"select drop_audit_day($1, 0) as "dropped!""#, day);
                let dropped = drop.fetch_one(&mut *tx).await?;
                tx.commit().await?;
                Ok(dropped)
            })
            .await;
        };
        let (key_id, key) = self.audit_key(master_key).await?;
        let keys = self.audit_keys(master_key).await?;
        if let Some(fault) = self.verify_seals(&keys, first, last).await?.fault {
            tracing::error!(%day, ?fault, "a day of the audit log does not match its seals; keeping it as evidence");
            return Ok(false);
        }
        self.drop_audit_day(day, (key_id, &key)).await
    }

    /// Days of a table that lie before this one and that no open delivery needs.
    async fn over_days(&self, table: &str, before: Date) -> Result<Vec<Date>> {
        with_long_timeout(async {
            let mut tx = self.begin().await?;
            session::allow_a_minute(&mut tx).await?;
            let days = sqlx::query_scalar!(r#"select over_days($1, $2) as "day!""#, table, before);
            Ok(days.fetch_all(&mut *tx).await?)
        })
        .await
    }

    /// Begins a step that locks a table exclusively for a moment: while it waits, nobody else gets in.
    pub(in crate::store) async fn begin_briefly(&self) -> Result<Transaction<'static, sqlx::Postgres>> {
        let mut tx = self.pool.begin().await?;
        session::allow_a_minute(&mut tx).await?;
        sqlx::query_scalar!("select set_config('lock_timeout', '200ms', true)").fetch_one(&mut *tx).await?;
        Ok(tx)
    }
}

fn before(today: Date, retention_days: u32) -> Date {
    today.saturating_sub(Duration::days(retention_days.into()))
}

impl StoreError {
    /// Whether a lock was not acquired in time.
    fn is_lock_busy(&self) -> bool {
        const BUSY: [&str; 2] = ["55P03", "40P01"];
        matches!(self, Self::Database(sqlx::Error::Database(refusal))
            if refusal.code().is_some_and(|code| BUSY.contains(&code.as_ref())))
    }
}
