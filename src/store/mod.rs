//! Floor 2, the database: everything that speaks SQL, and nothing else does.
//!
//! Each function is one step with a name; a state change and its audit entry share its transaction. No
//! transaction is held across a call to the outside.
//!
//! Folders, in the order of a presence change: `sources` (what is watched, and how each connection stands),
//! `ingest` (changes become events and pending deliveries), `webhooks` (receivers and their settings),
//! `delivery` (leases, claims, results), `recovery` (events of a past time once more), `erasure` (a person goes), `views` (what the API
//! lists), `audit` (the log, its seals and its export), `access` (keys, tenants, idempotent calls).
//!
//! Files: `transaction` (one for each step, or for a whole call), `pool` (connections and timeouts),
//! `session` (settings of one transaction), `locks` (advisory locks), `wake` (wake-ups inside the process),
//! `standby` (commits that wait for one), `types` and `event_rows` (column values), `error`, `primary` (how a
//! connection is assessed), `server` (where the database is, and the way there after a failover), `rotation`
//! (change of the master key).

use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use sqlx::migrate::Migrate as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::domain::access::tenant::TenantId;
use crate::domain::ids::ProcessId;

pub mod access;
pub mod audit;
pub mod delivery;
pub mod erasure;
mod error;
mod event_rows;
pub mod ingest;
mod locks;
mod pool;
pub mod preflight;
mod primary;
pub mod recovery;
pub mod rotation;
pub mod server;
mod session;
pub mod sources;
pub mod standby;
pub mod transaction;
mod types;
pub mod views;
pub mod wake;
pub mod webhooks;

pub use error::{Result, StoreError};
pub(crate) use pool::LONG_STEP_WITHIN;
use pool::{Purpose, pool_options, with_long_timeout, with_timeout};
pub use primary::Incarnation;
use primary::{PING_WITHIN, Primary};
use server::{Found, Server};

/// Difference between the database's clock and this machine's that an operator should know of.
const WARN_FROM: Duration = Duration::from_secs(1);

/// Brings the schema to what this version needs.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Connections kept for the two hot paths, recording and dispatching, so that API calls cannot hold them up.
const PIPELINE_CONNECTIONS: u32 = 3;
/// How soon another dial is begun while the first one after a failover lasts.
const DIAL_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// The one that readiness asks by.
const READINESS_CONNECTIONS: u32 = 1;
/// The one that the lock of an audit receiver lives on.
const PUSH_CONNECTIONS: u32 = 1;

/// The database and the wake-ups. Clones share both.
#[derive(Clone, Debug)]
pub struct Store {
    /// For API calls and actors' state.
    pool: PgPool,
    /// Servers that the database may be on.
    server: Server,
    /// The one that the pools lead to.
    primary: Primary,
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
    /// What this process has committed in the last minute.
    recent: ingest::recent::RecentWrites,
    /// In which incarnation of the database it writes.
    history: ingest::incarnation::History,
}

impl Store {
    /// Opens the pools: at most `connections` connections besides those of the pipeline and of readiness.
    /// Does not touch the schema.
    ///
    /// # Errors
    /// If no connection can be made within 5 s, or the server is not the primary.
    pub async fn connect(options: PgConnectOptions, connections: u32) -> Result<Self> {
        Server::from(options).connect(connections).await
    }

    /// The same on the primary that was found among the servers.
    async fn open_pools(server: Server, found: Found, connections: u32) -> Result<Self> {
        let (process, primary) = (ProcessId::generate(), Primary::new(found.server));
        let options = found.options.application_name(&session_name(process));
        let general = |connections| pool_options(connections, Purpose::General, &primary);
        let pool = general(connections).connect_with(options.clone()).await?;
        // What these two have is kept: another user of a small server could take it meanwhile.
        let readiness = general(READINESS_CONNECTIONS).idle_timeout(None);
        let pipeline_pool =
            pool_options(PIPELINE_CONNECTIONS, Purpose::Pipeline, &primary).idle_timeout(None);
        let mut store = Self {
            pool,
            server,
            primary,
            process,
            began_at: clock::now(),
            tenant: None,
            pipeline_pool: pipeline_pool.connect_lazy_with(options.clone()),
            readiness: readiness.connect_lazy_with(options),
            wake: wake::Wake::default(),
            handoff: delivery::direct_dispatch::Handoff::default(),
            quarantined: audit::quarantine::Budgets::default(),
            filters: ingest::filters::FilterCache::default(),
            recent: ingest::recent::RecentWrites::default(),
            history: ingest::incarnation::History::default(),
        };
        store.sync_clock().await?;
        store.began_at = clock::now();
        Ok(store)
    }

