//! Webhooks in the console: each form does what the REST API does, with the same rights and the same rules.

use genesys_simulator::crm::{Behaviour, Secret};
use serde_json::{Value, json};

use crate::support::bridge::API_KEY;
use crate::support::console::{Console, fields_of, pairs, place, with};
use crate::support::{SOON, World, eventually};

/// The page of a webhook.
fn page_of(id: &str) -> String {
    format!("/console/webhooks/{id}")
}

/// The secret that a page shows once.
fn secret_on(page: &str) -> String {
    let secret = page.split("data-secret>").nth(1).expect("a secret").split('<').next().unwrap();
    assert!(secret.starts_with("whsec_"), "{secret}");
    secret.to_owned()
}

async fn webhook(world: &World, id: &str) -> Value {
    world.bridge.get(&format!("/v1/webhooks/{id}")).await.json()
}

/// Registers a webhook by the form; gives its id and its secret.
async fn register(
    world: &World,
    console: &Console,
    path: &str,
    changed: &[(&str, &str)],
) -> (String, String) {
    let form = console.get("/console/webhooks/new").await.text();
    let url = world.crm.url(path);
    let mut typed = vec![("url", url.as_str())];
    typed.extend_from_slice(changed);
    let fields = with(&fields_of(&form, "/console/webhooks/new"), &typed);
    let answer = console.submit("/console/webhooks/new", &pairs(&fields)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let page = answer.text();
    let id = page
        .split("href=\"/console/webhooks/")
        .filter_map(|rest| rest.get(..36))
        .find(|id| !id.contains('"'));
    (id.unwrap().to_owned(), secret_on(&page))
}

/// An untouched form registers what the REST API registers by default; the secret that is shown signs; the
/// ping's answer shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_registered_by_a_form_and_shows_what_its_receiver_answers() {
    let world = World::watching(&["ann"]).await;
    let console = Console::log_in(&world.bridge, API_KEY).await;
    let typed = [("description", "Desk <b>7</b>\r\nsecond line"), ("agents", "ann\r\n\r\nnobody")];
    let (id, secret) = register(&world, &console, "/hooks/a", &typed).await;
    let made = webhook(&world, &id).await;
    assert_eq!(made["description"], "Desk <b>7</b>\nsecond line");
    assert_eq!(made["agents"], json!(["ann", "nobody"]));
    let usual = world.register_with("/hooks/usual", json!({})).await;
    for field in [
        "events",
        "topics",
        "presences",
        "sources",
        "queues",
        "routing_statuses",
        "transitions",
        "mode",
        "max_age_seconds",
        "min_dwell_ms",
        "batch",
        "retry_schedule_seconds",
        "timeout_ms",
        "max_concurrency",
        "rate_limit",
        "disable_after_seconds",
        "format",
        "signatures",
        "auth",
        "header_names",
        "verification",
    ] {
        assert_eq!(made[field], usual[field], "{field}");
    }
    world.crm.set_secrets_of("/hooks/a", vec![Secret::parse(&secret).unwrap()]);
    let answer = console.post(&format!("{}/ping", page_of(&id)), &[]).await;
    assert_eq!(answer.status, 303);
    let ping = place(&answer).unwrap();
    eventually("the answer shows", || async {
        let page = console.get(&ping).await.text();
        (page.contains("Your receiver took it.") && page.contains("<td>204</td>")).then_some(())
    })
    .await;
    let post = world.crm.received("/hooks/a")[0].clone();
    assert!(post.verified(), "the secret on the page signs");
    world.crm.next("/hooks/a", [Behaviour::status(503).header("x-desk", "closed").body("come <b>later</b>")]);
    let ping = place(&console.post(&format!("{}/ping", page_of(&id)), &[]).await).unwrap();
    eventually("its refusal shows", || async {
        let page = console.get(&ping).await.text();
        (page.contains("x-desk: closed") && page.contains("come &lt;b&gt;later&lt;/b&gt;")).then_some(())
    })
    .await;
    let page = console.get(&page_of(&id)).await.text();
    assert!(page.contains("Desk &lt;b&gt;7&lt;/b&gt;") && !page.contains("Desk <b>"), "{page}");
    assert!(!page.contains(&secret), "it is shown once");
    let entry = &world.audit("WEBHOOK_CREATED").await[1];
    assert_eq!(entry["webhook_id"], json!(id));
    assert_eq!(entry["principal"], world.audit("WEBHOOK_CREATED").await[0]["principal"], "as for REST");
}

