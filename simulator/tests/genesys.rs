//! The simulated Genesys Cloud, driven by an independent WebSocket client and plain REST.

#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as loudly as tests"
)]
mod client;

use std::time::Duration;

use client::{Client, SECOND};
use genesys_simulator::genesys::{Fate, Fault, Genesys, GenesysOptions, Junk, Route, Tamper, Target, Verb};
use genesys_simulator::http::Api;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn gives_tokens_for_a_form_and_for_basic() {
    let genesys = client::genesys().await;
    let api = Api::new(&genesys.api_url());
    let form = "application/x-www-form-urlencoded";
    let good = "grant_type=client_credentials&client_id=sim-client&client_secret=sim-secret";
    let reply = api
        .post_text("/api/v2/oauth/token", form, good.into())
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["token_type"], "bearer");
    assert_eq!(reply.json()["expires_in"], 86_400);
    assert!(reply.header("inin-correlation-id").is_some());

    let wrong = good.replace("sim-secret", "guess");
    let reply = api.post_text("/api/v2/oauth/token", form, wrong).await.unwrap();
    assert_eq!(
        (reply.status, &reply.json()["error"]),
        (401, &json!("invalid_client"))
    );
    for body in [
        "client_id=sim-client&client_secret=sim-secret",
        "grant_type=password",
    ] {
        assert_eq!(
            api.post_text("/api/v2/oauth/token", form, body.into())
                .await
                .unwrap()
                .status,
            400
        );
    }
    let reply = api
        .post_text("/api/v2/oauth/token", "application/json", "{}".into())
        .await
        .unwrap();
    assert_eq!(reply.status, 400);
    assert_eq!(genesys.snapshot().requests(Route::Token), 5);
    assert_eq!(genesys.snapshot().tally.tokens_issued, 1);
}

#[tokio::test]
async fn believes_a_token_until_it_expires_and_a_client_until_it_may_not() {
    let genesys = client::genesys().await;
    let client = Client::new(&genesys).await;
    assert_eq!(client.api.get("/api/v2/users/me").await.unwrap().status, 200);
    assert!(
        genesys
            .snapshot()
            .tally
            .last_authorization
            .unwrap()
            .starts_with("Bearer sim-")
    );

    genesys.grant_presence_read("sim-client", false);
    let reply = client.api.get("/api/v2/users/me").await.unwrap();
    assert_eq!((reply.status, &reply.json()["status"]), (403, &json!(403)));
    genesys.grant_presence_read("sim-client", true);

    assert_eq!(genesys.expire_tokens(), 1);
    let reply = client.api.get("/api/v2/users/me").await.unwrap();
    assert_eq!(
        (reply.status, &reply.json()["code"]),
        (401, &json!("bad.credentials"))
    );
    assert!(reply.json()["contextId"].is_string());

    genesys.set_token_lifetime(Duration::ZERO);
    let client = Client::new(&genesys).await;
    assert_eq!(client.api.get("/api/v2/users/me").await.unwrap().status, 401);
}

#[tokio::test]
async fn judges_a_connection_request_by_shape_then_by_value() {
    let genesys = client::genesys().await;
    let client = Client::new(&genesys).await;
    let topic = "routing:agent:state";
    let cases = [
        (400, json!({"topics": [topic], "heartbeatInterval": 15_000})),
        (
            400,
            json!({"userId": 7, "topics": [topic], "heartbeatInterval": 15_000}),
        ),
        (
            400,
            json!({"userId": "a", "topics": {"state": [topic]}, "heartbeatInterval": 15_000}),
        ),
        (
            400,
            json!({"userId": "a", "topics": [[topic]], "heartbeatInterval": 15_000}),
        ),
        (400, json!({"userId": "a", "topics": [topic]})),
        (
            400,
            json!({"userId": "a", "topics": [topic], "heartbeatInterval": "15000"}),
        ),
        (
            422,
            json!({"userId": "a", "topics": [], "heartbeatInterval": 15_000}),
        ),
        (
            422,
            json!({"userId": "a", "topics": vec![topic; 101], "heartbeatInterval": 15_000}),
        ),
        (
            422,
            json!({"userId": "a", "topics": ["v2.users.a.presence"], "heartbeatInterval": 15_000}),
        ),
        (
            422,
            json!({"userId": "a", "topics": [topic], "heartbeatInterval": 99}),
        ),
        (
            422,
            json!({"userId": "a", "topics": [topic], "heartbeatInterval": 300_001}),
        ),
        (
            200,
            json!({"userId": "a", "topics": vec![topic; 100], "heartbeatInterval": 100}),
        ),
    ];
    for (status, body) in cases {
        let reply = client
            .api
            .post("/api/v2/realtime/connections", &body)
            .await
            .unwrap();
        assert_eq!(reply.status, status, "{body} {}", reply.excerpt());
    }
    let reply = client
        .api
        .post_text("/api/v2/realtime/connections", "application/json", "{".into())
        .await
        .unwrap();
    assert_eq!(reply.status, 400);
    let reply = client
        .api
        .post_text("/api/v2/realtime/connections", "text/plain", "{}".into())
        .await
        .unwrap();
    assert_eq!(reply.status, 415);
    let stranger = Api::new(&genesys.api_url());
    assert_eq!(
        stranger
            .post("/api/v2/realtime/connections", &json!({}))
            .await
            .unwrap()
            .status,
        401
    );
}

