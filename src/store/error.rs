//! Errors of steps on the database, and what they mean to the caller.

use sqlx::error::DatabaseError;

/// SQLSTATE of Postgres.
const DISK_FULL: &str = "53100";
const RAN_TOO_LONG: &str = "57014";
const READ_ONLY: &str = "25006";
const KEY_IS_TAKEN: &str = "23505";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such row.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The present state does not allow it; the text may be shown to a caller.
    #[error("{0}")]
    Conflict(String),
    /// It exceeds the tenant's quota; the text may be shown to a caller.
    #[error("{0}")]
    QuotaExceeded(String),
    /// A row breaks a rule of ours.
    #[error("table {table}, column {column}, row {row}: {what}")]
    Corrupt {
        table: &'static str,
        column: &'static str,
        /// Primary key of the row.
        row: String,
        /// Description of the fault; never the value of a secret.
        what: String,
    },
    /// None of the servers that are configured is the primary and takes writes; the text says why not.
    #[error("no primary: {0}")]
    NoPrimary(String),
    /// Another server has become the primary while a step waited for the former one. Whether that had committed
    /// is not known; the new one can be asked at once.
    #[error("the database has gone on at another primary")]
    GoneOn,
    /// The database could not be asked or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl StoreError {
    /// A connection was found to lead to a primary from before a failover.
    pub(super) fn former_primary() -> Self {
        Self::NoPrimary("a connection to a former primary is left".to_owned())
    }

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
    /// Whether asking again may help: no connection, a connection that broke, a server that stops or starts or
    /// is not the primary any more, a statement that ran out of time, or a lock that was not to be had.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        use sqlx::Error;
        match self {
            Self::NoPrimary(_) | Self::GoneOn => true,
            Self::Database(
                Error::Io(_)
                | Error::Tls(_)
                | Error::Protocol(_)
                | Error::PoolTimedOut
                | Error::PoolClosed
                | Error::WorkerCrashed,
            ) => true,
            // 08: connection; 28, 3D: not let in; 53: resources; 57: operator intervention; then
            // serialization, deadlock, lock, a server that only reads.
            Self::Database(Error::Database(refusal)) => refusal.code().is_some_and(|code| {
                ["08", "28", "3D", "53", "57"].iter().any(|class| code.starts_with(class))
                    || ["40001", "40P01", "55P03", READ_ONLY].contains(&code.as_ref())
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

    /// Whether the server refused the values themselves (class 22 data, 23 constraint) rather than being
    /// unavailable.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) if is_stored_event(&**error) => false,
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
            }
            Self::Database(sqlx::Error::Encode(_)) => true,
            _ => false,
        }
    }

    /// Whether no connection was to be had, of which a pool does not say why.
    pub(super) fn is_no_connection(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::PoolTimedOut))
    }

    pub(super) fn is_disk_full(&self) -> bool {
        let Self::Database(error) = self else { return false };
        error.as_database_error().and_then(|error| error.code()).as_deref() == Some(DISK_FULL)
    }
}

/// Whether an event is refused because it is stored already, in whatever partition: ids are drawn once.
fn is_stored_event(error: &dyn DatabaseError) -> bool {
    error.code().as_deref() == Some(KEY_IS_TAKEN)
        && error.table().is_some_and(|table| table == "event" || table.starts_with("event_"))
}

/// Result of a step.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
