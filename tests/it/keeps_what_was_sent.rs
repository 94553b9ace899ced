//! What a first POST looked like, its repeats look like: same id, same bytes, whatever was changed of the
//! webhook meanwhile.

use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::crm::{Behaviour, Post};
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::crowd::items;
use crate::support::look::{all, hurry};
use crate::support::{SOON, World, database, eventually};

/// A webhook whose receiver refuses its first POST and is not tried again for an hour, unless somebody
/// hurries it.
async fn refusing_at_first(mut fields: Value) -> (World, PgPool, String) {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    fields["retry_schedule_seconds"] = json!([3600, 3600, 3600]);
    world.crm.next("/hooks/a", [Behaviour::status(503)]);
    let hook = world.register_with("/hooks/a", fields).await["id"].as_str().unwrap().to_owned();
    (world, pool, hook)
}

async fn change(world: &World, hook: &str, fields: &Value) {
    let changed = world.bridge.patch(&format!("/v1/webhooks/{hook}"), fields).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
}

/// Makes what waits due until as many POSTs have come.
async fn hurried(world: &World, pool: &PgPool, posts: u64) -> Vec<Arc<Post>> {
    eventually("the next POST", || async {
        hurry(pool).await;
        (world.crm.count() >= posts).then_some(())
    })
    .await;
    world.drained(pool).await;
    world.crm.received("/hooks/a")
}