/// Faults stand at their fields, what was typed stays, secrets are not told back, and nothing is made.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_form_stands_at_its_field() {
    let world = World::watching(&["ann"]).await;
    let console = Console::log_in(&world.bridge, API_KEY).await;
    let form = console.get("/console/webhooks/new").await.text();
    let typed = [
        ("url", "ftp://a.example/"),
        ("timeout_ms", "5s"),
        ("batch/max_items", "10"),
        ("sources", "019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50"),
        ("presences", "AVAILABLE\r\n\u{7}"),
        ("headers_do", "replace"),
        ("headers", "Host: a\r\nhunter2"),
        ("auth/kind", "bearer"),
        ("auth/token", "hunter2 hunter2"),
        ("secret", "hunter2"),
    ];
    let fields = with(&fields_of(&form, "/console/webhooks/new"), &typed);
    let answer = console.submit("/console/webhooks/new", &pairs(&fields)).await;
    assert_eq!(answer.status, 422);
    let page = answer.text();
    for field in ["url", "timeout_ms", "batch-max_wait_ms", "presences", "headers", "auth-token", "secret"] {
        assert!(page.contains(&format!("id=\"field-{field}-wrong\"")), "{field}: {page}");
    }
    assert!(page.contains("is no source that we know"), "{page}");
    assert!(page.contains("value=\"5s\"") && page.contains("ftp://a.example/"), "what was typed stays");
    assert!(!page.contains("hunter2"), "{page}");
    assert_eq!(world.bridge.get("/v1/webhooks").await.json()["items"], json!([]));
}

/// A change shows its difference before it is saved, and a change of somebody else in between is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_shown_before_it_is_saved_and_never_undoes_another() {
    let world = World::watching(&["ann"]).await;
    let console = Console::log_in(&world.bridge, API_KEY).await;
    let fields = json!({"description": "before", "retry_schedule_seconds": [5, 60], "presences": ["AWAY"]});
    let id = world.register_with("/hooks/a", fields).await["id"].as_str().unwrap().to_owned();
    let (edit, save) = (format!("{}/edit", page_of(&id)), format!("{}/save", page_of(&id)));
    let untouched = fields_of(&console.get(&edit).await.text(), &edit);
    let page = console.submit(&edit, &pairs(&untouched)).await.text();
    assert!(page.contains("Nothing differs"), "{page}");

    let changed = with(&untouched, &[("description", "after <i>"), ("min_dwell_ms", "1500")]);
    let page = console.submit(&edit, &pairs(&changed)).await.text();
    assert!(page.contains("<del>before</del>") && page.contains("<ins>after &lt;i&gt;</ins>"), "{page}");
    assert!(page.contains("<ins>1500 ms</ins>"), "{page}");
    assert!(!page.contains("<del>AWAY</del>"), "only what differs: {page}");
    assert_eq!(webhook(&world, &id).await["description"], "before", "nothing is saved yet");
    let confirmed = fields_of(&page, &save);

    let other = json!({"timeout_ms": 7000});
    assert_eq!(world.bridge.patch(&format!("/v1/webhooks/{id}"), &other).await.status, 200);
    let answer = console.submit(&save, &pairs(&confirmed)).await;
    assert_eq!(answer.status, 409);
    assert!(answer.text().contains("somebody changed this webhook meanwhile"), "{}", answer.text());
    assert!(answer.text().contains("after &lt;i&gt;"), "what was typed stays");
    assert_eq!(webhook(&world, &id).await["description"], "before");

    let again = with(&fields_of(&answer.text(), &edit), &[("timeout_ms", "7000")]);
    let page = console.submit(&edit, &pairs(&again)).await.text();
    let answer = console.submit(&save, &pairs(&fields_of(&page, &save))).await;
    assert!(answer.text().contains("Saved: description, min_dwell_ms."), "{}", answer.text());
    let now = webhook(&world, &id).await;
    assert_eq!((&now["description"], &now["timeout_ms"]), (&json!("after <i>"), &json!(7000)));
    assert_eq!((&now["retry_schedule_seconds"], &now["presences"]), (&json!([5, 60]), &json!(["AWAY"])));
    assert_eq!(now["version"], 3);
    let stale = json!({"description": "late", "version": 2});
    let refused = world.bridge.patch(&format!("/v1/webhooks/{id}"), &stale).await;
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("conflict")), "REST has the same");
}