#[tokio::test]
async fn holds_ten_connections_a_client_until_one_is_deleted() {
    let genesys = Genesys::start(GenesysOptions {
        clients: vec![
            ("sim-client".into(), "sim-secret".into()),
            ("other".into(), "secret".into()),
        ],
        ..GenesysOptions::default()
    });
    let genesys = genesys.await.unwrap();
    let client = Client::new(&genesys).await;
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(client.provision(&format!("agent-{number}"), 15_000).await.0);
    }
    let body = Client::wish("agent-10", 15_000);
    assert_eq!(
        client
            .api
            .post("/api/v2/realtime/connections", &body)
            .await
            .unwrap()
            .status,
        409
    );
    let list = client
        .api
        .get("/api/v2/realtime/connections")
        .await
        .unwrap()
        .json();
    assert_eq!(list["entities"].as_array().unwrap().len(), 10);
    assert_eq!(list["entities"][0]["userId"], "agent-0");
    assert_eq!(list["entities"][0]["connected"], false);

    let other = Client::with(&genesys, "other", "secret").await;
    let path = format!("/api/v2/realtime/connections/{}", ids[3]);
    assert_eq!(other.api.delete(&path).await.unwrap().status, 404);
    assert_eq!(
        other
            .api
            .get("/api/v2/realtime/connections")
            .await
            .unwrap()
            .json()["entities"],
        json!([])
    );
    assert_eq!(client.api.delete(&path).await.unwrap().status, 204);
    assert_eq!(client.api.delete(&path).await.unwrap().status, 404);
    assert_eq!(
        client
            .api
            .post("/api/v2/realtime/connections", &body)
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn writes_changes_in_order_and_keeps_the_truth_about_each() {
    let genesys = client::genesys().await;
    let client = Client::new(&genesys).await;
    let unwatched = genesys.set_presence("a", "AVAILABLE").await;
    assert_eq!((unwatched.number, unwatched.fate), (1, Fate::Unwatched));

    let mut socket = client.open("a", 60_000).await;
    let change = genesys.set_presence("a", "ON_QUEUE").await;
    assert_eq!((change.number, change.fate), (2, Fate::Written));
    assert_eq!(
        (change.old.as_deref(), change.new.as_str()),
        (Some("AVAILABLE"), "ON_QUEUE")
    );
    for number in 3..50 {
        assert_eq!(
            genesys.push_presence("a", if number % 2 == 0 { "BUSY" } else { "AWAY" }),
            number
        );
    }
    for number in 2..50 {
        let frame = socket.json().await;
        assert_eq!(
            (&frame["type"], &frame["userId"], &frame["n"]),
            (&json!("update"), &json!("a"), &json!(number))
        );
    }
    let raw = genesys
        .set_presence_raw("a", "MEAL", r#"{"odd":true,"n":$n,"timestamp":"$timestamp"}"#)
        .await;
    assert_eq!(socket.text().await, raw.frame.as_ref());
    assert_eq!(genesys.repeat_last(Target::All), 1);
    assert_eq!(socket.text().await, raw.frame.as_ref());
    genesys
        .wait_until(|snapshot| snapshot.written == 49, SECOND)
        .await
        .unwrap();
    assert_eq!(genesys.state_of("a").as_deref(), Some("MEAL"));

    assert_eq!(genesys.silence(Target::Agent("a".into())), 1);
    assert_eq!(genesys.set_presence("a", "BREAK").await.fate, Fate::Lost);
    assert_eq!(genesys.resume(Target::All), 1);
    assert_eq!(genesys.set_presence("a", "AVAILABLE").await.fate, Fate::Written);
    assert_eq!(socket.json().await["state"], "AVAILABLE");
}

#[tokio::test]
async fn pings_both_ways_and_closes_with_1001_when_no_pong_comes() {
    let genesys = client::genesys().await;
    let client = Client::new(&genesys).await;
    let mut socket = client.open("a", 100).await;
    // Tungstenite answers the ping frames by itself; the JSON pings are ours to answer.
    for _ in 0..3 {
        assert_eq!(socket.json().await, json!({"type": "ping"}));
        socket.send(Message::text(r#"{"type":"pong"}"#)).await;
    }
    socket.send(Message::text(r#"{"type":"ping"}"#)).await;
    let mut answer = socket.json().await;
    while answer["type"] == "ping" {
        answer = socket.json().await;
    }
    assert_eq!(answer, json!({"type": "pong"}));
    let snapshot = genesys
        .wait_until(|snapshot| snapshot.tally.rfc_pongs >= 3, SECOND)
        .await
        .unwrap();
    assert!(snapshot.tally.json_pongs >= 3 && snapshot.tally.json_pings == 1);

    assert_eq!(
        socket.closed().await,
        Some((1001, "Going Away: pong missed".into()))
    );
    let snapshot = genesys
        .wait_until(|snapshot| snapshot.connected() == 0, SECOND)
        .await
        .unwrap();
    assert_eq!(snapshot.tally.pongs_missed, 1);
    // The connection itself is kept until it is deleted.
    assert_eq!(snapshot.connections.len(), 1);
}

#[tokio::test]
async fn opens_one_socket_a_connection_and_hears_how_it_is_closed() {
    let genesys = client::genesys().await;
    let client = Client::new(&genesys).await;
    let (id, url) = client.provision("a", 60_000).await;
    let mut socket = Client::connect(&url).await.unwrap();
    assert_eq!(Client::connect(&url).await.err(), Some(409));
    assert_eq!(Client::connect(&format!("{url}x")).await.err(), Some(404));
    socket.close(1000, "Client initiated shutdown").await;
    let snapshot = genesys
        .wait_until(|snapshot| snapshot.connected() == 0, SECOND)
        .await
        .unwrap();
    let close = snapshot.tally.closes.back().unwrap();
    assert_eq!(
        (close.code, close.reason.as_str()),
        (Some(1000), "Client initiated shutdown")
    );

    let mut socket = Client::connect(&url).await.unwrap();
    assert_eq!(
        client
            .api
            .delete(&format!("/api/v2/realtime/connections/{id}"))
            .await
            .unwrap()
            .status,
        204
    );
    assert_eq!(socket.closed().await, Some((1000, "connection deleted".into())));
}

#[tokio::test]
async fn ends_sockets_in_every_way() {
    let genesys = client::genesys().await;
    let client = Client::new(&genesys).await;
    let mut socket = client.open("a", 60_000).await;
    assert_eq!(genesys.close_sockets(Target::All, 1012, "restart"), 1);
    assert_eq!(socket.closed().await, Some((1012, "restart".into())));

    let mut socket = client.open("b", 60_000).await;
    assert_eq!(genesys.drop_sockets(Target::Agent("b".into())), 1);
    assert_eq!(socket.closed().await, None);
    let mut socket = client.open("c", 60_000).await;
    assert_eq!(genesys.reset_sockets(Target::All), 1);
    assert_eq!(socket.closed().await, None);
    genesys
        .wait_until(|snapshot| snapshot.tally.sockets_ended == 3, SECOND)
        .await
        .unwrap();
    assert_eq!(genesys.forget_connections(Target::All), 3);

    let mut socket = client.open("d", 60_000).await;
    genesys.stop().await;
    assert_eq!(socket.closed().await, None);
    assert!(
        Api::new(&genesys.api_url())
            .get("/api/v2/users/me")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn refuses_delays_and_spoils_on_request() {
    let genesys = client::genesys().await;
    let client = Client::new(&genesys).await;
    genesys.fault(
        Route::CreateConnection,
        Fault::status(429).times(2).retry_after("7"),
    );
    genesys.fault(Route::CreateConnection, Fault::status(500).body("<html>"));
    let body = Client::wish("a", 15_000);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let reply = client
            .api
            .post("/api/v2/realtime/connections", &body)
            .await
            .unwrap();
        seen.push((reply.status, reply.header("retry-after").map(str::to_owned)));
    }
    let seven = Some("7".to_owned());
    assert_eq!(
        seen,
        [(429, seven.clone()), (429, seven), (500, None), (200, None)]
    );

    genesys.tamper(Tamper::NoWsUrl, 1);
    genesys.tamper(Tamper::WsUrl("ws://elsewhere.example/x".into()), 1);
    let reply = client
        .api
        .post("/api/v2/realtime/connections", &body)
        .await
        .unwrap()
        .json();
    assert!(reply["connectionId"].is_string() && reply.get("wsUrl").is_none());
    let reply = client
        .api
        .post("/api/v2/realtime/connections", &body)
        .await
        .unwrap()
        .json();
    assert_eq!(reply["wsUrl"], "ws://elsewhere.example/x");
    genesys.tamper(Tamper::NoAccessToken, 1);
    genesys.tamper(Tamper::ExpiresIn(0), 1);
    assert!(
        Client::token(&genesys, "sim-client", "sim-secret")
            .await
            .get("access_token")
            .is_none()
    );
    assert_eq!(
        Client::token(&genesys, "sim-client", "sim-secret").await["expires_in"],
        0
    );

    genesys.fault(Route::Upgrade, Fault::status(503));
    let (_, url) = client.provision("a", 15_000).await;
    assert_eq!(Client::connect(&url).await.err(), Some(503));
    assert!(Client::connect(&url).await.is_ok());
    genesys.fault(Route::Token, Fault::status(401).forever());
    assert!(Client::token(&genesys, "sim-client", "sim-secret").await["error"].is_string());
    genesys.clear_faults();
    assert!(Client::token(&genesys, "sim-client", "sim-secret").await["access_token"].is_string());
}

#[tokio::test]
async fn sends_every_kind_of_junk() {
    let genesys = client::genesys().await;
    let client = Client::new(&genesys).await;
    let mut socket = client.open("a", 60_000).await;
    for (junk, wanted) in [
        (Junk::NotJson, "this is not JSON"),
        (Junk::EmptyObject, "{}"),
        (Junk::Array, "[]"),
        (Junk::Long(100_000), ""),
        (Junk::HugeNumber, ""),
        (Junk::NulEscape, ""),
    ] {
        genesys.send_junk(Target::All, junk.clone());
        let text = socket.text().await;
        assert!(wanted.is_empty() || text == wanted, "{junk:?} {text}");
        if junk == Junk::Long(100_000) {
            assert_eq!(text.len(), 100_000);
        }
    }
    genesys.send_junk(Target::All, Junk::Pings(1_000));
    genesys.send_text(Target::All, r#"{"after":"pings"}"#);
    assert_eq!(socket.json().await["after"], "pings");
    // Each of these breaks a rule that the client knows, so that it gives up.
    for junk in [
        Junk::InvalidUtf8,
        Junk::OversizedHeader,
        Junk::Masked,
        Junk::ReservedBit,
        Junk::UnknownOpcode,
        Junk::IllegalClose,
        Junk::Fragments(200_000),
    ] {
        genesys.forget_connections(Target::All);
        let mut socket = client.open("a", 60_000).await;
        genesys.send_junk(Target::All, junk.clone());
        assert!(socket.broken().await, "{junk:?}");
    }
}

#[tokio::test]
async fn obeys_the_same_verbs_over_rest() {
    let genesys = client::genesys().await;
    let api = Api::new(&genesys.api_url());
    let verbs = json!([
        {"verb": "presence", "agent": "a", "state": "AVAILABLE"},
        {"verb": "fault", "route": "users_me", "status": 503, "times": 2, "retry_after": "3"},
        {"verb": "tamper", "tamper": {"expires_in": -1}},
        {"verb": "close", "target": {"agent": "a"}, "code": 1012},
        {"verb": "junk", "junk": "not_json"},
        {"verb": "junk", "junk": {"fragments": 3}, "target": "all"},
    ]);
    let reply = api.post("/_sim/verbs", &verbs).await.unwrap();
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({"touched": [1, 1, 1, 0, 0, 0]}))
    );
    assert_eq!(api.get("/api/v2/users/me").await.unwrap().status, 503);
    let snapshot = api.get("/_sim/snapshot").await.unwrap().json();
    assert_eq!(snapshot["agents"]["a"], "AVAILABLE");
    assert_eq!(snapshot["tally"]["requests"]["users_me"], 1);
    let ledger = api.get("/_sim/ledger?after=0").await.unwrap().json();
    assert_eq!(ledger[0]["fate"], "unwatched");
    let frame: Value = serde_json::from_str(ledger[0]["frame"].as_str().unwrap()).unwrap();
    assert_eq!(frame["state"], "AVAILABLE");
    assert_eq!(
        api.post("/_sim/verbs", &json!({"verb": "explode"}))
            .await
            .unwrap()
            .status,
        400
    );
    assert_eq!(genesys.apply(Verb::ClearFaults), 1);
}
