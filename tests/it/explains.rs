//! Support's question, answered: why did this webhook get that event, or not? And what it missed, sent again.

use genesys_simulator::crm::Behaviour;
use genesys_simulator::crm::check::{holes, inversions};
use serde_json::{Value, json};

use crate::support::look::{all, feed, give_up};
use crate::support::{SOON, World, database, eventually};

async fn explain(world: &World, event: &str, webhook: &str) -> Value {
    let answer = world.bridge.get(&format!("/v1/explain?event={event}&webhook={webhook}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Waits for this verdict.
async fn verdict(world: &World, event: &str, webhook: &str, wanted: &str) -> Value {
    eventually(wanted, || async {
        let told = explain(world, event, webhook).await;
        (told["verdict"] == wanted).then_some(told)
    })
    .await
}

/// Ids of the events so far, oldest first, once there are that many.
async fn events(world: &World, count: usize) -> Vec<String> {
    world.audit_of("EVENT_RECEIVED", count).await;
    feed(&world.bridge).await.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_a_delivery_has_its_verdict_and_its_steps() {
    let world = World::watching(&["ann"]).await;
    let hook = world.register("/hooks/a").await;
    world.crm.next("/hooks/a", [Behaviour::status(503)]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("DELIVERY_ATTEMPT", 1).await;
    world.genesys.set_presence("ann", "AWAY").await;
    let ids = events(&world, 2).await;
    let waiting = verdict(&world, &ids[0], &hook, "waiting").await;
    assert!(waiting["reason"].as_str().unwrap().contains("status 503"), "{waiting}");
    let whats: Vec<_> =
        waiting["steps"].as_array().unwrap().iter().map(|step| step["what"].clone()).collect();
    assert!(whats.contains(&json!("attempt")) && whats.last().unwrap() == "waits", "{waiting}");
    let blocked = verdict(&world, &ids[1], &hook, "blocked").await;
    assert!(
        blocked["reason"].as_str().unwrap().contains(waiting["delivery_id"].as_str().unwrap()),
        "{blocked}"
    );

    let retry = format!("/v1/deliveries/{}/retry", waiting["delivery_id"].as_str().unwrap());
    assert_eq!(world.bridge.post(&retry, &json!({})).await.status, 202);
    let delivered = verdict(&world, &ids[0], &hook, "delivered").await;
    let steps = delivered["steps"].as_array().unwrap();
    let attempts: Vec<_> =
        steps.iter().filter(|step| step["what"] == "attempt").map(|step| step["status"].clone()).collect();
    assert_eq!((&attempts[0], attempts.len()), (&json!(503), 2), "{delivered}");
    assert!(steps.iter().any(|step| step["what"] == "retried"), "{delivered}");
    assert!(steps.windows(2).all(|pair| pair[0]["at"].as_str() <= pair[1]["at"].as_str()), "{delivered}");
    let delivery = &all(&world.bridge, &format!("/v1/deliveries?event={}", ids[0])).await[0];
    assert_eq!(delivered["delivery_id"], delivery["id"]);

    assert_eq!(world.bridge.delete(&format!("/v1/webhooks/{hook}")).await.status, 204);
    verdict(&world, &ids[0], &hook, "delivered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_delivery_is_explained_by_filter_and_time() {
    let world = World::watching(&["ann"]).await;
    let other = json!({"agents": ["bob"], "presences": ["AVAILABLE"]});
    let other = world.register_with("/hooks/other", other).await["id"].as_str().unwrap().to_owned();
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let id = events(&world, 1).await[0].clone();
    let told = explain(&world, &id, &other).await;
    assert_eq!(told["verdict"], "not_matched");
    assert_eq!(told["matched"]["agents"], json!({"matches": false, "asked": ["bob"], "has": ["ann"]}));
    assert_eq!(told["matched"]["presences"]["matches"], true);
    world.bridge.patch(&format!("/v1/webhooks/{other}"), &json!({"agents": []})).await;
    let told = explain(&world, &id, &other).await;
    assert_eq!(told["verdict"], "not_matched");
    assert!(told["reason"].as_str().unwrap().contains("changed"), "{told}");
    let late = world.register("/hooks/late").await;
    assert_eq!(explain(&world, &id, &late).await["verdict"], "not_registered_then");
    let nothing = uuid::Uuid::now_v7();
    for query in [format!("event={nothing}&webhook={late}"), format!("event={id}&webhook={nothing}")] {
        assert_eq!(world.bridge.get(&format!("/v1/explain?{query}")).await.status, 404, "{query}");
    }
    for query in [format!("event={id}"), format!("webhook={late}"), format!("event={id}&webhook=x")] {
        assert_eq!(world.bridge.get(&format!("/v1/explain?{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_events_are_delivered_again_in_order_and_delivered_ones_are_not() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await;
    for state in ["BUSY", "AWAY", "MEAL"] {
        for agent in ["ann", "bob"] {
            world.genesys.set_presence(agent, state).await;
        }
    }
    let ids = events(&world, 7).await;
    verdict(&world, &ids[0], &hook, "delivered").await;
    assert_eq!(give_up(&pool).await, 6);
    verdict(&world, &ids[1], &hook, "dead").await;

    let since = json!({"since": "2020-01-01T00:00:00Z", "agents": ["ann"]});
    let some = world.recover(&hook, &since).await;
    assert_eq!(json!([some["recovered"], some["skipped"], some["state"]]), json!([3, 0, "done"]), "{some}");
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    assert_eq!(world.recover(&hook, &since).await["recovered"], 3, "the other agent's");
    assert_eq!(world.recover(&hook, &since).await["recovered"], 0, "what is open stays as it is");
    world.audit_of("RECOVERY_REQUESTED", 3).await;
    world.bridge.post(&format!("/v1/webhooks/{hook}/resume"), &json!({})).await;
    let posts = world.crm.wait_for(7, SOON).await.unwrap();
    for agent in ["ann", "bob"] {
        let states: Vec<_> = posts[1..]
            .iter()
            .filter(|post| post.event.as_ref().unwrap().agent() == agent)
            .map(|post| post.event.as_ref().unwrap().state().to_owned())
            .collect();
        assert_eq!(states, ["BUSY", "AWAY", "MEAL"], "{agent}");
    }
    verdict(&world, &ids[6], &hook, "delivered").await;
    eventually("nothing is pending", || async { (world.open_deliveries(&pool).await == 0).then_some(()) })
        .await;
    let everything = json!({"since": "2020-01-01T00:00:00Z", "only_failed": false});
    assert_eq!(world.recover(&hook, &everything).await["recovered"], 7);
    let before =
        json!({"since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00Z", "only_failed": false});
    assert_eq!(world.recover(&hook, &before).await["recovered"], 0);
    let path = format!("/v1/webhooks/{hook}/recover");
    for wrong in [
        json!({}),
        json!({"since": "yesterday"}),
        json!({"since": "2020-01-02T00:00:00Z", "until": "2020-01-02T00:00:00Z"}),
        json!({"since": "2020-01-01T00:00:00Z", "agents": ["ann", ""]}),
    ] {
        assert_eq!(world.bridge.post(&path, &wrong).await.status, 422, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_latest_states_only_the_newest_is_delivered_again() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await;
    for state in ["BUSY", "AWAY"] {
        for agent in ["ann", "bob"] {
            world.genesys.set_presence(agent, state).await;
        }
    }
    let ids = events(&world, 4).await;
    // Of bob the first is given up and the second delivered.
    let gave_up = "with gone as (delete from delivery returning *)
                   insert into audit_log (at, kind, webhook_id, event_id, delivery_id, agent_id, attempt, end_state)
                   select now(), 'DELIVERY_ENDED', g.webhook_id, g.event_id, g.delivery_id, e.agent_id, 11,
                          case when e.agent_id = 'bob' and e.presence = 'AWAY' then 'delivered' else 'dead' end
                   from gone g
                   join event e on e.event_id = g.event_id";
    assert_eq!(sqlx::query(gave_up).execute(&pool).await.unwrap().rows_affected(), 4);
    sqlx::query("update webhook set mode = 'latest'").execute(&pool).await.unwrap();
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    assert_eq!(world.recover(&hook, &since).await["recovered"], 1);
    let open = all(&world.bridge, "/v1/deliveries?state=open").await;
    assert_eq!(open.len(), 1);
    let newest = feed(&world.bridge).await.into_iter().rfind(|event| event["agent"]["id"] == "ann").unwrap();
    assert_eq!(open[0]["event_id"], newest["event_id"]);
    assert_eq!(explain(&world, &ids[0], &hook).await["verdict"], "dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_was_superseded_expired_or_is_held_is_explained_as_that() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let latest = world.register_with("/hooks/latest", json!({"mode": "latest"})).await;
    let fresh = world.register_with("/hooks/fresh", json!({"max_age_seconds": 2})).await;
    let rests = world.register("/hooks/rests").await;
    let id = |webhook: &Value| webhook["id"].as_str().unwrap().to_owned();
    let (latest, fresh) = (id(&latest), id(&fresh));
    world.crm.next("/hooks/latest", [Behaviour::status(500)]);
    world.crm.next("/hooks/fresh", [Behaviour::status(500)]);
    world.crm.next("/hooks/rests", [Behaviour::retry_after(429, "3600")]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("DELIVERY_ATTEMPT", 3).await;
    world.genesys.set_presence("ann", "AWAY").await;
    let ids = events(&world, 2).await;
    let superseded = verdict(&world, &ids[0], &latest, "superseded").await;
    let newer = all(&world.bridge, &format!("/v1/deliveries?webhook={latest}&event={}", ids[1])).await;
    assert!(
        superseded["reason"].as_str().unwrap().contains(newer[0]["id"].as_str().unwrap()),
        "{superseded}"
    );
    verdict(&world, &ids[1], &latest, "delivered").await;
    let expired = verdict(&world, &ids[0], &fresh, "expired").await;
    assert!(expired["steps"].as_array().unwrap().iter().any(|step| step["what"] == "attempt"), "{expired}");
    verdict(&world, &ids[1], &fresh, "delivered").await;
    let held = verdict(&world, &ids[0], &rests, "held").await;
    assert!(held["reason"].as_str().unwrap().contains("status 429"), "{held}");
    sqlx::query("update webhook_health set hold_until = null").execute(&pool).await.unwrap();
    sqlx::query("update delivery set due_at = now() where due_at is not null").execute(&pool).await.unwrap();
    verdict(&world, &ids[1], &rests, "delivered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_refuses_is_told_as_that_and_not_as_a_receiver_that_fails() {
    let world = World::watching(&["ann", "bob", "cid", "dan", "eve"]).await;
    let refusal = json!({"error": "invalid_client", "error_description": "unknown client"}).to_string();
    let refuse = Behaviour::status(401).header("content-type", "application/json").body(refusal);
    world.crm.next("/token", std::iter::repeat_n(refuse, 50));
    let auth = json!({
        "kind": "oauth2", "token_url": world.crm.url("/token"), "client_id": "bridge", "client_secret": "s3cret",
    });
    let hook = world.register_with("/hooks/a", json!({"auth": auth})).await;
    let id = hook["id"].as_str().unwrap();
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("DELIVERY_ATTEMPT", 1).await;
    let ids = events(&world, 1).await;
    let waiting = verdict(&world, &ids[0], id, "waiting").await;
    let refused = "the token endpoint answered 401: invalid_client: unknown client";
    let told = waiting["reason"].as_str().unwrap();
    assert!(told.contains(&format!("got no access token, so nothing was sent ({refused})")), "{told}");
    for agent in ["bob", "cid", "dan", "eve"] {
        world.genesys.set_presence(agent, "AVAILABLE").await;
    }
    let held = verdict(&world, &ids[0], id, "held").await;
    let told = held["reason"].as_str().unwrap();
    assert!(told.starts_with(&format!("Its token server gives no access token ({refused})")), "{told}");
    assert!(!told.contains("receiver"), "{told}");
    let health = world.bridge.get(&format!("/v1/webhooks/{id}")).await.json()["health"].clone();
    assert_eq!((&health["last_outcome"], &health["last_reason"]), (&json!("token"), &json!(refused)));
    assert!(world.crm.received("/hooks/a").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_were_missed_all_of_the_time_asked_for_are_delivered_again() {
    let agents = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal", "ida", "jim"];
    let world = World::watching(&agents).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    for agent in agents {
        world.genesys.set_presence(agent, "AVAILABLE").await;
    }
    world.crm.wait_for(10, SOON).await.unwrap();
    eventually("nothing is pending", || async { (world.open_deliveries(&pool).await == 0).then_some(()) })
        .await;
    world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await;
    let first = time::OffsetDateTime::now_utc();
    let rounds = 250;
    for round in 0..rounds {
        for agent in agents {
            world.genesys.push_presence(agent, ["BUSY", "AWAY"][round % 2]);
        }
    }
    let missed = 10 * rounds as u64;
    eventually("all are stored", || async {
        (u64::try_from(world.open_deliveries(&pool).await).unwrap() == missed).then_some(())
    })
    .await;
    let last = time::OffsetDateTime::now_utc();
    give_up(&pool).await;
    let write = |at: time::OffsetDateTime| at.format(&time::format_description::well_known::Rfc3339).unwrap();
    let later = json!({"since": write(last)});
    assert_eq!(world.recover(&hook, &later).await["recovered"], 0);
    let before = json!({"since": "2020-01-01T00:00:00Z", "until": write(first)});
    assert_eq!(world.recover(&hook, &before).await["recovered"], 0, "those were delivered");
    let all = json!({"since": write(first), "until": write(last)});
    assert_eq!(world.recover(&hook, &all).await["recovered"], missed);
    world.bridge.post(&format!("/v1/webhooks/{hook}/resume"), &json!({})).await;
    let posts = world.crm.wait_for(10 + missed, SOON).await.unwrap();
    assert_eq!(inversions(&posts), Vec::<String>::new());
    assert_eq!(holes(&posts), Vec::<String>::new());
    assert_eq!(posts.len() as u64, 10 + missed, "each once");
}
