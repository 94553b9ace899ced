//! Day partitions of `event` and `audit_log`: made ahead, dropped when their time is over, a day of the audit log only once it
//! is sealed and its seals hold. Each day is a step of its own that waits for locks only briefly: one that fails keeps neither
//! the others nor readers and writers (docs/adr/0030).

use std::time::Duration as Wait;

use time::{Date, Duration};
use tokio::time::sleep;

use crate::domain::secret::MasterKey;
use crate::store::{Result, Store, StoreError, Transaction, session, with_long_timeout, with_timeout};

/// Days made ahead, so that a bridge without a sweep for a week still writes into proper partitions.
const DAYS_AHEAD: i32 = 8;
/// Pause between two days, so that who waited behind one of them goes first.
const BETWEEN_DAYS: Wait = Wait::from_millis(20);

/// What became of a round over some days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Days {
    /// Days of a table that are done.
    pub done: u32,
    /// Days of a table that could not be done; ask again.
    pub left: u32,
}

impl Days {
    /// Counts one day; says whether the round may go on. A lock that is not to be had will not be had for the next day either.
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
                    tracing::info!(table, %day, "its day partition must wait: somebody reads or writes there");
                } else {
                    tracing::error!(table, %day, %error, "its day partition could not be looked after");
                }
                !busy
            }
        }
    }
}

impl Store {
    /// Makes the partitions of the coming days, from yesterday on (clocks differ), and of days that have rows in a default
    /// partition, which are moved. What cannot be made now is written into the default partition meanwhile.
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
                // False: somebody owes an event of that day again since we looked. It stays.
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

    /// Drops the days of the audit log that are older than `retention_days`, that no open delivery needs, and that are sealed
    /// and as they were when they were sealed, or empty. One that is not as it was is evidence: it stays.
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
            tracing::error!(%day, ?fault, "a day of the audit log stays: it is not as it was sealed");
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

    /// Begins a step that takes a table away from its readers for a moment: while it waits for them nobody else gets in.
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
    /// Whether a lock was not to be had in time.
    fn is_lock_busy(&self) -> bool {
        const BUSY: [&str; 2] = ["55P03", "40P01"];
        matches!(self, Self::Database(sqlx::Error::Database(refusal))
            if refusal.code().is_some_and(|code| BUSY.contains(&code.as_ref())))
    }
}
