//! Lock of the process that pushes the audit log to a receiver: one at a time, or each would push all of it.
//!
//! A session lock on a connection of its own: the push goes over the network, and no transaction may be open
//! meanwhile. It ends with the session, at once when its process is killed. A process that hangs, or whose
//! machine is gone, loses it when the server has heard nothing for `SILENT_MAX`.

use std::time::Instant;

use sqlx::postgres::PgConnection;

use crate::store::primary::Primary;
use crate::store::{Result, Store, with_timeout};

/// Longer than any batch takes: a connection to open, a batch to write, and a moment to wait.
const SILENT_MAX: &str = "60s";

/// Lock of one receiver, acquired or wanted. Dropping it gives the lock to another process.
pub struct PushLock {
    connection: PgConnection,
    opened: Instant,
    primary: Primary,
    receiver: String,
    acquired: bool,
}

impl Store {
    /// Opens the connection that the lock lives on; [`PushLock::try_acquire`] acquires it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn push_lock(&self, receiver: &str) -> Result<PushLock> {
        with_timeout(async {
            // Out of the pool at once: there, a lock would outlive a step that was given up.
            let mut connection = self.pool.acquire().await?.detach();
            let opened = Instant::now();
            // Servers before 14 do not know it.
            sqlx::query(
                "select set_config(name, $1, false) from pg_settings where name = 'idle_session_timeout'",
            )
            .bind(SILENT_MAX)
            .execute(&mut connection)
            .await?;
            let (primary, receiver) = (self.primary.clone(), receiver.to_owned());
            Ok(PushLock { connection, opened, primary, receiver, acquired: false })
        })
        .await
    }
}

impl PushLock {
    /// Whether the lock is acquired. Call it again before each batch: an error means that the lock is lost.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn try_acquire(&mut self) -> Result<bool> {
        with_timeout(async {
            self.primary.check(&mut self.connection, self.opened.elapsed()).await?;
            if !self.acquired {
                self.acquired = sqlx::query_scalar(
                    "select pg_try_advisory_lock(hashtextextended('audit_push ' || $1, 0))",
                )
                .bind(&self.receiver)
                .fetch_one(&mut self.connection)
                .await?;
            }
            Ok(self.acquired)
        })
        .await
    }
}