fn assert_same(first: &Post, again: &Post) {
    assert_eq!(again.webhook_id(), first.webhook_id());
    assert_eq!(again.header("content-type"), first.header("content-type"));
    assert_eq!(String::from_utf8_lossy(&again.body), String::from_utf8_lossy(&first.body));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_format_counts_for_what_was_not_sent_yet() {
    let (mut world, pool, hook) = refusing_at_first(json!({})).await;
    world.genesys.set_presence("ann", "AWAY").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    change(&world, &hook, &json!({"format": "cloudevents-structured"})).await;
    let posts = hurried(&world, &pool, 2).await;
    assert_same(&posts[0], &posts[1]);
    world.genesys.set_presence("ann", "BUSY").await;
    world.crm.wait_for(3, SOON).await.unwrap();
    let third = world.crm.received("/hooks/a")[2].clone();
    assert_eq!(third.header("content-type"), Some("application/cloudevents+json"));
    world.drained(&pool).await;

    // Told once more, after its end and by another process, each looks as it did.
    change(&world, &hook, &json!({"format": "cloudevents-binary"})).await;
    world.bridge.kill_and_restart().await;
    for (index, first) in [&posts[0], &third].into_iter().enumerate() {
        let retried =
            world.bridge.post(&format!("/v1/deliveries/{}/retry", first.webhook_id()), &json!({})).await;
        assert_eq!(retried.status, 202, "{}", retried.text());
        world.crm.wait_for(4 + index as u64, SOON).await.unwrap();
        assert_same(first, &world.crm.received("/hooks/a")[3 + index]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_alone_goes_alone_again_once_its_webhook_takes_batches() {
    let (world, pool, hook) = refusing_at_first(json!({})).await;
    world.genesys.set_presence("ann", "AWAY").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    change(&world, &hook, &json!({"batch": {"max_items": 10, "max_wait_ms": 100}})).await;
    world.genesys.set_presence("bob", "AWAY").await;
    world.crm.wait_for(2, SOON).await.unwrap();
    world.genesys.set_presence("ann", "BUSY").await;
    world.audit_of("EVENT_RECEIVED", 3).await;
    let posts = hurried(&world, &pool, 4).await;
    assert_eq!(posts.len(), 4);
    let again = posts.iter().skip(1).position(|post| post.webhook_id() == posts[0].webhook_id()).unwrap() + 1;
    assert_same(&posts[0], &posts[again]);
    let agents = |post: &Arc<Post>| -> Vec<Value> {
        items(std::slice::from_ref(post)).iter().map(|item| item["data"]["agent"]["id"].clone()).collect()
    };
    assert_eq!(agents(&posts[1]), ["bob"], "nobody else's lane waits for it");
    assert_eq!((again, agents(&posts[3])), (2, vec![json!("ann")]), "ann's second change follows her first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_repeated_whole_once_its_webhook_takes_none_any_more() {
    let (world, pool, hook) =
        refusing_at_first(json!({"batch": {"max_items": 3, "max_wait_ms": 60_000}})).await;
    for state in ["AWAY", "BUSY", "MEAL"] {
        world.genesys.push_presence("ann", state);
    }
    world.crm.wait_for(1, SOON).await.unwrap();
    change(&world, &hook, &json!({"batch": null, "format": "cloudevents-structured"})).await;
    world.genesys.set_presence("bob", "AWAY").await;
    world.crm.wait_for(2, SOON).await.unwrap();
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("EVENT_RECEIVED", 5).await;
    let posts = hurried(&world, &pool, 4).await;
    assert_eq!(posts.len(), 4);
    assert_same(&posts[0], &posts[2]);
    assert_eq!(items(&posts[2..3]).len(), 3);
    for alone in [&posts[1], &posts[3]] {
        assert_eq!(alone.header("content-type"), Some("application/cloudevents+json"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_one_takes_its_whole_batch_along() {
    let (world, pool, _) = refusing_at_first(json!({"batch": {"max_items": 3, "max_wait_ms": 60_000}})).await;
    for (agent, state) in [("ann", "BUSY"), ("bob", "AWAY"), ("ann", "MEAL")] {
        world.genesys.push_presence(agent, state);
    }
    world.crm.wait_for(1, SOON).await.unwrap();
    let waiting = eventually("the batch waits", || async {
        let waiting = all(&world.bridge, "/v1/deliveries?state=waiting").await;
        (waiting.len() == 3).then_some(waiting)
    })
    .await;
    let one = waiting[1]["id"].as_str().unwrap();
    assert_eq!(world.bridge.post(&format!("/v1/deliveries/{one}/retry"), &json!({})).await.status, 202);
    eventually("all of it is delivered", || async {
        (world.open_deliveries(&pool).await == 0).then_some(())
    })
    .await;
    let posts = world.crm.received("/hooks/a");
    assert_same(&posts[0], &posts[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_shown_from_the_frame_to_the_last_answer() {
    for format in ["standard", "cloudevents-structured", "cloudevents-binary"] {
        let auth = json!({"kind": "bearer", "token": "hidden-from-everybody"});
        let (world, pool, _) = refusing_at_first(json!({"format": format, "auth": auth})).await;
        let busy = Behaviour::status(503).header("x-why", "busy").header("set-cookie", "session=1");
        world.crm.next("/hooks/a", [busy.header("x-seen", "Bearer hidden-from-everybody")]);
        let before = OffsetDateTime::now_utc();
        world.genesys.set_presence("ann", "AWAY").await;
        world.crm.wait_for(1, SOON).await.unwrap();
        let posts = hurried(&world, &pool, 3).await;
        let told = world.delivery_in(posts[0].webhook_id(), "delivered").await;
        let request = &told["request"];
        assert_eq!(request["body"].as_str().unwrap().as_bytes(), &posts[0].body[..], "{format}");
        for header in request["headers"].as_array().unwrap() {
            let (name, value) = (header["name"].as_str().unwrap(), header["value"].as_str().unwrap());
            assert_eq!(posts[0].header(name), Some(value), "{format} {name}");
        }
        let attempts = told["attempts"].as_array().unwrap();
        let time = |text: &Value| OffsetDateTime::parse(text.as_str().unwrap(), &Rfc3339).unwrap();
        let mut stamps = vec![time(&told["event"]["received_at"]), time(&told["event"]["committed_at"])];
        stamps.extend(attempts.iter().flat_map(|one| [time(&one["started_at"]), time(&one["at"])]));
        // The duration is in whole milliseconds.
        assert!(stamps.windows(2).all(|two| two[0] <= two[1] + Duration::from_millis(1)), "{stamps:?}");
        assert!(stamps[0] + Duration::from_secs(2) >= before, "{stamps:?}");
        let refused = &attempts[1]["data"];
        let head: Vec<_> =
            refused["answer_head"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        assert!(head.contains(&"x-why: busy"), "{head:?}");
        assert!(
            !head.iter().any(|line| line.contains("session=1") || line.contains("hidden-from")),
            "{head:?}"
        );
        assert_eq!(attempts[2]["data"].get("answer_head"), None, "nothing of a success");
    }
}
