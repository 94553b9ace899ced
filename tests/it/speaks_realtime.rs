//! The original specification (docs/realtime.md), claim by claim: what it says the client must do, and the
//! defects of its code that ours must not have. Each test runs the program against the simulated platform.
//! What needs no socket (the backoff formula, the latency tracker, the topic rules) is held by tests next to
//! the rule.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use genesys_simulator::genesys::{Fault, GenesysOptions, Junk, Route, Tamper, Target};
use serde_json::json;

use crate::support::bridge::API_KEY;
use crate::support::look::all;
use crate::support::{SOON, World, database, eventually};

// Token, verification, provisioning
// -------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn it_logs_in_verifies_provisions_and_opens_in_that_order_and_writes_each_step_down() {
    let world = World::watching(&["ann"]).await;
    let seen = world.genesys.snapshot();
    assert_eq!(seen.requests(Route::Token), 1);
    assert!(seen.requests(Route::UsersMe) >= 1);
    assert_eq!(seen.requests(Route::CreateConnection), 1);
    let connection = &seen.connections[0];
    assert_eq!(connection.user_id, "ann");
    assert_eq!(connection.topics, ["routing:agent:state"]);
    assert_eq!(connection.heartbeat_interval, 15_000);
    let steps = ["INIT_START", "AUTH_SUCCESS", "CONNECTION_PROVISIONED", "WS_OPEN"];
    let mut ids = Vec::new();
    for step in steps {
        ids.push(world.audit_of(step, 1).await[0]["id"].as_i64().unwrap());
    }
    assert!(ids.is_sorted(), "{steps:?} have the ids {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_connections_share_one_token() {
    let agents = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let world = World::watching(&agents).await;
    assert_eq!(world.genesys.snapshot().requests(Route::Token), 1);
    let answer = world.bridge.post("/v1/sources", &source(&world, &[&agents[..], &["k"]].concat())).await;
    assert_eq!(answer.status, 422, "an eleventh agent is one too many: {}", answer.text());
}