    /// Waits until there is a primary again; for ever if there is one.
    pub async fn primary_is_back(&self) {
        match self.primary.trouble() {
            Some(_) => self.primary.is_back().await,
            None => std::future::pending().await,
        }
    }

    /// Pool for recording and dispatching.
    ///
    /// # Errors
    /// If there is no primary for a while.
    async fn pipeline(&self) -> Result<&PgPool> {
        self.primary.wait_a_while().await.map_err(StoreError::NoPrimary)?;
        Ok(&self.pipeline_pool)
    }

    /// The first connection of that pool to a new primary. A dial by a proxy that leads it to the former one fails
    /// only after seconds: another one is begun soon.
    async fn first_in_pipeline(&self) -> Result<PoolConnection<Postgres>> {
        let pool = self.pipeline().await?;
        let mut dialled: FuturesUnordered<_> = (0..PIPELINE_CONNECTIONS)
            .map(async |dial| {
                sleep(DIAL_AGAIN_AFTER * dial).await;
                pool.acquire().await
            })
            .collect();
        let first = dialled.next().await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        Ok(first?)
    }

    /// The incarnation that the last connection found the database in; `None` while there has been none.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.primary.incarnation()
    }

    /// Sees each change of it. A connection to a new incarnation is handed out only after the change is seen here.
    #[must_use]
    pub fn watch_incarnation(&self) -> watch::Receiver<Option<Incarnation>> {
        self.primary.watch_incarnation()
    }

    fn named(&self, options: PgConnectOptions) -> PgConnectOptions {
        options.application_name(&session_name(self.process))
    }

    /// Opens the connections that the bridge cannot do without, those of the two hot paths first, and `others`
    /// for API calls and actors' state.
    ///
    /// # Errors
    /// If the server gives fewer.
    async fn open_least(&self, others: u32) -> Result<()> {
        let wanted = [
            (&self.pipeline_pool, PIPELINE_CONNECTIONS),
            (&self.readiness, READINESS_CONNECTIONS),
            (&self.pool, others),
        ];
        let mut opened = Vec::new();
        for pool in wanted.iter().flat_map(|(pool, number)| (0..*number).map(move |_| *pool)) {
            opened.push(pool.acquire().await?);
        }
        drop(opened);
        // A pool in which none is free yet would open another one, and wait in vain if the server has no more.
        let all_free = async {
            while wanted
                .iter()
                .any(|(pool, _)| u32::try_from(pool.num_idle()).is_ok_and(|free| free < pool.size()))
            {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = timeout(PING_WITHIN, all_free).await;
        Ok(())
    }

    /// Why no connection is had at present, in the server's words; `None` if one is.
    async fn refusal(&self) -> Option<StoreError> {
        preflight::refusal(&self.pool.connect_options()).await
    }

    /// Why a step that stores changes failed, in words for an operator.
    pub async fn why_nothing_is_stored(&self, error: &StoreError) -> String {
        let refusal = if error.is_no_connection() { self.refusal().await } else { None };
        match refusal {
            _ if matches!(error, StoreError::NoPrimary(_)) => error.to_string(),
            Some(refusal) => format!("no connection: {refusal}"),
            None if error.is_disk_full() => "its disk is full".to_owned(),
            None => "changes cannot be stored".to_owned(),
        }
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

    /// Brings the schema to what this version needs, and what tenants may do in it; safe to call by several
    /// processes at once.
    ///
    /// # Errors
    /// If a migration fails, a newer version has been here, or this user may not create or become
    /// `presence_bridge_tenant`.
    pub async fn migrate(&self) -> Result<()> {
        // A migration may take longer than any statement of daily work.
        let mut connection = self.pool.acquire().await?.detach();
        sqlx::query("set statement_timeout = 0").execute(&mut connection).await?;
        sqlx::query("set lock_timeout = 0").execute(&mut connection).await?;
        // One process at a time. A session may take the lock twice, and the migrator does.
        connection.lock().await?;
        MIGRATOR.run(&mut connection).await?;
        sqlx::raw_sql(include_str!("sql/tenant_access.sql")).execute(&mut connection).await?;
        connection.unlock().await?;
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

/// Has the rest of a transaction see the rows of one tenant alone. Not in one text with `begin`: if the half of
/// that fails, sqlx takes the transaction for none and the connection goes back to the pool with it.
async fn become_tenant(conn: &mut PgConnection, tenant: TenantId) -> Result<()> {
    // The id is a uuid: nothing in it needs to be quoted.
    let statement = format!("set local role presence_bridge_tenant; set local bridge.tenant = '{tenant}'");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(conn).await?;
    Ok(())
}

/// As `process_lives` expects it.
fn session_name(process: ProcessId) -> String {
    format!("presence-bridge {process}")
}
