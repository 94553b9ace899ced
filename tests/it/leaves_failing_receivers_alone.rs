//! A receiver that fails, asks for rest, or is gone: it is left alone, those who ask are told, and it is
//! found again.

use std::time::Duration;

use genesys_simulator::crm::Behaviour;
use genesys_simulator::crm::check::first_arrivals;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::support::crowd::{data, ended_twice};
use crate::support::look::{all, hurry, waiting_for_locks};
use crate::support::{SOON, World, database, eventually};

const NOTICES: [&str; 3] = ["webhook.failing", "webhook.disabled", "webhook.recovered"];

async fn webhook(world: &World, id: &str) -> Value {
    world.bridge.get(&format!("/v1/webhooks/{id}")).await.json()
}

/// Waits until a webhook is in this state.
async fn webhook_in(world: &World, id: &str, state: &str) -> Value {
    eventually(state, || async { Some(webhook(world, id).await).filter(|webhook| webhook["state"] == state) })
        .await
}

fn id(webhook: &Value) -> String {
    webhook["id"].as_str().unwrap().to_owned()
}

/// Makes one agent's deliveries fail until the webhook has failed so often in a row.
async fn fail(world: &World, pool: &PgPool, hook: &str, times: u64) {
    eventually("it has failed often enough", || async {
        hurry(pool).await;
        let failures = webhook(world, hook).await["health"]["failures"].as_u64().unwrap();
        (failures >= times).then_some(())
    })
    .await;
}

/// Kinds of the notices that have come, and what they say; one that a kill made come twice counts once.
fn notices(world: &World) -> Vec<(String, Value)> {
    let posts = world.crm.received("/hooks/alarm");
    first_arrivals(&posts).into_iter().map(|post| (post.kind().unwrap(), data(post))).collect()
}

