//! Mode `latest`: after an outage a receiver is told how things stand, once for each agent, and how much that
//! replaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::crm::check::{altered_repeats, inversions};
use genesys_simulator::crm::{Behaviour, Post};
use serde_json::json;

use crate::support::crowd::{data, ended_twice};
use crate::support::look::{all, hurry};
use crate::support::{SOON, World, database, eventually};

const STATES: [&str; 4] = ["AVAILABLE", "BUSY", "AWAY", "MEAL"];
const LATEST: &str = "latest";

/// How many older states the POSTs say that they replace.
fn superseded(posts: &[&Arc<Post>]) -> u64 {
    posts.iter().map(|post| data(post)["superseded"].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_each_agent_is_told_once_and_nothing_is_unaccounted_for() {
    let agents = ["ann", "bob", "cid", "dan", "eve", "fay"];
    let world = World::watching(&agents).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register_with("/hooks/a", json!({"mode": LATEST})).await;
    world.crm.always("/hooks/a", Behaviour::status(503));
    let changes = 20;
    for round in 0..changes {
        for agent in agents {
            world.genesys.push_presence(agent, STATES[round % STATES.len()]);
        }
        if round == changes / 2 {
            // Some are refused in between, so that what is superseded has been tried.
            world.crm.wait_for(1, SOON).await.unwrap();
            hurry(&pool).await;
        }
    }
    let total = agents.len() * changes;
    eventually("all is stored", || async {
        let stored: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&pool).await.unwrap();
        (usize::try_from(stored).unwrap() == total).then_some(())
    })
    .await;
    eventually("what is under way has come back", || async {
        let held: i64 = sqlx::query_scalar("select count(*) from delivery where leased_by is not null")
            .fetch_one(&pool)
            .await
            .unwrap();
        (held == 0).then_some(())
    })
    .await;
    world.crm.always("/hooks/a", Behaviour::status(204));
    world.drained(&pool).await;

    let posts = world.crm.received("/hooks/a");
    let accepted: Vec<_> = posts.iter().filter(|post| post.accepted()).collect();
    assert_eq!(accepted.len(), agents.len(), "one POST an agent");
    let told: BTreeMap<_, _> = accepted
        .iter()
        .map(|post| post.event.as_ref().unwrap())
        .map(|event| (event.agent().to_owned(), (event.state().to_owned(), event.sequence())))
        .collect();
    for agent in agents {
        assert_eq!(told[agent], (STATES[(changes - 1) % STATES.len()].to_owned(), changes as u64));
    }
    assert_eq!(superseded(&accepted), (total - agents.len()) as u64);
    assert_eq!(altered_repeats(&posts), Vec::<String>::new());
    assert_eq!(inversions(&posts), Vec::<String>::new());

    let ended = all(&world.bridge, "/v1/audit?kind=DELIVERY_ENDED").await;
    let superseded: BTreeSet<_> = ended
        .iter()
        .filter(|entry| entry["end_state"] == "superseded")
        .map(|entry| entry["delivery_id"].as_str().unwrap())
        .collect();
    assert_eq!((superseded.len(), ended.len()), (total - agents.len(), total - agents.len()));
    assert_eq!(ended_twice(&pool).await, []);
    let metric = "presence_bridge_deliveries_total{outcome=\"superseded\"}";
    eventually("they are counted", || async {
        (world.bridge.metric(metric).await == (total - agents.len()) as f64).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_under_way_is_not_superseded() {
    let world = World::watching(&["ann"]).await;
    world.register_with("/hooks/a", json!({"mode": LATEST})).await;
    let slow = Duration::from_millis(400);
    world.crm.next("/hooks/a", [Behaviour::status(204).after(slow)]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    for state in ["BUSY", "AWAY", "MEAL"] {
        world.genesys.set_presence("ann", state).await;
    }
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    assert!(posts[1].arrived - posts[0].arrived >= slow, "the next waits for the answer to the first");
    assert_eq!(posts[1].event.as_ref().unwrap().state(), "MEAL");
    assert_eq!((&data(&posts[0])["superseded"], &data(&posts[1])["superseded"]), (&json!(0), &json!(2)));
    // One that is refused while a newer one waits is superseded to it instead of being tried again.
    world.crm.next("/hooks/a", [Behaviour::status(500).after(slow)]);
    world.genesys.set_presence("ann", "BUSY").await;
    world.crm.wait_for(3, SOON).await.unwrap();
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let posts = world.crm.wait_for(4, SOON).await.unwrap();
    assert_eq!(posts[3].event.as_ref().unwrap().state(), "AVAILABLE");
    assert_eq!(data(&posts[3])["superseded"], 1);
    world.delivery_in(posts[2].webhook_id(), "superseded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_are_the_same_bytes_though_the_agents_id_has_changed() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register_with("/hooks/a", json!({"mode": LATEST})).await;
    world.bridge.patch("/v1/agents/ann", &json!({"external_id": "crm-1"})).await;
    world
        .crm
        .next("/hooks/a", [Behaviour::status(204).after(Duration::from_millis(300)), Behaviour::status(500)]);
    for state in ["AVAILABLE", "BUSY", "AWAY"] {
        world.genesys.set_presence("ann", state).await;
        world.crm.wait_for(1, SOON).await.unwrap();
    }
    let refused = world.crm.wait_for(2, SOON).await.unwrap()[1].clone();
    world.delivery_in(refused.webhook_id(), "waiting").await;
    world.bridge.patch("/v1/agents/ann", &json!({"external_id": "crm-2"})).await;
    hurry(&pool).await;
    let posts = world.crm.wait_for(3, SOON).await.unwrap();
    assert_eq!((posts[2].webhook_id(), &posts[2].body), (refused.webhook_id(), &refused.body));
    assert_eq!(data(&refused)["agent"]["external_id"], "crm-1");
    assert_eq!(data(&refused)["superseded"], 1);
    world.genesys.set_presence("ann", "MEAL").await;
    let posts = world.crm.wait_for(4, SOON).await.unwrap();
    assert_eq!(data(&posts[3])["agent"]["external_id"], "crm-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_piled_up_is_superseded_when_the_mode_is_changed() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    let path = format!("/v1/webhooks/{hook}");
    world.bridge.post(&format!("{path}/pause"), &json!({})).await;
    for n in 0..6 {
        world.genesys.set_presence("ann", STATES[n % STATES.len()]).await;
    }
    world.audit_of("EVENT_RECEIVED", 6).await;
    assert_eq!(world.bridge.patch(&path, &json!({"mode": LATEST})).await.status, 200);
    world.bridge.post(&format!("{path}/resume"), &json!({})).await;
    eventually("nothing is pending", || async { (world.open_deliveries(&pool).await == 0).then_some(()) })
        .await;
    let posts = world.crm.received("/hooks/a");
    assert_eq!(posts.len(), 1);
    assert_eq!((data(&posts[0])["sequence"].as_u64(), superseded(&[&posts[0]])), (Some(6), 5));
    assert_eq!(ended_twice(&pool).await, []);
}
