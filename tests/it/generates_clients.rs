//! Clients that others' generators make of openapi.yaml work against a bridge.

use std::path::Path;
use std::process::Command;

use crate::support::bridge::API_KEY;
use crate::support::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_three_generators_register_list_and_read_a_webhook() {
    let world = World::watching(&["ann"]).await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    eventually("the agent is known", || async {
        let agent = world.bridge.get("/v1/agents/ann").await.json();
        (agent["presence"]["system"] == "AVAILABLE").then_some(())
    })
    .await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/generators-check");
    let (bridge, hook) = (world.bridge.url.clone(), world.crm.url("/hooks/generated"));
    let ran = tokio::task::spawn_blocking(move || {
        Command::new(script).args([bridge, hook]).env("BRIDGE_API_KEY", API_KEY).output().unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
}
