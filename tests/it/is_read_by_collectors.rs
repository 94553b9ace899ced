//! Metrics that Prometheus and its libraries read without complaint, and that tell a dead receiver from the
//! rest.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use genesys_simulator::crm::Behaviour;
use genesys_simulator::genesys::GenesysOptions;
use serde_json::json;

use crate::support::bridge::Bridge;
use crate::support::look::hurry;
use crate::support::neighbour::{install, neighbour};
use crate::support::{SOON, World, database, eventually};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// As Prometheus 2.42 asks.
const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// Content type and page for this `Accept`.
async fn page(bridge: &Bridge, accept: &str) -> (String, String) {
    let answer = bridge.send_raw("GET", "/metrics", &[("accept", accept)], None).await;
    (answer.headers["content-type"].to_str().unwrap().to_owned(), answer.text())
}

/// What a program says about a page that it gets as its input; empty if it has nothing to say.
fn complaints(mut program: Command, page: &str) -> String {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if ran.status.success() { said } else { format!("{}: {said}", ran.status) }
}

fn python_parser(module: &str) -> Command {
    let read = format!(
        "import sys; from prometheus_client.{module}parser import text_string_to_metric_families as read; \
         assert len(list(read(sys.stdin.read()))) > 20"
    );
    let mut python = Command::new(Path::new(ROOT).join("target/verifiers/python/bin/python"));
    python.args(["-c", &read]);
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_and_its_python_library_read_both_formats() {
    install("install-verifiers");
    let world =
        World::with_options(&["ann"], GenesysOptions::default(), &[("BRIDGE_METRICS_WEBHOOKS", "10")]).await;
    // Dead before anything was delivered: `increase()` needs the series before the first count.
    let (plain, before) = page(&world.bridge, "*/*").await;
    assert_eq!(plain, "text/plain; version=0.0.4; charset=utf-8");
    assert!(before.contains("presence_bridge_deliveries_total{outcome=\"dead\"} 0\n"), "{before}");
    world.crm.always("/hooks/dead", Behaviour::status(500));
    world.register_with("/hooks/dead", json!({"retry_schedule_seconds": []})).await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    eventually("a dead delivery is counted", || async {
        (world.bridge.metric("presence_bridge_deliveries_total{outcome=\"dead\"}").await >= 1.0).then_some(())
    })
    .await;
    let calls = world.bridge.metric("presence_bridge_upstream_calls_total{outcome=\"ok\"}").await;
    assert!(calls >= 2.0, "a token and a connection were asked for: {calls}");

    let (_, prometheus) = page(&world.bridge, "text/plain;version=0.0.4").await;
    let (kind, open_metrics) = page(&world.bridge, PROMETHEUS).await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(complaints(python_parser("openmetrics."), &open_metrics), "");
    assert_eq!(complaints(python_parser(""), &prometheus), "");
    if let Some(mut promtool) = neighbour("promtool") {
        promtool.args(["check", "metrics"]);
        assert_eq!(complaints(promtool, &prometheus), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_does_not_hide_how_the_others_are() {
    let world =
        World::with_options(&["ann"], GenesysOptions::default(), &[("BRIDGE_METRICS_WEBHOOKS", "1")]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let (well, dead) = (world.register("/hooks/well").await, world.register("/hooks/dead").await);
    let paused = world.register("/hooks/paused").await;
    assert_eq!(world.bridge.post(&format!("/v1/webhooks/{paused}/pause"), &json!({})).await.status, 200);
    world.crm.always("/hooks/dead", Behaviour::status(500));
    world.genesys.set_presence("ann", "AVAILABLE").await;
    eventually("the receiver is noticed as failing", || async {
        hurry(&pool).await;
        let webhook = world.bridge.get(&format!("/v1/webhooks/{dead}")).await.json();
        (webhook["health"]["failures"].as_u64()? >= 5).then_some(())
    })
    .await;
    world.crm.wait_until(|posts| posts.iter().any(|post| post.path() == "/hooks/well"), SOON).await.unwrap();
    let metric = async |name: &str| world.bridge.metric(&format!("presence_bridge_{name}")).await;
    eventually("the states are counted", || async {
        let mut webhooks = Vec::new();
        for state in ["active", "failing", "paused", "disabled"] {
            webhooks.push(metric(&format!("webhooks{{webhook_state=\"{state}\"}}")).await);
        }
        (webhooks == [1.0, 1.0, 1.0, 0.0]).then_some(())
    })
    .await;
    for (state, open) in [("active", 0.0), ("failing", 1.0), ("paused", 1.0)] {
        let label = format!("{{webhook_state=\"{state}\"}}");
        assert_eq!(metric(&format!("backlog_deliveries{label}")).await, open, "{state}");
        let oldest = metric(&format!("oldest_pending_seconds{label}")).await;
        assert_eq!(oldest > 0.0, open > 0.0, "{state} waits {oldest} s");
    }
    let is_single = |line: &&str| line.starts_with("presence_bridge_webhook_backlog_deliveries{");
    let page = eventually("as many webhooks are shown as were asked for", || async {
        let (_, page) = page(&world.bridge, "*/*").await;
        (page.lines().filter(is_single).count() == 1).then_some(page)
    })
    .await;
    assert!(!page.contains(&format!("webhook=\"{well}\"")), "nothing waits for it: {page}");
}
