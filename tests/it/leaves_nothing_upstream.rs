//! Connections that the platform counts against us are deleted there, whatever stands in the way.

use std::time::Duration;

use genesys_simulator::genesys::{Fault, GenesysOptions, Route, Target};
use serde_json::json;

use crate::support::{SOON, World, eventually};

async fn only_connection(world: &World) -> String {
    world.bridge.get("/v1/connections").await.json()["items"][0]["id"].as_str().unwrap().to_owned()
}

async fn terminate(world: &World, id: &str) {
    let path = format!("/v1/connections/{id}/terminate");
    assert_eq!(world.bridge.post(&path, &json!({})).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_being_made_when_it_is_ended_is_deleted_too() {
    let world = World::watching(&["ann"]).await;
    let id = only_connection(&world).await;
    let late = Fault::delay(Duration::from_millis(1500));
    world.genesys.fault(Route::CreateConnection, late);
    world.genesys.drop_sockets(Target::All);
    world.genesys.wait_until(|seen| seen.requests(Route::CreateConnection) == 2, SOON).await.unwrap();
    terminate(&world, &id).await;
    let both_deleted = |seen: &genesys_simulator::genesys::Snapshot| {
        seen.requests(Route::DeleteConnection) >= 2 && seen.connections.is_empty()
    };
    world.genesys.wait_until(both_deleted, SOON).await.unwrap();
    world.audit_of("CONNECTION_TERMINATED", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_source_is_cleaned_up_after_even_if_deleting_fails_at_first() {
    let clients = ["sim-client", "second"].map(|id| (id.to_owned(), "sim-secret".to_owned()));
    let options = GenesysOptions { clients: clients.to_vec(), ..Default::default() };
    let world = World::with_options(&["ann"], options, &[]).await;
    let source = json!({
        "name": "second", "protocol": "realtime", "api_url": world.genesys.api_url(), "client_id": "second",
        "client_secret": "sim-secret", "agents": ["bob"], "topic_matrix": {"state": ["routing:agent:state"]},
    });
    let made = world.bridge.post("/v1/sources", &source).await;
    assert_eq!(made.status, 201, "{}", made.text());
    world.sockets_open(2).await;
    world.genesys.fault(Route::DeleteConnection, Fault::status(500).times(2));
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(world.bridge.delete(&format!("/v1/sources/{id}")).await.status, 204);
    let gone = |seen: &genesys_simulator::genesys::Snapshot| seen.connections_of("bob").is_empty();
    world.genesys.wait_until(gone, SOON).await.unwrap();
    assert_eq!(world.genesys.snapshot().requests(Route::DeleteConnection), 3, "it is not hammered");
    assert_eq!(world.audit_of("UPSTREAM_DELETE_FAILED", 2).await.len(), 2);
    assert!(world.genesys.snapshot().watches("ann"), "others are left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_deleted_with_a_new_token_if_the_old_one_is_no_longer_taken() {
    let world = World::watching(&["ann"]).await;
    let id = only_connection(&world).await;
    world.genesys.expire_tokens();
    terminate(&world, &id).await;
    world.genesys.wait_until(|seen| seen.connections.is_empty(), SOON).await.unwrap();
    let told = eventually("the end is told", || async {
        let entries = world.audit("UPSTREAM_DELETE_FAILED").await;
        world.audit("CONNECTION_TERMINATED").await.first().map(|_| entries)
    })
    .await;
    assert!(told.is_empty(), "one new token was enough: {told:?}");
}
