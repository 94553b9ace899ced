//! Floor 2, the middle: everything that speaks SQL, and nothing else does.
//!
//! Each function is one step with a name; a state change and its audit entry share its transaction. No
//! transaction is held across a call to the outside.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, Postgres, Row, Transaction};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::clock;
use crate::domain::access::tenant::TenantId;
use crate::domain::ids::ProcessId;

pub mod access;
pub mod audit;
pub mod delivery;
pub mod ingest;
pub mod recovery;
pub mod rotation;
pub mod server;
pub mod sources;
pub mod transaction;
mod types;
pub mod views;
pub mod wake;
pub mod webhooks;

/// Longest that any statement may run on the server; a call to the database ends within this or fails.
const STATEMENT_TIMEOUT: &str = "5s";
/// How long a caller waits for a free connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest that a whole step may take on our side: a server, or a network, that has gone silent answers no
/// `statement_timeout` either.
const STEP_WITHIN: Duration = Duration::from_secs(5);
/// The same for a step that may have to touch very many rows: a little more than its longest statement may take.
pub(crate) const LONG_STEP_WITHIN: Duration = Duration::from_secs(65);
/// How long a connection may take for a sign of life before it counts as dead.
const PING_WITHIN: Duration = Duration::from_secs(2);
/// A difference between the database's clock and ours that an operator should know of.
const TOLD_FROM: Duration = Duration::from_secs(1);
/// A hot connection that was used within this is taken to be alive: asking would cost as much as using it.
const FRESH: Duration = Duration::from_secs(1);

/// What Postgres calls it.
const DISK_FULL: &str = "53100";
const RAN_TOO_LONG: &str = "57014";

/// Brings the schema to what this version needs.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such row.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The present state does not allow it; the text may be shown to a caller.
    #[error("{0}")]
    Conflict(String),
    /// A tenant may not have so much; the text may be shown to a caller.
    #[error("{0}")]
    QuotaExceeded(String),
    /// A row breaks a rule of ours.
    #[error("table {table}, column {column}, row {row}: {what}")]
    Corrupt {
        /// Where it was found.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// Primary key of the row.
        row: String,
        /// What is wrong; never the value of a secret.
        what: String,
    },
    /// The database could not be asked or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl StoreError {
    /// Name of the constraint that a write violated, if that is what happened.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Database(error) => error.as_database_error().and_then(|e| e.constraint()),
            _ => None,
        }
    }
}

impl StoreError {
    /// Whether asking again may help: no connection, a connection that broke, a server that stops or starts, a
    /// statement that ran out of time, or a lock that was not to be had.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        use sqlx::Error;
        match self {
            Self::Database(
                Error::Io(_)
                | Error::Tls(_)
                | Error::Protocol(_)
                | Error::PoolTimedOut
                | Error::PoolClosed
                | Error::WorkerCrashed,
            ) => true,
            // 08: connection; 28, 3D: not let in; 53: resources; 57: operator intervention; then serialization,
            // deadlock, lock.
            Self::Database(Error::Database(refusal)) => refusal.code().is_some_and(|code| {
                ["08", "28", "3D", "53", "57"].iter().any(|class| code.starts_with(class))
                    || ["40001", "40P01", "55P03"].contains(&code.as_ref())
            }),
            _ => false,
        }
    }
}

impl StoreError {
    /// Whether the server gave a statement up because it ran for too long.
    #[must_use]
    pub fn is_too_slow(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(refusal)) if refusal.code().as_deref() == Some(RAN_TOO_LONG))
    }

    /// Whether the server refused the values themselves (class 22 data, 23 constraint) rather than being unavailable.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
            }
            Self::Database(sqlx::Error::Encode(_)) => true,
            _ => false,
        }
    }

    /// In words for an operator.
    pub(crate) fn why_nothing_is_stored(&self) -> &'static str {
        let code = match self {
            Self::Database(error) => error.as_database_error().and_then(|error| error.code()),
            _ => None,
        };
        if code.as_deref() == Some(DISK_FULL) { "its disk is full" } else { "changes cannot be stored" }
    }
}

/// What every step of this module returns.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Connections kept for the two hot paths, recording and dispatching, so that API calls cannot hold them up.
const PIPELINE_CONNECTIONS: u32 = 3;

/// The database and the nudges. Clones share both.
#[derive(Clone, Debug)]
pub struct Store {
    /// For API calls and actors' state.
    pool: PgPool,
    /// Which process this is; its sessions say so too.
    process: ProcessId,
    /// When it began, by the clock of the database.
    began_at: OffsetDateTime,
    /// Whose rows there are; `None`: everybody's.
    tenant: Option<TenantId>,
    /// For recording and dispatching: few statements, prepared once. Their plans do not depend on parameters, and
    /// planning over all day partitions each time would cost more than running.
    pipeline_pool: PgPool,
    /// For readiness alone: one connection, so that callers who read slowly cannot make it look as if the database were away.
    readiness: PgPool,
    /// Nudges inside this process.
    pub wake: wake::Wake,
    /// Between the writers of events and the dispatcher of this process.
    pub handoff: delivery::direct_dispatch::Handoff,
    /// How much odd content was kept of late.
    quarantined: audit::quarantine::Budgets,
    /// The webhooks' filters.
    subscriptions: ingest::filters::Known,
}

