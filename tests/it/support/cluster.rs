//! A Postgres of a test's own, in which no bridge has ever been: roles are a whole cluster's, and the other
//! tests' one has ours.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use presence_bridge::embedded_postgres::{Embedded, Options};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

use super::database;

pub struct Cluster {
    pub server: Embedded,
    /// One connection of its superuser to its database `postgres`.
    pub admin: PgPool,
    _dir: tempfile::TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::with(database::options()).await
    }

    pub async fn with(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("pb-cluster-").tempdir().unwrap();
        // The server's user must be able to pass through.
        set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let server = tokio::task::block_in_place(|| Embedded::start(dir.path(), options).unwrap());
        let admin = PgPoolOptions::new().max_connections(1).connect_with(server.connect_options());
        Self { admin: admin.await.unwrap(), server, _dir: dir }
    }

    /// Runs statements as the superuser.
    pub async fn say(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&self.admin).await.unwrap();
    }

    /// `DATABASE_URL` of a user for a database.
    pub fn url_of(&self, user: &str, database: &str) -> String {
        self.server.url(database).replace("postgres://postgres@", &format!("postgres://{user}@"))
    }
}

/// Runs a client program of Postgres, that of the version under test if there is one.
pub fn client(program: &str, arguments: &[&str]) -> Output {
    let own = database::options().bin.map(|bin| bin.join(program)).filter(|own| own.exists());
    let program = own.as_deref().unwrap_or(Path::new(program));
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program:?}: {error}"))
}

/// The same of one that must succeed; gives what it printed.
pub fn client_does(program: &str, arguments: &[&str]) -> String {
    let output = client(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}
