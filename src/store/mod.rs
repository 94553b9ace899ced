//! Floor 2, the middle: everything that speaks SQL, and nothing else does.
//!
//! Each function is one step with a name; a state change and its audit entry share its transaction. No
//! transaction is held across a call to the outside.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres, Transaction};

use crate::domain::ids::ProcessId;

pub mod agents;
pub mod audit;
pub mod connections;
pub mod events_feed;
pub mod gaps;
pub mod history;
pub mod keys;
pub mod recorder;
pub mod sources;
mod types;
pub mod wake;
pub mod webhooks;

/// Longest that any statement may run on the server; a call to the database ends within this or fails.
const STATEMENT_TIMEOUT: &str = "5s";
/// How long a caller waits for a free connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

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

/// What every step of this module returns.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The database and the nudges. Clones share both.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// Nudges inside this process.
    pub wake: wake::Wake,
    /// This process; leases carry it.
    pub process: ProcessId,
}

impl Store {
    /// Opens a pool of at most `connections` connections. Does not touch the schema.
    ///
    /// # Errors
    /// If no connection can be made within [`ACQUIRE_TIMEOUT`].
    pub async fn connect(options: PgConnectOptions, connections: u32) -> Result<Self> {
        let options = options.application_name("presence-bridge").options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", "10s"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await?;
        Ok(Self {
            pool,
            wake: wake::Wake::default(),
            process: ProcessId::generate(),
        })
    }

    /// Brings the schema to what this version needs; safe to call by several processes at once.
    ///
    /// # Errors
    /// If a migration fails or a newer version has been here.
    pub async fn migrate(&self) -> Result<()> {
        MIGRATOR.run(&self.pool).await?;
        Ok(())
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Ends every connection; later calls fail.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn begin(&self) -> Result<Transaction<'static, Postgres>> {
        Ok(self.pool.begin().await?)
    }
}
