//! What an operator learns of a source over the API: how it stands, whom Genesys does not let the bridge
//! watch, and that a request to read rosters was taken.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::look::all;
use crate::support::{World, database};

/// Writes down that upstream rejects the topics of these agents on a connection, as a subscription would.
async fn reject(pool: &PgPool, connection: &str, agents: &[&str]) {
    sqlx::query(
        "insert into connection_agent (
             source_id, connection_id, agent_id, topic, rejected_reason, missing_permissions, rejected_at)
         select c.source_id, c.connection_id, agent, 'v2.users.' || agent || '.activity', 'not allowed',
                array['presence:userPresence:view'], now()
         from connection c, unnest($2::text[]) as agent
         where c.connection_id = $1
         on conflict (source_id, agent_id) do update
         set topic = excluded.topic,
             rejected_reason = excluded.rejected_reason,
             missing_permissions = excluded.missing_permissions,
             rejected_at = excluded.rejected_at",
    )
    .bind(Uuid::parse_str(connection).unwrap())
    .bind(agents)
    .execute(pool)
    .await
    .unwrap();
}

/// Ids of the connection that watches this agent and of its source.
async fn watched_by(world: &World, agent: &str) -> (String, String) {
    let found = all(&world.bridge, &format!("/v1/connections?agent={agent}")).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let id = |field: &str| found[0][field].as_str().unwrap().to_owned();
    (id("id"), id("source_id"))
}

fn agents_of(rejected: &[Value]) -> Vec<&str> {
    rejected.iter().map(|topic| topic["agent_id"].as_str().unwrap()).collect()
}

/// What is wrong by the answer to a request: the fields that it names.
fn wrong_fields(problem: &Value) -> BTreeSet<&str> {
    problem["errors"]
        .as_array()
        .unwrap_or_else(|| panic!("no fields in {problem}"))
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect()
}

