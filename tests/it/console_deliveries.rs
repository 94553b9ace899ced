//! The console tells who was told what, and why not; and what was missed is delivered again from there.

use genesys_simulator::crm::Behaviour;
use genesys_simulator::genesys::Target;
use serde_json::{Value, json};

use crate::support::console::Console;
use crate::support::look::{all, give_up};
use crate::support::{World, database, eventually};

/// A key of another tenant, logged in.
async fn another_tenant(world: &World) -> Console {
    let tenant = world.bridge.post("/v1/tenants", &json!({"name": "other"})).await.json();
    let scopes = json!(["read", "webhooks", "audit"]);
    let key = json!({"name": "theirs", "scopes": scopes, "tenant_id": tenant["id"]});
    let made = world.bridge.post("/v1/api-keys", &key).await;
    assert_eq!(made.status, 201, "{}", made.text());
    Console::log_in(&world.bridge, made.json()["key"].as_str().unwrap()).await
}

/// The one delivery to a webhook, once it is in this state.
async fn delivery_to(world: &World, hook: &str, state: &str) -> Value {
    eventually(state, || async {
        all(&world.bridge, &format!("/v1/deliveries?webhook={hook}&state={state}")).await.into_iter().next()
    })
    .await
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_leads_to_who_was_told_and_to_why_another_was_not() {
    let world = World::watching(&["ann"]).await;
    let console = Console::with_scopes(&world.bridge, &["read"]).await;
    let marked = json!({"description": "<b>CRM</b>"});
    let hook = world.register_with("/hooks/a?key=hidden", marked).await["id"].as_str().unwrap().to_owned();
    let other = world.register_with("/hooks/other", json!({"agents": ["bob"]})).await;
    let other = other["id"].as_str().unwrap();
    world.genesys.set_presence("ann", "MEAL").await;
    let delivery = delivery_to(&world, &hook, "delivered").await;
    let (event, id) = (text(&delivery, "event_id"), text(&delivery, "id"));
    // Protocol `realtime` tells no names.
    let pool = database::pool(&world.bridge.database_url).await;
    sqlx::query("update agent set name = 'Ann Miller'").execute(&pool).await.unwrap();

    for list in ["", "?agent=mill", "?since=1h", "?until=2020-01-01"] {
        let page = console.page(&format!("/console/events{list}")).await;
        assert_eq!(page.contains(&format!("/console/events/{event}")), !list.contains("2020"), "{list}");
    }
    let page = console.page(&format!("/console/events/{event}")).await;
    assert!(page.contains("MEAL") && page.contains(&format!("/console/deliveries/{id}")), "{page}");
    assert!(page.contains("&lt;b&gt;CRM&lt;/b&gt;") && !page.contains("<b>CRM"), "{page}");
    assert!(page.contains("&quot;ann&quot;"), "the frame: {page}");

    for (query, is_found) in [
        ("", true),
        ("?agent=ANN+M&state=delivered", true),
        ("?webhook=crm", true),
        ("?webhook=hooks/other", false),
        ("?state=dead", false),
        ("?since=2020-01-01T00:00:00Z&until=5m", false),
    ] {
        let page = console.page(&format!("/console/deliveries{query}")).await;
        assert_eq!(page.contains(&format!("/console/deliveries/{id}")), is_found, "{query}");
    }
    let page = console.page(&format!("/console/deliveries/{id}")).await;
    assert!(page.contains("with attempt 1, status 2"), "{page}");
    assert!(!page.contains("key=hidden") && !page.contains("Try again"), "{page}");

    let told = console.page(&format!("/console/explain?event={event}&webhook={hook}")).await;
    assert!(told.contains("The receiver took it at"), "{told}");
    let told = console.page(&format!("/console/explain?event={event}&webhook=hooks/other")).await;
    assert!(told.contains("The event does not pass agents."), "{told}");
    let choice = console.page("/console/explain?agent=ann&at=1m").await;
    assert!(choice.contains("No change of this agent had arrived by then."), "{choice}");
    let choice = console.page(&format!("/console/explain?agent=ann&webhook={other}")).await;
    let address = format!("/console/explain?event={event}&amp;webhook={other}");
    assert!(choice.contains(&address), "{choice}");
    let choice = console.page(&format!("/console/explain?event={event}")).await;
    assert!(choice.contains(&address), "{choice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_search_cannot_read_is_said_at_its_field() {
    let world = World::watching(&["ann"]).await;
    let console = Console::of(&world.bridge).await;
    for hook in ["/hooks/a", "/hooks/b"] {
        world.register(hook).await;
    }
    for (path, told) in [
        ("events?since=yesterday", r#"field-since-wrong">It is no time such as"#),
        ("events?until=2026-13-01", r#"field-until-wrong">It is no time such as"#),
        ("events?source=x", r#"field-source-wrong">It is no uuid"#),
        ("deliveries?since=x", r#"field-since-wrong">It is no time such as"#),
        ("deliveries?state=lost", r#"field-state-wrong">It is none of"#),
        (
            "deliveries?webhook=nowhere",
            r#"field-webhook-wrong">It is in no webhook's description or address"#,
        ),
        ("deliveries?webhook=hooks", r#"field-webhook-wrong">It fits several webhooks"#),
        ("deliveries?cursor=x", "Pass next_cursor of a page of this list"),
        ("explain?event=x", r#"field-event-wrong">It is no uuid"#),
        ("gaps?open=maybe", r#"field-open-wrong">It is neither true nor false"#),
        ("recoveries?state=lost", r#"field-state-wrong">It is none of"#),
    ] {
        let answer = console.get(&format!("/console/{path}")).await;
        assert_eq!(answer.status, 400, "{path}");
        let page = answer.text().replace("&#39;", "'");
        assert!(page.contains(told) && page.contains("<form"), "{path}: {page}");
    }
    let choice = console.get("/console/deliveries?webhook=hooks").await.text();
    assert_eq!(choice.matches("/console/deliveries?webhook=0").count(), 2, "{choice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_delivery_is_tried_again_by_who_may() {
    let world = World::watching(&["ann"]).await;
    let auth = json!({"auth": {"kind": "bearer", "token": "canary-of-a-token"}});
    let hook = world.register_with("/hooks/a", auth).await["id"].as_str().unwrap().to_owned();
    world.crm.next("/hooks/a", [Behaviour::status(503)]);
    world.genesys.set_presence("ann", "MEAL").await;
    world.audit_of("DELIVERY_ATTEMPT", 1).await;
    let id = text(&delivery_to(&world, &hook, "waiting").await, "id").to_owned();
    let (page, retry) = (format!("/console/deliveries/{id}"), format!("/console/deliveries/{id}/retry"));

    let reader = Console::with_scopes(&world.bridge, &["read"]).await;
    assert!(!reader.page(&page).await.contains("Try again now"));
    assert_eq!(reader.post(&retry, &[]).await.status, 403);
    let other = another_tenant(&world).await;
    assert_eq!(other.get(&page).await.status, 404);
    assert_eq!(other.post(&retry, &[]).await.status, 404);
    assert!(world.audit("DELIVERY_RETRIED").await.is_empty());

    let operator = Console::with_scopes(&world.bridge, &["read", "webhooks"]).await;
    assert!(operator.page(&page).await.contains("Try again now"));
    let (to, shown) = operator.done(&retry, &[]).await;
    assert_eq!(to, page);
    assert!(shown.contains("It is tried again now."), "{shown}");
    let shown = operator.says(&page, "The receiver took it at").await;
    assert!(shown.contains("Attempt 1: http_5xx, status 503"), "{shown}");
    assert!(shown.contains("Head of the answer") && shown.contains("Started"), "{shown}");
    assert!(shown.contains("&quot;type&quot;:&quot;presence.updated&quot;"), "the body: {shown}");
    assert!(shown.contains("<code>webhook-id</code>") && !shown.contains("canary"), "{shown}");
    assert!(shown.contains("api-key:read-webhooks asked for another try."), "{shown}");
    assert_eq!(world.audit("DELIVERY_RETRIED").await[0]["principal"], "api-key:read-webhooks");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_match_are_counted_confirmed_and_tried_again() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let mut hooks = Vec::new();
    for path in ["/hooks/a", "/hooks/b"] {
        let hook = world.register(path).await;
        world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await;
        hooks.push(hook);
    }
    for state in ["BUSY", "AWAY", "MEAL"] {
        world.genesys.set_presence("ann", state).await;
    }
    world.genesys.set_presence("bob", "MEAL").await;
    world.audit_of("EVENT_RECEIVED", 4).await;
    assert_eq!(give_up(&pool).await, 8);
    let all = "/console/deliveries/retry";

    let reader = Console::with_scopes(&world.bridge, &["read"]).await;
    assert!(!reader.page("/console/deliveries").await.contains(all));
    assert_eq!(reader.get(all).await.status, 403);
    assert_eq!(reader.post(all, &[]).await.status, 403);
    let other = another_tenant(&world).await;
    assert!(other.page(all).await.contains("Nothing that ended without success is like this."));
    assert_eq!(other.post(all, &[]).await.status, 422);
    assert!(world.audit("RECOVERY_REQUESTED").await.is_empty());

    let operator = Console::with_scopes(&world.bridge, &["read", "webhooks"]).await;
    let found = operator.page("/console/deliveries?state=dead&agent=ann").await;
    assert!(found.contains("/console/deliveries/retry?state=dead&amp;agent=ann"), "{found}");
    assert!(!operator.page("/console/deliveries?state=delivered").await.contains(all));
    for (query, told) in [
        ("", "8 deliveries to 2 webhooks"),
        ("?agent=ann", "6 deliveries to 2 webhooks"),
        ("?agent=ann&webhook=hooks/a&since=1h", "3 deliveries to 1 webhook<"),
        ("?until=1h", "Nothing that ended without success is like this."),
    ] {
        let page = operator.page(&format!("{all}{query}")).await;
        assert!(page.contains(told), "{query}: {page}");
    }
    // Among many webhooks it is found out first which have any that failed.
    sqlx::query(
        "insert into webhook (webhook_id, url, description, state, version, created_at, updated_at, agents)
         select gen_random_uuid(), 'http://127.0.0.1:9/', 'one of many', 'paused', 1, now(), now(), '{nobody}'
         from generate_series(1, 600)",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert!(operator.page(all).await.contains("8 deliveries to 2 webhooks"));
    for (query, told) in [
        ("?state=delivered", "It is none of those that can be tried again"),
        ("?since=1m&until=1h", "It is not before until"),
    ] {
        let answer = operator.get(&format!("{all}{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().contains(told), "{query}: {}", answer.text());
        assert!(answer.text().contains("<form"), "{query}");
    }
    assert_eq!(operator.post(all, &[("state", "delivered")]).await.status, 422);

    let fields = [("agent", "ann"), ("webhook", hooks[0].as_str()), ("state", "dead")];
    let (to, page) = operator.done(all, &fields).await;
    assert!(to.starts_with("/console/recoveries/"), "{to}");
    assert!(page.contains("3 deliveries to 1 webhook tried again."), "{page}");
    let page = operator.says(&to, "badge good").await;
    assert!(page.contains("3 deliveries were opened again"), "{page}");
    assert!(page.contains("deliveries that ended as dead") && page.contains("/console/agents/ann"), "{page}");
    let requested = world.audit("RECOVERY_REQUESTED").await;
    assert_eq!(requested[0]["principal"], "api-key:read-webhooks");
    assert_eq!(world.open_deliveries(&pool).await, 3);

    let (to, page) = operator.done(all, &[]).await;
    assert_eq!(to, "/console/recoveries");
    assert!(page.contains("5 deliveries to 2 webhooks tried again."), "{page}");
    eventually("all are open", || async { (world.open_deliveries(&pool).await == 8).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_say_why_and_who_could_not_be_seen() {
    let world = World::watching(&["ann", "bob"]).await;
    let console = Console::of(&world.bridge).await;
    let other = another_tenant(&world).await;
    console.says("/console/gaps", "none open").await;
    world.genesys.drop_sockets(Target::Agent("ann".to_owned()));
    let gap = eventually("a gap", || async { all(&world.bridge, "/v1/gaps?open=false").await.pop() }).await;
    let page = format!("/console/gaps/{}", text(&gap, "id"));
    let list = console.page("/console/gaps").await;
    assert!(list.contains(&page) && list.contains("The socket was closed"), "{list}");
    let one = console.page(&page).await;
    assert!(one.contains("1 agent could not be seen") && one.contains("/console/agents/ann"), "{one}");
    for (query, is_found) in [
        ("agent=ann", true),
        ("agent=bob", false),
        ("open=true", false),
        ("since=1h", true),
        ("until=1h", false),
    ] {
        let list = console.page(&format!("/console/gaps?{query}")).await;
        assert_eq!(list.contains(&page), is_found, "{query}");
    }
    let (from, id) = (text(&gap, "from"), text(&gap, "id"));
    for (query, is_found) in [(format!("since={from}"), true), (format!("until={from}"), false)] {
        let found = all(&world.bridge, &format!("/v1/gaps?{}", query.replace('+', "%2B"))).await;
        assert_eq!(found.iter().any(|found| found["id"] == id), is_found, "{query}");
    }
    assert_eq!(world.bridge.get(&format!("/v1/gaps/{id}")).await.json(), gap);
    assert_eq!(other.get(&page).await.status, 404);
    assert!(!other.page("/console/gaps").await.contains("ann"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_is_watched_and_cancelled_by_who_may() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await;
    for state in ["BUSY", "AWAY", "MEAL"] {
        world.genesys.set_presence("ann", state).await;
    }
    world.audit_of("EVENT_RECEIVED", 3).await;
    assert_eq!(give_up(&pool).await, 3);
    // Nobody works on it, so that it can be cancelled.
    let holder = uuid::Uuid::now_v7();
    sqlx::query("insert into dispatcher (dispatcher_id, alive_until) values ($1, now() + interval '1 hour')")
        .bind(holder)
        .execute(&pool)
        .await
        .unwrap();
    let id = uuid::Uuid::now_v7();
    sqlx::query(
        "insert into recovery (recovery_id, webhook_id, since, until, only_failed, agents, newest_only, principal,
                               requested_at, held_by)
         values ($1, $2::uuid, now() - interval '1 hour', now(), true, '{}', false, 'test', now(), $3)",
    )
    .bind(id)
    .bind(&hook)
    .bind(holder)
    .execute(&pool)
    .await
    .unwrap();
    let (page, cancel) = (format!("/console/recoveries/{id}"), format!("/console/recoveries/{id}/cancel"));
    let reader = Console::with_scopes(&world.bridge, &["read"]).await;
    assert!(reader.page("/console/recoveries?state=running").await.contains(&page));
    assert!(!reader.page(&page).await.contains("Cancel"));
    assert_eq!(reader.post(&cancel, &[]).await.status, 403);
    let other = another_tenant(&world).await;
    assert_eq!(other.get(&page).await.status, 404);
    assert_eq!(other.post(&cancel, &[]).await.status, 404);

    let operator = Console::with_scopes(&world.bridge, &["read", "webhooks"]).await;
    assert!(operator.page(&page).await.contains("Cancel"));
    let (to, shown) = operator.done(&cancel, &[]).await;
    assert_eq!(to, page);
    assert!(shown.contains("cancelled") && !shown.contains("Cancel:"), "{shown}");
    assert_eq!(operator.post(&cancel, &[]).await.status, 409, "it has ended");
    assert_eq!(world.audit("RECOVERY_ENDED").await[0]["principal"], "api-key:read-webhooks");
}