/// Headers and credentials are replaced without ever being shown.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_set_and_never_shown() {
    let world = World::watching(&["ann"]).await;
    let console = Console::log_in(&world.bridge, API_KEY).await;
    let hook = world.register("/hooks/a").await;
    let access = format!("{}/access", page_of(&hook));
    let untouched = fields_of(&console.get(&access).await.text(), &access);
    let typed = [
        ("headers_do", "replace"),
        ("headers", "X-Team: desk-7"),
        ("auth/kind", "basic"),
        ("auth/username", "ann"),
        ("auth/password", "hunter2"),
    ];
    let page = console.submit(&access, &pairs(&with(&untouched, &typed))).await.text();
    assert!(page.contains("Headers and credentials are saved."), "{page}");
    world.bridge.post(&format!("/v1/webhooks/{hook}/test"), &json!({})).await;
    let post = world.crm.wait_for(1, SOON).await.unwrap()[0].clone();
    assert_eq!(post.header("x-team"), Some("desk-7"));
    assert_eq!(post.header("authorization"), Some("Basic YW5uOmh1bnRlcjI="));
    let pages = [page, console.get(&access).await.text(), console.get(&page_of(&hook)).await.text()];
    assert!(pages.iter().all(|page| !page.contains("hunter2") && !page.contains("desk-7")));
    let late = console.submit(&access, &pairs(&untouched)).await;
    assert_eq!(late.status, 409, "it was changed meanwhile");
    let keep = fields_of(&console.get(&access).await.text(), &access);
    console.submit(&access, &pairs(&keep)).await;
    assert_eq!(webhook(&world, &hook).await["header_names"], json!(["x-team"]), "untouched, it stays");
}

