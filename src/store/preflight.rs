//! What a server, or a pooler in front of it, allows this user. Asked on connections of its own, before the
//! pools are opened: a pool hides why it gets no connection.

use std::io;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::time::timeout;

use super::{Result, StoreError};

/// Time that a server has to let a connection in.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Time that one that was let in has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It stays so until somebody changes something; the text is in the server's words.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A limit of the server on connections.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub connections: u32,
    /// Whose limit it is.
    pub of: &'static str,
}

/// Opens a connection that belongs to no pool, so that a refusal comes at once and in the server's words.
pub(super) async fn dial(options: &PgConnectOptions, within: Duration) -> Result<PgConnection> {
    let silent = || {
        let what = format!("no connection within {} s", within.as_secs());
        sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, what))
    };
    let dialled = timeout(within, options.connect()).await.unwrap_or_else(|_| Err(silent()));
    Ok(dialled?)
}

/// Examines the way to the database: that it lets us in, that each connection is a session, and how many of
/// them we may have; `None`: no limit below `max_connections`' own.
///
/// # Errors
/// [`Unusable::Refused`] if trying again does not help.
pub(super) async fn examine(options: &PgConnectOptions) -> Result<Option<Limit>, Unusable> {
    let mut first = dial(options, CONNECT_WITHIN).await.map_err(final_or_not)?;
    let mut second = dial(options, CONNECT_WITHIN).await.map_err(final_or_not)?;
    let answers = async {
        let sessions = match is_session_each(&mut first, &mut second).await {
            Err(sqlx::Error::Database(said)) if said.message().contains("statement pooling") => false,
            answer => answer?,
        };
        let limit = if sessions { limit(&mut first).await? } else { None };
        Ok::<_, sqlx::Error>((sessions, limit))
    };
    let answered = timeout(CONNECT_WITHIN, answers).await.unwrap_or_else(|_| Err(silent()));
    let (sessions, limit) = answered.map_err(StoreError::from)?;
    for connection in [first, second] {
        let _ = timeout(CONNECT_WITHIN, connection.close()).await;
    }
    if !sessions {
        let rule = "leads to a pooler in transaction or statement mode, where statements of one connection run \
                    in different sessions; set it to session mode (PgBouncer: pool_mode = session), or lead \
                    DATABASE_URL to the server itself";
        return Err(Unusable::Refused(rule.to_owned()));
    }
    Ok(limit)
}

/// Why a connection is accepted and does not answer.
fn silent() -> sqlx::Error {
    let what = "a connection is accepted and does not answer; a pooler in between may have too few connections \
                to the server";
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, what))
}

/// Why no further connection can be had at present; `None` if one can.
pub(super) async fn refusal(options: &PgConnectOptions) -> Option<StoreError> {
    let mut connection = match dial(options, CONNECT_WITHIN).await {
        Ok(connection) => connection,
        Err(refusal) => return Some(refusal),
    };
    let answered = timeout(ANSWER_WITHIN, run(&mut connection, "select")).await;
    answered.unwrap_or_else(|_| Err(silent())).err().map(StoreError::from)
}

/// Why the way to the database cannot be used: for good, or for now.
pub(super) fn final_or_not(error: StoreError) -> Unusable {
    match &error {
        StoreError::Database(sqlx::Error::Database(refusal)) if is_final(&error) => {
            Unusable::Refused(format!("the database refuses: {}", refusal.message()))
        }
        StoreError::Database(sqlx::Error::Tls(cause)) => {
            Unusable::Refused(format!("TLS with the database cannot be had: {cause}"))
        }
        _ => error.into(),
    }
}

/// Whether only a change of the configuration, of the server's or of ours, ends a refusal.
pub(super) fn is_final(error: &StoreError) -> bool {
    match error {
        // 28: not let in; 3D: no such database; 42501: no right to connect. PgBouncer 1.18 gives everything
        // the same code.
        StoreError::Database(sqlx::Error::Database(refusal)) => {
            let (code, said) = (refusal.code().unwrap_or_default(), refusal.message());
            code.starts_with("28")
                || code.starts_with("3D")
                || code == "42501"
                || said.contains("unsupported startup parameter")
                || said == "password authentication failed"
                || said.starts_with("no such database")
        }
        StoreError::Database(sqlx::Error::Tls(_)) => true,
        _ => false,
    }
}

/// Whether both connections keep their session from one transaction to the next. A pooler in transaction mode
/// gives the session that was used last, or the one that was used longest ago; either shows here. Plain
/// queries: a prepared one may not survive the change of session.
async fn is_session_each(first: &mut PgConnection, second: &mut PgConnection) -> Result<bool, sqlx::Error> {
    run(first, "begin").await?;
    let ours = session(first).await?;
    run(second, "begin").await?;
    let other = session(second).await?;
    run(second, "commit").await?;
    run(first, "commit").await?;
    run(second, "begin").await?;
    let mut kept = session(second).await? == other && session(first).await? == ours;
    run(second, "commit").await?;
    kept &= session(first).await? == ours && session(first).await? == ours;
    Ok(kept && ours != other)
}

async fn run(connection: &mut PgConnection, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statement).execute(connection).await?;
    Ok(())
}

/// Process id of the session, as text: a plain query gives everything as text.
async fn session(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::raw_sql("select pg_backend_pid()::text").fetch_one(connection).await?.try_get(0)
}

/// The narrowest limit on this user's connections.
async fn limit(connection: &mut PgConnection) -> Result<Option<Limit>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select nullif(r.rolconnlimit, -1) as of_role, nullif(d.datconnlimit, -1) as of_database,
                  current_setting('max_connections')::int
                      - current_setting('superuser_reserved_connections')::int as "of_server!"
           from pg_roles r, pg_database d
           where r.rolname = session_user and not r.rolsuper and d.datname = current_database()"#,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.and_then(|row| {
        [
            (row.of_role, "its user"),
            (row.of_database, "its database"),
            (Some(row.of_server), "everybody on its server"),
        ]
        .into_iter()
        .filter_map(|(limit, of)| Some(Limit { connections: u32::try_from(limit?).ok()?, of }))
        .min_by_key(|limit| limit.connections)
    }))
}