/// Waits for `count` notices.
async fn notices_are(world: &World, count: usize) -> Vec<(String, Value)> {
    eventually("notices", || async { Some(notices(world)).filter(|notices| notices.len() == count) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_of_ones_own_counts_and_an_empty_one_means_a_single_try() {
    let world = World::watching(&["ann"]).await;
    world.register_with("/hooks/twice", json!({"retry_schedule_seconds": [1, 3600]})).await;
    world.register_with("/hooks/once", json!({"retry_schedule_seconds": []})).await;
    for path in ["/hooks/twice", "/hooks/once"] {
        world.crm.always(path, Behaviour::status(500));
    }
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world
        .crm
        .wait_until(|posts| posts.iter().filter(|p| p.path() == "/hooks/twice").count() == 2, SOON)
        .await
        .unwrap();
    let posts = world.crm.received("/hooks/twice");
    let waited = posts[1].arrived - posts[0].arrived;
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    let twice = eventually("the second attempt is written down", || async {
        let delivery = world.delivery(posts[0].webhook_id()).await;
        (delivery["state"] == "waiting" && delivery["attempts"].as_array()?.len() == 2).then_some(delivery)
    })
    .await;
    assert_eq!(twice["attempts_begun"], 2);
    let once = world.crm.received("/hooks/once");
    assert_eq!(once.len(), 1);
    world.delivery_in(once[0].webhook_id(), "dead").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_rest_gets_it_for_all_agents_until_the_time_it_said() {
    for status in [429, 503] {
        let world = World::watching(&["ann", "bob"]).await;
        let pool = database::pool(&world.bridge.database_url).await;
        let hook = world.register("/hooks/a").await;
        let until = OffsetDateTime::now_utc() + Duration::from_secs(3600);
        let date =
            until.format(&time::format_description::well_known::Rfc2822).unwrap().replace("+0000", "GMT");
        world.crm.next("/hooks/a", [Behaviour::retry_after(status, &date)]);
        world.genesys.set_presence("ann", "AVAILABLE").await;
        let held = eventually("it rests", || async {
            let webhook = webhook(&world, &hook).await;
            webhook["health"]["hold_until"].is_string().then_some(webhook)
        })
        .await;
        let at = |text: &Value| genesys_simulator::clock::parse_rfc3339(text.as_str().unwrap()).unwrap();
        assert!(at(&held["health"]["hold_until"]) >= until - Duration::from_secs(1), "{held}");
        world.genesys.set_presence("bob", "AVAILABLE").await;
        let pending = eventually("bob's change is pending", || async {
            let open = all(&world.bridge, "/v1/deliveries?state=open").await;
            (open.len() == 2 && open.iter().all(|delivery| delivery["state"] == "waiting")).then_some(open)
        })
        .await;
        for delivery in pending {
            let event = delivery["event_id"].as_str().unwrap();
            let told = world.bridge.get(&format!("/v1/explain?event={event}&webhook={hook}")).await.json();
            assert_eq!(told["verdict"], "held", "{told}");
        }
        // Another webhook is a fence: what is due is sent, and this was not.
        world.register("/hooks/fence").await;
        world.genesys.set_presence("bob", "BUSY").await;
        world.crm.wait_until(|posts| posts.iter().any(|p| p.path() == "/hooks/fence"), SOON).await.unwrap();
        assert_eq!(world.crm.received("/hooks/a").len(), 1);
        eventually("when the rest is over all goes on", || async {
            hurry(&pool).await;
            (world.crm.received("/hooks/a").len() == 4).then_some(())
        })
        .await;
        assert_eq!(webhook(&world, &hook).await["state"], "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_is_disabled_at_once_and_those_who_ask_are_told() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register_with("/hooks/a", json!({"description": "wallboard"})).await;
    let hook = id(&hook);
    world.register_with("/hooks/alarm", json!({"events": NOTICES})).await;
    world.crm.always("/hooks/a", Behaviour::status(410).after(Duration::from_millis(200)));
    for state in ["AVAILABLE", "BUSY", "AWAY"] {
        world.genesys.set_presence("ann", state).await;
    }
    let disabled = webhook_in(&world, &hook, "disabled").await;
    assert_eq!(disabled["state_reason"], "gone");
    let entry = &world.audit_of("WEBHOOK_DISABLED", 1).await[0];
    assert_eq!((&entry["level"], &entry["data"]["reason"]), (&json!("ERROR"), &json!("gone")));
    world.genesys.set_presence("ann", "MEAL").await;
    world.audit_of("EVENT_RECEIVED", 4).await;
    let told = notices_are(&world, 1).await;
    assert_eq!(told[0].0, "webhook.disabled");
    assert_eq!(told[0].1["webhook"], json!({"id": hook, "description": "wallboard"}));
    assert_eq!(told[0].1["reason"], "gone");
    eventually("nothing is pending", || async { (world.open_deliveries(&pool).await == 0).then_some(()) })
        .await;
    let ended = all(&world.bridge, &format!("/v1/deliveries?webhook={hook}")).await;
    assert_eq!(ended.len(), 3, "nothing is pending from then on");
    assert!(ended.iter().all(|delivery| delivery["state"] == "webhook_disabled"), "{ended:#?}");
    assert_eq!(world.crm.received("/hooks/a").len(), 1, "it was told that once");
    assert_eq!(ended_twice(&pool).await, []);
    let probe: Option<OffsetDateTime> =
        sqlx::query_scalar("select probe_at from webhook_health where webhook_id = $1::uuid")
            .bind(&hook)
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(probe, None, "one that is gone is not asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_tell_each_other_are_disabled_in_the_same_moment() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let mut hooks = Vec::new();
    for path in ["/hooks/a", "/hooks/b"] {
        world.crm.always(path, Behaviour::status(410));
        hooks.push(id(&world
            .register_with(path, json!({"events": ["presence.updated", "webhook.disabled"]}))
            .await));
    }
    // Both are on the way to be disabled, and neither can go on. What writes down their failures waits for
    // nobody.
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select from webhook_health for update").execute(&mut *held).await.unwrap();
    world.genesys.set_presence("ann", "AVAILABLE").await;
    eventually("both wait", || async { (waiting_for_locks(&pool).await == 2).then_some(()) }).await;
    world.audit_of("DELIVERY_ATTEMPT", 2).await;
    held.rollback().await.unwrap();
    for hook in &hooks {
        webhook_in(&world, hook, "disabled").await;
    }
    assert!(!world.bridge.log().contains("deadlock"), "{}", world.bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_too_long_is_disabled_and_found_again_when_it_is_well() {
    let mut world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register_with("/hooks/a", json!({"disable_after_seconds": 3600})).await;
    let hook = id(&hook);
    world.register_with("/hooks/alarm", json!({"events": NOTICES})).await;
    world.crm.always("/hooks/a", Behaviour::status(500));
    world.genesys.set_presence("ann", "AVAILABLE").await;
    fail(&world, &pool, &hook, 5).await;
    let failing = notices_are(&world, 1).await;
    assert_eq!(failing[0].0, "webhook.failing");
    assert_eq!((&failing[0].1["webhook"]["id"], &failing[0].1["reason"]), (&json!(hook), &json!("http_5xx")));
    assert!(failing[0].1["failures"].as_u64().unwrap() >= 5 && failing[0].1["failing_since"].is_string());

    world.bridge.kill().await;
    sqlx::query(
        "update webhook_health set failing_since = failing_since - interval '59 min' where failures > 0",
    )
    .execute(&pool)
    .await
    .unwrap();
    world.bridge.restart().await;
    world.sockets_open(1).await;
    fail(&world, &pool, &hook, 7).await;
    assert_eq!(webhook(&world, &hook).await["state"], "active", "not yet");
    world.bridge.kill().await;
    sqlx::query(
        "update webhook_health set failing_since = failing_since - interval '1 min' where failures > 0",
    )
    .execute(&pool)
    .await
    .unwrap();
    world.bridge.restart().await;
    world.sockets_open(1).await;
    let disabled = eventually("it is disabled", || async {
        hurry(&pool).await;
        Some(webhook(&world, &hook).await).filter(|webhook| webhook["state"] == "disabled")
    })
    .await;
    assert_eq!(disabled["state_reason"], "failing");
    let told = notices_are(&world, 2).await;
    assert_eq!((told[1].0.as_str(), &told[1].1["reason"]), ("webhook.disabled", &json!("failing")));

    // It is asked now and then; a failed probe changes nothing.
    let probe = "update webhook_health set probe_at = now() where probe_at is not null";
    assert_eq!(sqlx::query(probe).execute(&pool).await.unwrap().rows_affected(), 1);
    let probed = world.audit_of("WEBHOOK_PROBED", 1).await;
    assert_eq!(probed[0]["outcome"], "http_5xx");
    assert_eq!(webhook(&world, &hook).await["state"], "disabled");
    world.genesys.set_presence("ann", "MEAL").await;
    world.audit_of("EVENT_RECEIVED", 2).await;
    world.crm.always("/hooks/a", Behaviour::status(204));
    sqlx::query(probe).execute(&pool).await.unwrap();
    let enabled = webhook_in(&world, &hook, "active").await;
    assert_eq!((&enabled["state_reason"], &enabled["health"]["failures"]), (&json!(null), &json!(0)));
    assert_eq!(enabled["health"]["last_outcome"], json!(null));
    let told = notices_are(&world, 3).await;
    assert_eq!(told[2].0, "webhook.recovered");
    let posts = eventually("the present state", || async {
        let posts = world.crm.received("/hooks/a");
        (posts.last()?.kind().as_deref() == Some("presence.snapshot")).then_some(posts)
    })
    .await;
    assert_eq!(data(posts.last().unwrap())["presence"]["system"], "MEAL");
    assert_eq!(ended_twice(&pool).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_and_recovered_are_told_once_each_however_the_failures_come() {
    let agents = ["ann", "bob", "cid", "dan", "eve", "fay", "gus"];
    let world = World::watching(&agents).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    world.register_with("/hooks/alarm", json!({"events": NOTICES})).await;
    // As it is for a webhook from before the upgrade: nothing is kept of its health.
    sqlx::query("delete from webhook_health").execute(&pool).await.unwrap();
    world.crm.always("/hooks/a", Behaviour::status(503).after(Duration::from_millis(300)));
    for agent in agents {
        world.genesys.push_presence(agent, "AVAILABLE"); // they fail at the same moment
    }
    let told = notices_are(&world, 1).await;
    assert_eq!(told[0].0, "webhook.failing");
    assert!(told[0].1["failures"].as_u64().unwrap() >= 5, "{told:?}");
    eventually("its health says why", || async {
        (webhook(&world, &hook).await["health"]["last_outcome"] == "http_5xx").then_some(())
    })
    .await;
    world.crm.always("/hooks/a", Behaviour::status(204));
    world.drained(&pool).await;
    let told = notices_are(&world, 2).await;
    assert_eq!(told[1].0, "webhook.recovered");
    let well = json!({
        "failures": 0, "failing_since": null, "hold_until": null, "probe_at": null, "last_outcome": null, "last_reason": null,
    });
    eventually("of its failures nothing is left", || async {
        (webhook(&world, &hook).await["health"] == well).then_some(())
    })
    .await;
    assert_eq!(
        (world.audit("WEBHOOK_FAILING").await.len(), world.audit("WEBHOOK_RECOVERED").await.len()),
        (1, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_before_the_receiver_has_answered_well_and_everything_after() {
    for verification in ["echo", "options"] {
        let world = World::watching(&["ann"]).await;
        let pool = database::pool(&world.bridge.database_url).await;
        let fields = json!({"verification": verification, "snapshot": true});
        let hook = id(&world.register_with("/hooks/a", fields).await);
        let probed = world.audit_of("WEBHOOK_PROBED", 1).await;
        let refused = if verification == "echo" { json!("no_challenge") } else { json!("http_4xx") };
        assert_eq!(probed[0]["outcome"], refused);
        world.genesys.set_presence("ann", "AVAILABLE").await;
        world.audit_of("EVENT_RECEIVED", 1).await;
        assert_eq!(webhook(&world, &hook).await["state"], "unverified");
        assert!(all(&world.bridge, "/v1/deliveries").await.is_empty(), "nothing is pending yet");
        let before = world.crm.received("/hooks/a");
        assert!(before.iter().all(|post| post.verified() && data(post)["challenge"].is_string()));

        world.crm.next("/hooks/a", (verification == "echo").then_some(Behaviour::Echo { status: 200 }));
        world.crm.allow_origin(Some(("presence-bridge", Some(120))));
        assert_eq!(world.bridge.post(&format!("/v1/webhooks/{hook}/enable"), &json!({})).await.status, 200);
        let active = webhook_in(&world, &hook, "active").await;
        assert_eq!(active["rate_limit"], Value::Null, "limits are the owner's");
        let told = &world.audit_of("WEBHOOK_PROBED", 2).await[0]["data"]["allowed_per_minute"];
        assert_eq!(told, &if verification == "options" { json!(120) } else { Value::Null });
        eventually("the snapshot that was asked for", || async {
            let last = world.crm.received("/hooks/a").last()?.clone();
            (last.kind().as_deref() == Some("presence.snapshot")).then_some(())
        })
        .await;
        world.genesys.set_presence("ann", "BUSY").await;
        eventually("and changes from now on", || async {
            let last = world.crm.received("/hooks/a").last()?.clone();
            (last.kind().as_deref() == Some("presence.updated")).then_some(())
        })
        .await;
        eventually("nothing is pending", || async {
            (world.open_deliveries(&pool).await == 0).then_some(())
        })
        .await;
    }
}
