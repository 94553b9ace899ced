//! `presence.gap`: whoever asks is told, agent by agent, when an agent could not be seen.

use genesys_simulator::crm::Behaviour;
use genesys_simulator::genesys::Target;
use serde_json::json;

use crate::support::crowd::data;
use crate::support::look::{all, hurry};
use crate::support::{SOON, World, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_told_in_the_lane_of_its_agent_before_what_came_after_it() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let both = json!(["presence.updated", "presence.gap"]);
    world
        .register_with("/hooks/a", json!({"events": both, "mode": "latest", "presences": ["AWAY", "MEAL"]}))
        .await;
    world.register_with("/hooks/bob", json!({"events": ["presence.gap"], "agents": ["bob"]})).await;
    world.register("/hooks/usual").await;
    world.bridge.patch("/v1/agents/ann", &json!({"external_id": "crm-1"})).await;
    world.genesys.set_presence("ann", "AWAY").await;
    world.crm.wait_for(2, SOON).await.unwrap();
    // The gap is refused at first: the change after it waits, and does not take its place though only the
    // latest counts.
    world.crm.next("/hooks/a", [Behaviour::status(500)]);
    world.genesys.drop_sockets(Target::Agent("ann".to_owned()));
    world
        .crm
        .wait_until(|posts| posts.iter().filter(|p| p.path() == "/hooks/a").count() == 2, SOON)
        .await
        .unwrap();
    world.sockets_open(2).await;
    world.genesys.set_presence("ann", "MEAL").await;
    world.audit_of("EVENT_RECEIVED", 2).await;
    eventually("all has arrived", || async {
        hurry(&pool).await;
        (world.crm.received("/hooks/a").len() == 4).then_some(())
    })
    .await;
    let posts = world.crm.received("/hooks/a");
    let kinds: Vec<_> = posts.iter().map(|post| post.kind().unwrap()).collect();
    assert_eq!(kinds, ["presence.updated", "presence.gap", "presence.gap", "presence.updated"]);
    assert_eq!((posts[1].webhook_id(), &posts[1].body), (posts[2].webhook_id(), &posts[2].body));
    let gap = &all(&world.bridge, "/v1/gaps").await[0];
    let told = data(&posts[2]);
    assert_eq!((&told["agent"]["id"], &told["agent"]["external_id"]), (&json!("ann"), &json!("crm-1")));
    for field in ["id", "connection_id", "cause"] {
        assert_eq!(told["gap"][field], gap[field], "{field}");
    }
    for field in ["from", "to"] {
        let (told, kept) = (told["gap"][field].as_str().unwrap(), gap[field].as_str().unwrap());
        assert_eq!(told[..23], kept[..23], "{field}, to the millisecond");
    }
    assert_eq!(data(&posts[3])["presence"]["system"], "MEAL");
    assert!(posts.iter().all(|post| post.verified()));
    assert!(world.crm.received("/hooks/bob").is_empty(), "bob was covered");
    assert!(
        world.crm.received("/hooks/usual").iter().all(|p| p.kind().as_deref() == Some("presence.updated"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_superseded_is_counted_by_the_next_state_and_not_by_a_gap_between_them() {
    let world = World::watching(&["ann"]).await;
    let both = json!(["presence.updated", "presence.gap"]);
    world.register_with("/hooks/a", json!({"events": both, "mode": "latest", "timeout_ms": 6000})).await;
    // While the first POST is under way there is a gap, and a newer state after it.
    world.crm.next("/hooks/a", [Behaviour::Hang]);
    world.genesys.set_presence("ann", "AWAY").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    world.genesys.drop_sockets(Target::All);
    world.audit_of("GAP_CLOSED", 1).await;
    world.genesys.set_presence("ann", "MEAL").await;
    world.audit_of("EVENT_RECEIVED", 2).await;
    let posts = world.crm.wait_for(3, SOON).await.unwrap();
    let told: Vec<_> =
        posts.iter().map(|post| (post.kind().unwrap(), data(post)["superseded"].as_u64().unwrap())).collect();
    let expected = [("presence.updated", 0), ("presence.gap", 0), ("presence.updated", 1)];
    assert_eq!(told, expected.map(|(kind, superseded)| (kind.to_owned(), superseded)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_without_a_bridge_is_told_for_each_agent() {
    let mut world = World::watching(&["ann", "bob"]).await;
    world.register_with("/hooks/a", json!({"events": ["presence.gap"]})).await;
    for agent in ["ann", "bob"] {
        world.genesys.set_presence(agent, "AWAY").await;
    }
    world.audit_of("EVENT_RECEIVED", 2).await;
    world.bridge.kill_and_restart().await;
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    let mut agents: Vec<_> = posts
        .iter()
        .map(|post| {
            let told = data(post);
            (
                told["agent"]["id"].as_str().unwrap().to_owned(),
                told["gap"]["cause"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    agents.sort();
    let cause = "bridge_down".to_owned();
    assert_eq!(agents, [("ann".to_owned(), cause.clone()), ("bob".to_owned(), cause)]);
}