/// Every button does what it says, in the name of the key.
#[tokio::test(flavor = "multi_thread")]
async fn every_button_does_what_it_says() {
    let world = World::watching(&["ann"]).await;
    let console = Console::log_in(&world.bridge, API_KEY).await;
    let hook = world.register_with("/hooks/a", json!({"description": "Desk 7"})).await;
    let (id, first) = (hook["id"].as_str().unwrap().to_owned(), hook["secret"].as_str().unwrap());
    let page = page_of(&id);
    let push = async |what: &str| console.submit(&format!("{page}/{what}"), &[]).await;
    for (what, state) in [("pause", "paused"), ("resume", "active"), ("snapshot", "active")] {
        assert_eq!(push(what).await.status, 200, "{what}");
        assert_eq!(webhook(&world, &id).await["state"], state, "{what}");
    }
    world.crm.next("/hooks/a", [Behaviour::status(410)]);
    world.genesys.set_presence("ann", "AWAY").await;
    eventually("it is disabled", || async {
        (webhook(&world, &id).await["state"] == "disabled").then_some(())
    })
    .await;
    let shown = console.get(&page).await.text();
    assert!(
        shown.contains("its receiver answered 410") && !shown.contains(&format!("{page}/pause")),
        "{shown}"
    );
    let recover = format!("{page}/recover");
    let refused = console.submit(&recover, &[("hours", "1"), ("agents", "ann, who was away")]).await;
    let said = refused.text();
    assert!(refused.status == 422 && said.contains("role=\"alert\""), "it takes no part: {said}");
    assert!(said.contains("ann, who was away"), "what was typed stays: {said}");
    push("enable").await;
    assert_eq!(webhook(&world, &id).await["state"], "active");

    let rotate = [("overlap_seconds", "3600")];
    let shown = console.submit(&format!("{page}/rotate"), &rotate).await.text();
    let second = secret_on(&shown);
    assert_ne!(second, first);
    let secrets = world.bridge.get(&format!("/v1/webhooks/{id}/secrets")).await.json();
    let ends: Vec<bool> =
        secrets["items"].as_array().unwrap().iter().map(|secret| secret["expires_at"].is_null()).collect();
    assert_eq!(ends, [true, false], "the present one first: {secrets}");

    let wrong = console.submit(&recover, &[("since", "yesterday"), ("agents", "ann")]).await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("id=\"field-since-wrong\""), "{}", wrong.text());
    console.submit(&recover, &[("hours", "1"), ("what", "all")]).await;
    eventually("the recovery shows its end", || async {
        console.get(&recover).await.text().contains(">done</span>").then_some(())
    })
    .await;

    let delete = format!("{page}/delete");
    let refused = console.submit(&delete, &[("name", "Desk 8")]).await;
    assert_eq!((refused.status, webhook(&world, &id).await["state"].as_str()), (422, Some("active")));
    let list = console.submit(&delete, &[("name", " Desk 7 ")]).await.text();
    assert!(list.contains("Desk 7 is deleted."), "{list}");
    assert_eq!(console.get(&page).await.status, 404);
    let principal = world.audit("WEBHOOK_CREATED").await[0]["principal"].clone();
    for kind in [
        "WEBHOOK_PAUSED",
        "WEBHOOK_RESUMED",
        "SNAPSHOT_REQUESTED",
        "WEBHOOK_ENABLED",
        "WEBHOOK_SECRET_ROTATED",
        "WEBHOOK_DELETED",
    ] {
        let entry = &world.audit(kind).await[0];
        assert_eq!(entry["principal"], principal, "{kind}");
    }
}

