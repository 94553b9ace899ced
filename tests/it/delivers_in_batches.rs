//! A webhook with `batch`: several deliveries in one POST, in order, and the same POST again if it was not
//! taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::crm::{Behaviour, Post};
use presence_bridge::domain::ids::{DispatcherId, WebhookId};
use presence_bridge::store::Store;
use presence_bridge::store::delivery::batches::BatchLimits;
use serde_json::{Value, json};
use sqlx::types::Uuid;

use crate::support::crowd::{Crowd, body, ended_twice, items};
use crate::support::look::{all, hurry};
use crate::support::{SOON, World, database, eventually};

const STATES: [&str; 4] = ["AVAILABLE", "BUSY", "AWAY", "MEAL"];

fn batch(max_items: usize, max_wait_ms: u64) -> Value {
    json!({"batch": {"max_items": max_items, "max_wait_ms": max_wait_ms}})
}

/// Sequences of an agent's items, in the order of the POSTs.
fn sequences(posts: &[Arc<Post>], agent: &str) -> Vec<u64> {
    let items = items(posts);
    let of_agent = items.iter().filter(|item| item["data"]["agent"]["id"] == agent);
    of_agent.map(|item| item["data"]["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_batch_leaves_at_once_and_another_when_it_has_waited() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register_with("/hooks/full", batch(6, 60_000)).await;
    world.register_with("/hooks/soon", batch(1000, 300)).await;
    for state in STATES {
        for agent in ["ann", "bob"] {
            world.genesys.push_presence(agent, state);
        }
    }
    world.crm.wait_until(|posts| posts.iter().any(|post| post.path() == "/hooks/full"), SOON).await.unwrap();
    world.crm.wait_until(|posts| items(posts).len() == 6 + 8, SOON).await.unwrap();
    let full = world.crm.received("/hooks/full");
    assert_eq!(full.len(), 1, "the other two wait for more");
    let told = body(&full[0]);
    let list = told["data"].as_array().unwrap();
    assert_eq!((&told["type"], list.len()), (&json!("presence.batch"), 6));
    let newest = list.iter().map(|item| item["timestamp"].as_str().unwrap()).max();
    assert_eq!(told["timestamp"].as_str(), newest);
    assert!(full[0].verified());
    for agent in ["ann", "bob"] {
        assert!([1, 2, 3, 4].starts_with(&sequences(&full, agent)), "from the first on, without a hole");
        assert_eq!(sequences(&world.crm.received("/hooks/soon"), agent), [1, 2, 3, 4]);
    }
    let ids: BTreeSet<_> = list.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.len() == 6 && !ids.contains(full[0].webhook_id()), "each item has an id of its own");
    let delivered = eventually("each item's end is written", || async {
        let ended = all(&world.bridge, "/v1/deliveries?state=delivered").await;
        (ended.len() == 14).then_some(ended)
    })
    .await;
    assert!(ids.iter().all(|id| delivered.iter().any(|delivery| delivery["id"] == json!(id))));
    assert_eq!(world.open_deliveries(&pool).await, 2);
    assert_eq!(all(&world.bridge, "/v1/audit?kind=DELIVERY_ATTEMPT").await.len(), 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_refused_comes_again_as_it_was_and_what_came_later_follows_it() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register_with("/hooks/a", batch(3, 100)).await;
    world.crm.next("/hooks/a", [Behaviour::status(503), Behaviour::CloseUnanswered]);
    for state in &STATES[..3] {
        world.genesys.push_presence("ann", state);
    }
    world.crm.wait_for(1, SOON).await.unwrap();
    for n in 0..3 {
        world.genesys.push_presence("ann", STATES[3 - n]);
    }
    world.audit_of("EVENT_RECEIVED", 6).await;
    world.drained(&pool).await;
    let posts = world.crm.received("/hooks/a");
    assert_eq!(posts.len(), 4);
    for post in &posts[1..3] {
        assert_eq!((post.webhook_id(), &post.body), (posts[0].webhook_id(), &posts[0].body));
    }
    assert_ne!(posts[3].webhook_id(), posts[0].webhook_id());
    assert_eq!(sequences(&posts[2..], "ann"), [1, 2, 3, 4, 5, 6]);
    let attempts: Vec<_> = posts.iter().map(|post| post.header("presence-bridge-attempt").unwrap()).collect();
    assert_eq!(attempts, ["1", "2", "2", "1"], "a kept connection that closes is no failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_a_kill_cut_off_comes_again_as_it_was() {
    let mut world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register_with("/hooks/a", batch(10, 200)).await;
    world.crm.next("/hooks/a", [Behaviour::status(500), Behaviour::Hang]);
    for state in &STATES[..3] {
        world.genesys.push_presence("ann", state);
        world.genesys.push_presence("bob", state);
    }
    world.crm.wait_for(1, SOON).await.unwrap();
    eventually("the second try", || async {
        hurry(&pool).await;
        (world.crm.count() == 2).then_some(())
    })
    .await;
    world.genesys.set_presence("ann", "MEAL").await;
    world.audit_of("EVENT_RECEIVED", 7).await;
    world.bridge.kill().await;
    world.bridge.restart().await;
    world.crm.wait_until(|posts| sequences(posts, "ann").ends_with(&[4]), SOON).await.unwrap();
    let posts = world.crm.received("/hooks/a");
    for post in &posts[1..3] {
        assert_eq!((post.webhook_id(), &post.body), (posts[0].webhook_id(), &posts[0].body));
    }
    assert_eq!(sequences(&posts[2..], "ann"), [1, 2, 3, 4]);
    assert_eq!(sequences(&posts[2..], "bob"), [1, 2, 3]);
    eventually("nothing is pending", || async { (world.open_deliveries(&pool).await == 0).then_some(()) })
        .await;
    assert_eq!(ended_twice(&pool).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_latest_states_a_batch_holds_one_of_each_agent() {
    let agents = ["ann", "bob", "cid"];
    let world = World::watching(&agents).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let mut fields = batch(100, 100);
    fields["mode"] = json!("latest");
    let hook = world.register_with("/hooks/a", fields).await;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    world.bridge.post(&format!("{path}/pause"), &json!({})).await;
    for round in 0..12 {
        for agent in agents {
            world.genesys.push_presence(agent, STATES[round % 4]);
        }
    }
    world.audit_of("EVENT_RECEIVED", 36).await;
    world.bridge.post(&format!("{path}/resume"), &json!({})).await;
    eventually("nothing is pending", || async { (world.open_deliveries(&pool).await == 0).then_some(()) })
        .await;
    let posts = world.crm.received("/hooks/a");
    let told: BTreeMap<_, _> = items(&posts)
        .into_iter()
        .map(|item| {
            let data = &item["data"];
            (
                data["agent"]["id"].as_str().unwrap().to_owned(),
                (data["sequence"].clone(), data["superseded"].clone()),
            )
        })
        .collect();
    assert_eq!((posts.len(), items(&posts).len()), (1, 3));
    assert!(agents.iter().all(|agent| told[*agent] == (json!(12), json!(11))), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_comes_in_batches() {
    let crowd = Crowd::of(250).await;
    let hook = crowd.register("/hooks/a", batch(100, 50)).await;
    crowd.snapshot(&hook).await;
    crowd.drained().await;
    let posts = crowd.crm.received("/hooks/a");
    let sizes: Vec<_> = posts.iter().map(|post| body(post)["data"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    let agents: BTreeSet<_> =
        items(&posts).iter().map(|item| item["data"]["agent"]["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(agents.len(), 250);
}

/// Two batches under way at once could overtake each other.
#[tokio::test(flavor = "multi_thread")]
async fn one_batch_is_under_way_at_a_time() {
    let world = World::watching(&["ann"]).await;
    world.register_with("/hooks/a", batch(5, 0)).await;
    let slow = Duration::from_millis(60);
    world.crm.always("/hooks/a", Behaviour::status(204).after(slow));
    for n in 0..60 {
        world.genesys.push_presence("ann", STATES[n % 4]);
    }
    let posts = world.crm.wait_until(|posts| items(posts).len() == 60, SOON).await.unwrap();
    assert_eq!(sequences(&posts, "ann"), (1..=60).collect::<Vec<_>>());
    assert!(posts.windows(2).all(|two| two[1].arrived - two[0].arrived >= slow));
}

/// The word about it is on its way: the same would be sent twice under one attempt. `make faults` found it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_cycle_gives_back_is_never_a_batch_that_is_being_formed() {
    let world = World::watching(&["ann"]).await;
    let url = &world.bridge.database_url;
    let hook: Uuid =
        world.register_with("/hooks/a", batch(100, 60_000)).await["id"].as_str().unwrap().parse().unwrap();
    for state in &STATES[..3] {
        world.genesys.push_presence("ann", state);
    }
    world.audit_of("EVENT_RECEIVED", 3).await;
    let store = Store::connect(url.parse().unwrap(), 2).await.unwrap();
    let (us, now) =
        (DispatcherId::generate(), genesys_simulator::clock::parse_rfc3339("2126-01-01T00:00:00Z").unwrap());
    store.begin_dispatcher(us, now).await.unwrap();
    let limits = BatchLimits { max_items: 100, max_bytes: 0 };
    let formed = store.form_batch(us, WebhookId(hook), limits, now, |_| 0).await.unwrap();
    assert_eq!(formed.items.len(), 3);
    store.reconcile_after_unknown_commit(us, now, &[], &[]).await.unwrap();
    let ours = "select count(*) from delivery where leased_by = $1 and attempt = 1";
    let pool = database::pool(url).await;
    let ours: i64 = sqlx::query_scalar(ours).bind(us.0).fetch_one(&pool).await.unwrap();
    assert_eq!(ours, 3, "what is being formed was given back");
    store.close().await;
}
