//! What an owner of a webhook can do with it, over the API.

use genesys_simulator::crm::{Behaviour, Secret};
use serde_json::json;

use crate::support::look::{all, waiting_for_locks};
use crate::support::{SOON, World, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_is_shown_once() {
    let world = World::watching(&["ann"]).await;
    let made = world.register_with("/hooks/a", json!({"description": "first"})).await;
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    let id = made["id"].as_str().unwrap();
    for path in [format!("/v1/webhooks/{id}"), "/v1/webhooks".to_owned(), "/v1/audit".to_owned()] {
        assert!(!world.bridge.get(&path).await.text().contains("whsec_"), "{path}");
    }
    let own = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let made = world.register_with("/hooks/b", json!({"secret": own})).await;
    assert_eq!(made["secret"], own);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_breaks_no_receiver_that_knows_either_secret() {
    let world = World::watching(&["ann"]).await;
    let made = world.register_with("/hooks/a", json!({})).await;
    let id = made["id"].as_str().unwrap();
    let rotated = world.bridge.post(&format!("/v1/webhooks/{id}/rotate-secret"), &json!({})).await.json();
    assert_ne!(rotated["secret"], made["secret"]);
    for secret in [&made["secret"], &rotated["secret"]] {
        world.crm.set_secrets_of("/hooks/a", vec![Secret::parse(secret.as_str().unwrap()).unwrap()]);
        let before = world.crm.count();
        world.genesys.set_presence("ann", if before == 0 { "AVAILABLE" } else { "AWAY" }).await;
        let posts = world.crm.wait_for(before + 1, SOON).await.unwrap();
        let post = posts.last().unwrap();
        assert!(post.verified(), "{:?}", post.verdict);
        assert_eq!(post.header("webhook-signature").unwrap().split(' ').count(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_stored_when_a_webhook_is_resumed_is_sent_too() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let webhook = format!("/v1/webhooks/{}", world.register("/hooks/a").await);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    world.bridge.post(&format!("{webhook}/pause"), &json!({})).await;
    // Another agent's change, so that the pause is known; then one that is stopped before it is stored.
    world.genesys.set_presence("bob", "AVAILABLE").await;
    eventually("one is pending", || async { (world.open_deliveries(&pool).await == 1).then_some(()) }).await;
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select from agent for update").execute(&mut *held).await.unwrap();
    world.genesys.set_presence("ann", "BUSY").await;
    eventually("it waits", || async { (waiting_for_locks(&pool).await > 0).then_some(()) }).await;
    let path = format!("{webhook}/resume");
    // The resume is committed after what the writer holds: it gets its number among the webhooks' changes
    // behind it.
    let (resumed, ()) = tokio::join!(async { world.bridge.post(&path, &json!({})).await }, async {
        eventually("both wait", || async { (waiting_for_locks(&pool).await > 1).then_some(()) }).await;
        held.rollback().await.unwrap();
    });
    assert_eq!(resumed.status, 200);
    world.crm.wait_for(3, SOON).await.expect("it is sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_what_is_pending_and_resume_sends_it_in_order() {
    let world = World::watching(&["ann"]).await;
    let id = world.register("/hooks/a").await;
    assert_eq!(
        world.bridge.post(&format!("/v1/webhooks/{id}/pause"), &json!({})).await.json()["state"],
        "paused"
    );
    for state in ["AVAILABLE", "BUSY", "AWAY"] {
        world.genesys.set_presence("ann", state).await;
    }
    eventually("three are pending", || async {
        let pending = all(&world.bridge, &format!("/v1/deliveries?webhook={id}")).await;
        (pending.len() == 3).then_some(())
    })
    .await;
    // A test ping of another webhook is a fence: the dispatcher has looked at everything that is due.
    world.register("/hooks/fence").await;
    world.genesys.set_presence("ann", "MEAL").await;
    world.crm.wait_until(|posts| posts.iter().any(|p| p.path() == "/hooks/fence"), SOON).await.unwrap();
    assert!(world.crm.received("/hooks/a").is_empty());
    world.bridge.post(&format!("/v1/webhooks/{id}/resume"), &json!({})).await;
    let arrived = |posts: &[std::sync::Arc<genesys_simulator::crm::Post>]| {
        posts.iter().filter(|post| post.path() == "/hooks/a").count() == 4
    };
    world.crm.wait_until(arrived, SOON).await.unwrap();
    let states: Vec<_> = world
        .crm
        .received("/hooks/a")
        .iter()
        .map(|post| post.event.as_ref().unwrap().state().to_owned())
        .collect();
    assert_eq!(states, ["AVAILABLE", "BUSY", "AWAY", "MEAL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pending_deliveries_of_a_removed_webhook_end_and_are_not_sent() {
    let world = World::watching(&["ann"]).await;
    let id = world.register("/hooks/a").await;
    world.crm.always("/hooks/a", Behaviour::status(500));
    for state in ["AVAILABLE", "BUSY"] {
        world.genesys.set_presence("ann", state).await;
    }
    world.crm.wait_for(1, SOON).await.unwrap();
    world.audit_of("DELIVERY_ATTEMPT", 1).await;
    assert_eq!(world.bridge.delete(&format!("/v1/webhooks/{id}")).await.status, 204);
    assert_eq!(world.bridge.get(&format!("/v1/webhooks/{id}")).await.status, 404);
    let ended = world.audit_of("DELIVERY_ENDED", 2).await;
    assert!(ended.iter().all(|entry| entry["end_state"] == "webhook_gone"), "{ended:?}");
    world.genesys.set_presence("ann", "AWAY").await;
    world.register("/hooks/fence").await;
    world.genesys.set_presence("ann", "MEAL").await;
    world.crm.wait_until(|posts| posts.iter().any(|p| p.path() == "/hooks/fence"), SOON).await.unwrap();
    assert_eq!(world.crm.received("/hooks/a").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_ping_arrives_signed_and_says_what_it_is() {
    let world = World::watching(&["ann"]).await;
    let id = world.register("/hooks/a").await;
    let ping = world.bridge.post(&format!("/v1/webhooks/{id}/test"), &json!({})).await;
    assert_eq!(ping.status, 202, "{}", ping.text());
    let posts = world.crm.wait_for(1, SOON).await.unwrap();
    assert!(posts[0].verdict.is_ok());
    assert_eq!(posts[0].kind().as_deref(), Some("webhook.test"));
    assert_eq!(posts[0].webhook_id(), ping.json()["delivery_id"].as_str().unwrap());
    assert!(all(&world.bridge, "/v1/deliveries").await.iter().all(|d| d["agent_id"].is_null()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_address_counts_for_what_is_pending_already() {
    let world = World::watching(&["ann"]).await;
    let made = world.register_with("/hooks/old", json!({})).await;
    let id = made["id"].as_str().unwrap();
    world.crm.always("/hooks/old", Behaviour::status(503));
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("DELIVERY_ATTEMPT", 1).await;
    world.crm.set_secrets_of("/hooks/new", vec![Secret::parse(made["secret"].as_str().unwrap()).unwrap()]);
    let moved =
        world.bridge.patch(&format!("/v1/webhooks/{id}"), &json!({"url": world.crm.url("/hooks/new")})).await;
    assert_eq!(moved.status, 200, "{}", moved.text());
    // Nobody has to ask for it: another address is tried at once.
    world
        .crm
        .wait_until(|posts| posts.iter().any(|p| p.path() == "/hooks/new" && p.verified()), SOON)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_only_the_kinds_of_event_it_asks_for() {
    let world = World::watching(&["ann"]).await;
    let usual = world.register_with("/hooks/usual", json!({})).await;
    assert_eq!(usual["events"], json!(["presence.updated"]));
    let alarm = json!({"events": ["source.stale", "source.recovered", "source.stale"]});
    let alarm = world.register_with("/hooks/alarm", alarm).await;
    assert_eq!(alarm["events"], json!(["source.stale", "source.recovered"]));
    let alarm = alarm["id"].as_str().unwrap().to_owned();
    world.genesys.set_presence("ann", "AVAILABLE").await;
    // Deliveries are written with the event itself, so one that is not there now never comes.
    world.audit_of("EVENT_RECEIVED", 1).await;
    assert!(all(&world.bridge, &format!("/v1/deliveries?webhook={alarm}")).await.is_empty());

    let path = format!("/v1/webhooks/{alarm}");
    let both = json!({"events": ["presence.updated", "source.stale"]});
    let changed = world.bridge.patch(&path, &both).await;
    assert_eq!((changed.status, &changed.json()["events"]), (200, &both["events"]));
    world.genesys.set_presence("ann", "AWAY").await;
    let arrived = |posts: &[std::sync::Arc<genesys_simulator::crm::Post>]| {
        posts.iter().any(|post| post.path() == "/hooks/alarm")
    };
    world.crm.wait_until(arrived, SOON).await.unwrap();
    let usual = usual["id"].as_str().unwrap();
    assert_eq!(all(&world.bridge, &format!("/v1/deliveries?webhook={usual}")).await.len(), 2);

    for (wrong, pointer) in [
        (json!([]), "/events"),
        (json!(["source.gone"]), "/events/0"),
        (json!(["webhook.test"]), "/events/0"),
    ] {
        let refused = world.bridge.patch(&path, &json!({"events": wrong})).await;
        assert_eq!(refused.status, 422, "{wrong}");
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer, "{wrong}");
    }
    assert_eq!(world.bridge.get(&path).await.json()["events"], both["events"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_no_holes_and_no_twins() {
    let world = World::watching(&["ann"]).await;
    let mut made = std::collections::BTreeSet::new();
    for n in 0..7 {
        made.insert(world.register(&format!("/hooks/{n}")).await);
    }
    let mut seen = Vec::new();
    let mut path = Some("/v1/webhooks?limit=3".to_owned());
    while let Some(next) = path {
        let page = world.bridge.get(&next).await.json();
        seen.extend(
            page["items"].as_array().unwrap().iter().map(|hook| hook["id"].as_str().unwrap().to_owned()),
        );
        path = page["next_cursor"].as_str().map(|cursor| format!("/v1/webhooks?limit=3&cursor={cursor}"));
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(seen.into_iter().collect::<std::collections::BTreeSet<_>>(), made);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_over_rest_opens_and_closes_its_sockets() {
    let world = World::watching(&["ann"]).await;
    let source = json!({
        "name": "second", "protocol": "realtime", "api_url": world.genesys.api_url(), "client_id": "sim-client",
        "client_secret": "sim-secret", "agents": ["bob", "cid"], "topic_matrix": {"state": ["routing:agent:state"]},
    });
    let made = world.bridge.post("/v1/sources", &source).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(!made.text().contains("sim-secret"));
    let id = made.json()["id"].as_str().unwrap().to_owned();
    world.sockets_open(3).await;
    let changed = world.bridge.patch(&format!("/v1/sources/{id}"), &json!({"agents": ["cid", "dan"]})).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    world.genesys.wait_until(|seen| seen.watches("dan") && !seen.watches("bob"), SOON).await.unwrap();
    assert_eq!(world.bridge.delete(&format!("/v1/sources/{id}")).await.status, 204);
    let seen = world.genesys.wait_until(|seen| seen.connections.len() == 1, SOON).await.unwrap();
    assert!(seen.watches("ann"));
    let environment =
        world.bridge.get("/v1/sources").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(world.bridge.delete(&format!("/v1/sources/{environment}")).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_show_their_present_state_and_the_feed_goes_on() {
    let world = World::watching(&["ann"]).await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.genesys.set_presence("ann", "OnQueue").await;
    let agent = eventually("two events", || async {
        let answer = world.bridge.get("/v1/agents/ann").await;
        (answer.status == 200).then(|| answer.json()).filter(|agent| agent["sequence"] == 2)
    })
    .await;
    assert!(agent.to_string().contains("ON_QUEUE") && agent["since"].is_string(), "{agent}");
    let page = world.bridge.get("/v1/events").await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    let cursor = page["next_cursor"].as_str().unwrap().to_owned();
    world.genesys.set_presence("ann", "AWAY").await;
    let more = eventually("a third event", || async {
        let page = world.bridge.get(&format!("/v1/events?cursor={cursor}")).await.json();
        page["items"].get(0).cloned()
    })
    .await;
    assert_eq!(more["sequence"], 3);
}
