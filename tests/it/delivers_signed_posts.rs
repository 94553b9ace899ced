//! A presence change upstream arrives at the receiver: signed, whole, and only where it belongs.

use genesys_simulator::crm::check::Findings;
use serde_json::json;

use crate::support::{SOON, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_presence_change_arrives_signed_and_whole() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let change = world.genesys.set_presence("ann", "On Queue").await;
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    assert!(posts.iter().all(|post| post.verdict.is_ok()), "{:?}", posts[0].verdict);
    let body: serde_json::Value = serde_json::from_slice(&posts[1].body).unwrap();
    assert_eq!(body["type"], "presence.updated");
    let data = &body["data"];
    assert_eq!(data["sequence"], 2);
    assert_eq!(data["source"]["name"], "default");
    assert_eq!(data["agent"]["id"], "ann");
    assert_eq!(data["topic"], "routing:agent:state");
    assert_eq!(data["presence"]["system"], "ON_QUEUE");
    assert_eq!(data["previous"], json!({"system": "AVAILABLE"}));
    assert_eq!(data["raw"], serde_json::from_str::<serde_json::Value>(&change.frame).unwrap());
    let text = String::from_utf8(posts[1].body.to_vec()).unwrap();
    assert!(text.contains(&*change.frame), "the frame is in the body byte for byte: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_choose_what_a_webhook_is_told() {
    let world = World::watching(&["ann", "bob"]).await;
    world.register_with("/hooks/bob", json!({"agents": ["bob"]})).await;
    world.register_with("/hooks/away", json!({"presences": ["AWAY"]})).await;
    world.register_with("/hooks/none", json!({"topics": ["routing:agent:state:queue"]})).await;
    world.register("/hooks/all").await;
    for (agent, state) in [("ann", "AVAILABLE"), ("bob", "AVAILABLE"), ("ann", "AWAY"), ("bob", "MEAL")] {
        world.genesys.set_presence(agent, state).await;
    }
    world.crm.wait_for(4 + 2 + 1, SOON).await.unwrap();
    assert_eq!(world.crm.received("/hooks/bob").len(), 2);
    assert_eq!(world.crm.received("/hooks/away").len(), 1);
    assert_eq!(world.crm.received("/hooks/none").len(), 0);
    assert!(Findings::of(&world.crm.received("/hooks/all"), 1..=4).is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_webhooks_get_the_same_event_under_different_ids() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.register("/hooks/b").await;
    world.genesys.set_presence("ann", "BUSY").await;
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    assert_eq!(posts[0].body, posts[1].body);
    assert_ne!(posts[0].webhook_id(), posts[1].webhook_id());
}
