//! Pools whose connections never wait on a dead server, and timeouts of steps.

use std::io::{self, ErrorKind};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions as _, Row as _};
use tokio::time::timeout;

use super::{Result, StoreError};

/// Settings of every session. Statements set them, for a pooler refuses or drops what a start message asks
/// for. No statement runs for longer than 5 s, so a call to the database ends within this or fails; and our
/// statements are short: compiling one costs more than running it.
const SESSION: &str = "set statement_timeout = '5s'; set lock_timeout = '5s'; \
     set idle_in_transaction_session_timeout = '10s'; set jit = off";
/// Settings of a session of the pipeline besides. Every statement finds its rows by index. A plan is made
/// once, perhaps while the tables are empty; a scan of all of `delivery` would seem cheap then, and be kept
/// for ever.
const PIPELINE: &str = "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; \
     set enable_hashjoin = off; set enable_mergejoin = off; set enable_bitmapscan = off";

/// What a session is for, which decides how it is set up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// API calls, actors' state, readiness.
    General,
    /// Recording and dispatching.
    Pipeline,
}

impl Purpose {
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::General => &[SESSION],
            Self::Pipeline => &[SESSION, PIPELINE],
        }
    }

    /// How long a connection that was used is taken to be alive: asking one of the pipeline would cost as much
    /// as using it.
    fn fresh(self) -> Duration {
        match self {
            Self::General => Duration::ZERO,
            Self::Pipeline => Duration::from_secs(1),
        }
    }
}

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

/// Options without what poolers refuse in a start message, the digits of floats, which nothing reads as text;
/// and without statements in the log, whatever BRIDGE_LOG says: sqlx would show them with what they hold.
pub(super) fn quiet(options: PgConnectOptions) -> PgConnectOptions {
    options.disable_statement_logging().extra_float_digits(None)
}

/// A pool that never waits on a dead connection. sqlx asks for a sign of life itself, before and after use,
/// but would wait for it for ever; a connection that is given up in the middle of a step would keep its place
/// in the pool.
pub(super) fn pool_options(connections: u32, purpose: Purpose) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for statement in purpose.settings() {
                    let set = timeout(PING_WITHIN, sqlx::raw_sql(*statement).execute(&mut *connection));
                    set.await.unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into())))?;
                }
                Ok(())
            })
        })
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= purpose.fresh() {
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
