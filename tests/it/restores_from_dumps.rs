//! A dump of the bridge's database, taken while it writes, comes up in another cluster by the commands of
//! docs/operations.md; and whatever such a restore leaves out of what tenants may do, `migrate` adds.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::crm::Post;
use genesys_simulator::genesys::GenesysOptions;
use presence_bridge::embedded_postgres::Options;
use presence_bridge::store::Store;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::bridge::{self, MASTER_KEY};
use crate::support::cluster::{Cluster, client, client_does};
use crate::support::look::feed;
use crate::support::{SOON, World, database, eventually};

/// All that the role of the tenants may do, and all that it sees.
const ACCESS: &str = "
    select string_agg(line, e'\\n' order by line collate \"C\")
    from (
        select concat_ws(' ', 'policy', tablename, policyname, permissive, roles, cmd, qual, with_check) as line
        from pg_policies
        union all
        select concat_ws(' ', 'rows', relname) from pg_class where relrowsecurity
        union all
        select concat_ws(' ', table_name, column_name, privilege_type)
        from information_schema.column_privileges
        where grantee = 'presence_bridge_tenant'
        union all
        select concat_ws(' ', table_name, privilege_type)
        from information_schema.role_table_grants
        where grantee = 'presence_bridge_tenant'
        union all
        select concat_ws(' ', 'sequence', relname)
        from pg_class
        where case relkind when 'S' then has_sequence_privilege('presence_bridge_tenant', oid, 'usage') end) lines";

async fn access(pool: &PgPool) -> String {
    sqlx::query_scalar(ACCESS).fetch_one(pool).await.unwrap()
}

/// A cluster with a user of its own for the bridge, as an administrator prepares one.
async fn prepared(options: Options) -> Cluster {
    let cluster = Cluster::with(options).await;
    cluster.say("create role bridge login").await;
    cluster
}

/// An empty database of that user's; its URLs for that user and for the superuser.
async fn empty(cluster: &Cluster, name: &str) -> (String, PgPool) {
    cluster.say(&format!("create database {name} owner bridge")).await;
    (cluster.url_of("bridge", name), database::pool(&cluster.url_of("postgres", name)).await)
}

fn is_meal(post: &Post) -> bool {
    String::from_utf8_lossy(&post.body).contains("MEAL")
}

fn audit_verifies(url: &str) {
    let verified = Command::new(env!("CARGO_BIN_EXE_presence-bridge"))
        .args(["audit", "verify"])
        .env_clear()
        .envs([("DATABASE_URL", url), ("BRIDGE_MASTER_KEY", MASTER_KEY)])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

/// A bridge that records changes and delivers them, and a second tenant that has nothing.
async fn at_work(url: &str) -> World {
    let world =
        World::with_options(&["ann", "bob"], GenesysOptions::default(), &[("DATABASE_URL", url)]).await;
    world.register("/hooks/a").await;
    assert_eq!(world.bridge.post("/v1/tenants", &json!({"name": "other"})).await.status, 201);
    world.genesys.push_presence("ann", "BUSY");
    world.crm.wait_for(1, SOON).await.unwrap();
    world
}

/// Dumps in both formats while changes are recorded.
async fn dump(world: &World, url: &str, custom: &str, plain: &str) {
    let dumps = async {
        let (url, custom, plain) = (url.to_owned(), custom.to_owned(), plain.to_owned());
        let dumps = tokio::task::spawn_blocking(move || {
            client_does("pg_dump", &["--format=custom", "--file", &custom, &url]);
            client_does("pg_dump", &["--no-owner", "--file", &plain, &url]);
        });
        dumps.await.unwrap();
    };
    let changes = async {
        for state in ["AWAY", "BUSY"].iter().cycle() {
            world.genesys.push_presence("bob", state);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! { () = dumps => {}, () = changes => {} }
}

/// The restored database serves the API to each tenant for itself, has the events that there were when it was
/// dumped, and goes on with new ones.
async fn works(world: &mut World, url: &str, pool: &PgPool, former: &[Value]) {
    audit_verifies(url);
    world.bridge.set("DATABASE_URL", url);
    world.bridge.restart().await;
    eventually("ready", || async { (world.bridge.get("/readyz").await.status == 200).then_some(()) }).await;
    let restored = feed(&world.bridge).await;
    assert!(!restored.is_empty());
    assert_eq!(restored, former[..restored.len()], "what was stored before the dump, and nothing else");
    world.sockets_open(2).await;
    world.register("/hooks/b").await;
    world.crm.forget();
    world.genesys.push_presence("ann", "MEAL");
    for path in ["/hooks/a", "/hooks/b"] {
        let told = |posts: &[Arc<Post>]| {
            posts.iter().any(|post| post.path() == path && post.accepted() && is_meal(post))
        };
        world.crm.wait_until(told, SOON).await.unwrap();
    }
    world.bridge.terminate().await;
    for (tenant, sees) in [("'default'", true), ("'other'", false)] {
        let mut tx = pool.begin().await.unwrap();
        let become_tenant = format!(
            "select set_config('bridge.tenant', tenant_id::text, true) from tenant where name = {tenant};
             set local role presence_bridge_tenant"
        );
        sqlx::raw_sql(AssertSqlSafe(become_tenant)).execute(&mut *tx).await.unwrap();
        for table in ["source", "webhook", "webhook_secret", "agent", "event", "audit_log"] {
            let seen = format!("select exists (select from {table})");
            let seen: bool = sqlx::query_scalar(AssertSqlSafe(seen)).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(seen, sees, "{tenant} {table}");
        }
        let refused = sqlx::query("delete from event").execute(&mut *tx).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_taken_at_work_comes_up_elsewhere_and_migrate_adds_what_is_missing() {
    let origin = prepared(Options { bin: None, ..database::options() }).await;
    origin.say("create role presence_bridge_tenant nologin; grant presence_bridge_tenant to bridge").await;
    let (url, original) = empty(&origin, "origin").await;
    let mut world = at_work(&url).await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (custom, plain) = (path("bridge.dump"), path("bridge.sql"));
    dump(&world, &url, &custom, &plain).await;
    let former = feed(&world.bridge).await;
    world.bridge.terminate().await;
    let access_of_original = access(&original).await;
    assert!(access_of_original.contains("policy webhook webhook_own"), "{access_of_original}");

    // Nobody made the role before: no policy and no grant is restored, and `migrate` lays them.
    let other = prepared(database::options()).await;
    other.say("alter role bridge createrole").await;
    let (url, pool) = empty(&other, "forgotten").await;
    let restored = client("pg_restore", &["--no-owner", "--no-privileges", "--dbname", &url, &custom]);
    let said = String::from_utf8_lossy(&restored.stderr).into_owned();
    assert!(said.contains(r#"role "presence_bridge_tenant" does not exist"#), "{said}");
    migrate(&url);
    assert_eq!(access(&pool).await, access_of_original);
    works(&mut world, &url, &pool, &former).await;
    other.say("alter role bridge nocreaterole").await;

    // As docs/operations.md says; the role is there by now.
    let (url, pool) = empty(&other, "parallel").await;
    client_does("pg_restore", &["--no-owner", "--jobs=2", "--dbname", &url, &custom]);
    migrate(&url);
    assert_eq!(access(&pool).await, access_of_original);
    works(&mut world, &url, &pool, &former).await;

    let (url, pool) = empty(&other, "plain").await;
    client_does("psql", &["--quiet", "--set=ON_ERROR_STOP=1", "--file", &plain, &url]);
    migrate(&url);
    assert_eq!(access(&pool).await, access_of_original);
    audit_verifies(&url);
    mends_what_is_missing_or_differs(&url, &pool, &access_of_original).await;
}

fn migrate(url: &str) {
    let (code, said) = bridge::migrate(url);
    assert_eq!(code, Some(0), "{said}");
}

async fn mends_what_is_missing_or_differs(url: &str, pool: &PgPool, right: &str) {
    let run =
        |statements: &'static str| async move { sqlx::raw_sql(statements).execute(pool).await.unwrap() };
    for damage in [
        "revoke all on source, webhook_secret, recovery from presence_bridge_tenant",
        "revoke usage on event_position_seq from presence_bridge_tenant; drop policy event_own on event",
        "alter policy agent_own on agent using (true); alter table webhook disable row level security",
        "drop policy tenant_own on tenant; revoke update (reason) on recovery from presence_bridge_tenant",
    ] {
        run(damage).await;
        assert_ne!(access(pool).await, right, "{damage}");
        migrate(url);
        assert_eq!(access(pool).await, right, "{damage}");
    }
    // Where nothing is missing it waits for nobody who reads a table.
    let mut reader = pool.begin().await.unwrap();
    let lock = "do $$ declare tab regclass; begin
                    for tab in select oid from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') loop
                        execute format('lock table %s in access share mode', tab);
                    end loop;
                end $$";
    sqlx::query(lock).execute(&mut *reader).await.unwrap();
    let store = Store::connect(url.parse().unwrap(), 1).await.unwrap();
    tokio::time::timeout(SOON, store.migrate()).await.expect("it waits for a reader").unwrap();
    store.close().await;
}
