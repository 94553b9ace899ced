//! The audit log is checked and exported over the API.

use std::process::Command;

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::bridge::{Bridge, MASTER_KEY};
use crate::support::look::{all, waiting_for_locks};
use crate::support::{database, eventually};

/// Enough that a check takes more than one step, which goes on behind a seal of less than 10,000 entries, and
/// may then cover one of 20,000.
const ROWS: i64 = 31_000;

async fn run(pool: &PgPool, statement: &'static str) {
    sqlx::raw_sql(statement).execute(pool).await.unwrap();
}

/// Waits until a check has ended; gives it.
async fn ended(bridge: &Bridge, check: &Value) -> Value {
    let path = format!("/v1/audit/verifications/{}", check["id"].as_str().unwrap());
    eventually("the check has ended", || async {
        Some(bridge.get(&path).await.json()).filter(|check| check["state"] != "running")
    })
    .await
}

async fn start(bridge: &Bridge, body: Value) -> Value {
    let started = bridge.post("/v1/audit/verifications", &body).await;
    assert_eq!(started.status, 202, "{}", started.text());
    started.json()
}

/// Waits until a seal covers this many entries.
async fn sealed(pool: &PgPool, rows: i64) {
    eventually("the log is sealed", || async {
        let covered = sqlx::query_scalar("select coalesce(sum(rows), 0)::bigint from audit_seal");
        let covered: i64 = covered.fetch_one(pool).await.unwrap();
        (covered >= rows).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_check_runs_at_a_time_tells_how_far_it_is_and_can_be_ended() {
    let bridge = Bridge::start(&[]).await;
    let pool = database::pool(&bridge.database_url).await;
    let fill = "insert into audit_log (at, kind) select now(), 'EVENT_RECEIVED' from generate_series(1, $1)";
    sqlx::query(fill).bind(ROWS).execute(&pool).await.unwrap();
    sealed(&pool, ROWS).await;

    let mut held = pool.begin().await.unwrap();
    sqlx::query("lock table audit_seal_listing, audit_seal_day").execute(&mut *held).await.unwrap();
    let running = start(&bridge, json!({})).await;
    assert_eq!((&running["state"], running["rows_total"].as_i64() >= Some(ROWS)), (&json!("running"), true));
    eventually("it reads", || async { (waiting_for_locks(&pool).await > 0).then_some(()) }).await;
    let second = bridge.post("/v1/audit/verifications", &json!({})).await;
    assert_eq!((second.status, &second.json()["code"]), (409, &json!("conflict")));
    let cancel = format!("/v1/audit/verifications/{}/cancel", running["id"].as_str().unwrap());
    assert_eq!(bridge.post(&cancel, &json!({})).await.status, 202);
    held.rollback().await.unwrap();
    let canceled = ended(&bridge, &running).await;
    assert_eq!(canceled["state"], "canceled", "{canceled}");
    assert!(canceled["rows"].as_i64().unwrap() < ROWS, "{canceled}");

    let whole = ended(&bridge, &start(&bridge, json!({})).await).await;
    assert_eq!((&whole["state"], &whole["fault"]), (&json!("done"), &Value::Null), "{whole}");
    assert!(whole["rows"].as_i64().unwrap() >= ROWS && whole["seals"] != 0, "{whole}");
    let kept = bridge.get("/v1/audit/head").await.json()["head"].clone();
    let with_head = ended(&bridge, &start(&bridge, json!({"head": kept})).await).await;
    assert_eq!(with_head["fault"], Value::Null, "{with_head}");
    let wrong = bridge.post("/v1/audit/verifications", &json!({"head": "7"})).await;
    assert_eq!((wrong.status, &wrong.json()["errors"][0]["pointer"]), (422, &json!("/head")));
    for kind in ["STARTED", "CANCELED", "ENDED"] {
        let entries = all(&bridge, &format!("/v1/audit?kind=AUDIT_VERIFICATION_{kind}")).await;
        assert!(entries.iter().all(|entry| entry["principal"] == "api-key:bootstrap"), "{entries:?}");
        assert_eq!(entries.len(), if kind == "CANCELED" { 1 } else { 3 }, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_names_what_was_altered_and_one_whose_process_died_is_lost() {
    let bridge = Bridge::start(&[]).await;
    let pool = database::pool(&bridge.database_url).await;
    sealed(&pool, 1).await;
    run(
        &pool,
        "insert into audit_verification
             (verification_id, started_at, principal, state, heard_at, seals_total, rows_total)
         values (gen_random_uuid(), now() - interval '1 h', 'x', 'running', now() - interval '1 min', 0, 0)",
    )
    .await;
    let lost = bridge.get("/v1/audit/verifications").await.json()["items"][0].clone();
    assert_eq!(lost["state"], "failed", "{lost}");
    assert!(lost["failure"].as_str().unwrap().contains("has ended"), "{lost}");

    let first = all(&bridge, "/v1/audit").await.pop().unwrap();
    run(
        &pool,
        "begin; set local session_replication_role = replica;
         update audit_log set level = 'WARN' where audit_id = (select min(audit_id) from audit_log); commit",
    )
    .await;
    let found = ended(&bridge, &start(&bridge, json!({})).await).await;
    assert_eq!((&found["state"], &found["fault"]["what"]), (&json!("done"), &json!("row_edited")), "{found}");
    assert_eq!(found["fault"]["id"], first["id"]);
    let text = format!("row {} was edited", first["id"]);
    assert!(found["fault"]["text"].as_str().unwrap().starts_with(&text), "{found}");
    let entry = all(&bridge, "/v1/audit?kind=AUDIT_VERIFICATION_ENDED").await.remove(0);
    assert_eq!(entry["level"], "ERROR", "{entry}");
    assert_eq!(bridge.get(&format!("/v1/audit/{}", first["id"])).await.json()["level"], "WARN");
    assert_eq!(bridge.get("/v1/audit/999999999").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_export_is_that_of_the_command_line_and_a_tenant_gets_its_own() {
    let bridge = Bridge::start(&[]).await;
    let pool = database::pool(&bridge.database_url).await;
    let fill = "insert into audit_log (at, kind, data)
                select now(), 'EVENT_RECEIVED', jsonb_build_object('n', n) from generate_series(1, 2500) n";
    run(&pool, fill).await;
    let tenant = bridge.post("/v1/tenants", &json!({"name": "other"})).await.json()["id"].clone();
    let tenant = tenant.as_str().unwrap();
    let key = json!({"name": "theirs", "scopes": ["read", "audit"], "tenant_id": tenant});
    let key = bridge.post("/v1/api-keys", &key).await.json()["key"].as_str().unwrap().to_owned();
    // Of the two, the tenant's key came later.
    let made = all(&bridge, "/v1/audit?kind=TENANT_CREATED").await.remove(0);
    eventually("it is sealed", || async {
        let through = bridge.get("/v1/audit/head").await.json()["through"].as_i64();
        (through > made["id"].as_i64()).then_some(())
    })
    .await;

    let over_api = bridge.get("/v1/audit/export?tenant=all").await;
    assert_eq!(over_api.headers["content-type"], "application/x-ndjson");
    let by_command = Command::new(env!("CARGO_BIN_EXE_presence-bridge"))
        .args(["audit", "export"])
        .env_clear()
        .env("DATABASE_URL", &bridge.database_url)
        .env("BRIDGE_MASTER_KEY", MASTER_KEY)
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    let by_command = String::from_utf8(by_command.stdout).unwrap();
    assert!(over_api.text().lines().count() > 2500, "{} lines", over_api.text().lines().count());
    let differing = over_api.text().lines().zip(by_command.lines()).position(|(ours, theirs)| ours != theirs);
    assert_eq!((differing, by_command.lines().count()), (None, over_api.text().lines().count()));
    let lines: Vec<Value> = over_api.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (middle, rest) = (&lines[1200], &lines[1201..]);
    let after = bridge.get(&format!("/v1/audit/export?tenant=all&after={}", middle["id"])).await.text();
    let after: Vec<Value> = after.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(after.first(), rest.first());

    for path in ["/v1/audit/export", "/v1/audit/export?after=0"] {
        let own = bridge.send_as(&key, "GET", path, None).await;
        let own: Vec<Value> = own.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(!own.is_empty() && own.iter().all(|line| line["tenant_id"] == tenant), "{own:?}");
    }
    let ours = "/v1/audit/export?tenant=00000000-0000-0000-0000-000000000001";
    for others in ["/v1/audit/export?tenant=all", ours, "/v1/audit/verifications"] {
        assert_eq!(bridge.send_as(&key, "GET", others, None).await.status, 403, "{others}");
    }
    for wrong in ["?after=-1", "?tenant=x", "?until=soon", "?kind=X"] {
        assert_eq!(bridge.get(&format!("/v1/audit/export{wrong}")).await.status, 400, "{wrong}");
    }
}
