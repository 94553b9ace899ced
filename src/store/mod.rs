//! Floor 2, the database: everything that speaks SQL, and nothing else does.
//!
//! Each function is one step with a name; a state change and its audit entry share its transaction. No
//! transaction is held across a call to the outside.
//!
//! Folders, in the order of a presence change: `sources` (what is watched, and how each connection stands),
//! `ingest` (changes become events and pending deliveries), `webhooks` (receivers and their settings),
//! `delivery` (leases, claims, results), `recovery` (events of a past time once more), `views` (what the API
//! lists), `audit` (the log, its seals and its export), `access` (keys, tenants, idempotent calls).
//!
//! Files: `transaction` (one for each step, or for a whole call), `pool` (connections and timeouts),
//! `session` (settings of one transaction), `locks` (advisory locks), `wake` (wake-ups inside the process),
//! `types` and `event_rows` (column values), `error`, `server` (address of the database), `rotation` (change
//! of the master key).

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::clock;
use crate::domain::access::tenant::TenantId;
use crate::domain::ids::ProcessId;

pub mod access;
pub mod audit;
pub mod delivery;
mod error;
mod event_rows;
pub mod ingest;
mod locks;
mod pool;
pub mod recovery;
pub mod rotation;
pub mod server;
mod session;
pub mod sources;
pub mod transaction;
mod types;
pub mod views;
pub mod wake;
pub mod webhooks;

pub use error::{Result, StoreError};
pub(crate) use pool::LONG_STEP_WITHIN;
use pool::{FRESH, PING_WITHIN, STATEMENT_TIMEOUT, pool_options, with_long_timeout, with_timeout};

/// Difference between the database's clock and this machine's that an operator should know of.
const WARN_FROM: Duration = Duration::from_secs(1);

/// Brings the schema to what this version needs.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Connections kept for the two hot paths, recording and dispatching, so that API calls cannot hold them up.
const PIPELINE_CONNECTIONS: u32 = 3;

/// The database and the wake-ups. Clones share both.
#[derive(Clone, Debug)]
pub struct Store {
    /// For API calls and actors' state.
    pool: PgPool,
    /// This process; its sessions have its id in their name.
    process: ProcessId,
    /// Start of the process, by the clock of the database.
    began_at: OffsetDateTime,
    /// Tenant whose rows are seen; `None`: those of all.
    tenant: Option<TenantId>,
    /// For recording and dispatching: few statements, prepared once. Their plans do not depend on parameters,
    /// and planning over all day partitions each time would cost more than running.
    pipeline_pool: PgPool,
    /// For readiness alone: one connection, so that slow callers cannot make the database look unavailable.
    readiness: PgPool,
    /// Wake-ups inside this process.
    pub wake: wake::Wake,
    /// Between the writers of events and the dispatcher of this process.
    pub handoff: delivery::direct_dispatch::Handoff,
    /// Malformed content that was stored recently, by source.
    quarantined: audit::quarantine::Budgets,
    /// Webhooks' filters.
    filters: ingest::filters::FilterCache,
}

impl Store {
    /// Opens the pools: at most `connections` connections besides those of the pipeline and of readiness.
    /// Does not touch the schema.
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
        // Every statement finds its rows by index. A plan is made once, perhaps while the tables are empty; a
        // scan of all of `delivery` would seem cheap then, and be kept for ever.
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
            filters: ingest::filters::FilterCache::default(),
        };
        store.sync_clock().await?;
        store.began_at = clock::now();
        Ok(store)
    }

    /// Sets our clock by the database's, which counts for all processes that share it.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn sync_clock(&self) -> Result<()> {
        with_timeout(async {
            let mut connection = self.pool.acquire().await?;
            let asked = Instant::now();
            let at = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *connection).await?;
            if let Some(ahead) = clock::set_by(at, asked).filter(|ahead| ahead.unsigned_abs() >= WARN_FROM) {
                let seconds = ahead.as_seconds_f64();
                tracing::warn!(
                    seconds,
                    "the database's clock is ahead of this machine's (negative: behind); using the database's"
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

    /// Checks that calls of the API can run, each as its tenant.
    ///
    /// # Errors
    /// If the database's user may not become `presence_bridge_tenant`.
    pub async fn check_tenant_role(&self) -> Result<()> {
        self.for_tenant(TenantId::DEFAULT).begin().await?;
        Ok(())
    }

    /// Ends every connection; later calls fail. Does not wait for a silent server.
    pub async fn close(&self) {
        let closed = async {
            self.pipeline_pool.close().await;
            self.readiness.close().await;
            self.pool.close().await;
        };
        let _ = timeout(PING_WITHIN, closed).await;
    }

    /// The same database as one tenant sees it: without rows of another one, whatever is asked for. Every
    /// call of the API goes this way.
    #[must_use]
    pub fn for_tenant(&self, tenant: TenantId) -> Self {
        Self { tenant: Some(tenant), ..self.clone() }
    }

    /// Begins a transaction that writes rows a process needs at its start. One process at a time: two that
    /// start together would both find them missing, and one would fail.
    async fn begin_in_turn(&self) -> Result<Transaction<'static, Postgres>> {
        let mut tx = self.pool.begin().await?;
        locks::lock_start(&mut tx).await?;
        Ok(tx)
    }
}
