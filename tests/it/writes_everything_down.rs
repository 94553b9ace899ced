//! The audit log tells the whole story: what it says and what happened are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use genesys_simulator::crm::{Answer, Behaviour};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::crowd::ended_twice;
use crate::support::look::{all, feed};
use crate::support::{SOON, World, database, eventually};

async fn count(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_it_gives_what_receivers_saw_and_what_is_kept() {
    let world = World::watching(&["ann", "bob"]).await;
    world.register("/hooks/a").await;
    let leaving = world.register("/hooks/leaves").await;
    world.crm.next("/hooks/a", [Behaviour::status(500), Behaviour::CloseUnanswered, Behaviour::status(404)]);
    world.crm.always("/hooks/leaves", Behaviour::status(503));
    for state in ["BUSY", "AWAY", "MEAL", "ON_QUEUE"] {
        for agent in ["ann", "bob"] {
            world.genesys.set_presence(agent, state).await;
        }
    }
    world
        .crm
        .wait_until(|posts| posts.iter().filter(|p| p.path() == "/hooks/leaves").count() >= 2, SOON)
        .await
        .unwrap();
    assert_eq!(world.bridge.delete(&format!("/v1/webhooks/{leaving}")).await.status, 204);
    let pool = database::pool(&world.bridge.database_url).await;
    world.drained(&pool).await;

    let mut log = all(&world.bridge, "/v1/audit").await;
    log.reverse();
    let of = |kind: &str| log.iter().filter(|entry| entry["kind"] == kind).collect::<Vec<_>>();

    let received: Vec<_> = of("EVENT_RECEIVED").iter().map(|entry| text(&entry["event_id"])).collect();
    let events: Vec<_> = feed(&world.bridge).await.iter().map(|event| text(&event["event_id"])).collect();
    assert_eq!(received, events, "each event has one entry, in the order of the feed");

    let mut told: BTreeMap<String, Vec<(i64, Value)>> = BTreeMap::new();
    for entry in of("DELIVERY_ATTEMPT") {
        assert!(entry["duration_ms"].is_i64(), "{entry}");
        assert!(entry["outcome"].is_string(), "{entry}");
        let attempts = told.entry(text(&entry["delivery_id"])).or_default();
        attempts.push((entry["attempt"].as_i64().unwrap(), entry["status"].clone()));
    }
    // An attempt whose kept connection broke was made again at once: the last POST of it counts.
    let mut seen: BTreeMap<String, BTreeMap<i64, Value>> = BTreeMap::new();
    for post in world.crm.posts() {
        let attempts = seen.entry(post.webhook_id().to_owned()).or_default();
        let status = match &post.behaviour {
            Behaviour::Answer(Answer { status, .. }) => json!(status),
            _ => Value::Null,
        };
        attempts.insert(post.header("presence-bridge-attempt").unwrap().parse().unwrap(), status);
    }
    let seen: BTreeMap<_, Vec<_>> =
        seen.into_iter().map(|(id, posts)| (id, posts.into_iter().collect())).collect();
    assert_eq!(told, seen, "each attempt has one entry with its status");

    let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in log.iter().filter(|entry| entry["end_state"].is_string()) {
        ends.entry(text(&entry["delivery_id"])).or_default().push(text(&entry["end_state"]));
    }
    let shown: BTreeMap<_, _> = all(&world.bridge, "/v1/deliveries?state=ended")
        .await
        .iter()
        .map(|delivery| (text(&delivery["id"]), vec![text(&delivery["state"])]))
        .collect();
    assert_eq!(ends, shown, "each delivery ended once, as the API says");
    assert_eq!(ends.len(), 16);
    let gone = ends.values().filter(|states| states[0] == "webhook_gone").count();
    assert_eq!(gone, 8, "what was pending for the removed webhook ended too");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_configuration_name_who_asked() {
    let world = World::watching(&["ann"]).await;
    let webhook = world.register("/hooks/a").await;
    let at = |step: &str| format!("/v1/webhooks/{webhook}{step}");
    let nothing = json!({});
    world.bridge.patch(&at(""), &json!({"description": "x"})).await;
    world.bridge.post(&at("/rotate-secret"), &nothing).await;
    world.bridge.post(&at("/test"), &nothing).await;
    world.bridge.post(&at("/pause"), &nothing).await;
    world.bridge.post(&at("/resume"), &nothing).await;
    let source = json!({
        "name": "second", "protocol": "realtime", "api_url": world.genesys.api_url(), "client_id": "sim-client",
        "client_secret": "a-secret-that-nobody-may-read", "agents": ["bob"],
        "topic_matrix": {"state": ["routing:agent:state"]},
    });
    let made = world.bridge.post("/v1/sources", &source).await;
    let source = format!("/v1/sources/{}", made.json()["id"].as_str().unwrap());
    world.bridge.patch(&source, &json!({"name": "third"})).await;
    let connections = world.bridge.get("/v1/connections").await.json();
    let connection = format!("/v1/connections/{}", connections["items"][0]["id"].as_str().unwrap());
    world.bridge.post(&format!("{connection}/terminate"), &nothing).await;
    world.bridge.post(&format!("{connection}/restart"), &nothing).await;
    world.bridge.delete(&source).await;
    world.bridge.delete(&at("")).await;
    for kind in [
        "WEBHOOK_CREATED",
        "WEBHOOK_UPDATED",
        "WEBHOOK_SECRET_ROTATED",
        "WEBHOOK_TESTED",
        "WEBHOOK_PAUSED",
        "WEBHOOK_RESUMED",
        "WEBHOOK_DELETED",
        "SOURCE_CREATED",
        "SOURCE_UPDATED",
        "SOURCE_DELETED",
        "TERMINATE_REQUESTED",
        "RESTART_REQUESTED",
    ] {
        let asked: Vec<_> =
            world.audit(kind).await.into_iter().filter(|e| e["principal"] == "api-key:bootstrap").collect();
        assert_eq!(asked.len(), 1, "{kind}: {asked:?}");
    }
    let log = Value::Array(all(&world.bridge, "/v1/audit").await).to_string();
    for secret in ["a-secret-that-nobody-may-read", "sim-secret", "whsec_", "wsUrl"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_shares_the_transaction_of_what_it_tells() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.crm.always("/hooks/a", Behaviour::status(500));
    world.genesys.set_presence("ann", "BUSY").await;
    let pool = database::pool(&world.bridge.database_url).await;
    eventually("the attempt is settled", || async {
        let settled = count(&pool, "select count(*) from delivery where last_status = 500").await;
        (settled == 1).then_some(())
    })
    .await;
    let told_with = [
        "select count(*) from event e join audit_log l on l.event_id = e.event_id
         where l.kind = 'EVENT_RECEIVED' and l.xmin = e.xmin",
        "select count(*) from agent a join audit_log l on l.event_id = a.event_id
         where l.kind = 'EVENT_RECEIVED' and l.xmin = a.xmin",
        "select count(*) from delivery d join audit_log l on l.delivery_id = d.delivery_id
         where l.kind = 'DELIVERY_ATTEMPT' and l.xmin = d.xmin",
        "select count(*) from webhook w join audit_log l on l.webhook_id = w.webhook_id
         where l.kind = 'WEBHOOK_CREATED' and l.xmin = w.xmin",
    ];
    for query in told_with {
        assert_eq!(count(&pool, query).await, 1, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_days_are_dropped_whole_but_not_what_is_still_pending() {
    let pool = database::pool(&database::create().await).await;
    let partitions = || async {
        let names: Vec<String> = sqlx::query_scalar(
            "select relname::text from pg_class where relname ~ '^(event|audit_log)_202001[0-9]{2}$' order by 1",
        )
        .fetch_all(&pool)
        .await
        .unwrap();
        names.into_iter().collect::<BTreeSet<_>>()
    };
    assert_eq!(count(&pool, "select make_day_partitions('2020-01-01', 4)::bigint").await, 8);
    assert_eq!(count(&pool, "select make_day_partitions('2020-01-01', 4)::bigint").await, 0, "made once");
    sqlx::raw_sql(
        "insert into event (event_id, received_at, kind, raw)
         select gen_random_uuid(), timestamptz '2020-01-01 12:00Z' + n * interval '1 day', 'webhook.test', ''
         from generate_series(0, 3) n;
         insert into delivery (delivery_id, webhook_id, lane, position, event_id, event_received_at)
         select gen_random_uuid(), gen_random_uuid(), 0, position, event_id, received_at
         from event where received_at::date = '2020-01-03';",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(count(&pool, "select drop_day_partitions('2020-01-01')::bigint").await, 0, "nothing is older");
    assert_eq!(count(&pool, "select drop_day_partitions('2020-01-04')::bigint").await, 4);
    let kept = ["audit_log_20200103", "audit_log_20200104", "event_20200103", "event_20200104"];
    assert_eq!(partitions().await, kept.map(str::to_owned).into());
    let needed = "select count(*) from delivery d
                  join event e on e.event_id = d.event_id and e.received_at = d.event_received_at";
    assert_eq!(count(&pool, needed).await, 1, "what is pending can still be told");
    assert_eq!(
        count(&pool, "select drop_day_partitions('2020-02-01')::bigint").await,
        2,
        "the day behind it goes"
    );
    sqlx::query("delete from delivery").execute(&pool).await.unwrap();
    assert_eq!(count(&pool, "select drop_day_partitions('2020-02-01')::bigint").await, 2);
    assert!(partitions().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_has_one_end_though_its_webhook_was_removed_under_its_post() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    world.crm.always("/hooks/a", Behaviour::status(204).after(Duration::from_millis(400)));
    for state in ["AVAILABLE", "BUSY"] {
        world.genesys.set_presence("ann", state).await;
    }
    let id = world.crm.wait_for(1, SOON).await.unwrap()[0].webhook_id().to_owned();
    world.audit_of("EVENT_RECEIVED", 2).await;
    assert_eq!(world.bridge.delete(&format!("/v1/webhooks/{hook}")).await.status, 204);
    let attempts = world.audit_of("DELIVERY_ATTEMPT", 1).await;
    assert_eq!((&attempts[0]["delivery_id"], &attempts[0]["outcome"]), (&json!(id), &json!("ok")));
    world.delivery_in(&id, "delivered").await;
    // The one behind it was not under way.
    let ended = world.audit_of("DELIVERY_ENDED", 1).await;
    assert_eq!((ended.len(), &ended[0]["end_state"]), (1, &json!("webhook_gone")));
    assert_eq!(ended_twice(&pool).await, []);
}
