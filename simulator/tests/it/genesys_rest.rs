//! REST of the simulated Genesys Cloud: tokens, limits, error codes, faults and the verbs over REST.

use std::time::Duration;

use crate::client::Client;
use genesys_simulator::genesys::{Fault, Genesys, GenesysOptions, Route, Tamper, Verb};
use genesys_simulator::http::Api;
use serde_json::{Value, json};

#[tokio::test]
async fn gives_tokens_for_a_form_and_for_basic() {
    let genesys = crate::client::genesys().await;
    let api = Api::new(&genesys.api_url());
    let form = "application/x-www-form-urlencoded";
    let good = "grant_type=client_credentials&client_id=sim-client&client_secret=sim-secret";
    let reply = api.post_text("/api/v2/oauth/token", form, good.into()).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["token_type"], "bearer");
    assert_eq!(reply.json()["expires_in"], 86_400);
    assert!(reply.header("inin-correlation-id").is_some());

    let wrong = good.replace("sim-secret", "guess");
    let reply = api.post_text("/api/v2/oauth/token", form, wrong).await.unwrap();
    assert_eq!((reply.status, &reply.json()["error"]), (401, &json!("invalid_client")));
    for body in ["client_id=sim-client&client_secret=sim-secret", "grant_type=password"] {
        assert_eq!(api.post_text("/api/v2/oauth/token", form, body.into()).await.unwrap().status, 400);
    }
    let reply = api.post_text("/api/v2/oauth/token", "application/json", "{}".into()).await.unwrap();
    assert_eq!(reply.status, 400);
    assert_eq!(genesys.snapshot().requests(Route::Token), 5);
    assert_eq!(genesys.snapshot().tally.tokens_issued, 1);
}

#[tokio::test]
async fn believes_a_token_until_it_expires_and_a_client_until_it_may_not() {
    let genesys = crate::client::genesys().await;
    let client = Client::new(&genesys).await;
    assert_eq!(client.api.get("/api/v2/users/me").await.unwrap().status, 200);
    assert!(genesys.snapshot().tally.last_authorization.unwrap().starts_with("Bearer sim-"));

    genesys.grant_presence_read("sim-client", false);
    let reply = client.api.get("/api/v2/users/me").await.unwrap();
    assert_eq!((reply.status, &reply.json()["status"]), (403, &json!(403)));
    genesys.grant_presence_read("sim-client", true);

    assert_eq!(genesys.expire_tokens(), 1);
    let reply = client.api.get("/api/v2/users/me").await.unwrap();
    assert_eq!((reply.status, &reply.json()["code"]), (401, &json!("bad.credentials")));
    assert!(reply.json()["contextId"].is_string());

    genesys.set_token_lifetime(Duration::ZERO);
    let client = Client::new(&genesys).await;
    assert_eq!(client.api.get("/api/v2/users/me").await.unwrap().status, 401);
}

#[tokio::test]
async fn judges_a_connection_request_by_shape_then_by_value() {
    let genesys = crate::client::genesys().await;
    let client = Client::new(&genesys).await;
    let topic = "routing:agent:state";
    let cases = [
        (400, json!({"topics": [topic], "heartbeatInterval": 15_000})),
        (400, json!({"userId": 7, "topics": [topic], "heartbeatInterval": 15_000})),
        (400, json!({"userId": "a", "topics": {"state": [topic]}, "heartbeatInterval": 15_000})),
        (400, json!({"userId": "a", "topics": [[topic]], "heartbeatInterval": 15_000})),
        (400, json!({"userId": "a", "topics": [topic]})),
        (400, json!({"userId": "a", "topics": [topic], "heartbeatInterval": "15000"})),
        (422, json!({"userId": "a", "topics": [], "heartbeatInterval": 15_000})),
        (422, json!({"userId": "a", "topics": vec![topic; 101], "heartbeatInterval": 15_000})),
        (422, json!({"userId": "a", "topics": ["v2.users.a.presence"], "heartbeatInterval": 15_000})),
        (422, json!({"userId": "a", "topics": [topic], "heartbeatInterval": 99})),
        (422, json!({"userId": "a", "topics": [topic], "heartbeatInterval": 300_001})),
        (200, json!({"userId": "a", "topics": vec![topic; 100], "heartbeatInterval": 100})),
    ];
    for (status, body) in cases {
        let reply = client.api.post("/api/v2/realtime/connections", &body).await.unwrap();
        assert_eq!(reply.status, status, "{body} {}", reply.excerpt());
    }
    let reply =
        client.api.post_text("/api/v2/realtime/connections", "application/json", "{".into()).await.unwrap();
    assert_eq!(reply.status, 400);
    let reply =
        client.api.post_text("/api/v2/realtime/connections", "text/plain", "{}".into()).await.unwrap();
    assert_eq!(reply.status, 415);
    let anonymous = Api::new(&genesys.api_url());
    assert_eq!(anonymous.post("/api/v2/realtime/connections", &json!({})).await.unwrap().status, 401);
}

