//! Bridges that start for the first time at the same moment all come up: on one empty database, and on
//! several of one cluster, which share its roles.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;

use futures_util::future::join_all;
use presence_bridge::embedded_postgres::Embedded;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Acquire as _, AssertSqlSafe, PgPool};
use tempfile::TempDir;

use crate::support::{Bridge, database, eventually};

/// A source that leads nowhere: what is set by the environment is written at the start too.
const SOURCE: [(&str, &str); 5] = [
    ("GENESYS_PROTOCOL", "realtime"),
    ("GENESYS_API_URL", "http://127.0.0.1:9"),
    ("GENESYS_CLIENT_ID", "id"),
    ("GENESYS_CLIENT_SECRET", "secret"),
    ("GENESYS_AGENTS", "ann"),
];

/// Starts a bridge on each database at once, and asks each for what it reads under the tenants' role.
async fn all_come_up(urls: &[String]) -> Vec<Bridge> {
    let bridges = join_all(urls.iter().map(|url| Bridge::start_on(url, &SOURCE))).await;
    for bridge in &bridges {
        let sources = bridge.get("/v1/sources").await;
        assert_eq!(sources.status, 200, "{}\n{}", sources.text(), bridge.log());
        assert_eq!(sources.json()["items"].as_array().unwrap().len(), 1);
    }
    bridges
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_that_find_the_same_empty_database_at_once_all_come_up() {
    for _ in 0..4 {
        let url = database::create_bare().await;
        let bridges = all_come_up(&[url.clone(), url.clone(), url.clone()]).await;
        let pool = database::pool(&url).await;
        eventually("each has told that it started", || async {
            let started = "select count(*) from audit_log where kind = 'BRIDGE_STARTED'";
            let started: i64 = sqlx::query_scalar(started).fetch_one(&pool).await.unwrap();
            (usize::try_from(started).unwrap() == bridges.len()).then_some(())
        })
        .await;
    }
}

/// A cluster in which no bridge has ever been.
struct Cluster {
    server: Embedded,
    pool: PgPool,
    _dir: TempDir,
}

impl Cluster {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pb-test-").tempdir().unwrap();
        set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let server =
            tokio::task::block_in_place(|| Embedded::start(dir.path(), database::options()).unwrap());
        let options = server.connect_options();
        let pool = PgPoolOptions::new().max_connections(3).connect_with(options).await.unwrap();
        let cluster = Self { server, pool, _dir: dir };
        cluster.run("create role plain login createrole").await;
        cluster
    }

    async fn run(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement)).execute(&self.pool).await.unwrap();
    }

    /// Empty databases of this user's, by URL.
    async fn databases(&self, user: &str, count: usize) -> Vec<String> {
        let mut urls = Vec::new();
        for number in 0..count {
            let name = format!("{user}_{number}");
            self.run(&format!("create database {name} owner {user}")).await;
            urls.push(self.server.url(&name).replace("//postgres@", &format!("//{user}@")));
        }
        urls
    }

    /// Leaves it as it was.
    async fn forget(&self, user: &str, count: usize) {
        for number in 0..count {
            self.run(&format!("drop database {user}_{number} with (force)")).await;
        }
        self.run("drop role presence_bridge_tenant").await;
    }
}

/// Somebody makes the role meanwhile, so that all stand before it at once, and then does so or does not.
async fn when_the_role_is_in_the_making(user: &str, is_made: bool) {
    const COUNT: usize = 4;
    let cluster = Cluster::new().await;
    // Without anybody in the way first, then with.
    let urls = cluster.databases(user, COUNT).await;
    drop(all_come_up(&urls).await);
    cluster.forget(user, COUNT).await;
    let urls = cluster.databases(user, COUNT).await;
    let mut connection = cluster.pool.acquire().await.unwrap();
    let mut other = connection.begin().await.unwrap();
    sqlx::query("create role presence_bridge_tenant nologin").execute(&mut *other).await.unwrap();
    if is_made && user != "postgres" {
        let grant = AssertSqlSafe(format!("grant presence_bridge_tenant to {user}"));
        sqlx::query(grant).execute(&mut *other).await.unwrap();
    }
    let all = tokio::spawn(async move { all_come_up(&urls).await });
    eventually("all wait for the role", || async {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and wait_event = 'transactionid'";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&cluster.pool).await.unwrap();
        (usize::try_from(waiting).unwrap() == COUNT).then_some(())
    })
    .await;
    if is_made {
        other.commit().await.unwrap()
    } else {
        other.rollback().await.unwrap()
    }
    drop(all.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_on_databases_of_one_cluster_come_up_though_all_would_make_its_role() {
    when_the_role_is_in_the_making("postgres", false).await;
    when_the_role_is_in_the_making("plain", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_on_databases_of_one_cluster_come_up_though_an_administrator_makes_its_role_meanwhile() {
    when_the_role_is_in_the_making("postgres", true).await;
    when_the_role_is_in_the_making("plain", true).await;
}
