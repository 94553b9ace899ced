//! Pools whose connections never wait on a dead server, and timeouts of steps.

use std::io::{self, ErrorKind};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::time::timeout;

use super::primary::{PING_WITHIN, Primary};
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

/// Options without what poolers refuse in a start message, the digits of floats, which nothing reads as text;
/// and without statements in the log, whatever BRIDGE_LOG says: sqlx would show them with what they hold.
pub(super) fn quiet(options: PgConnectOptions) -> PgConnectOptions {
    options.disable_statement_logging().extra_float_digits(None)
}

/// A pool that never waits on a dead connection, nor has one to a server that is not the primary. sqlx asks for
/// a sign of life itself, before and after use, but would wait for it for ever; a connection that is given up in
/// the middle of a step would keep its place in the pool.
pub(super) fn pool_options(connections: u32, purpose: Purpose, primary: &Primary) -> PgPoolOptions {
    let (admitting, acquiring, releasing) = (primary.clone(), primary.clone(), primary.clone());
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| {
            let primary = admitting.clone();
            Box::pin(async move {
                for statement in purpose.settings() {
                    let set = timeout(PING_WITHIN, sqlx::raw_sql(*statement).execute(&mut *connection));
                    set.await.unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into()))).inspect_err(
                        |error| tracing::warn!(%error, "failed to set up a new connection to the database"),
                    )?;
                }
                primary.admit(connection).await
            })
        })
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let primary = acquiring.clone();
            Box::pin(async move {
                match meta.idle_for >= purpose.fresh() {
                    true => primary.check(connection, meta.age).await?,
                    false => primary.check_age(meta.age)?,
                }
                Ok(true)
            })
        })
        .after_release(move |connection, meta| {
            let primary = releasing.clone();
            Box::pin(async move {
                primary.check_clean(connection, meta.age).await?;
                Ok(true)
            })
        })
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
    timeout(within, step).await.unwrap_or_else(|_| Err(no_answer()))
}

/// Error of a step that was given up.
pub(super) fn no_answer() -> StoreError {
    let silent = io::Error::new(ErrorKind::TimedOut, "no answer in time");
    StoreError::Database(sqlx::Error::Io(silent))
}
