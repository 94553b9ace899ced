//! What an owner can say of deliveries and of the receiver's entry: kept, shown without secrets, changed one
//! by one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{World, database};

const CANARY: &str = "canary-value-41c7";

async fn row(pool: &PgPool, query: &'static str, id: &str) -> Value {
    sqlx::query_scalar(query).bind(id).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_said_has_the_documented_default() {
    let world = World::watching(&["ann"]).await;
    let made = world.register_with("/hooks/a", json!({})).await;
    for (field, value) in [
        ("mode", json!("every")),
        ("max_age_seconds", json!(null)),
        ("min_dwell_ms", json!(0)),
        ("batch", json!(null)),
        ("retry_schedule_seconds", json!(null)),
        ("timeout_ms", json!(15_000)),
        ("max_concurrency", json!(100)),
        ("rate_limit", json!(null)),
        ("disable_after_seconds", json!(432_000)),
        ("format", json!("standard")),
        ("signatures", json!(["v1"])),
        ("header_names", json!([])),
        ("auth", json!({"kind": "none"})),
        ("client_certificate", json!(false)),
        ("verification", json!("none")),
        ("state", json!("active")),
        ("state_reason", json!(null)),
        ("version", json!(1)),
        (
            "health",
            json!({"failures": 0, "failing_since": null, "hold_until": null, "probe_at": null, "last_outcome": null,
                "last_reason": null}),
        ),
    ] {
        assert_eq!(made[field], value, "{field}");
    }
    assert!(made.get("public_key").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_is_kept_and_null_clears() {
    let world = World::watching(&["ann"]).await;
    let wanted = json!({
        "mode": "latest", "max_age_seconds": 300, "min_dwell_ms": 250,
        "batch": {"max_items": 50, "max_wait_ms": 500, "max_bytes": 2048}, "retry_schedule_seconds": [1, 60],
        "timeout_ms": 2000, "max_concurrency": 7, "rate_limit": {"requests": 20, "per_seconds": 2}, "disable_after_seconds": 3600,
        "format": "cloudevents-structured", "events": ["presence.updated", "presence.gap", "webhook.failing"],
    });
    let made = world.register_with("/hooks/a", wanted.clone()).await;
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    let shown = world.bridge.get(&path).await.json();
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(shown[field], *value, "{field}");
    }
    let cleared = json!({
        "max_age_seconds": null, "batch": null, "retry_schedule_seconds": null, "rate_limit": null,
    });
    let changed = world.bridge.patch(&path, &cleared).await.json();
    for (field, value) in cleared.as_object().unwrap() {
        assert_eq!(changed[field], *value, "{field}");
    }
    assert_eq!((&changed["mode"], &changed["min_dwell_ms"]), (&json!("latest"), &json!(250)));
    let fields = world.audit_of("WEBHOOK_UPDATED", 1).await[0]["data"]["fields"].clone();
    assert_eq!(fields, json!(["max_age_seconds", "batch", "retry_schedule_seconds", "rate_limit"]));
    let version = changed["version"].clone();
    let again = world.bridge.patch(&path, &cleared).await.json();
    assert_eq!(again["version"], version, "what changes nothing is not counted");
    let no_retries = world.bridge.patch(&path, &json!({"retry_schedule_seconds": []})).await.json();
    assert_eq!(no_retries["retry_schedule_seconds"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_all_at_once_by_pointer() {
    let world = World::watching(&["ann"]).await;
    let wrong = json!({
        "url": world.crm.url("/hooks/a"), "mode": "newest", "max_age_seconds": 0, "min_dwell_ms": "1",
        "batch": {"max_items": 1001}, "retry_schedule_seconds": [1, 86_401], "timeout_ms": 999,
        "rate_limit": {"requests": 1, "per_seconds": 1, "burst": 3}, "signatures": [], "verification": "mail",
        "headers": {"Webhook-Id": "x", "x-a/b": "x", "x-ok": "x\r\ny"},
        "auth": {"kind": "basic", "username": "ann", "token": "x"}, "client_certificate": {"chain": "x", "key": "y"},
        "snapshot": "yes",
    });
    let refused = world.bridge.post("/v1/webhooks", &wrong).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    let mut pointers: Vec<String> = refused.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap().to_owned())
        .collect();
    pointers.sort();
    pointers.dedup();
    let mut expected = vec![
        "/mode",
        "/max_age_seconds",
        "/min_dwell_ms",
        "/batch/max_wait_ms",
        "/retry_schedule_seconds/1",
        "/timeout_ms",
        "/rate_limit/burst",
        "/signatures",
        "/verification",
        "/headers/Webhook-Id",
        "/headers/x-a~1b",
        "/headers/x-ok",
        "/auth/password",
        "/auth/token",
        "/client_certificate/chain",
        "/client_certificate/key",
        "/snapshot",
    ];
    expected.sort_unstable();
    assert_eq!(pointers, expected);
    // What concerns two fields at once counts over a change too.
    let made = world.register_with("/hooks/a", json!({"format": "cloudevents-binary"})).await;
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    let batch = json!({"batch": {"max_items": 2, "max_wait_ms": 0}});
    let refused = world.bridge.patch(&path, &batch).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!("/batch")));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_sealed_never_shown_and_replaced_one_by_one() {
    let world = World::watching(&["ann"]).await;
    let entry = json!({
        "headers": {"X-Tenant": CANARY, "cookie": CANARY},
        "auth": {"kind": "basic", "username": "ann", "password": CANARY},
    });
    let made = world.register_with("/hooks/a", entry).await;
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/webhooks/{id}");
    assert_eq!(made["header_names"], json!(["cookie", "x-tenant"]));
    assert_eq!(made["auth"], json!({"kind": "basic"}));
    let pool = database::pool(&world.bridge.database_url).await;
    let sealed = "select coalesce(to_jsonb(encode(access_sealed, 'base64')), 'null') from webhook where webhook_id = $1::uuid";
    let first = row(&pool, sealed, id).await;
    assert!(first.is_string());

    let bearer = json!({"auth": {"kind": "bearer", "token": CANARY}});
    let changed = world.bridge.patch(&path, &bearer).await.json();
    assert_eq!(
        (&changed["auth"]["kind"], &changed["header_names"]),
        (&json!("bearer"), &made["header_names"])
    );
    assert_ne!(row(&pool, sealed, id).await, first);
    let version = changed["version"].clone();
    assert_eq!(world.bridge.patch(&path, &bearer).await.json()["version"], version, "the same again");

    let away = json!({"headers": {}, "auth": {"kind": "none"}});
    let changed = world.bridge.patch(&path, &away).await.json();
    assert_eq!((&changed["auth"]["kind"], &changed["header_names"]), (&json!("none"), &json!([])));
    assert!(row(&pool, sealed, id).await.is_null(), "nothing is left to seal");
    let told = world.audit_of("WEBHOOK_UPDATED", 2).await;
    assert_eq!(told[0]["data"]["fields"], json!(["headers", "auth"]));
    let audit = world.bridge.get("/v1/audit?limit=200").await.text();
    let shown = world.bridge.get("/v1/webhooks").await.text();
    for text in [audit, shown, made.to_string(), world.bridge.log()] {
        for form in [CANARY.to_owned(), BASE64.encode(CANARY)] {
            assert!(!text.contains(&form));
        }
    }
    let inner = json!({"auth": {"kind": "oauth2", "token_url": "http://169.254.169.254/token", "client_id": "a",
                                "client_secret": "b"}});
    let refused = world.bridge.patch(&path, &inner).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!("/auth/token_url")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pair_is_made_when_it_is_first_wanted_and_rotates_with_the_secret() {
    let world = World::watching(&["ann"]).await;
    let made = world.register_with("/hooks/a", json!({})).await;
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/webhooks/{id}");
    let both = world.bridge.patch(&path, &json!({"signatures": ["v1a", "v1"]})).await.json();
    assert_eq!(both["signatures"], json!(["v1", "v1a"]));
    let public = both["public_key"].as_str().unwrap().strip_prefix("whpk_").unwrap().to_owned();
    assert_eq!(BASE64.decode(&public).unwrap().len(), 32);
    let none = world.bridge.patch(&path, &json!({"signatures": ["v1"]})).await.json();
    assert!(none.get("public_key").is_none());
    let again = world.bridge.patch(&path, &json!({"signatures": ["v1a"]})).await.json();
    assert_eq!(again["public_key"], both["public_key"], "the pair is kept");
    let rotated =
        world.bridge.post(&format!("{path}/rotate-secret"), &json!({"overlap_seconds": 60})).await.json();
    assert_ne!(rotated["public_key"], both["public_key"]);
    assert!(rotated["former_secrets_expire_at"].is_string());
    let pool = database::pool(&world.bridge.database_url).await;
    let count = "select jsonb_object_agg(kind, n) from (
                     select kind, count(*) as n from webhook_secret where webhook_id = $1::uuid group by kind) x";
    assert_eq!(row(&pool, count, id).await, json!({"hmac": 2, "ed25519": 2}));
    // Four former ones of each kind: only those of the kind count against the limit.
    for _ in 0..3 {
        let rotated = world.bridge.post(&format!("{path}/rotate-secret"), &json!({})).await;
        assert_eq!(rotated.status, 200, "{}", rotated.text());
    }
    assert_eq!(world.bridge.post(&format!("{path}/rotate-secret"), &json!({})).await.status, 409);
    let other = world.register_with("/hooks/b", json!({"signatures": ["v1a"]})).await;
    assert_ne!(other["public_key"], again["public_key"]);
    let path = format!("/v1/webhooks/{}/rotate-secret", other["id"].as_str().unwrap());
    let at_once = world.bridge.post(&path, &json!({"overlap_seconds": 0})).await.json();
    assert!(at_once["former_secrets_expire_at"].is_null());
    for wrong in [-1, 604_801] {
        assert_eq!(world.bridge.post(&path, &json!({"overlap_seconds": wrong})).await.status, 422);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_with_verification_waits_for_it_and_another_address_must_be_verified_again() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let made = world.register_with("/hooks/a", json!({"verification": "echo", "snapshot": true})).await;
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/webhooks/{id}");
    assert_eq!(made["state"], "unverified");
    assert!(made["state_reason"].is_string());
    let asked = "select to_jsonb(probe_at is not null) from webhook_health where webhook_id = $1::uuid";
    assert_eq!(row(&pool, asked, id).await, json!(true));
    for step in ["pause", "resume", "snapshot"] {
        assert_eq!(world.bridge.post(&format!("{path}/{step}"), &json!({})).await.status, 409, "{step}");
    }
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    assert_eq!(world.bridge.post(&format!("{path}/recover"), &since).await.status, 409);
    let enabled = world.bridge.post(&format!("{path}/enable"), &json!({})).await.json();
    assert_eq!(enabled["state"], "unverified", "it is asked again");
    let off = world.bridge.patch(&path, &json!({"verification": "none"})).await.json();
    assert_eq!((&off["state"], &off["state_reason"]), (&json!("active"), &json!(null)));

    sqlx::query("update webhook set verification = 'echo', state = 'paused'").execute(&pool).await.unwrap();
    let same = world.bridge.patch(&path, &json!({"description": "x"})).await.json();
    assert_eq!(same["state"], "paused");
    let moved = world.bridge.patch(&path, &json!({"url": world.crm.url("/hooks/b")})).await.json();
    assert_eq!(moved["state"], "unverified");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_webhook_is_enabled_as_if_it_had_never_failed() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let id = world.register("/hooks/a").await;
    let path = format!("/v1/webhooks/{id}");
    for statement in [
        "update webhook set state = 'disabled', state_reason = 'gone'",
        "update webhook_health set failures = 7, failing_since = now(), hold_until = now() + interval '1 h',
             last_outcome = 'http_5xx'",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let shown = world.bridge.get(&path).await.json();
    assert_eq!((&shown["state"], &shown["state_reason"]), (&json!("disabled"), &json!("gone")));
    assert_eq!(
        (&shown["health"]["failures"], &shown["health"]["last_outcome"]),
        (&json!(7), &json!("http_5xx"))
    );
    for step in ["pause", "resume", "snapshot"] {
        assert_eq!(world.bridge.post(&format!("{path}/{step}"), &json!({})).await.status, 409, "{step}");
    }
    let enabled = world.bridge.post(&format!("{path}/enable"), &json!({})).await.json();
    assert_eq!((&enabled["state"], &enabled["state_reason"]), (&json!("active"), &json!(null)));
    assert_eq!(
        enabled["health"],
        json!({"failures": 0, "failing_since": null, "hold_until": null, "probe_at": null, "last_outcome": null,
                "last_reason": null})
    );
    let told = world.audit_of("WEBHOOK_ENABLED", 1).await;
    assert_eq!((&told[0]["principal"], told.len()), (&json!("api-key:bootstrap"), 1));
    assert_eq!(world.bridge.post(&format!("{path}/enable"), &json!({})).await.status, 200);
    assert_eq!(world.audit("WEBHOOK_ENABLED").await.len(), 1, "an active one stays as it is");
    assert_eq!(world.bridge.post(&format!("{path}/snapshot"), &json!({})).await.status, 202);
    world.audit_of("SNAPSHOT_REQUESTED", 1).await;
    world.bridge.post(&format!("{path}/pause"), &json!({})).await;
    assert_eq!(world.bridge.post(&format!("{path}/enable"), &json!({})).await.status, 409);
}
