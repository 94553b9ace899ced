//! The feed as a stream: every change once and in order, whoever is restarted, and no stream that outlives
//! its key, its process or its share.

use std::time::Duration;

use genesys_simulator::genesys::GenesysOptions;
use serde_json::{Value, json};

use crate::support::bridge::API_KEY;
use crate::support::follower::Follower;
use crate::support::look::feed;
use crate::support::{Bridge, World, eventually};

const FOLLOW: &str = "/v1/events?follow=true";

async fn follow(world: &World, query: &str, last_id: Option<&str>) -> Follower {
    let follower = Follower::open(&world.bridge, API_KEY, &format!("{FOLLOW}{query}"), last_id).await;
    assert_eq!(follower.status, 200);
    follower
}

async fn waits_for_events(bridge: &Bridge, count: usize) {
    eventually("changes are stored", || async { (feed(bridge).await.len() >= count).then_some(()) }).await;
}

/// A key of the same tenant: its id and text.
async fn make_key(bridge: &Bridge) -> (String, String) {
    let made = bridge.post("/v1/api-keys", &json!({"name": "follower", "scopes": ["read"]})).await.json();
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_misses_nothing_and_sees_nothing_twice_whoever_is_restarted() {
    let agents = ["ann", "bob"];
    let mut world = World::watching(&agents).await;
    world.genesys.set_presence("ann", "MEAL").await;
    waits_for_events(&world.bridge, 1).await;
    let genesys = world.genesys.clone();
    let pushing = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        for n in 0.. {
            pace.tick().await;
            genesys.push_presence(agents[n % 2], ["BUSY", "AWAY", "MEAL"][n % 3]);
        }
    });
    let mut live = follow(&world, "", None).await;
    let first = live.next().await.unwrap();
    assert!(first.id.is_some() && first.data.is_empty(), "where it begins: {first:?}");
    let (mut seen, mut last_id) = (Vec::new(), first.id);
    // A reader that leaves in the middle, again and again, and a bridge that stops softly, or is killed.
    for round in 0..6 {
        let mut follower = follow(&world, "", last_id.as_deref()).await;
        for _ in 0..20 {
            seen.push(follower.event().await);
        }
        match round {
            2 => {
                assert_eq!(world.bridge.terminate().await.code(), Some(0), "{}", world.bridge.log());
                while let Some(message) = follower.next().await {
                    if !message.data.is_empty() {
                        seen.push(serde_json::from_str::<Value>(&message.data).unwrap());
                    }
                }
                world.bridge.restart().await;
            }
            4 => world.bridge.kill_and_restart().await,
            _ => {}
        }
        last_id.clone_from(&follower.last_id);
        if round % 2 == 0 {
            world.sockets_open(agents.len()).await;
        }
    }
    world.sockets_open(agents.len()).await;
    pushing.abort();
    world.genesys.set_presence("ann", "OFFLINE").await;
    let mut follower = follow(&world, "", last_id.as_deref()).await;
    loop {
        seen.push(follower.event().await);
        let last = seen.last().unwrap();
        if last["agent"]["id"] == "ann" && last["presence"]["system"] == "OFFLINE" {
            break;
        }
    }
    let mut stored = feed(&world.bridge).await;
    let begins = stored.iter().position(|event| event["position"] == seen[0]["position"]).unwrap();
    assert!(begins >= 1, "it began at the end of what there was");
    stored.drain(..begins);
    stored.truncate(seen.len());
    assert_eq!(seen, stored, "the same items as in the list, each once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_where_it_is_told_to_and_shows_what_its_filter_lets_pass() {
    let world = World::watching(&["ann", "bob"]).await;
    for (agent, presence) in [("ann", "BUSY"), ("bob", "BUSY"), ("ann", "MEAL")] {
        let count = feed(&world.bridge).await.len();
        world.genesys.set_presence(agent, presence).await;
        waits_for_events(&world.bridge, count + 1).await;
    }
    let page = world.bridge.get("/v1/events?limit=1").await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let stored = feed(&world.bridge).await;
    let mut all = follow(&world, &format!("&cursor={cursor}"), None).await;
    let mut bobs = follow(&world, &format!("&cursor={cursor}&agent=bob"), None).await;
    assert_eq!([all.event().await, all.event().await], stored[1..3]);
    assert_eq!(bobs.event().await, stored[1]);
    world.genesys.set_presence("ann", "AWAY").await;
    assert_eq!(all.event().await["agent"]["id"], "ann");
    world.genesys.set_presence("bob", "AWAY").await;
    assert_eq!(bobs.event().await, all.event().await);
    // What a reader says when it comes again counts, not the place of its first request.
    let mut again = follow(&world, &format!("&cursor={cursor}"), bobs.last_id.as_deref()).await;
    world.genesys.set_presence("bob", "MEAL").await;
    assert_eq!(again.event().await, all.event().await);
    let mut empty = follow(&world, &format!("&cursor={cursor}"), Some("")).await;
    assert_eq!(empty.event().await, stored[1], "an empty id is none");

    assert_eq!(all.headers["content-type"], "text/event-stream");
    assert_eq!(all.headers["cache-control"], "no-store");
    assert_eq!(all.headers["x-accel-buffering"], "no");
    for wrong in ["&order=newest", "&limit=3", "&until=2100-01-01T00:00:00Z", "&cursor=x"] {
        assert_eq!(world.bridge.get(&format!("{FOLLOW}{wrong}")).await.status, 400, "{wrong}");
    }
    let head = world.bridge.send("HEAD", FOLLOW, None).await;
    assert_eq!((head.status, head.text()), (200, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_its_share_of_streams_and_a_reader_that_leaves_makes_place() {
    const SHARE: usize = 48;
    let world = World::watching(&["ann"]).await;
    let mut held = Vec::new();
    for _ in 0..SHARE {
        held.push(follow(&world, "", None).await);
    }
    let refused = world.bridge.get(FOLLOW).await;
    assert_eq!((refused.status, refused.json()["code"].clone()), (429, json!("too_many_streams")));
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(world.bridge.metric("presence_bridge_event_streams_open").await, SHARE as f64);
    assert_eq!(world.bridge.metric("presence_bridge_event_streams_refused_total").await, 1.0);
    let (_, key) = make_key(&world.bridge).await;
    assert_eq!(Follower::open(&world.bridge, &key, FOLLOW, None).await.status, 200, "of another key");

    held.truncate(SHARE - 1);
    // Nothing is written meanwhile that could fail.
    eventually("the place is free", || async {
        let follower = Follower::open(&world.bridge, API_KEY, FOLLOW, None).await;
        (follower.status == 200).then_some(())
    })
    .await;
    world.genesys.set_presence("ann", "BUSY").await;
    for follower in &mut held {
        follower.event().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_key_and_with_its_process() {
    let mut world = World::with_options(&["ann"], GenesysOptions::default(), &[]).await;
    let (id, key) = make_key(&world.bridge).await;
    let theirs = Follower::open(&world.bridge, &key, FOLLOW, None).await;
    let mut ours = follow(&world, "", None).await;
    let revoked = world.bridge.post(&format!("/v1/api-keys/{id}/revoke"), &json!({})).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    theirs.end().await;
    world.genesys.set_presence("ann", "BUSY").await;
    assert_eq!(ours.event().await["agent"]["id"], "ann", "others go on");

    assert_eq!(world.bridge.terminate().await.code(), Some(0), "{}", world.bridge.log());
    ours.end().await;
}
