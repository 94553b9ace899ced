//! The log at its default level: trouble of receivers and sources is a line, and so is its end; never a line
//! for each delivery.

use std::time::Duration;

use genesys_simulator::cloud::{ClientState, Deed, Reach};
use genesys_simulator::crm::Behaviour;
use genesys_simulator::genesys::GenesysOptions;
use serde_json::{Value, json};

use crate::support::cloud::{CloudWorld, options};
use crate::support::look::hurry;
use crate::support::{Bridge, SOON, World, database, eventually};

const DEFAULT_LEVEL: (&str, &str) = ("BRIDGE_LOG", "info");

/// Lines of the log with this message.
fn lines(bridge: &Bridge, message: &str) -> Vec<Value> {
    let log = bridge.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"].as_str().is_some_and(|said| said.starts_with(message))).collect()
}

/// Waits for that many of them; gives them.
async fn wait_for(bridge: &Bridge, message: &str, count: usize) -> Vec<Value> {
    eventually(message, || async { Some(lines(bridge, message)).filter(|lines| lines.len() >= count) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_receivers_that_fail_are_nine_lines_and_nine_when_they_have_recovered() {
    let world = World::with_options(&["ann"], GenesysOptions::default(), &[DEFAULT_LEVEL]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let mut hooks = Vec::new();
    for number in 0..9 {
        let path = format!("/hooks/{number}");
        world.crm.always(&path, Behaviour::status(500));
        hooks.push(world.register_with(&path, json!({"retry_schedule_seconds": vec![1; 30]})).await);
    }
    for state in ["AVAILABLE", "BUSY", "AVAILABLE"] {
        world.genesys.set_presence("ann", state).await;
    }
    let attempts = "presence_bridge_delivery_attempts_total{outcome=\"http_5xx\"}";
    eventually("they have failed often", || async {
        hurry(&pool).await;
        (world.bridge.metric(attempts).await >= 90.0 && lines(&world.bridge, FAILS).len() >= 9).then_some(())
    })
    .await;
    let failing = lines(&world.bridge, FAILS);
    assert_eq!(failing.len(), 9, "{failing:#?}");
    let host = world.crm.url("/").split('/').nth(2).unwrap().to_owned();
    for hook in &hooks {
        let line = failing.iter().find(|line| line["webhook"] == hook["id"]).expect("a line about each");
        assert_eq!(
            (&line["level"], &line["outcome"], &line["host"]),
            (&json!("WARN"), &json!("http_5xx"), &json!(host))
        );
    }
    for number in 0..9 {
        world.crm.always(&format!("/hooks/{number}"), Behaviour::status(204));
    }
    eventually("they have recovered", || async {
        hurry(&pool).await;
        (lines(&world.bridge, RECOVERED).len() >= 9).then_some(())
    })
    .await;
    world.crm.always("/hooks/0", Behaviour::status(410));
    world.genesys.set_presence("ann", "MEAL").await;
    let disabled = wait_for(&world.bridge, "disabled a webhook", 1).await;
    assert_eq!(disabled[0]["webhook"], hooks[0]["id"]);
    assert_eq!((&disabled[0]["level"], &disabled[0]["reason"]), (&json!("WARN"), &json!("gone")));
    // Everything that the log says of receivers, after more than a hundred attempts.
    let log = world.bridge.log();
    let of_receivers = log.lines().filter(|line| line.contains("webhook") || line.contains("receiver"));
    assert_eq!(of_receivers.count(), 19, "{log}");
    assert!(lines(&world.bridge, RECOVERED).iter().all(|line| line["level"] == "INFO"));
}

const FAILS: &str = "a webhook's receiver fails";
const RECOVERED: &str = "a webhook's receiver has recovered";

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_up_loses_its_socket_or_is_handed_over_says_so() {
    let variables = [("GENESYS_AGENTS", "ann,bob"), ("GENESYS_STALE_AFTER_SECONDS", "5"), DEFAULT_LEVEL];
    let world = CloudWorld::starting(options(&["ann", "bob"]), &variables).await;
    let up = wait_for(&world.bridge, "source is up", 1).await;
    assert_eq!(
        (&up[0]["level"], &up[0]["agents"], &up[0]["sockets"]),
        (&json!("INFO"), &json!(2), &json!(1))
    );
    assert!(up[0]["source"].is_string());
    world.cloud.obey(Deed::Drop { reach: Reach::All });
    let lost = wait_for(&world.bridge, "lost a socket", 1).await;
    assert_eq!((&lost[0]["level"], &lost[0]["cause"]), (&json!("WARN"), &json!("socket_closed")));
    wait_for(&world.bridge, "source is up", 2).await;
    world.cloud.obey(Deed::Maintenance { reach: Reach::All, grace_ms: 8_000 });
    let handed = wait_for(&world.bridge, "handed a source's agents over", 1).await;
    assert_eq!(handed[0]["level"], "INFO");
    // Nobody lets it in: it is stale, which is one line too, whatever it tries.
    let client = |state| Deed::ClientState { client: "sim-client".into(), state };
    world.cloud.obey(client(ClientState::IpNotAllowed));
    world.cloud.obey(Deed::Drop { reach: Reach::All });
    let stale = wait_for(&world.bridge, "source is stale", 1).await;
    assert_eq!(stale[0]["level"], "WARN");
    world.cloud.obey(client(ClientState::Active));
    wait_for(&world.bridge, "source is up", 3).await;
    assert_eq!(lines(&world.bridge, "source is stale").len(), 1);
    assert_eq!(lines(&world.bridge, "lost a socket").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_bridge_had_leased_is_taken_over_with_a_line() {
    let mut world = World::with_options(&["ann"], GenesysOptions::default(), &[DEFAULT_LEVEL]).await;
    world.register("/hooks/slow").await;
    world.crm.always("/hooks/slow", Behaviour::status(204).after(Duration::from_secs(30)));
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_until(|posts| !posts.is_empty(), SOON).await.unwrap();
    world.bridge.kill_and_restart().await;
    let taken = wait_for(&world.bridge, "took over deliveries", 1).await;
    assert_eq!((&taken[0]["level"], &taken[0]["deliveries"]), (&json!("INFO"), &json!(1)));
}
