//! What is too old for its receiver, or did not last, is not sent: it ends, and the audit log says how.

use std::time::Duration;

use genesys_simulator::clock::parse_rfc3339;
use genesys_simulator::crm::Behaviour;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::crowd::{data, ended_twice, items};
use crate::support::look::all;
use crate::support::{SOON, World, database, eventually};

/// Waits until all events are older than this.
async fn all_older_than(pool: &PgPool, count: i64, age: &str) {
    eventually("the events are old", || async {
        let old: i64 =
            sqlx::query_scalar("select count(*) from event where received_at < now() - $1::text::interval")
                .bind(age)
                .fetch_one(pool)
                .await
                .unwrap();
        (old == count).then_some(())
    })
    .await;
}

/// Entries of the ends of deliveries without a POST, once there are that many.
async fn ended(world: &World, count: usize, end: &str) -> Vec<Value> {
    let mut entries = world.audit_of("DELIVERY_ENDED", count).await;
    assert!(entries.iter().all(|entry| entry["end_state"] == end), "{entries:#?}");
    entries.reverse();
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_too_long_expires_and_the_rest_of_the_lane_goes_on() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register_with("/hooks/a", json!({"max_age_seconds": 1})).await;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    world.bridge.post(&format!("{path}/pause"), &json!({})).await;
    for state in ["AVAILABLE", "BUSY"] {
        world.genesys.set_presence("ann", state).await;
    }
    world.audit_of("EVENT_RECEIVED", 2).await;
    all_older_than(&pool, 2, "1 s").await;
    world.bridge.post(&format!("{path}/resume"), &json!({})).await;
    ended(&world, 2, "expired").await;
    world.genesys.set_presence("ann", "AWAY").await;
    let posts = world.crm.wait_for(1, SOON).await.unwrap();
    assert_eq!(posts[0].event.as_ref().unwrap().sequence(), 3, "only the fresh one is sent");
    assert_eq!(ended_twice(&pool).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_only_be_tried_again_too_late_expires_at_once() {
    let world = World::watching(&["ann"]).await;
    world.register_with("/hooks/a", json!({"max_age_seconds": 4})).await;
    world.crm.next("/hooks/a", [Behaviour::status(500)]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let refused = world.crm.wait_for(1, SOON).await.unwrap()[0].clone();
    world.genesys.set_presence("ann", "BUSY").await;
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    assert_eq!(posts[1].event.as_ref().unwrap().state(), "BUSY", "the lane did not wait for the first retry");
    let expired = world.delivery_in(refused.webhook_id(), "expired").await;
    assert_eq!(expired["attempts_begun"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_too_old_is_left_out_of_its_batch() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let batches = json!({"max_age_seconds": 2, "batch": {"max_items": 10, "max_wait_ms": 50}});
    let hook = world.register_with("/hooks/a", batches).await;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    world.bridge.post(&format!("{path}/pause"), &json!({})).await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("EVENT_RECEIVED", 1).await;
    all_older_than(&pool, 1, "2 s").await;
    world.genesys.set_presence("bob", "AWAY").await;
    world.audit_of("EVENT_RECEIVED", 2).await;
    world.bridge.post(&format!("{path}/resume"), &json!({})).await;
    let posts = world.crm.wait_for(1, SOON).await.unwrap();
    let told: Vec<_> = items(&posts).iter().map(|item| item["data"]["agent"]["id"].clone()).collect();
    assert_eq!(told, ["bob"]);
    let expired = ended(&world, 1, "expired").await;
    assert_eq!(expired[0]["agent_id"], "ann");
}

/// A receiver that was away is tried with one POST at a time: what has become too old meanwhile must not take
/// its turn.
#[tokio::test(flavor = "multi_thread")]
async fn what_expired_during_an_outage_does_not_hold_up_what_did_not() {
    let agents = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal", "ida"];
    let world = World::watching(&agents).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register_with("/hooks/a", json!({"max_age_seconds": 1})).await;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    world.bridge.post(&format!("{path}/pause"), &json!({})).await;
    for agent in &agents[1..] {
        world.genesys.set_presence(agent, "AVAILABLE").await;
    }
    world.audit_of("EVENT_RECEIVED", 8).await;
    all_older_than(&pool, 8, "1 s").await;
    sqlx::query("update webhook_health set failures = 7, failing_since = now()")
        .execute(&pool)
        .await
        .unwrap();
    world.bridge.post(&format!("{path}/resume"), &json!({})).await;
    let before = std::time::Instant::now();
    ended(&world, 8, "expired").await;
    let took = before.elapsed();
    assert!(took < Duration::from_secs(5), "eight ends took {took:?}");
    world.genesys.set_presence("ann", "AWAY").await;
    world.crm.wait_for(1, SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_does_not_last_is_not_sent_and_one_that_does_is_sent_then() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register_with("/hooks/a", json!({"min_dwell_ms": 500})).await;
    for state in ["AVAILABLE", "BUSY", "AWAY"] {
        world.genesys.push_presence("ann", state);
    }
    let posts = world.crm.wait_for(1, SOON).await.unwrap();
    let told = data(&posts[0]);
    assert_eq!((&told["presence"]["system"], &told["superseded"]), (&json!("AWAY"), &json!(2)));
    let received_at = parse_rfc3339(told["received_at"].as_str().unwrap()).unwrap();
    let dwelt = posts[0].arrived_at - received_at;
    assert!(dwelt >= Duration::from_millis(499), "it was sent after {dwelt}");
    let short = ended(&world, 2, "superseded").await;
    assert!(short.iter().all(|entry| entry["data"]["superseded_by"].is_string()), "{short:#?}");
    world.genesys.set_presence("ann", "MEAL").await;
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    assert_eq!(data(&posts[1])["superseded"], 0, "the one before lasted");
    eventually("nothing is pending", || async { (world.open_deliveries(&pool).await == 0).then_some(()) })
        .await;
    assert_eq!(ended_twice(&pool).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_state_need_not_be_of_interest_itself() {
    let world = World::watching(&["ann"]).await;
    let only = json!({"min_dwell_ms": 400, "presences": ["ON_QUEUE"]});
    world.register_with("/hooks/a", only).await;
    world.genesys.push_presence("ann", "ON_QUEUE");
    world.genesys.push_presence("ann", "AWAY");
    let short = ended(&world, 1, "superseded").await;
    assert!(
        short[0]["data"]["superseded_by_event"].is_string() || short[0]["data"] == json!({}),
        "{short:#?}"
    );
    assert!(all(&world.bridge, "/v1/deliveries?state=open").await.is_empty(), "nothing is left to be sent");
    world.genesys.set_presence("ann", "ON_QUEUE").await;
    let posts = world.crm.wait_for(1, SOON).await.unwrap();
    let told = data(&posts[0]);
    assert_eq!((&told["sequence"], &told["superseded"]), (&json!(3), &json!(0)));
}

/// Whether it lasted is said by the times of the states, not by when they could be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_state_that_was_stored_late_is_not_sent_either() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register_with("/hooks/a", json!({"min_dwell_ms": 200, "agents": ["ann"]})).await;
    let mut recording = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(7700451)").execute(&mut *recording).await.unwrap();
    // The recorder waits with this one, and the next two are stored together.
    world.genesys.set_presence("bob", "AVAILABLE").await;
    eventually("the recorder waits", || async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_locks where locktype = 'advisory' and objid = 7700451 and not granted
             and database = (select oid from pg_database where datname = current_database())",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    world.genesys.set_presence("ann", "BUSY").await;
    let last = world.genesys.set_presence("ann", "AWAY").await.sent_at;
    eventually("both have lasted long enough", || async {
        (time::OffsetDateTime::now_utc() - last > Duration::from_millis(250)).then_some(())
    })
    .await;
    recording.rollback().await.unwrap();
    let posts = world.crm.wait_for(1, SOON).await.unwrap();
    let told = data(&posts[0]);
    assert_eq!((&told["presence"]["system"], &told["superseded"]), (&json!("AWAY"), &json!(1)));
}
