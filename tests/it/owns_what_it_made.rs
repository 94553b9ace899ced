//! What is upstream, and which key lets its operator in, belongs to the process that made it, and to its
//! database.

use std::time::Duration;

use genesys_simulator::cloud::Place;
use genesys_simulator::genesys::Route;
use tempfile::TempDir;

use crate::support::bridge::UNSET;
use crate::support::cloud::CloudWorld;
use crate::support::{Bridge, SOON, World, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_takes_no_living_ones_channels_for_leftovers() {
    let world = CloudWorld::watching(&["ann"]).await;
    let api_url = world.cloud.api_url();
    let variables = [
        ("GENESYS_API_URL", api_url.as_str()),
        ("GENESYS_LOGIN_URL", api_url.as_str()),
        ("GENESYS_CLIENT_ID", "sim-client"),
        ("GENESYS_CLIENT_SECRET", "sim-secret"),
        ("GENESYS_AGENTS", "ann"),
    ];
    let second = Bridge::start_on(&world.bridge.database_url, &variables).await;
    let both = world.cloud.wait_until(|seen| seen.watched() == 2, SOON).await;
    both.unwrap_or_else(|seen| panic!("both listen: {seen:#?}\n{}", second.log()));
    assert_eq!(world.cloud.snapshot().requests(Place::Subscriptions), 0, "nothing is taken from anybody");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_is_deleted_at_the_next_start_at_once() {
    let mut world = World::watching(&["ann"]).await;
    world.bridge.kill_and_restart().await;
    // Long before its dispatcher would count as dead.
    let cleaned = world.genesys.wait_until(
        |seen| seen.requests(Route::DeleteConnection) == 1 && seen.connections.len() == 1,
        Duration::from_secs(4),
    );
    cleaned.await.unwrap();
}

/// A bridge on a copy of a database that another one was killed on leaves what that one had upstream.
async fn leaves_the_originals(world: &World, copy: &Bridge) {
    let both =
        world.genesys.wait_until(|seen| seen.connected() == 1 && seen.connections.len() == 2, SOON).await;
    both.unwrap_or_else(|seen| panic!("its own next to the original's: {seen:#?}\n{}", copy.log()));
    assert_eq!(world.genesys.snapshot().requests(Route::DeleteConnection), 0);
    assert!(copy.log().contains("is a copy of another bridge's"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_has_no_leftovers() {
    let mut world = World::watching(&["ann"]).await;
    world.bridge.kill().await;
    let api_url = world.genesys.api_url();
    let variables = [
        ("GENESYS_PROTOCOL", "realtime"),
        ("GENESYS_API_URL", api_url.as_str()),
        ("GENESYS_CLIENT_ID", "sim-client"),
        ("GENESYS_CLIENT_SECRET", "sim-secret"),
        ("GENESYS_AGENTS", "ann"),
    ];
    let url = database::copy(&world.bridge.database_url).await;
    let copy = Bridge::start_on(&url, &variables).await;
    leaves_the_originals(&world, &copy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_restored_in_another_cluster_has_no_leftovers_and_its_own_from_then_on() {
    let mut world = World::watching(&["ann"]).await;
    world.bridge.kill().await;
    let pool = database::pool(&world.bridge.database_url).await;
    sqlx::query("update database_identity set system_identifier = '1'").execute(&pool).await.unwrap();
    world.bridge.restart().await;
    leaves_the_originals(&world, &world.bridge).await;
    world.audit_of("WS_OPEN", 2).await;
    world.bridge.kill_and_restart().await;
    let cleaned = |seen: &genesys_simulator::genesys::Snapshot| seen.requests(Route::DeleteConnection) == 1;
    world.genesys.wait_until(cleaned, SOON).await.unwrap();
}

/// A bridge that generates its key in a folder of its own, and the key.
async fn with_a_key_of_its_own(database_url: &str) -> (Bridge, String, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let bridge =
        Bridge::start_on(database_url, &[("BRIDGE_API_KEY", UNSET), ("BRIDGE_DATA_DIR", folder)]).await;
    let key = std::fs::read_to_string(dir.path().join("api.key")).unwrap().trim().to_owned();
    (bridge, key, dir)
}

async fn status(bridge: &Bridge, key: &str) -> u16 {
    bridge.send_as(key, "GET", "/v1/webhooks", None).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_key_revokes_no_living_processs_key_but_that_of_a_dead_one() {
    let url = database::create().await;
    let (mut first, first_key, _dir) = with_a_key_of_its_own(&url).await;
    let (second, second_key, _second_dir) = with_a_key_of_its_own(&url).await;
    for bridge in [&first, &second] {
        assert_eq!((status(bridge, &first_key).await, status(bridge, &second_key).await), (200, 200));
    }
    first.kill().await;
    let (third, third_key, _third_dir) = with_a_key_of_its_own(&url).await;
    eventually("the dead one's key is revoked, the others are not", || async {
        let answers = (
            status(&third, &first_key).await,
            status(&third, &second_key).await,
            status(&third, &third_key).await,
        );
        (answers == (401, 200, 200)).then_some(())
    })
    .await;
    // What the operator sets is for all.
    drop(second);
    let configured = Bridge::start_on(&url, &[]).await;
    assert_eq!(
        (status(&configured, &third_key).await, configured.get("/v1/webhooks").await.status),
        (401, 200)
    );
}