fn notifications(world: &World, more: &Value) -> Value {
    let mut source = json!({
        "name": "second", "api_url": world.genesys.api_url(), "client_id": "sim-client", "client_secret": "sim-secret",
    });
    source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_and_its_parts_say_how_they_stand() {
    let world = World::watching(&["ann", "bob"]).await;
    let (ann, source) = watched_by(&world, "ann").await;
    let path = format!("/v1/sources/{source}");
    let before = world.bridge.get(&path).await.json();
    let fine = json!({
        "state": "ok", "stale_since": null, "roster_read_at": null, "roster_error": null, "agents_wanted": 0,
        "agents_over_limit": 0, "agents_rejected": 0, "connections": 2, "connections_open": 2,
    });
    assert_eq!(before["health"], fine);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("EVENT_RECEIVED", 1).await;
    assert_eq!(world.bridge.get("/v1/agents/ann").await.json()["connected"], true);

    let pool = database::pool(&world.bridge.database_url).await;
    reject(&pool, &ann, &["ann"]).await;
    sqlx::query(
        "insert into source_health (source_id, roster_read_at, roster_error, agents_wanted, agents_over_limit)
         values ($1, '2026-11-23 09:00:00Z', 'queue q-1 is not there', 1200, 7)",
    )
    .bind(Uuid::parse_str(&source).unwrap())
    .execute(&pool)
    .await
    .unwrap();
    let listed = all(&world.bridge, "/v1/sources").await;
    let health = &world.bridge.get(&path).await.json()["health"];
    assert_eq!(&listed[0]["health"], health);
    for (field, figure) in [
        ("state", json!("ok")),
        ("roster_read_at", json!("2026-11-23T09:00:00Z")),
        ("roster_error", json!("queue q-1 is not there")),
        ("agents_wanted", json!(1200)),
        ("agents_over_limit", json!(7)),
        ("agents_rejected", json!(1)),
        ("connections_open", json!(2)),
    ] {
        assert_eq!(health[field], figure, "{field}");
    }
    let connection = world.bridge.get(&format!("/v1/connections/{ann}")).await.json();
    assert_eq!((&connection["agents"], &connection["rejected_topics"]), (&json!(1), &json!(1)));
    // An open socket that may not tell of an agent is no coverage of it.
    let agent = world.bridge.get("/v1/agents/ann").await.json();
    assert_eq!((&agent["connected"], &agent["rejected"]), (&json!(false), &json!("not allowed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_is_taken_and_written_down_for_the_environments_source_too() {
    let world = World::watching(&["ann"]).await;
    let (_, source) = watched_by(&world, "ann").await;
    let before = world.bridge.get(&format!("/v1/sources/{source}")).await.json();
    assert_eq!(before["origin"], "environment");
    for _ in 0..2 {
        let taken = world.bridge.post(&format!("/v1/sources/{source}/refresh"), &json!({})).await;
        assert_eq!(taken.status, 202, "{}", taken.text());
        assert_eq!(taken.json()["version"], before["version"], "nothing is set otherwise");
    }
    let pool = database::pool(&world.bridge.database_url).await;
    let asked: i64 = sqlx::query_scalar("select refreshes_asked from source").fetch_one(&pool).await.unwrap();
    assert_eq!(asked, 2);
    let entries = world.audit("REFRESH_REQUESTED").await;
    assert_eq!(entries.len(), 2);
    for entry in &entries {
        assert_eq!(entry["source_id"], source.as_str());
        assert!(entry["principal"].is_string(), "{entry}");
    }
    let nobody = format!("/v1/sources/{}/refresh", Uuid::nil());
    assert_eq!(world.bridge.post(&nobody, &json!({})).await.status, 404);
    assert_eq!(world.audit("REFRESH_REQUESTED").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_rejected_topics_have_no_holes_and_no_twins() {
    let world = World::watching(&["ann", "bob"]).await;
    let (ann, source) = watched_by(&world, "ann").await;
    let (bob, _) = watched_by(&world, "bob").await;
    let pool = database::pool(&world.bridge.database_url).await;
    reject(&pool, &ann, &["ann", "a-1", "a-2", "a-3"]).await;
    reject(&pool, &bob, &["b-1", "b-2", "b-3"]).await;

    let mut seen = Vec::new();
    let mut pages = 0;
    let mut cursor = String::new();
    loop {
        let page = world.bridge.get(&format!("/v1/rejected-topics?limit=3{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        seen.extend(page["items"].as_array().unwrap().clone());
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, 3);
    let distinct: BTreeSet<&str> = agents_of(&seen).into_iter().collect();
    assert_eq!(seen.len(), 7);
    assert_eq!(distinct, BTreeSet::from(["ann", "a-1", "a-2", "a-3", "b-1", "b-2", "b-3"]));
    let first = seen.iter().find(|topic| topic["agent_id"] == "ann").unwrap();
    assert_eq!(first["topic"], "v2.users.ann.activity");
    assert_eq!(first["reason"], "not allowed");
    assert_eq!(first["missing_permissions"], json!(["presence:userPresence:view"]));
    assert_eq!((&first["source_id"], &first["connection_id"]), (&json!(source), &json!(ann)));

    let of_bob = all(&world.bridge, &format!("/v1/rejected-topics?connection={bob}")).await;
    assert_eq!(agents_of(&of_bob), ["b-1", "b-2", "b-3"]);
    assert_eq!(all(&world.bridge, &format!("/v1/rejected-topics?source={source}")).await.len(), 7);
    let elsewhere = format!("/v1/rejected-topics?source={}", Uuid::nil());
    assert!(all(&world.bridge, &elsewhere).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_notifications_needs_little_and_is_shown_with_what_holds() {
    let world = World::watching(&["ann"]).await;
    let wanted = notifications(&world, &json!({"region": "eu-central-1", "queues": ["q-1", "q-1"]}));
    let made = world.bridge.post("/v1/sources", &wanted).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    for (field, value) in [
        ("protocol", json!("notifications")),
        ("region", json!("mypurecloud.de")),
        ("topic_matrix", json!({"topics": ["activity"]})),
        ("agents", json!([])),
        ("queues", json!(["q-1"])),
        ("groups", json!([])),
        ("all_users", json!(false)),
        ("language", json!("en_US")),
        ("stale_after_seconds", json!(120)),
        ("roster_interval_seconds", json!(600)),
    ] {
        assert_eq!(made[field], value, "{field}");
    }
    let path = format!("/v1/sources/{}", made["id"].as_str().unwrap());
    let change = json!({
        "queues": [], "groups": ["g-1"], "language": "de_DE", "stale_after_seconds": 5,
        "roster_interval_seconds": 86400, "topic_matrix": {"topics": ["presence", "routingStatus"]},
    });
    let changed = world.bridge.patch(&path, &change).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let shown = world.bridge.get(&path).await.json();
    for (field, value) in change.as_object().unwrap() {
        assert_eq!(&shown[field], value, "{field}");
    }
    assert_eq!(shown["version"], 2);
    // The whole must be right, not only what is given: nobody would be watched.
    let nobody = world.bridge.patch(&path, &json!({"groups": []})).await;
    assert_eq!((nobody.status, wrong_fields(&nobody.json())), (422, BTreeSet::from(["/agents"])));
    // Agents and topics of the other protocol are other ones.
    let other = world.bridge.patch(&path, &json!({"protocol": "realtime"})).await;
    assert_eq!(other.status, 422);
    assert_eq!(wrong_fields(&other.json()), BTreeSet::from(["/agents", "/groups", "/topic_matrix"]));
    assert_eq!(world.bridge.get(&path).await.json()["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_goes_nowhere_else_than_where_it_was_given_for() {
    let world = World::watching(&["ann"]).await;
    let source = notifications(&world, &json!({"agents": ["bob"]}));
    let made = world.bridge.post("/v1/sources", &source).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/sources/{id}");
    // Whoever may change a source need not have been told its secret.
    for elsewhere in [
        json!({"api_url": world.crm.url("/api")}),
        json!({"login_url": world.crm.url("/login")}),
        json!({"region": "mypurecloud.ie"}),
    ] {
        let changed = world.bridge.patch(&path, &elsewhere).await;
        let mut examined = elsewhere.clone();
        examined["source_id"] = json!(id);
        let examined = world.bridge.post("/v1/sources/examinations", &examined).await;
        for refused in [changed, examined] {
            let wrong = refused.json();
            assert_eq!(
                (refused.status, wrong_fields(&wrong)),
                (422, BTreeSet::from(["/client_secret"])),
                "{wrong}"
            );
        }
    }
    // The same address, said again, is no other one.
    let same = json!({"api_url": made.json()["api_url"], "language": "de_DE"});
    assert_eq!(world.bridge.patch(&path, &same).await.status, 200);
    let with_secret = json!({"region": "mypurecloud.ie", "client_secret": "sim-secret"});
    let moved = world.bridge.patch(&path, &with_secret).await;
    assert_eq!((moved.status, &moved.json()["region"]), (200, &json!("mypurecloud.ie")));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_agents_as_the_rules_allow_fit_into_a_request() {
    let world = World::watching(&["ann"]).await;
    let agents: Vec<String> = (0..18_001_u128).map(|n| Uuid::from_u128(n << 64).to_string()).collect();
    // Too little besides, so that nothing is made of it.
    for (count, wrong) in
        [(18_000, BTreeSet::from(["/name"])), (18_001, BTreeSet::from(["/name", "/agents"]))]
    {
        let source = notifications(&world, &json!({"name": "", "agents": &agents[..count]}));
        let answer = world.bridge.post("/v1/sources", &source).await;
        assert_eq!((answer.status, wrong_fields(&answer.json())), (422, wrong), "{count}");
    }
    let mut huge = notifications(&world, &json!({"agents": agents}));
    huge["language"] = json!("x".repeat(500_000));
    assert_eq!(world.bridge.post("/v1/sources", &huge).await.status, 413);
}