#[tokio::test]
async fn holds_ten_connections_a_client_until_one_is_deleted() {
    let genesys = Genesys::start(GenesysOptions {
        clients: vec![("sim-client".into(), "sim-secret".into()), ("other".into(), "secret".into())],
        ..GenesysOptions::default()
    });
    let genesys = genesys.await.unwrap();
    let client = Client::new(&genesys).await;
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(client.provision(&format!("agent-{number}"), 15_000).await.0);
    }
    let body = Client::wish("agent-10", 15_000);
    assert_eq!(client.api.post("/api/v2/realtime/connections", &body).await.unwrap().status, 409);
    let list = client.api.get("/api/v2/realtime/connections").await.unwrap().json();
    assert_eq!(list["entities"].as_array().unwrap().len(), 10);
    assert_eq!(list["entities"][0]["userId"], "agent-0");
    assert_eq!(list["entities"][0]["connected"], false);

    let other = Client::with(&genesys, "other", "secret").await;
    let path = format!("/api/v2/realtime/connections/{}", ids[3]);
    assert_eq!(other.api.delete(&path).await.unwrap().status, 404);
    assert_eq!(other.api.get("/api/v2/realtime/connections").await.unwrap().json()["entities"], json!([]));
    assert_eq!(client.api.delete(&path).await.unwrap().status, 204);
    assert_eq!(client.api.delete(&path).await.unwrap().status, 404);
    assert_eq!(client.api.post("/api/v2/realtime/connections", &body).await.unwrap().status, 200);
}

#[tokio::test]
async fn refuses_delays_and_spoils_on_request() {
    let genesys = crate::client::genesys().await;
    let client = Client::new(&genesys).await;
    genesys.fault(Route::CreateConnection, Fault::status(429).times(2).retry_after("7"));
    genesys.fault(Route::CreateConnection, Fault::status(500).body("<html>"));
    let body = Client::wish("a", 15_000);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let reply = client.api.post("/api/v2/realtime/connections", &body).await.unwrap();
        seen.push((reply.status, reply.header("retry-after").map(str::to_owned)));
    }
    let seven = Some("7".to_owned());
    assert_eq!(seen, [(429, seven.clone()), (429, seven), (500, None), (200, None)]);

    genesys.tamper(Tamper::NoWsUrl, 1);
    genesys.tamper(Tamper::WsUrl("ws://elsewhere.example/x".into()), 1);
    let reply = client.api.post("/api/v2/realtime/connections", &body).await.unwrap().json();
    assert!(reply["connectionId"].is_string() && reply.get("wsUrl").is_none());
    let reply = client.api.post("/api/v2/realtime/connections", &body).await.unwrap().json();
    assert_eq!(reply["wsUrl"], "ws://elsewhere.example/x");
    genesys.tamper(Tamper::NoAccessToken, 1);
    genesys.tamper(Tamper::ExpiresIn(0), 1);
    assert!(Client::token(&genesys, "sim-client", "sim-secret").await.get("access_token").is_none());
    assert_eq!(Client::token(&genesys, "sim-client", "sim-secret").await["expires_in"], 0);

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
async fn obeys_the_same_verbs_over_rest() {
    let genesys = crate::client::genesys().await;
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
    assert_eq!((reply.status, reply.json()), (200, json!({"touched": [1, 1, 1, 0, 0, 0]})));
    assert_eq!(api.get("/api/v2/users/me").await.unwrap().status, 503);
    let snapshot = api.get("/_sim/snapshot").await.unwrap().json();
    assert_eq!(snapshot["agents"]["a"], "AVAILABLE");
    assert_eq!(snapshot["tally"]["requests"]["users_me"], 1);
    let ledger = api.get("/_sim/ledger?after=0").await.unwrap().json();
    assert_eq!(ledger[0]["fate"], "unwatched");
    let frame: Value = serde_json::from_str(ledger[0]["frame"].as_str().unwrap()).unwrap();
    assert_eq!(frame["state"], "AVAILABLE");
    assert_eq!(api.post("/_sim/verbs", &json!({"verb": "explode"})).await.unwrap().status, 400);
    assert_eq!(genesys.apply(Verb::ClearFaults), 1);
}
