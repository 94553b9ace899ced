//! The database server as an operator wants to know it.

use crate::store::{Result, Store, with_timeout};

/// Facts about the database.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// Version of the server.
    pub version: String,
    /// Name of the database.
    pub database: String,
    /// Bytes that the database takes.
    pub size: i64,
    /// Connections that the server allows in all.
    pub connections_max: i32,
    /// Connections of bridges to this database at present.
    pub connections: i64,
    /// Whether the way to it is encrypted, as far as it knows: a pooler's own way if one stands between.
    pub encrypted: bool,
}

impl Store {
    /// Facts about the database.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn server_facts(&self) -> Result<ServerFacts> {
        with_timeout(async {
            Ok(sqlx::query_as!(
                ServerFacts,
                r#"select current_setting('server_version') as "version!", current_database() as "database!",
                          pg_database_size(current_database()) as "size!",
                          current_setting('max_connections')::int as "connections_max!",
                          (select count(*) from pg_stat_activity
                           where datname = current_database()
                             and application_name like 'presence-bridge %') as "connections!",
                          coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as "encrypted!""#,
            )
            .fetch_one(&self.pool)
            .await?)
        })
        .await
    }
}
