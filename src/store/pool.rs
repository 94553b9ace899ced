//! Pools whose connections never wait on a dead server, and timeouts of steps.

use std::io::{self, ErrorKind};
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use tokio::time::timeout;

use super::{Result, StoreError};

/// Longest that any statement may run on the server; a call to the database ends within this or fails.
pub(super) const STATEMENT_TIMEOUT: &str = "5s";
/// Time that a caller waits for a free connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest that a whole step may take on our side: a server, or a network, that has gone silent answers no
/// `statement_timeout` either.
pub(super) const STEP_WITHIN: Duration = Duration::from_secs(5);
/// The same for a step that may have to touch very many rows: a little more than its longest statement may
/// take.
pub const LONG_STEP_WITHIN: Duration = Duration::from_secs(65);
/// Time that a connection has for a sign of life before it counts as dead.
pub(super) const PING_WITHIN: Duration = Duration::from_secs(2);
/// A connection of the pipeline that was used within this is taken to be alive: asking would cost as much as
/// using it.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// A pool that never waits on a dead connection. sqlx asks for a sign of life itself, before and after use,
/// but would wait for it for ever; a connection that is given up in the middle of a step would keep its place
/// in the pool.
pub(super) fn pool_options(connections: u32, fresh: Duration) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= fresh {
                    alive(connection).await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, _| {
            Box::pin(async move {
                alive(connection).await?;
                Ok(true)
            })
        })
}

/// Asks a connection for a sign of life, and whether it is outside of any transaction; after an error the
/// pool drops it without a farewell. A step that was given up in the middle of a statement may leave a
/// transaction open or aborted that sqlx knows nothing of: handed out again and again, it would fail every
/// step that gets it. A plain query, for only there both times are the same outside of a transaction.
pub(super) async fn alive(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let asked = async {
        let row = sqlx::raw_sql("select now() = statement_timestamp()").fetch_one(&mut *connection).await?;
        row.try_get::<bool, _>(0)
    };
    match timeout(PING_WITHIN, asked).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(sqlx::Error::Protocol("a transaction was left open".to_owned())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(sqlx::Error::Io(ErrorKind::TimedOut.into())),
    }
}

/// Gives a step up that the database leaves unanswered; its connection goes back to the pool, which drops it.
pub(super) async fn with_timeout<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    with_timeout_of(STEP_WITHIN, step).await
}

/// The same for the few steps that may have to touch very many rows
/// ([`session::allow_a_minute`](super::session::allow_a_minute)).
pub(super) async fn with_long_timeout<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    with_timeout_of(LONG_STEP_WITHIN, step).await
}

pub(super) async fn with_timeout_of<T>(within: Duration, step: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(within, step).await.unwrap_or_else(|_| {
        let silent = io::Error::new(ErrorKind::TimedOut, "no answer in time");
        Err(StoreError::Database(sqlx::Error::Io(silent)))
    })
}
