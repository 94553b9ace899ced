//! Each day of events and audit entries is made, moved and dropped by itself: one that is malformed, needed
//! or in use keeps no other, and neither a start nor a writer waits for one.

use std::time::Duration;

use presence_bridge::domain::secret::MasterKey;
use presence_bridge::store::Store;
use serde_json::json;
use sqlx::PgPool;
use tokio::time::Instant;

use crate::support::bridge::MASTER_KEY;
use crate::support::look::{all, feed};
use crate::support::{Bridge, SOON, World, database, eventually};

async fn count(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

const ASTRAY: &str = "select (select count(*) from event_default) + (select count(*) from audit_log_default)";

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_clock_that_was_days_ahead_move_into_their_day_and_the_start_never_fails() {
    let url = database::create().await;
    let pool = database::pool(&url).await;
    let store = Store::connect(url.parse().unwrap(), 2).await.unwrap();
    // Three days ahead: a day that the start is about to make. Thirty: one that nobody makes for a month.
    sqlx::raw_sql(
        "insert into event (event_id, received_at, kind, raw)
         select gen_random_uuid(), now() + d * interval '1 day' + n * interval '1 s', 'webhook.test', 'x'
         from generate_series(0, 15) n, unnest(array[3, 30]) d;
         insert into audit_log (at, kind, data)
         select now() + d * interval '1 day' + n * interval '1 s', 'EVENT_RECEIVED', '{\"a\": 1.50}'
         from generate_series(0, 15) n, unnest(array[3, 30]) d;",
    )
    .execute(&pool)
    .await
    .unwrap();
    let key = MasterKey::from_base64(MASTER_KEY).unwrap();
    let (key_id, signs) = store.audit_key(&key).await.unwrap();
    let through = store.drawn_through().await.unwrap();
    store.make_seal((key_id, &signs), through, None).await.unwrap().unwrap();
    let rows = "select md5(string_agg(a::text, ',' order by audit_id)) from audit_log a where audit_id <= $1";
    let bytes =
        || async { sqlx::query_scalar::<_, String>(rows).bind(through).fetch_one(&pool).await.unwrap() };
    let before = bytes().await;

    let bridge = Bridge::start_on(&url, &[]).await;

    eventually("no row is left in a default partition", || async {
        (count(&pool, ASTRAY).await == 0).then_some(())
    })
    .await;
    assert_eq!(count(&pool, "select count(*) from event where kind = 'webhook.test'").await, 32);
    assert_eq!(bytes().await, before, "the log reads as before");
    let keys = store.audit_keys(&key).await.unwrap();
    assert!(store.verify_seals(&keys, 1, 1).await.unwrap().fault.is_none(), "and as it was sealed");
    for refused in ["delete from audit_log", "update audit_log set kind = ''"] {
        let error = sqlx::query(refused).execute(&pool).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{refused}: {error}");
    }
    let default = "insert into audit_log (at, kind) values (now() + interval '300 days', 'X')";
    sqlx::query(default).execute(&pool).await.unwrap();
    let error = sqlx::query("delete from audit_log_default").execute(&pool).await.unwrap_err().to_string();
    assert!(error.contains("append-only"), "{error}");
    drop(bridge);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_begins_before_the_days_are_made_stops_neither_the_start_nor_a_writer() {
    let url = database::create().await;
    let pool = database::pool(&url).await;
    let mut dump = pool.begin().await.unwrap();
    sqlx::query("lock table event, audit_log in access share mode").execute(&mut *dump).await.unwrap();

    let world = World::starting(&["ann"], Default::default(), &[("DATABASE_URL", url.as_str())]).await;
    world.sockets_open(1).await;
    world.register("/hooks/a").await;
    let began = Instant::now();
    for state in ["BUSY", "AWAY", "MEAL"] {
        world.genesys.set_presence("ann", state).await;
    }
    world.crm.wait_for(3, SOON).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "delivered after {:?}", began.elapsed());
    assert!(count(&pool, "select count(*) from event_default").await >= 3, "kept without a day of their own");
    dump.rollback().await.unwrap();

    // The next look, of whichever process.
    let store = Store::connect(url.parse().unwrap(), 2).await.unwrap();
    eventually("the days are made, and what came meanwhile is moved", || async {
        let _ = store.make_partitions(time::OffsetDateTime::now_utc().date()).await;
        (count(&pool, ASTRAY).await == 0).then_some(())
    })
    .await;
    assert_eq!(feed(&world.bridge).await.len() as i64, count(&pool, "select count(*) from event").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_suspended_delivery_keeps_its_own_day_only() {
    let pool = database::pool(&database::create().await).await;
    sqlx::raw_sql(
        "select make_day_partitions('2020-01-01', 67);
         insert into event (event_id, received_at, kind, raw)
         select gen_random_uuid(), timestamptz '2020-01-01 12:00Z' + n * interval '1 day', 'webhook.test', ''
         from generate_series(0, 66) n;
         insert into delivery (delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at)
         select gen_random_uuid(), gen_random_uuid(), 0, position, event_id, received_at, 'infinity'
         from event where received_at::date = '2020-01-02';",
    )
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query("select drop_day_partitions('2021-01-01')").execute(&pool).await.unwrap();
    let kept = "select count(*) from pg_class where relname ~ '^event_2020[0-9]{4}$' and relkind = 'r'";
    assert_eq!(count(&pool, kept).await, 1);
    assert_eq!(count(&pool, "select count(*) from event").await, 1, "what is pending can still be told");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_suspended_for_too_long_expires_and_the_rest_leaves_when_the_webhook_is_resumed() {
    let mut world = World::watching(&["ann", "bob"]).await;
    let hook = world.register("/hooks/a").await;
    let pool = database::pool(&world.bridge.database_url).await;
    let paused = world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await;
    assert_eq!(paused.status, 200, "{}", paused.text());
    for state in ["BUSY", "AWAY", "MEAL", "ON_QUEUE"] {
        for agent in ["ann", "bob"] {
            world.genesys.set_presence(agent, state).await;
        }
    }
    let open = "select count(*) from delivery";
    eventually("all is pending", || async { (count(&pool, open).await == 8).then_some(()) }).await;
    world.bridge.kill().await;
    // The two oldest of each lane have been pending for two days.
    let age = "update delivery d set created_at = created_at - interval '2 days'
               where (select count(*) from delivery o where o.lane = d.lane and o.position < d.position) < 2";
    assert_eq!(sqlx::query(age).execute(&pool).await.unwrap().rows_affected(), 4);
    world.bridge.set("BRIDGE_PARKED_RETENTION_DAYS", "1");
    world.bridge.restart().await;
    eventually("the old ones have ended", || async { (count(&pool, open).await == 4).then_some(()) }).await;
    let ended = all(&world.bridge, "/v1/deliveries?state=expired").await;
    assert_eq!(ended.len(), 4);
    let told = all(&world.bridge, "/v1/audit?kind=DELIVERY_ENDED").await;
    assert!(told.iter().all(|entry| entry["data"]["reason"] == "parked_too_long"), "{told:#?}");
    eventually("it is counted", || async {
        let expired = world.bridge.metric("presence_bridge_deliveries_total{outcome=\"expired\"}").await;
        (expired == 4.0).then_some(())
    })
    .await;
    assert_eq!(world.crm.count(), 0);

    let resumed = world.bridge.post(&format!("/v1/webhooks/{hook}/resume"), &json!({})).await;
    assert_eq!(resumed.status, 200, "{}", resumed.text());
    world.drained(&pool).await;
    assert!(world.crm.count() >= 4, "the younger ones leave: {}", world.crm.count());
}