/// A key that only reads is shown no form and is refused each action; another tenant finds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn readers_and_other_tenants_change_nothing() {
    let world = World::watching(&["ann"]).await;
    let hook = world.register("/hooks/a").await;
    let page = page_of(&hook);
    let key = async |fields: Value| {
        let made = world.bridge.post("/v1/api-keys", &fields).await.json();
        made["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    };
    let reader = key(json!({"name": "reader", "scopes": ["read"]})).await;
    let tenant = world.bridge.post("/v1/tenants", &json!({"name": "second"})).await.json()["id"].clone();
    let other = key(json!({"name": "other", "scopes": ["read", "webhooks"], "tenant_id": tenant})).await;
    let (reader, other) =
        (Console::log_in(&world.bridge, &reader).await, Console::log_in(&world.bridge, &other).await);
    let before = webhook(&world, &hook).await;
    for what in ["", "/ping"] {
        let shown = reader.get(&format!("{page}{what}")).await;
        assert_eq!(shown.status, 200);
        assert_eq!(shown.text().matches("method=\"post\"").count(), 1, "only the logout: {}", shown.text());
        assert_eq!(other.get(&format!("{page}{what}")).await.status, 404, "{what}");
    }
    for what in ["edit", "access", "rotate", "delete", "recover"] {
        assert_eq!(reader.get(&format!("{page}/{what}")).await.status, 403, "{what}");
        assert_eq!(other.get(&format!("{page}/{what}")).await.status, 404, "{what}");
    }
    for what in
        ["pause", "resume", "enable", "snapshot", "ping", "rotate", "delete", "edit", "save", "access"]
    {
        let fields = [("name", before["url"].as_str().unwrap()), ("version", "1"), ("overlap_seconds", "0")];
        assert_eq!(reader.submit(&format!("{page}/{what}"), &fields).await.status, 403, "{what}");
        assert_eq!(other.submit(&format!("{page}/{what}"), &fields).await.status, 404, "{what}");
    }
    assert_eq!(webhook(&world, &hook).await, before);
    assert!(!other.get("/console/webhooks").await.text().contains(&hook));
    assert_eq!(other.get("/console/webhooks").await.status, 200);
    for what in ["lanes", "attempts", "outcomes", "secrets"] {
        let path = format!("/v1/webhooks/{hook}/{what}");
        assert_eq!(world.bridge.get(&path).await.status, 200, "{path}");
    }
}

/// What waits is told with its reason; attempts are counted by hour as the log is sealed; lists filter.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_what_came_of_attempts_is_told() {
    let world = World::watching(&["ann", "bob"]).await;
    let console = Console::log_in(&world.bridge, API_KEY).await;
    world.crm.always("/hooks/bad", Behaviour::status(500).body("broken"));
    let bad = world.register_with("/hooks/bad", json!({"retry_schedule_seconds": [3600]})).await;
    let bad = bad["id"].as_str().unwrap();
    let good = world.register_with("/hooks/good", json!({"description": "Good & well"})).await;
    let good = good["id"].as_str().unwrap();
    for presence in ["AWAY", "BUSY", "MEAL"] {
        world.genesys.set_presence("ann", presence).await;
    }
    let lanes = eventually("ann's lane waits", || async {
        let lanes = world.bridge.get(&format!("/v1/webhooks/{bad}/lanes")).await.json();
        // They are not counted at one moment.
        (lanes["open"] == 3
            && lanes["oldest"][0]["behind"] == 2
            && lanes["oldest"][0]["verdict"] == "waiting")
            .then_some(lanes)
    })
    .await;
    assert_eq!(lanes["lanes"], 1);
    assert_eq!(lanes["oldest"][0]["agent_id"], "ann");
    let reason = lanes["oldest"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("http_5xx, status 500"), "{reason}");
    let page = console.get(&page_of(bad)).await.text();
    assert!(page.contains("http_5xx, status 500") && page.contains("<td>2</td>"), "{page}");

    let counted = eventually("attempts are counted", || async {
        let counted = world.bridge.get(&format!("/v1/webhooks/{good}/outcomes")).await.json();
        let hours = counted["hours"].as_array().unwrap();
        let taken: i64 = hours.iter().filter_map(|hour| hour["outcomes"]["ok"]["attempts"].as_i64()).sum();
        (taken == 3).then_some(counted)
    })
    .await;
    assert_eq!(counted["hours"].as_array().unwrap().len(), 25);
    let page = console.get(&page_of(good)).await.text();
    assert!(page.contains("3 taken (2xx)") && page.contains("100 % of 3"), "{page}");
    let listed = async |query: &str| {
        let list = world.bridge.get(&format!("/v1/webhooks?{query}")).await.json();
        let ids =
            list["items"].as_array().unwrap().iter().map(|hook| hook["id"].as_str().unwrap().to_owned());
        let ids: Vec<String> = ids.collect();
        let page = console.get(&format!("/console/webhooks?{query}")).await.text();
        for hook in [bad, good] {
            let shown = page.contains(&format!("id=\"webhook-{hook}\""));
            assert_eq!(shown, ids.contains(&hook.to_owned()), "{query}: the page and REST agree");
        }
        ids
    };
    assert_eq!(listed("failing=true").await, [bad]);
    assert_eq!(listed("failing=false").await, [good]);
    assert_eq!(listed("text=good+%26").await, [good]);
    assert_eq!(listed("text=HOOKS/BAD").await, [bad]);
    assert_eq!(listed("state=paused").await, Vec::<String>::new());
    let list = world.bridge.get("/v1/webhooks?traffic=true").await.json();
    assert_eq!(list["items"][0]["traffic"]["open"], 3);
    let taken =
        |at: usize| (&list["items"][at]["traffic"]["taken"], &list["items"][at]["traffic"]["attempts"]);
    assert_eq!((taken(0), taken(1)), ((&json!(0), &json!(1)), (&json!(3), &json!(3))));
}
