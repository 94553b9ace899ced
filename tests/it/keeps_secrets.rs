//! Secrets, tokens and socket addresses appear in no log, answer, metric, audit entry or dump, however encoded.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use genesys_simulator::crm::Behaviour;
use genesys_simulator::genesys::{Fault, GenesysOptions, Route, Tamper, Target};
use serde_json::json;

use crate::support::bridge::{API_KEY, MASTER_KEY};
use crate::support::{World, eventually};

const CLIENT_SECRET: &str = "canary-client-secret-5f2e";
const SOCKET_KEY: &str = "canary-socket-key-77aa";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_appears_anywhere_even_when_things_fail() {
    let options =
        GenesysOptions { clients: vec![("sim-client".into(), CLIENT_SECRET.into())], ..Default::default() };
    let variables = [("GENESYS_CLIENT_SECRET", CLIENT_SECRET), ("BRIDGE_LOG", "trace")];
    let world = World::with_options(&["ann", "bob"], options, &variables).await;
    let hook = world.register_with("/hooks/a?key=canary-query-key", json!({})).await;
    let webhook_secret = hook["secret"].as_str().unwrap().trim_start_matches("whsec_").to_owned();
    world.crm.next("/hooks/a", [Behaviour::status(500).body("no")]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("DELIVERY_ATTEMPT", 1).await;
    world.genesys.fault(Route::Upgrade, Fault::status(503));
    world.genesys.tamper(Tamper::WsUrl(format!("ws://elsewhere.example/realtime/ws/{SOCKET_KEY}")), 1);
    world.genesys.expire_tokens();
    world.genesys.fault(Route::UsersMe, Fault::status(403).times(1));
    world.genesys.drop_sockets(Target::All);
    world.audit_of("WS_INIT_ERROR", 1).await;
    world.bridge.send_raw("GET", "/v1/webhooks", &[("authorization", "Bearer canary-wrong-key")], None).await;
    let token =
        world.genesys.snapshot().tally.last_authorization.unwrap().trim_start_matches("Bearer ").to_owned();

    let mut places = vec![("log", world.bridge.log())];
    for path in [
        "/v1/audit?limit=200",
        "/v1/webhooks",
        "/v1/sources",
        "/v1/connections",
        "/v1/deliveries",
        "/v1/events",
        "/metrics",
        "/readyz",
    ] {
        let text = world.bridge.get(path).await.text();
        // The owner's own address, with its query, is shown to who has the admin key, and nowhere else.
        let text = if path == "/v1/webhooks" { text.replace("canary-query-key", "") } else { text };
        places.push((path, text));
    }
    places.push(("dump", dump(&world.bridge.database_url).await));
    let canaries = [
        ("client secret", CLIENT_SECRET),
        ("API key", API_KEY),
        ("master key", MASTER_KEY),
        ("webhook secret", &webhook_secret),
        ("token", &token),
        ("socket address", SOCKET_KEY),
        ("wrong key", "canary-wrong-key"),
    ];
    for (place, text) in &places {
        assert!(!text.is_empty(), "{place} is empty");
        for (name, canary) in canaries {
            for form in forms(canary) {
                assert!(!text.contains(&form), "{place} holds the {name} as {form}");
            }
        }
    }
    let log = world.bridge.log();
    assert!(!log.contains("canary-query-key"), "the log holds a receiver's query");
}

/// Raw, base64 (with and without its own alignment), hex, percent-encoded.
fn forms(canary: &str) -> Vec<String> {
    let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = canary.bytes().map(|byte| format!("%{byte:02X}")).collect();
    vec![
        canary.to_owned(),
        STANDARD.encode(canary).trim_end_matches('=').to_owned(),
        URL_SAFE_NO_PAD.encode(canary),
        hex.to_uppercase(),
        hex,
        percent,
    ]
}

async fn dump(url: &str) -> String {
    let program = eventually("pg_dump", || async {
        let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut found: Vec<_> =
            installed.map(|dir| dir.path().join("bin/pg_dump")).filter(|p| p.exists()).collect();
        found.sort();
        Some(found.pop().unwrap_or_else(|| "pg_dump".into()))
    })
    .await;
    let output = Command::new(program).arg(url).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
