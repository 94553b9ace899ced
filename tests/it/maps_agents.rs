//! Agents' ids in the CRM: set one by one or by file, shown, and taken wherever an agent is asked for.

use serde_json::{Value, json};

use crate::support::bridge::API_KEY;
use crate::support::client::Answer;
use crate::support::look::all;
use crate::support::{World, eventually};

const PATH: &str = "/v1/agents/external-ids";

async fn put_csv(world: &World, query: &str, text: &str) -> Answer {
    let bearer = format!("Bearer {API_KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "text/csv; charset=utf-8")];
    world.bridge.send_raw("PUT", &format!("{PATH}{query}"), &headers, Some(text.into())).await
}

fn counts(added: u32, changed: u32, removed: u32, unchanged: u32) -> Value {
    json!({"added": added, "changed": changed, "removed": removed, "unchanged": unchanged})
}

/// Starts a world in which ann and bob were seen.
async fn seen() -> World {
    let world = World::watching(&["ann", "bob"]).await;
    for agent in ["ann", "bob"] {
        world.genesys.set_presence(agent, "AVAILABLE").await;
    }
    world.audit_of("EVENT_RECEIVED", 2).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_its_id_and_loses_it_seen_or_not() {
    let world = seen().await;
    let b = &world.bridge;
    assert!(b.get("/v1/agents/ann").await.json()["external_id"].is_null());
    let set = b.patch("/v1/agents/ann", &json!({"external_id": "crm-1"})).await;
    assert_eq!((set.status, &set.json()["external_id"]), (200, &json!("crm-1")));
    assert_eq!(b.get("/v1/agents/ann").await.json()["external_id"], "crm-1");
    let found = all(b, "/v1/agents?external_id=crm-1").await;
    assert_eq!((found.len(), &found[0]["id"]), (1, &json!("ann")));
    assert!(all(b, "/v1/agents?external_id=crm-2").await.is_empty());
    // There is one source, so nobody else can be meant.
    assert_eq!(b.patch("/v1/agents/not-seen-yet", &json!({"external_id": "crm-9"})).await.status, 200);
    assert_eq!(b.get("/v1/agents/not-seen-yet").await.status, 404);
    let pairs = all(b, PATH).await;
    let pairs: Vec<_> = pairs.iter().map(|pair| (&pair["agent_id"], &pair["external_id"])).collect();
    assert_eq!(pairs, [(&json!("ann"), &json!("crm-1")), (&json!("not-seen-yet"), &json!("crm-9"))]);
    let cleared = b.patch("/v1/agents/ann", &json!({"external_id": null})).await.json();
    assert!(cleared["external_id"].is_null() && cleared["updated_at"].is_null());
    assert!(b.get("/v1/agents/ann").await.json()["external_id"].is_null());
    let told = world.audit("AGENTS_MAPPED").await;
    assert_eq!(told.len(), 3);
    assert_eq!((&told[0]["agent_id"], &told[0]["data"]["removed"]), (&json!("ann"), &json!(1)));
    for wrong in
        [json!({}), json!({"external_id": ""}), json!({"external_id": "a\tb"}), json!({"external_id": 7})]
    {
        assert_eq!(b.patch("/v1/agents/ann", &wrong).await.status, 422, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_several_sources_one_must_be_named_unless_one_alone_knows_the_agent() {
    let world = seen().await;
    let b = &world.bridge;
    let source = json!({
        "name": "second", "protocol": "realtime", "api_url": world.genesys.api_url(), "client_id": "sim-client",
        "client_secret": "sim-secret", "agents": ["cid"], "topic_matrix": {"state": ["routing:agent:state"]},
    });
    let second = b.post("/v1/sources", &source).await.json()["id"].as_str().unwrap().to_owned();
    let id = json!({"external_id": "crm-1"});
    assert_eq!(b.patch("/v1/agents/ann", &id).await.status, 200, "the first alone knows her");
    let unknown = b.patch("/v1/agents/nobody", &id).await;
    assert_eq!((unknown.status, &unknown.json()["code"]), (409, &json!("ambiguous_agent")));
    assert_eq!(b.patch(&format!("/v1/agents/nobody?source={second}"), &id).await.status, 200);
    assert_eq!(b.patch(&format!("/v1/agents/ann?source={second}"), &id).await.status, 200);
    assert_eq!(b.patch("/v1/agents/ann", &id).await.status, 409, "now both know her");
    assert_eq!(put_csv(&world, "", "agent_id,external_id\nann,crm-2\n").await.status, 409);
    let put =
        put_csv(&world, &format!("?source={second}&replace=true"), "agent_id,external_id\nann,crm-2\n").await;
    assert_eq!(put.json(), counts(0, 1, 1, 0));
    let nowhere = uuid::Uuid::now_v7();
    assert_eq!(b.patch(&format!("/v1/agents/ann?source={nowhere}"), &id).await.status, 404);
    assert_eq!(all(b, &format!("{PATH}?source={second}")).await.len(), 1);
    assert_eq!(all(b, PATH).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_counts_as_a_whole_or_not_at_all() {
    let world = seen().await;
    let b = &world.bridge;
    let first = put_csv(&world, "", "agent_id,external_id\r\nann,crm-1\r\nbob,crm-2\r\n").await;
    assert_eq!((first.status, first.json()), (200, counts(2, 0, 0, 0)));
    let again = put_csv(&world, "", "external_id,agent_id\ncrm-1,ann\ncrm-3,bob\ncrm-4,cid\n").await;
    assert_eq!(again.json(), counts(1, 1, 0, 1));
    let same = put_csv(&world, "?replace=false", "agent_id,external_id\nann,crm-1\n").await;
    assert_eq!(same.json(), counts(0, 0, 0, 1));
    assert_eq!(world.audit("AGENTS_MAPPED").await.len(), 2, "what changes nothing is not written down");
    let json = json!({"items": [{"agent_id": "ann", "external_id": "crm-5"}], "replace": true});
    assert_eq!(b.send("PUT", PATH, Some(&json)).await.json(), counts(0, 1, 2, 0));

    let wrong = "agent_id,external_id\ndan,crm-7\n,crm-8\neve,\ndan,crm-9\n";
    let refused = put_csv(&world, "?replace=true", wrong).await;
    assert_eq!(refused.status, 422);
    let lines: Vec<_> = refused.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [3, 4, 5]);
    let wrong = json!({"items": [{"agent_id": "ann", "external_id": "x"}, {"agent_id": "bob"}, 7]});
    let refused = b.send("PUT", PATH, Some(&wrong)).await;
    let pointers: Vec<_> =
        refused.json()["errors"].as_array().unwrap().iter().map(|error| error["pointer"].clone()).collect();
    assert_eq!(pointers, ["/items/1/external_id", "/items/2"]);
    for (text, code) in [("ann,crm-1\n", "invalid_csv"), ("agent_id,external_id\nann\n", "invalid_csv")] {
        let refused = put_csv(&world, "", text).await;
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!(code)), "{text}");
    }
    let left = all(b, PATH).await;
    assert_eq!((left.len(), &left[0]["external_id"]), (1, &json!("crm-5")), "nothing of it was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_pairs_at_once_come_back_page_by_page() {
    let world = seen().await;
    let mut text = "agent_id,external_id\n".to_owned();
    for n in 0..20_000 {
        text.push_str(&format!("a3f1d2c4-5b6e-4f70-8192-{n:012},005Ab00000{n:08}\n"));
    }
    assert_eq!(put_csv(&world, "", &text).await.json(), counts(20_000, 0, 0, 0));
    assert_eq!(put_csv(&world, "", &format!("{text}x,y\n")).await.status, 400, "one too many");
    let mut seen = std::collections::BTreeSet::new();
    let mut path = format!("{PATH}?limit=200");
    for _ in 0..5 {
        let page = world.bridge.get(&path).await.json();
        for pair in page["items"].as_array().unwrap() {
            assert!(seen.insert(pair["agent_id"].as_str().unwrap().to_owned()), "no twins");
        }
        path = format!("{PATH}?limit=200&cursor={}", page["next_cursor"].as_str().unwrap());
    }
    assert_eq!(seen.len(), 1000);
    assert!(seen.last().unwrap().ends_with("000000000999"), "no holes");
    assert_eq!(
        put_csv(&world, "?replace=true", "agent_id,external_id\n").await.json(),
        counts(0, 0, 20_000, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_take_the_id_of_the_crm_for_an_agent() {
    let world = seen().await;
    let b = &world.bridge;
    world.register("/hooks/a").await;
    b.patch("/v1/agents/ann", &json!({"external_id": "crm-1"})).await;
    for agent in ["ann", "bob"] {
        world.genesys.set_presence(agent, "AWAY").await;
    }
    eventually("two deliveries", || async {
        (all(b, "/v1/deliveries?state=delivered").await.len() == 2).then_some(())
    })
    .await;
    for path in ["/v1/events", "/v1/deliveries", "/v1/audit"] {
        let by_crm = b.get(&format!("{path}?agent=crm-1")).await.json();
        let by_genesys = b.get(&format!("{path}?agent=ann")).await.json();
        assert_eq!(by_crm["items"], by_genesys["items"], "{path}");
        assert!(!by_crm["items"].as_array().unwrap().is_empty(), "{path}");
        assert!(b.get(&format!("{path}?agent=crm-2")).await.json()["items"].as_array().unwrap().is_empty());
    }
}
