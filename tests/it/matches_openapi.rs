//! What is served is what openapi.yaml promises. Every answer of every test is held against it
//! (support/contract.rs); this walk sees to it that each operation succeeds at least once.

use genesys_simulator::genesys::{Junk, Target};
use serde_json::json;

use crate::support::bridge::API_KEY;
use crate::support::browser::Browser;
use crate::support::{Bridge, SOON, World, contract, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_succeeds_as_promised() {
    let world = World::watching(&["ann"]).await;
    let b = &world.bridge;
    let hook = world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    let delivery = eventually("an ended delivery", || async {
        let page = b.get("/v1/deliveries?state=delivered").await.json();
        page["items"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let event = b.get("/v1/events").await.json()["items"][0]["event_id"].as_str().unwrap().to_owned();
    let connection = b.get("/v1/connections").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let source = json!({
        "name": "second", "protocol": "realtime", "api_url": world.genesys.api_url(), "client_id": "sim-client",
        "client_secret": "sim-secret", "agents": ["bob"], "topic_matrix": {"state": ["routing:agent:state"]},
    });
    let source = b.post("/v1/sources", &source).await.json()["id"].as_str().unwrap().to_owned();
    for path in [
        "/v1/webhooks",
        "/v1/sources",
        "/v1/agents",
        "/v1/agents/ann",
        "/v1/agents/external-ids",
        "/v1/agents/counts",
        "/v1/overview",
        "/v1/audit",
        "/v1/audit/head",
        "/v1/audit/export",
        "/v1/audit/verifications",
        "/v1/configuration",
        "/v1/quarantine",
        "/v1/recoveries",
        "/v1/erasures",
        "/v1/gaps",
        "/v1/rejected-topics",
        "/healthz",
        "/readyz",
        "/metrics",
        "/version",
        "/openapi.yaml",
        "/",
        "/docs",
        "/docs/index.html",
    ] {
        let status = b.get(path).await.status;
        assert!(status < 400, "{path} answered {status}");
    }
    for path in [
        format!("/v1/webhooks/{hook}"),
        format!("/v1/webhooks/{hook}/lanes"),
        format!("/v1/webhooks/{hook}/attempts"),
        format!("/v1/webhooks/{hook}/outcomes"),
        format!("/v1/webhooks/{hook}/secrets"),
        format!("/v1/sources/{source}"),
        format!("/v1/connections/{connection}"),
        format!("/v1/events/{event}"),
        format!("/v1/deliveries/{delivery}"),
        format!("/v1/explain?event={event}&webhook={hook}"),
    ] {
        assert_eq!(b.get(&path).await.status, 200, "{path}");
    }
    world.genesys.send_junk(Target::All, Junk::NotJson);
    let malformed =
        world.audit_of("FRAME_REJECTED", 1).await[0]["data"]["quarantine"].as_str().unwrap().to_owned();
    assert_eq!(b.get(&format!("/v1/quarantine/{malformed}")).await.status, 200);
    eventually("the log is sealed", || async {
        b.get("/v1/audit/head").await.json()["head"].is_string().then_some(())
    })
    .await;
    assert_eq!(b.post(&format!("/v1/deliveries/{delivery}/retry"), &json!({})).await.status, 202);
    assert_eq!(b.post("/v1/deliveries/retry", &json!({"agent": "nobody"})).await.status, 202);
    for step in ["rotate-secret", "test", "pause", "resume", "enable", "snapshot"] {
        let status = b.post(&format!("/v1/webhooks/{hook}/{step}"), &json!({})).await.status;
        assert!(status < 300, "{step} answered {status}");
    }
    let entry = b.get("/v1/audit").await.json()["items"][0]["id"].clone();
    assert_eq!(b.get(&format!("/v1/audit/{entry}")).await.status, 200);
    let check = b.post("/v1/audit/verifications", &json!({})).await;
    assert_eq!(check.status, 202, "{}", check.text());
    let check = check.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(b.get(&check).await.status, 200);
    assert_eq!(b.post(&format!("{check}/cancel"), &json!({})).await.status, 202);
    let examination = b.post("/v1/sources/examinations", &json!({"source_id": source})).await;
    assert_eq!(examination.status, 202, "{}", examination.text());
    assert_eq!(b.get(examination.headers["location"].to_str().unwrap()).await.status, 200);
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    let recovery = b.post(&format!("/v1/webhooks/{hook}/recover"), &since).await;
    assert_eq!(recovery.status, 202);
    let recovery = format!("/v1/recoveries/{}", recovery.json()["id"].as_str().unwrap());
    eventually("the recovery is done", || async {
        (b.get(&recovery).await.json()["state"] == "done").then_some(())
    })
    .await;
    let pool = database::pool(&b.database_url).await;
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select from agent for update").execute(&mut *held).await.unwrap();
    let all = json!({"since": "2026-01-01T00:00:00Z", "only_failed": false});
    let running = b.post(&format!("/v1/webhooks/{hook}/recover"), &all).await.json();
    let cancel = format!("/v1/recoveries/{}/cancel", running["id"].as_str().unwrap());
    assert_eq!(b.post(&cancel, &json!({})).await.status, 200);
    held.rollback().await.unwrap();
    assert_eq!(b.patch(&format!("/v1/webhooks/{hook}"), &json!({"description": "x"})).await.status, 200);
    assert_eq!(b.patch(&format!("/v1/sources/{source}"), &json!({"name": "third"})).await.status, 200);
    assert_eq!(b.post(&format!("/v1/sources/{source}/refresh"), &json!({})).await.status, 202);
    let external = json!({"external_id": "crm-1"});
    assert_eq!(b.patch(&format!("/v1/agents/bob?source={source}"), &external).await.status, 200);
    let items = json!({"items": [{"agent_id": "bob", "external_id": "crm-2"}]});
    let put = b.send("PUT", &format!("/v1/agents/external-ids?source={source}"), Some(&items)).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let erasure = b.delete("/v1/agents/ann/data?watch=true").await;
    assert_eq!(erasure.status, 202, "{}", erasure.text());
    let erasure = format!("/v1/erasures/{}", erasure.json()["id"].as_str().unwrap());
    assert_eq!(b.get(&erasure).await.status, 200);
    assert_eq!(b.delete(&format!("/v1/sources/{source}")).await.status, 204);
    assert_eq!(b.delete(&format!("/v1/webhooks/{hook}")).await.status, 204);
    for step in ["terminate", "restart"] {
        let status = b.post(&format!("/v1/connections/{connection}/{step}"), &json!({})).await.status;
        assert_eq!(status, 202, "{step}");
    }
    let gap = eventually("nobody was seen meanwhile", || async {
        b.get("/v1/gaps").await.json()["items"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(b.get(&format!("/v1/gaps/{gap}")).await.status, 200);
    let made = b.post("/v1/tenants", &json!({"name": "second"})).await.json();
    let key = json!({"name": "crm", "scopes": ["read"], "tenant_id": made["id"]});
    let key = b.post("/v1/api-keys", &key).await.json()["id"].as_str().unwrap().to_owned();
    let link = b.post("/v1/console/login-links", &json!({})).await;
    assert_eq!(link.status, 201, "{}", link.text());
    for path in ["/v1/tenants", "/v1/api-keys", &format!("/v1/api-keys/{key}")] {
        assert_eq!(b.get(path).await.status, 200, "{path}");
    }
    assert_eq!(b.post(&format!("/v1/api-keys/{key}/revoke"), &json!({})).await.status, 200);
    let seen = contract::SEEN.lock().unwrap().clone();
    let missing: Vec<_> = contract::operations()
        .into_iter()
        .filter(|operation| !seen.contains(operation) && !operation.contains("/docs/{"))
        .collect();
    assert!(missing.is_empty(), "never seen to succeed: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_and_its_page_are_served_and_need_nothing_from_elsewhere() {
    let world = World::watching(&["ann"]).await;
    let served = world.bridge.get("/openapi.yaml").await;
    assert_eq!(served.text(), include_str!("../../openapi.yaml"));
    let page = world.bridge.get("/docs/index.html").await.text();
    for attribute in ["src=\"", "href=\""] {
        for rest in page.split(attribute).skip(1) {
            let target = rest.split('"').next().unwrap();
            assert!(!target.contains("//"), "{target} is not local");
            assert_eq!(
                world.bridge.get(&format!("/docs/{}", target.trim_start_matches("./"))).await.status,
                200
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_opens_in_a_browser_that_asks_nobody_else() {
    let bridge = Bridge::start(&[]).await;
    let Some(browser) = Browser::start(&bridge.url).await else { return };
    browser.goto("/docs/").await;
    browser.until("all operations are listed", "document.querySelectorAll('.opblock').length > 50").await;
    browser.screenshot("docs").await;
    let faults = browser.faults().await;
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_a_problem_document_and_never_a_5xx() {
    let world = World::watching(&["ann"]).await;
    let b = &world.bridge;
    let bearer = format!("Bearer {API_KEY}");
    let key = ("authorization", bearer.as_str());
    let json = ("content-type", "application/json");
    let deep = format!(r#"{{"url":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let big = format!(r#"{{"url":"https://example.com/{}"}}"#, "x".repeat(300_000));
    type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a str, u16);
    let cases: Vec<Case> = vec![
        ("GET", "/v1/webhooks", vec![], "", 401),
        ("GET", "/v1/webhooks", vec![("authorization", "Bearer wrong")], "", 401),
        ("GET", "/v1/webhooks", vec![("authorization", "Basic eDp5")], "", 401),
        ("POST", "/v1/webhooks", vec![json], "{", 401),
        ("POST", "/v1/webhooks", vec![key, json], "{", 400),
        (
            "POST",
            "/v1/webhooks",
            vec![key, json],
            r#"{"url":"https://a.example/","url":"https://b.example/"}"#,
            400,
        ),
        ("POST", "/v1/webhooks", vec![key, json], &deep, 400),
        ("POST", "/v1/webhooks", vec![key, json], &big, 413),
        ("POST", "/v1/webhooks", vec![key, ("content-type", "text/plain")], "{}", 415),
        ("POST", "/v1/webhooks", vec![key, json, ("content-encoding", "br")], "{}", 415),
        (
            "POST",
            "/v1/webhooks",
            vec![key, json],
            r#"{"url":"https://a.example/","description":"x\u0000y"}"#,
            422,
        ),
        ("POST", "/v1/webhooks", vec![key, json], r#"{"url":"https://a.example/","colour":"red"}"#, 422),
        ("POST", "/v1/webhooks", vec![key, json], r#"{"url":"https://10.0.0.1/"}"#, 422),
        ("POST", "/v1/webhooks", vec![key, json], r#"{"url":"https://2852039166/"}"#, 422),
        ("POST", "/v1/webhooks", vec![key, json], r#"{"url":"https://[::ffff:a00:1]/"}"#, 422),
        ("POST", "/v1/webhooks", vec![key, json], r#"{"url":"https://u:p@a.example/"}"#, 422),
        (
            "POST",
            "/v1/webhooks",
            vec![key, json],
            r#"{"url":"https://a.example/","secret":"whsec_short"}"#,
            422,
        ),
        ("GET", "/v1/webhooks?cursor=rubbish", vec![key], "", 400),
        ("GET", "/v1/webhooks?limit=0", vec![key], "", 400),
        ("GET", "/v1/webhooks/nonsense", vec![key], "", 404),
        ("GET", "/v1/webhooks/019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50", vec![key], "", 404),
        ("GET", "/v1/webhooks/%00", vec![key], "", 404),
        ("GET", "/v1/nothing", vec![key], "", 404),
        ("PUT", "/v1/webhooks", vec![key], "", 405),
    ];
    for (method, path, headers, body, status) in cases {
        let answer = b.send_raw(method, path, &headers, Some(body.as_bytes().to_vec())).await;
        let shown = body.chars().take(80).collect::<String>();
        let allowed = answer.status == status || (status == 400 && answer.status == 422);
        assert!(allowed, "{method} {path} {shown}: {} {}", answer.status, answer.text());
        let problem = answer.json();
        assert!(problem["code"].is_string() && problem["request_id"].is_string(), "{problem}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_keys_is_throttled_and_the_right_key_still_works() {
    let world = World::watching(&["ann"]).await;
    let mut statuses = Vec::new();
    for n in 0..11 {
        let guess = format!("Bearer guess-{n}");
        statuses.push(
            world.bridge.send_raw("GET", "/v1/webhooks", &[("authorization", &guess)], None).await.status,
        );
    }
    assert_eq!((statuses[0], statuses[10]), (401, 429), "{statuses:?}");
    assert_eq!(world.bridge.get("/v1/webhooks").await.status, 200);
}