impl Store {
    /// Opens the pools; at most `connections` connections besides the hot ones and that of readiness. Does not touch the schema.
    ///
    /// # Errors
    /// If no connection can be made within 5 s.
    pub async fn connect(options: PgConnectOptions, connections: u32) -> Result<Self> {
        // Whatever BRIDGE_LOG says: sqlx would show statements with what they hold.
        let process = ProcessId::generate();
        let name = format!("presence-bridge {process}"); // as `process_lives` expects it
        let options = options.disable_statement_logging().application_name(&name).options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", "10s"),
            // Our statements are short: compiling one costs more than running it.
            ("jit", "off"),
        ]);
        let pool = pool_options(connections, Duration::ZERO).connect_with(options.clone()).await?;
        let readiness = pool_options(1, Duration::ZERO).connect_lazy_with(options.clone());
        // What they look for they find by index. A plan is made once, perhaps while the tables are empty, and then a walk
        // through all of `delivery` would seem cheap for ever.
        let options = options.options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("enable_bitmapscan", "off"),
        ]);
        let pipeline_pool = pool_options(PIPELINE_CONNECTIONS, FRESH).connect_lazy_with(options);
        let mut store = Self {
            pool,
            process,
            began_at: clock::now(),
            tenant: None,
            pipeline_pool,
            readiness,
            wake: wake::Wake::default(),
            handoff: delivery::direct_dispatch::Handoff::default(),
            quarantined: audit::quarantine::Budgets::default(),
            subscriptions: ingest::filters::Known::default(),
        };
        store.sync_clock().await?;
        store.began_at = clock::now();
        Ok(store)
    }

    /// Sets our clock by the database's, which counts for all that share it.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn sync_clock(&self) -> Result<()> {
        with_timeout(async {
            let mut connection = self.pool.acquire().await?;
            let asked = Instant::now();
            let at = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *connection).await?;
            if let Some(ahead) = clock::set_by(at, asked).filter(|ahead| ahead.unsigned_abs() >= TOLD_FROM) {
                let seconds = ahead.as_seconds_f64();
                tracing::warn!(
                    seconds,
                    "the database's clock is ahead of ours (behind, if negative); it counts"
                );
            }
            Ok(())
        })
        .await
    }

    /// Brings the schema to what this version needs; safe to call by several processes at once.
    ///
    /// # Errors
    /// If a migration fails or a newer version has been here.
    pub async fn migrate(&self) -> Result<()> {
        // A migration may take longer than any statement of daily work.
        let mut connection = self.pool.acquire().await?.detach();
        sqlx::query("set statement_timeout = 0").execute(&mut connection).await?;
        sqlx::query("set lock_timeout = 0").execute(&mut connection).await?;
        MIGRATOR.run(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    /// Tries whether calls of the API can be carried out, each as its tenant.
    ///
    /// # Errors
    /// If the database's user may not become `presence_bridge_tenant`.
    pub async fn check_tenant_role(&self) -> Result<()> {
        self.for_tenant(TenantId::DEFAULT).begin().await?;
        Ok(())
    }

    /// Ends every connection; later calls fail. A server that is silent is not waited for.
    pub async fn close(&self) {
        let closed = async {
            self.pipeline_pool.close().await;
            self.readiness.close().await;
            self.pool.close().await;
        };
        let _ = timeout(PING_WITHIN, closed).await;
    }

    /// The same database as one tenant sees it: no row of another one is there, whatever is asked for. All that the REST
    /// API does goes this way.
    #[must_use]
    pub fn for_tenant(&self, tenant: TenantId) -> Self {
        Self { tenant: Some(tenant), ..self.clone() }
    }

    /// Begins what a process writes at its start if it is not there yet: one process at a time, or two that start together
    /// would both find it missing, and one of them would fail.
    async fn begin_in_turn(&self) -> Result<Transaction<'static, Postgres>> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock(7700453)").execute(&mut *tx).await?;
        Ok(tx)
    }
}

/// A pool that never waits on a dead connection. sqlx asks for a sign of life itself, before and after use, but
/// would wait for it for ever; a connection that is given up in the middle of a step would keep its place in the pool.
fn pool_options(connections: u32, fresh: Duration) -> PgPoolOptions {
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

/// Asks a connection for a sign of life, and whether it is outside of any transaction; after an error the pool drops it without
/// a farewell. A step that was given up in the middle of a statement may leave a transaction open or aborted that sqlx
/// knows nothing of: handed out again and again, it would fail every step that gets it. A plain query, for only there both
/// times are the same outside of a transaction.
async fn alive(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
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
async fn with_timeout<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    with_timeout_of(STEP_WITHIN, step).await
}

/// The same for the few steps that may have to touch very many rows ([`audit::allow_a_minute`]).
async fn with_long_timeout<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    with_timeout_of(LONG_STEP_WITHIN, step).await
}

async fn with_timeout_of<T>(within: Duration, step: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(within, step).await.unwrap_or_else(|_| {
        let silent = io::Error::new(ErrorKind::TimedOut, "no answer in time");
        Err(StoreError::Database(sqlx::Error::Io(silent)))
    })
}