fn source(world: &World, agents: &[&str]) -> serde_json::Value {
    json!({
        "name": "second", "protocol": "realtime", "api_url": world.genesys.api_url(), "client_id": "sim-client",
        "client_secret": "sim-secret", "agents": agents, "topic_matrix": {"state": ["routing:agent:state"]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topic_matrix_is_flattened_without_duplicates_in_order() {
    let topics =
        r#"{"a": ["routing:agent:state:queue", "routing:agent:state"], "b": ["routing:agent:state"]}"#;
    let world = World::with_options(&["ann"], GenesysOptions::default(), &[("GENESYS_TOPICS", topics)]).await;
    let seen = world.genesys.snapshot();
    assert_eq!(seen.connections[0].topics, ["routing:agent:state:queue", "routing:agent:state"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_groups_of_the_topic_matrix_keep_the_order_in_which_they_were_written() {
    const MATRIX: &str = r#"{"z": ["routing:agent:state:queue"], "a": ["routing:agent:state"], "m": ["routing:agent:state:history"]}"#;
    let in_order = ["routing:agent:state:queue", "routing:agent:state", "routing:agent:state:history"];
    let clients = ["sim-client", "second"].map(|id| (id.to_owned(), "sim-secret".to_owned()));
    let options = GenesysOptions { clients: clients.to_vec(), ..Default::default() };
    let world = World::with_options(&["ann"], options, &[("GENESYS_TOPICS", MATRIX)]).await;
    // Over the API too, where a name may be written with an escape.
    let fields = format!(
        r#"{{"name": "second", "protocol": "realtime", "api_url": "{}", "client_id": "second",
            "client_secret": "sim-secret", "agents": ["bob"], "topic\u005fmatrix": {MATRIX}}}"#,
        world.genesys.api_url()
    );
    let bearer = format!("Bearer {API_KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let made = world.bridge.send_raw("POST", "/v1/sources", &headers, Some(fields.into_bytes())).await;
    assert_eq!(made.status, 201, "{}", made.text());
    world.sockets_open(2).await;
    for agent in ["ann", "bob"] {
        assert_eq!(world.genesys.snapshot().connections_of(agent)[0].topics, in_order, "{agent}");
    }
    // Another order is a change.
    let source = format!("/v1/sources/{}", made.json()["id"].as_str().unwrap());
    let other = r#"{"topic_matrix": {"a": ["routing:agent:state"], "z": ["routing:agent:state:queue"]}}"#;
    let changed = world.bridge.send_raw("PATCH", &source, &headers, Some(other.as_bytes().to_vec())).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    eventually("bob's connection is made again", || async {
        let seen = world.genesys.snapshot();
        let topics = seen.connections_of("bob").first().map(|bob| bob.topics.clone())?;
        (topics == ["routing:agent:state", "routing:agent:state:queue"]).then_some(())
    })
    .await;
    let wrong = world.bridge.patch(&source, &json!({"topic_matrix": ["routing:agent:state"]})).await;
    assert_eq!((wrong.status, &wrong.json()["errors"][0]["pointer"]), (422, &json!("/topic_matrix")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_is_renewed_before_its_end_and_nothing_breaks() {
    let options = GenesysOptions { token_lifetime: Duration::from_secs(3), ..Default::default() };
    let world = World::with_options(&["ann"], options, &[]).await;
    world.genesys.wait_until(|seen| seen.requests(Route::Token) >= 3, SOON).await.unwrap();
    let seen = world.genesys.snapshot();
    assert_eq!(seen.connected(), 1);
    assert_eq!(seen.tally.statuses.get(&401), None, "no request was made with a token past its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refreshed_once_for_all_connections() {
    let agents = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let world = World::watching(&agents).await;
    world.genesys.expire_tokens();
    world.genesys.drop_sockets(Target::All);
    world
        .genesys
        .wait_until(|seen| seen.tally.sockets_opened >= 20 && seen.connected() == 10, SOON)
        .await
        .unwrap();
    assert_eq!(world.genesys.snapshot().requests(Route::Token), 2, "one refresh answers a storm of 401");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_told_and_not_hammered() {
    let options =
        GenesysOptions { clients: vec![("sim-client".into(), "another".into())], ..Default::default() };
    let world = World::starting(&["a", "b", "c"], options, &[]).await;
    let failed = world.audit_of("TOKEN_FAILED", 1).await;
    assert_eq!(failed[0]["level"], "ERROR");
    let before = world.genesys.snapshot().requests(Route::Token);
    assert!(before <= 3, "{before} requests");
    world.genesys.set_client("sim-client", "sim-secret");
    world.sockets_open(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_final_and_visible_until_somebody_acts() {
    let options = GenesysOptions::default();
    let world = World::starting(&["ann"], options, &[]).await;
    world.sockets_open(1).await;
    world.genesys.grant_presence_read("sim-client", false);
    world.genesys.drop_sockets(Target::All);
    world.audit_of("CONNECTION_REFUSED", 1).await;
    let id = connection(&world, "refused").await;
    let asked = world.genesys.snapshot().requests(Route::UsersMe);
    world.genesys.grant_presence_read("sim-client", true);
    assert_eq!(world.bridge.post(&format!("/v1/connections/{id}/restart"), &json!({})).await.status, 202);
    world.sockets_open(1).await;
    assert!(world.genesys.snapshot().requests(Route::UsersMe) > asked);
}

/// Waits until the only connection is in a state; gives its id.
async fn connection(world: &World, state: &str) -> String {
    eventually(state, || async {
        let page = world.bridge.get("/v1/connections").await.json();
        let connection = page["items"].get(0)?.clone();
        (connection["state"] == state).then(|| connection["id"].as_str().unwrap().to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_only_our_own_leftovers_are_deleted() {
    let options = GenesysOptions { connection_limit: 2, ..Default::default() };
    let world = World::starting(&["ann"], options, &[]).await;
    world.sockets_open(1).await;
    let ours = world.genesys.snapshot().connections[0].connection_id.clone();
    let outsider = outsider_connection(&world).await;
    // Deleting fails once, so the next provisioning meets the limit with our own leftover in the list.
    world.genesys.fault(Route::DeleteConnection, Fault::status(500));
    world.genesys.drop_sockets(Target::Connection(ours.clone()));
    world.audit_of("LIMIT_MET", 1).await;
    world.sockets_open(1).await;
    let ids: Vec<_> = world.genesys.snapshot().connections.iter().map(|c| c.connection_id.clone()).collect();
    assert!(ids.contains(&outsider), "another program's connection is not ours to delete");
    assert!(!ids.contains(&ours));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_asked_for_when_it_was_killed_does_not_shut_the_next_one_out() {
    let agents: Vec<String> = (0..8).map(|n| format!("agent-{n}")).collect();
    let names: Vec<&str> = agents.iter().map(String::as_str).collect();
    let mut world = World::watching(&names).await;
    let outsider = outsider_connection(&world).await;
    // All connect again; the platform makes each connection, and its answer is still under way when the
    // process dies.
    let asked = world.genesys.snapshot().requests(Route::CreateConnection);
    world.genesys.tamper(Tamper::Late(60_000), 8);
    world.genesys.drop_sockets(Target::All);
    let made = |seen: &genesys_simulator::genesys::Snapshot| {
        seen.requests(Route::CreateConnection) == asked + 8
            && seen.connections.len() == 9
            && seen.connected() == 0
    };
    world.genesys.wait_until(made, SOON).await.unwrap();
    world.bridge.kill().await;
    world.genesys.clear_faults();
    // What was made at another time for one of our agents is somebody else's.
    let pool = database::pool(&world.bridge.database_url).await;
    let moved =
        "update provisioning set begun_at = begun_at - interval '5 minutes' where agent_id = 'agent-0'";
    assert_eq!(sqlx::query(moved).execute(&pool).await.unwrap().rows_affected(), 1);
    let others = world.genesys.snapshot().connections_of("agent-0")[0].connection_id.clone();
    world.bridge.restart().await;
    world.sockets_open(8).await;
    let ids: Vec<_> = world.genesys.snapshot().connections.iter().map(|c| c.connection_id.clone()).collect();
    assert!(
        ids.contains(&outsider) && ids.contains(&others),
        "another program's connection is not ours to delete"
    );
    assert_eq!(ids.len(), 10);
    eventually("every request is answered on record", || async {
        let open = "select count(*) from provisioning where begun_at > now() - interval '4 minutes' and process_lives(process_id)";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&pool).await.unwrap();
        (open == 0).then_some(())
    })
    .await;
}

/// Another program provisions a connection with the same client.
async fn outsider_connection(world: &World) -> String {
    let client = crate::support::client::Client::new(world.genesys.api_url());
    let form = b"grant_type=client_credentials&client_id=sim-client&client_secret=sim-secret".to_vec();
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let token = client.try_send("POST", "/api/v2/oauth/token", &headers, Some(form)).await.unwrap().json();
    let bearer = format!("Bearer {}", token["access_token"].as_str().unwrap());
    let body = json!({"userId": "stranger", "topics": ["routing:agent:state"], "heartbeatInterval": 15000});
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let path = "/api/v2/realtime/connections";
    let made = client.try_send("POST", path, &headers, Some(body.to_string().into_bytes())).await.unwrap();
    assert_eq!(made.status, 200, "{}", made.text());
    made.json()["connectionId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_address_on_a_foreign_host_is_not_dialled() {
    let genesys = GenesysOptions::default();
    let world = World::starting(&["ann"], genesys, &[]).await;
    world.sockets_open(1).await;
    world.genesys.tamper(Tamper::WsUrl("ws://elsewhere.example/realtime/ws/CANARY".into()), 1);
    world.genesys.drop_sockets(Target::All);
    let told = world.audit_of("WS_INIT_ERROR", 1).await;
    assert!(
        !told[0]["data"].to_string().contains("ws://"),
        "the address stays out of the audit log: {}",
        told[0]
    );
    world.sockets_open(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_lack_what_they_must_hold_are_tried_again() {
    for tamper in [
        Tamper::NoAccessToken,
        Tamper::NoUserId,
        Tamper::NoWsUrl,
        Tamper::ExpiresIn(0),
        Tamper::ExpiresIn(-5),
        Tamper::NoExpiresIn,
    ] {
        let world = World::watching(&["ann"]).await;
        let name = format!("{tamper:?}");
        world.genesys.tamper(tamper, 1);
        world.genesys.expire_tokens();
        world.genesys.drop_sockets(Target::All);
        world
            .genesys
            .wait_until(|seen| seen.tally.sockets_opened >= 2 && seen.connected() == 1, SOON)
            .await
            .unwrap_or_else(|_| panic!("{name}: no socket again; log:\n{}", world.bridge.log()));
        let tokens = world.genesys.snapshot().requests(Route::Token);
        assert!(tokens <= 6, "{name}: {tokens} token requests are a hot loop");
    }
}

// The socket
// ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn pings_of_both_kinds_are_answered() {
    let world = World::with_options(
        &["ann"],
        GenesysOptions::default(),
        &[("GENESYS_HEARTBEAT_INTERVAL_MS", "1000")],
    )
    .await;
    let seen =
        world.genesys.wait_until(|s| s.tally.json_pongs >= 2 && s.tally.rfc_pongs >= 2, SOON).await.unwrap();
    assert_eq!((seen.tally.pongs_missed, seen.tally.sockets_opened), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_is_measured_by_our_own_round_trips() {
    let world = World::with_options(
        &["ann"],
        GenesysOptions::default(),
        &[("GENESYS_HEARTBEAT_INTERVAL_MS", "1000")],
    )
    .await;
    let connection = eventually("ten samples", || async {
        let page = world.bridge.get("/v1/connections").await.json();
        let connection = page["items"][0].clone();
        (connection["samples"].as_u64()? >= 10).then_some(connection)
    })
    .await;
    let average = connection["averageLatency"].as_f64().unwrap();
    assert!(average > 0.0 && average < 1000.0, "{connection}");
    assert!(connection["stabilityRate"].as_f64().unwrap() > 0.0, "{connection}");
    let seen = world.genesys.snapshot();
    let upstream = seen.connections[0].connection_id.as_str();
    assert_eq!(connection["connectionId"], upstream);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_close_that_we_did_not_ask_for_is_followed_by_a_reconnect() {
    for code in [1000, 1001, 1008, 1011, 1012, 4000] {
        let world = World::watching(&["ann"]).await;
        world.register("/hooks/a").await;
        world.genesys.close_sockets(Target::All, code, "maintenance");
        reopened(&world, 2).await;
        world.genesys.set_presence("ann", "AVAILABLE").await;
        world.crm.wait_for(1, SOON).await.unwrap_or_else(|_| panic!("after close {code}"));
        let closed = world.audit_of("WS_CLOSE", 1).await;
        assert_eq!(closed[0]["status"], code, "{}", closed[0]);
    }
}

async fn reopened(world: &World, sockets: u64) {
    let reopened = |seen: &genesys_simulator::genesys::Snapshot| {
        seen.tally.sockets_opened >= sockets && seen.connected() == 1
    };
    world
        .genesys
        .wait_until(reopened, SOON)
        .await
        .unwrap_or_else(|_| panic!("no socket again; log:\n{}", world.bridge.log()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_cut_or_reset_is_replaced_and_nothing_leaks_upstream() {
    let world = World::watching(&["ann"]).await;
    for (round, cut) in [(2, true), (3, false), (4, true)] {
        if cut {
            world.genesys.drop_sockets(Target::All);
        } else {
            world.genesys.reset_sockets(Target::All);
        }
        reopened(&world, round).await;
    }
    let seen = world.genesys.snapshot();
    assert_eq!(seen.connections.len(), 1, "each reconnect deletes what it replaces");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_handshake_is_not_the_end() {
    let world = World::watching(&["ann"]).await;
    world.genesys.fault(Route::Upgrade, Fault::status(503).times(2));
    world.genesys.drop_sockets(Target::All);
    reopened(&world, 2).await;
    assert!(world.audit_of("WS_INIT_ERROR", 2).await.len() >= 2);
    assert!(!world.audit_of("RECONNECT_SCHEDULED", 1).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_while_the_platform_is_down_ends_well() {
    let options = GenesysOptions::default();
    let world = World::starting(&["ann"], options, &[]).await;
    world.sockets_open(1).await;
    world.genesys.fault(Route::Token, Fault::status(503).times(3));
    world.genesys.expire_tokens();
    let mut world = world;
    world.bridge.kill_and_restart().await;
    world.sockets_open(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_noticed_and_the_socket_replaced() {
    let world = World::with_options(
        &["ann"],
        GenesysOptions::default(),
        &[("GENESYS_HEARTBEAT_INTERVAL_MS", "1000")],
    )
    .await;
    world.genesys.silence(Target::All);
    world.audit_of("HEARTBEAT_MISSED", 1).await;
    reopened(&world, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_connection_closes_with_1000_is_deleted_upstream_and_stays_down() {
    let world = World::watching(&["ann"]).await;
    let id = connection(&world, "open").await;
    assert_eq!(world.bridge.post(&format!("/v1/connections/{id}/terminate"), &json!({})).await.status, 202);
    let seen = world.genesys.wait_until(|seen| seen.connections.is_empty(), SOON).await.unwrap();
    let close = seen.tally.closes.back().expect("a close frame");
    assert_eq!((close.code, close.reason.as_str()), (Some(1000), "Client initiated shutdown"));
    world.audit_of("CONNECTION_TERMINATED", 1).await;
    connection(&world, "terminated").await;
    let posts = |world: &World| world.genesys.snapshot().requests(Route::CreateConnection);
    let before = posts(&world);
    assert_eq!(world.bridge.post(&format!("/v1/connections/{id}/restart"), &json!({})).await.status, 202);
    world.sockets_open(1).await;
    assert_eq!(posts(&world), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn terminating_during_a_backoff_does_not_let_the_timer_resurrect_it() {
    let world = World::watching(&["ann"]).await;
    world.genesys.fault(Route::CreateConnection, Fault::status(503).forever());
    world.genesys.drop_sockets(Target::All);
    let id = connection(&world, "backing_off").await;
    assert_eq!(world.bridge.post(&format!("/v1/connections/{id}/terminate"), &json!({})).await.status, 202);
    connection(&world, "terminated").await;
    world.genesys.clear_faults();
    // A fence: a restart later opens exactly one socket, so no timer of before the terminate did.
    let opened = world.genesys.snapshot().tally.sockets_opened;
    assert_eq!(world.bridge.post(&format!("/v1/connections/{id}/restart"), &json!({})).await.status, 202);
    world.sockets_open(1).await;
    assert_eq!(world.genesys.snapshot().tally.sockets_opened, opened + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_are_kept_counted_and_harm_nothing() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    for junk in [Junk::NotJson, Junk::Binary, Junk::Array] {
        world.genesys.send_junk(Target::All, junk);
    }
    let kept = world.audit_of("FRAME_REJECTED", 3).await;
    let mut bytes = Vec::new();
    for entry in &kept {
        let id = entry["data"]["quarantine"].as_str().unwrap();
        let piece = world.bridge.get(&format!("/v1/quarantine/{id}")).await.json();
        assert_eq!((&piece["reason"], &piece["size"]), (&entry["data"]["reason"], &entry["data"]["bytes"]));
        assert_eq!(piece["connection_id"], entry["connection_id"]);
        bytes.push(BASE64.decode(piece["bytes"].as_str().unwrap()).unwrap());
    }
    assert!(bytes.iter().any(|bytes| bytes.starts_with(b"this is not JSON")), "{bytes:?}");
    let listed = world.bridge.get("/v1/quarantine?limit=2").await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    assert!(listed["next_cursor"].is_string() && listed["items"][0]["bytes"].is_null());
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    assert_eq!(world.genesys.snapshot().tally.sockets_opened, 1, "the socket stays open");
    assert!(world.bridge.metric("presence_bridge_frames_rejected_total").await >= 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_flood_of_malformed_frames_a_bounded_part_is_kept_and_the_rest_is_counted() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    for _ in 0..400 {
        world.genesys.send_junk(Target::All, Junk::NotJson);
    }
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    let kept = eventually("the flood is over", || async {
        let withheld = world.bridge.metric("presence_bridge_quarantine_withheld_total").await;
        let kept = all(&world.bridge, "/v1/quarantine").await.len();
        (withheld + kept as f64 == 400.0).then_some(kept)
    })
    .await;
    // A minute may have begun meanwhile.
    assert!(kept == 60 || kept == 120, "{kept}");
    let told = world.audit("FRAME_REJECTED").await;
    assert!(told.iter().any(|entry| entry["data"]["reason"] == "too_many"));
    assert_eq!(world.genesys.snapshot().tally.sockets_opened, 1, "the socket stays open");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_any_shape_becomes_an_event_with_its_bytes() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    for junk in [Junk::EmptyObject, Junk::NulEscape, Junk::HugeNumber, Junk::Nested, Junk::NoUser] {
        world.genesys.send_junk(Target::All, junk);
    }
    let posts = world.crm.wait_for(5, SOON).await.unwrap();
    assert!(posts.iter().all(|post| post.verdict.is_ok()));
    let bodies: Vec<_> = posts.iter().map(|post| String::from_utf8_lossy(&post.body).into_owned()).collect();
    assert!(bodies[0].contains(r#""presence":null"#) && bodies[0].contains(r#""raw":{}"#), "{}", bodies[0]);
    assert!(bodies.iter().any(|body| body.contains(r#""state":"A\u0000B""#)), "NUL stays escaped in raw");
    assert!(bodies.iter().any(|body| body.contains("1e400")), "a number no double can hold stays as it is");
    assert!(
        bodies.iter().all(|body| body.contains(r#""agent":{"id":"ann","#)),
        "the connection tells the agent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_protocol_cost_the_socket_and_nothing_else() {
    for junk in [
        Junk::InvalidUtf8,
        Junk::OversizedHeader,
        Junk::Masked,
        Junk::ReservedBit,
        Junk::UnknownOpcode,
        Junk::Fragments(2000),
        Junk::Long(300_000),
    ] {
        let name = format!("{junk:?}");
        let world = World::watching(&["ann"]).await;
        world.register("/hooks/a").await;
        world.genesys.send_junk(Target::All, junk);
        world
            .genesys
            .wait_until(|seen| seen.tally.sockets_opened >= 2 && seen.connected() == 1, SOON)
            .await
            .unwrap_or_else(|_| panic!("{name}: no socket again; log:\n{}", world.bridge.log()));
        world.genesys.set_presence("ann", "AVAILABLE").await;
        world.crm.wait_for(1, SOON).await.unwrap_or_else(|_| panic!("{name}: nothing arrives"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_pings_is_answered_and_survived() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.genesys.send_junk(Target::All, Junk::Pings(5000));
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_without_coverage_is_a_gap_on_record() {
    let world = World::watching(&["ann"]).await;
    world.genesys.fault(Route::CreateConnection, Fault::status(503));
    world.genesys.drop_sockets(Target::All);
    reopened(&world, 2).await;
    let gap = eventually("a closed gap", || async {
        let page = world.bridge.get("/v1/gaps").await.json();
        page["items"].as_array()?.iter().find(|gap| gap["to"].is_string()).cloned()
    })
    .await;
    assert_eq!(gap["agents"], json!(["ann"]));
    world.audit_of("GAP_DETECTED", 1).await;
}
