//! The overview, the presence board and the pages of agents: what they show, what their forms do, and who may.

use genesys_simulator::cloud::{Deed, Reach};
use genesys_simulator::crm::Behaviour;
use serde_json::{Value, json};

use crate::support::cloud::{CloudWorld, options};
use crate::support::console::Console;
use crate::support::eventually;

async fn key(world: &CloudWorld, fields: Value) -> String {
    let made = world.bridge.post("/v1/api-keys", &fields).await;
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["key"].as_str().unwrap().to_owned()
}

/// A key with every right of another tenant.
async fn key_of_another_tenant(world: &CloudWorld) -> String {
    let tenant = world.bridge.post("/v1/tenants", &json!({"name": "other"})).await.json()["id"].clone();
    let scopes = ["read", "webhooks", "sources", "audit", "admin"];
    key(world, json!({"name": "other", "scopes": scopes, "tenant_id": tenant})).await
}

/// Waits until the overview has these kinds of problems, and gives it.
async fn overview_with(world: &CloudWorld, kinds: &[&str]) -> Value {
    eventually(&format!("the overview has {kinds:?}"), || async {
        let overview = world.bridge.get("/v1/overview").await.json();
        let problems = overview["problems"].as_array().unwrap().clone();
        let found: Vec<_> = problems.iter().map(|problem| problem["kind"].as_str().unwrap()).collect();
        (found == kinds).then_some(overview)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_says_whether_everybody_is_told_everything_and_what_is_wrong() {
    let world = CloudWorld::watching(&["ann", "bob"]).await;
    let console = Console::of(&world.bridge).await;
    assert_eq!(overview_with(&world, &["no_webhook"]).await["verdict"], "idle");
    assert!(console.page("/console/").await.contains("no webhook is registered"));
    world.register("/told", json!({})).await;
    let overview = overview_with(&world, &[]).await;
    assert_eq!(overview["verdict"], "ok");
    assert_eq!(overview["agents"], json!({"wanted": 2, "covered": 2}));
    assert!(console.page("/console/").await.contains("Everybody is told everything."));

    let told = world.bridge.get("/v1/overview").await.json()["bridge"]["minutes"].clone();
    let changes = |minutes: &Value| {
        minutes.as_array().unwrap().iter().map(|minute| minute["changes"].as_u64().unwrap()).sum::<u64>()
    };
    world.cloud.push_presence("ann", "BUSY");
    eventually("the change is counted in its minute", || async {
        let now = world.bridge.get("/v1/overview").await.json()["bridge"]["minutes"].clone();
        (changes(&now) > changes(&told)).then_some(())
    })
    .await;

    world.crm.always("/broken", Behaviour::status(410));
    world.register("/broken", json!({})).await;
    world.cloud.push_presence("ann", "AWAY");
    assert_eq!(overview_with(&world, &["webhooks_disabled"]).await["verdict"], "wrong");
    let page = console.page("/console/").await;
    assert!(page.contains("Not everybody is told everything:") && page.contains("1 webhook is disabled"));

    let theirs = key_of_another_tenant(&world).await;
    let overview = world.bridge.send_as(&theirs, "GET", "/v1/overview", None).await.json();
    assert_eq!((&overview["sources"], &overview["bridge"]), (&json!([]), &Value::Null));
    assert_eq!(overview["backlog"]["webhooks"], json!([]));
    let reader = key(&world, json!({"name": "reader", "scopes": ["read"]})).await;
    let overview = world.bridge.send_as(&reader, "GET", "/v1/overview", None).await.json();
    assert_eq!(overview["bridge"]["audit"], Value::Null, "its numbers tell of the audit log");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_shows_who_is_asked_for_and_counts_them() {
    let world = CloudWorld::watching(&["ann", "bob", "eve"]).await;
    for (agent, name) in [("ann", "Ann Lovelace"), ("bob", "Bob_%"), ("eve", "Eve LOVE")] {
        world.cloud.obey(Deed::Rename { agent: agent.into(), name: name.into() });
    }
    let source = world.bridge.get("/v1/sources").await.json()["items"][0]["id"].clone();
    let source = source.as_str().unwrap();
    // Names are read with the states, after a time without a socket.
    world.cloud.obey(Deed::Drop { reach: Reach::All });
    eventually("the names are known", || async {
        (world.agent("eve").await["name"] == "Eve LOVE").then_some(())
    })
    .await;
    world.sees(3).await;
    let queues = vec!["queue-1".to_owned(), "queue-2".to_owned()];
    world.cloud.obey(Deed::ActiveQueues { agent: "ann".into(), queues: queues.clone() });
    world.cloud.push_presence("ann", "ON_QUEUE");
    world.cloud.push_presence("bob", "BUSY");
    world.agent_is("bob", "BUSY").await;
    let ann = world.agent_is("ann", "ON_QUEUE").await;
    assert_eq!(ann["active_queues"], json!(queues));
    let console = Console::of(&world.bridge).await;
    for (query, shown) in [
        ("", "ann bob eve"),
        ("?presence=ON_QUEUE", "ann"),
        ("?name=love", "ann eve"),
        ("?name=LOVE&presence=On+Queue", "ann"),
        ("?name=%25", "bob"),
        ("?name=_", "bob"),
        ("?queue=queue-2", "ann"),
        ("?queue=queue-3", ""),
        ("?connected=true", "ann bob eve"),
        ("?connected=false", ""),
        (&format!("?source={source}&connected="), "ann bob eve"),
    ] {
        let page = console.page(&format!("/console/board{query}")).await;
        let api = query.trim_end_matches("&connected="); // forms send fields that were left empty too
        let items = world.bridge.get(&format!("/v1/agents{api}")).await.json()["items"].clone();
        let items: Vec<_> =
            items.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
        assert_eq!(items.join(" "), shown, "/v1/agents{api}");
        for agent in ["ann", "bob", "eve"] {
            let is_there = page.contains(&format!("/console/agents/{agent}?source={source}"));
            assert_eq!(is_there, shown.contains(agent), "{agent} at {query}");
        }
    }
    assert!(console.page("/console/board?name=love").await.contains("All <b>2</b>"));
    let counts = world.bridge.get("/v1/agents/counts?queue=queue-1").await.json();
    assert_eq!(counts, json!({"agents": 1, "presences": [{"presence": "ON_QUEUE", "agents": 1}]}));
    assert_eq!(world.bridge.get("/v1/agents/counts?presence=BUSY").await.status, 400);

    let wrong = console.get("/console/board?source=nonsense&connected=perhaps").await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.text().contains("is no uuid"), "{}", wrong.text());

    let theirs = Console::log_in(&world.bridge, &key_of_another_tenant(&world).await).await;
    let page = theirs.page("/console/board").await;
    assert!(page.contains("there is no source of agents") && !page.contains("Lovelace"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_says_who_is_not_covered() {
    let variables = [("GENESYS_AGENTS", "ann,bob")];
    let world = CloudWorld::starting(options(&["ann", "bob"]), &variables).await;
    world.sees(2).await;
    let console = Console::of(&world.bridge).await;
    assert!(!console.page("/console/board").await.contains("not covered</span>"));
    let id = world.bridge.get("/v1/connections").await.json()["items"][0]["id"].clone();
    let ended = format!("/v1/connections/{}/terminate", id.as_str().unwrap());
    assert_eq!(world.bridge.post(&ended, &json!({})).await.status, 202);
    eventually("nobody is covered", || async {
        let page = console.page("/console/board?connected=false").await;
        (page.matches("not covered</span>").count() == 2).then_some(())
    })
    .await;
    assert!(console.page("/console/").await.contains("2 agents are not covered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_page_tells_its_day_and_what_webhooks_were_told() {
    let world = CloudWorld::watching(&["ann"]).await;
    world.register("/told", json!({"description": "the CRM of sales"})).await;
    for presence in ["BUSY", "MEAL"] {
        world.cloud.push_presence("ann", presence);
        world.agent_is("ann", presence).await;
    }
    world.cloud.obey(Deed::Drop { reach: Reach::All });
    eventually("a gap and a delivery have ended", || async {
        let gaps = world.bridge.get("/v1/gaps?open=false").await.json();
        let told = world.bridge.get("/v1/deliveries?state=delivered").await.json();
        let both = [&gaps, &told].map(|list| !list["items"].as_array().unwrap().is_empty());
        both.iter().all(|there| *there).then_some(())
    })
    .await;
    let console = Console::of(&world.bridge).await;
    let page = console.page("/console/agents/ann").await;
    for shown in [
        "class=\"chart strip\"",
        "Busy",
        "Meal",
        "the CRM of sales",
        "HTTP 204",
        "<h3>Gaps</h3>",
        "Last frame",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let before = console.page("/console/agents/ann?day=2025-01-31&offset=345").await;
    assert!(before.contains("Nothing was told of this agent on this day."));
    assert!(before.contains("?day=2025-02-01") || before.contains("day=2025-02-01"), "{before}");
    for wrong in ["day=yesterday", "day=2026-02-30", "day=99999-01-01", "offset=7", "offset=x", "source=x"] {
        assert_eq!(console.get(&format!("/console/agents/ann?{wrong}")).await.status, 400, "{wrong}");
    }
    assert_eq!(console.get("/console/agents/nobody").await.status, 404);
    let theirs = Console::log_in(&world.bridge, &key_of_another_tenant(&world).await).await;
    assert_eq!(theirs.get("/console/agents/ann").await.status, 404);

    let erased = world.bridge.delete("/v1/agents/ann/data?watch=true").await;
    assert_eq!(erased.status, 202, "{}", erased.text());
    eventually("the page says that the person was erased", || async {
        let page = console.page("/console/agents/ann").await;
        (page.contains("was erased") && page.contains("The erasure was done")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_id_is_set_on_the_page_by_whoever_may_and_by_nobody_else() {
    let world = CloudWorld::watching(&["ann"]).await;
    let console = Console::of(&world.bridge).await;
    let page = "/console/agents/ann";
    let (to, shown) = console.done(page, &[("external_id", " crm-7 ")]).await;
    assert!(to.starts_with("/console/agents/ann?source="), "{to}");
    assert!(shown.contains("The external id is crm-7 now."), "{shown}");
    assert_eq!(world.agent("ann").await["external_id"], "crm-7");
    let audited = world.audit("AGENTS_MAPPED").await;
    assert_eq!(audited.last().unwrap()["principal"], "api-key:bootstrap", "{audited:?}");

    let long = "x".repeat(201);
    let wrong = console.post(page, &[("external_id", &long)]).await;
    assert_eq!(wrong.status, 422);
    let text = wrong.text();
    assert!(text.contains("field-external_id-wrong") && text.contains(&long), "what was typed stays: {text}");
    assert_eq!(world.agent("ann").await["external_id"], "crm-7");

    let reader = Console::with_scopes(&world.bridge, &["read"]).await;
    let shown = reader.page(page).await;
    assert!(shown.contains("crm-7") && !shown.contains("name=\"external_id\""), "{shown}");
    assert_eq!(reader.post(page, &[("external_id", "crm-8")]).await.status, 403);
    let theirs = Console::log_in(&world.bridge, &key_of_another_tenant(&world).await).await;
    assert_eq!(theirs.post(page, &[("external_id", "crm-9")]).await.status, 404);
    assert_eq!(world.agent("ann").await["external_id"], "crm-7");

    assert_eq!(console.post(page, &[("external_id", "")]).await.status, 303);
    assert_eq!(world.agent("ann").await["external_id"], Value::Null);
}
