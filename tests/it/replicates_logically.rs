//! Logical replication of all tables stops nothing that the bridge does, and a subscriber gets everything.

use std::sync::Arc;

use genesys_simulator::crm::Post;
use genesys_simulator::genesys::GenesysOptions;
use presence_bridge::embedded_postgres::Options;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::bridge;
use crate::support::cluster::{Cluster, client_does};
use crate::support::look::feed;
use crate::support::{SOON, World, database, eventually};

const AGENTS: [&str; 2] = ["ann", "bob"];

#[tokio::test(flavor = "multi_thread")]
async fn every_table_has_what_logical_replication_tells_its_rows_apart_by() {
    let pool = database::pool(&database::create().await).await;
    // Partitions count too: each is looked at by itself.
    sqlx::query("select make_day_partitions(current_date, 2)").execute(&pool).await.unwrap();
    let without = "
        select coalesce(string_agg(c.relname, ', '), '')
        from pg_class c
        where c.relnamespace = 'public'::regnamespace
          and c.relkind in ('r', 'p')
          and not exists (
              select
              from pg_index i
              where i.indrelid = c.oid
                and (c.relreplident = 'd' and i.indisprimary or c.relreplident = 'i' and i.indisreplident))";
    let without: String = sqlx::query_scalar(without).fetch_one(&pool).await.unwrap();
    assert_eq!(without, "", "give each a primary key");
}

/// Number of rows and a checksum of each table, partitions as parts of their parent.
async fn content(pool: &PgPool) -> Vec<(String, i64, Option<String>)> {
    let tables = "select relname::text from pg_class
                  where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
                  order by relname";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(pool).await.unwrap();
    let mut found = Vec::new();
    for table in tables {
        let sum = format!("select count(*), md5(string_agg(t::text, ',' order by t::text)) from {table} t");
        let (rows, sum) = sqlx::query_as(AssertSqlSafe(sum)).fetch_one(pool).await.unwrap();
        found.push((table, rows, sum));
    }
    found
}

/// A publisher of all tables, and a subscriber that has their schema by `pg_dump`, both empty but for what a
/// migration puts there.
async fn replicated(publisher: &Cluster, subscriber: &Cluster) -> (String, PgPool, PgPool) {
    let url = publisher.url_of("postgres", "bridge");
    publisher.say("create database bridge").await;
    let (code, said) = bridge::migrate(&url);
    assert_eq!(code, Some(0), "{said}");
    let original = database::pool(&url).await;
    sqlx::query("create publication everything for all tables with (publish_via_partition_root = true)")
        .execute(&original)
        .await
        .unwrap();

    subscriber.say("create role presence_bridge_tenant nologin").await;
    subscriber.say("create database bridge").await;
    let schema = client_does("pg_dump", &["--schema-only", "--no-publications", &url]);
    let copy_url = subscriber.url_of("postgres", "bridge");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), schema).unwrap();
    let file = file.path().to_str().unwrap();
    client_does("psql", &["--quiet", "--set=ON_ERROR_STOP=1", "--file", file, &copy_url]);
    let copy = database::pool(&copy_url).await;
    let socket = database::socket_dir(&url);
    let subscribe = format!(
        "create subscription everything connection 'host={} user=postgres dbname=bridge' publication everything",
        socket.display()
    );
    sqlx::query(AssertSqlSafe(subscribe)).execute(&copy).await.unwrap();
    (url, original, copy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_of_all_tables_gets_every_change_while_the_bridge_works() {
    // Many tables are copied at once, since each takes a second.
    let settings = &["wal_level=logical", "max_wal_senders=20", "max_replication_slots=20"];
    let publisher = Cluster::with(Options { settings, ..database::options() }).await;
    let settings = &[
        "max_worker_processes=20",
        "max_logical_replication_workers=18",
        "max_sync_workers_per_subscription=16",
        "wal_retrieve_retry_interval=100ms",
    ];
    let subscriber = Cluster::with(Options { settings, ..database::options() }).await;
    let (url, original, copy) = replicated(&publisher, &subscriber).await;

    let mut world = World::with_options(&AGENTS, GenesysOptions::default(), &[("DATABASE_URL", &url)]).await;
    let hook = world.register("/hooks/a").await;
    for state in ["BUSY", "AWAY", "MEAL"] {
        for agent in AGENTS {
            world.genesys.push_presence(agent, state);
        }
    }
    world.crm.wait_for(6, SOON).await.unwrap();
    let gone = world.bridge.delete(&format!("/v1/webhooks/{hook}")).await;
    assert_eq!(gone.status, 204, "{}", gone.text());
    // Of a clock that was ahead: they lie in the default partitions until their day is made.
    let astray = "insert into event (event_id, received_at, kind, raw)
                  values (gen_random_uuid(), now() + interval '40 days', 'webhook.test', 'x');
                  insert into audit_log (at, kind) values (now() + interval '40 days', 'EVENT_RECEIVED')";
    sqlx::raw_sql(astray).execute(&original).await.unwrap();
    sqlx::query("select make_day_partitions((now() + interval '40 days')::date, 1)")
        .execute(&original)
        .await
        .unwrap();
    eventually("deliveries are settled", || async {
        let open: i64 =
            sqlx::query_scalar("select count(*) from delivery").fetch_one(&original).await.unwrap();
        (open == 0).then_some(())
    })
    .await;
    world.bridge.terminate().await;

    let published = content(&original).await;
    for table in ["event", "audit_log", "agent", "webhook", "webhook_generation", "database_identity"] {
        assert!(published.iter().any(|(name, rows, _)| name == table && *rows > 0), "{table}: {published:?}");
    }
    let moved = "select count(*) from event_default";
    assert_eq!(sqlx::query_scalar::<_, i64>(moved).fetch_one(&original).await.unwrap(), 0);
    eventually("the subscriber has all of it", || async {
        (content(&copy).await == published).then_some(())
    })
    .await;
    moves_to(&mut world, &url, &subscriber.url_of("postgres", "bridge"), &copy).await;
}

/// By the commands of docs/operations.md, the bridge goes on with the subscriber's database.
async fn moves_to(world: &mut World, url: &str, copy_url: &str, copy: &PgPool) {
    sqlx::query("drop subscription everything").execute(copy).await.unwrap();
    let numbers = "select format('select setval(%L, %s);', sequencename, last_value + 1000 * increment_by)
                   from pg_sequences where last_value is not null";
    let numbers = client_does("psql", &["-At", "-c", numbers, url]);
    sqlx::raw_sql(AssertSqlSafe(numbers)).execute(copy).await.unwrap();
    world.bridge.set("DATABASE_URL", copy_url);
    world.bridge.restart().await;
    world.sockets_open(AGENTS.len()).await;
    let former = feed(&world.bridge).await;
    assert!(!former.is_empty());
    world.crm.forget();
    world.register("/hooks/b").await;
    world.genesys.push_presence("ann", "BUSY");
    let told = |posts: &[Arc<Post>]| posts.iter().any(|post| post.path() == "/hooks/b" && post.accepted());
    world.crm.wait_until(told, SOON).await.unwrap();
    let events = feed(&world.bridge).await;
    assert_eq!(events[..former.len()], former);
    assert_eq!(events.len(), former.len() + 1, "what is new comes behind");
}
