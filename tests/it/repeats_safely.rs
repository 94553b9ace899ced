//! `Idempotency-Key`: a write that is asked for twice is carried out once.

use genesys_simulator::crm::Behaviour;
use serde_json::{Value, json};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::bridge::API_KEY;
use crate::support::client::Answer;
use crate::support::look::all;
use crate::support::{World, database, eventually};

/// Sends a write with a key.
async fn write(world: &World, method: &str, path: &str, key: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {API_KEY}");
    let headers =
        [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", key)];
    world.bridge.send_raw(method, path, &headers, Some(body.to_string().into_bytes())).await
}

fn is_replay(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_first_answer_and_makes_nothing() {
    let world = World::watching(&["ann"]).await;
    let fields = json!({"url": world.crm.url("/hooks/a")});
    let first = write(&world, "POST", "/v1/webhooks", "key-1", &fields).await;
    assert_eq!((first.status, is_replay(&first)), (201, false));
    let again = write(&world, "POST", "/v1/webhooks", "key-1", &fields).await;
    assert_eq!((again.status, is_replay(&again)), (201, true));
    assert_eq!(again.body, first.body, "the secret included");
    for name in ["location", "content-type"] {
        assert_eq!(again.headers.get(name), first.headers.get(name), "{name}");
    }
    assert_ne!(again.headers["x-request-id"], first.headers["x-request-id"]);
    assert_eq!(all(&world.bridge, "/v1/webhooks").await.len(), 1);
    let other = write(&world, "POST", "/v1/webhooks", "key-2", &fields).await;
    assert_eq!((other.status, is_replay(&other)), (201, false));

    let path = format!("/v1/webhooks/{}", first.json()["id"].as_str().unwrap());
    for _ in 0..2 {
        let gone = write(&world, "DELETE", &path, "key-3", &json!({})).await;
        assert_eq!(gone.status, 204);
    }
    let without = world.bridge.delete(&path).await;
    assert_eq!(without.status, 404, "without a key nothing is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_repeated_too_under_the_request_that_got_it() {
    let world = World::watching(&["ann"]).await;
    let wrong = json!({"url": "ftp://example.com"});
    let first = write(&world, "POST", "/v1/webhooks", "key-1", &wrong).await;
    let again = write(&world, "POST", "/v1/webhooks", "key-1", &wrong).await;
    assert_eq!((first.status, again.status, is_replay(&again)), (422, 422, true));
    assert_eq!(first.body, again.body);
    assert_eq!(first.json()["request_id"], first.headers["x-request-id"].to_str().unwrap());
    let fields = json!({"url": world.crm.url("/hooks/a")});
    let reused = write(&world, "POST", "/v1/webhooks", "key-1", &fields).await;
    assert_eq!((reused.status, &reused.json()["code"]), (409, &json!("idempotency_key_reused")));
    let elsewhere = write(&world, "POST", "/v1/sources", "key-1", &wrong).await;
    assert_eq!(elsewhere.status, 409, "another path is another request");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_is_carried_out() {
    let world = World::watching(&["ann"]).await;
    let fields = json!({"url": world.crm.url("/hooks/a")});
    let calls = (0..8).map(|_| write(&world, "POST", "/v1/webhooks", "key-1", &fields));
    let answers = futures_util::future::join_all(calls).await;
    for answer in &answers {
        match answer.status {
            201 => {}
            409 => {
                assert_eq!(answer.headers["retry-after"], "1");
                assert_eq!(answer.json()["code"], "conflict");
            }
            status => panic!("{status}: {}", answer.text()),
        }
    }
    assert_eq!(answers.iter().filter(|answer| answer.status == 201 && !is_replay(answer)).count(), 1);
    assert_eq!(all(&world.bridge, "/v1/webhooks").await.len(), 1);
    assert!(is_replay(&write(&world, "POST", "/v1/webhooks", "key-1", &fields).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_sealed_and_forgotten_and_a_cut_off_call_leaves_its_key_free() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let fields = json!({"url": world.crm.url("/hooks/a")});
    let first = write(&world, "POST", "/v1/webhooks", "key-1", &fields).await.json();
    let kept: String = sqlx::query_scalar("select encode(answer_sealed, 'escape') from idempotency")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(!kept.contains("whsec_") && !kept.contains(first["id"].as_str().unwrap()));
    // As a crash leaves it.
    let cut_off = "update idempotency
                   set status = null, answer_sealed = null, created_at = now() - interval '59 s'";
    sqlx::query(cut_off).execute(&pool).await.unwrap();
    assert_eq!(write(&world, "POST", "/v1/webhooks", "key-1", &fields).await.status, 409);
    sqlx::query("update idempotency set created_at = now() - interval '61 s'").execute(&pool).await.unwrap();
    let fresh = write(&world, "POST", "/v1/webhooks", "key-1", &fields).await;
    assert_eq!((fresh.status, is_replay(&fresh)), (201, false));
    sqlx::query("update idempotency set created_at = now() - interval '25 h'").execute(&pool).await.unwrap();
    let next_day = write(&world, "POST", "/v1/webhooks", "key-1", &fields).await;
    assert_eq!((next_day.status, is_replay(&next_day)), (201, false));
    assert_eq!(all(&world.bridge, "/v1/webhooks").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_1_to_255_visible_characters_and_counts_for_writes_alone() {
    let world = World::watching(&["ann"]).await;
    let fields = json!({"url": world.crm.url("/hooks/a")});
    for key in ["", "two words", "Zoë", &"x".repeat(256)] {
        let refused = write(&world, "POST", "/v1/webhooks", key, &fields).await;
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("invalid_header")), "{key:?}");
    }
    assert_eq!(write(&world, "POST", "/v1/webhooks", &"x".repeat(255), &fields).await.status, 201);
    let bearer = format!("Bearer {API_KEY}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "two words")];
    assert_eq!(world.bridge.send_raw("GET", "/v1/webhooks", &headers, None).await.status, 200);
    let outsider = [("idempotency-key", "key-1"), ("content-type", "application/json")];
    let refused = world.bridge.send_raw("POST", "/v1/webhooks", &outsider, Some(b"{}".to_vec())).await;
    assert_eq!(refused.status, 401);
    // What is no write of ours is told so, whatever the key was used for.
    let used = "x".repeat(255);
    let no_method = write(&world, "PUT", "/v1/webhooks", &used, &fields).await;
    assert_eq!((no_method.status, &no_method.json()["code"]), (405, &json!("method_not_allowed")));
    assert_eq!(write(&world, "POST", "/v1/nothing", &used, &fields).await.status, 404);
    let big = json!({"url": world.crm.url("/hooks/a"), "description": "x".repeat(300_000)});
    assert_eq!(write(&world, "POST", "/v1/webhooks", "key-2", &big).await.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gave_up_finds_what_became_of_its_call() {
    let world = World::watching(&["ann"]).await;
    let fields = json!({"url": world.crm.url("/hooks/a")});
    let body = fields.to_string();
    let head = format!(
        "POST /v1/webhooks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {API_KEY}\r\nidempotency-key: key-1\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut caller = TcpStream::connect(world.bridge.url.trim_start_matches("http://")).await.unwrap();
    caller.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    eventually("the call has come in", || async {
        let pool = database::pool(&world.bridge.database_url).await;
        let known: i64 =
            sqlx::query_scalar("select count(*) from idempotency").fetch_one(&pool).await.unwrap();
        (known == 1).then_some(())
    })
    .await;
    drop(caller);
    let found = eventually("its answer", || async {
        let again = write(&world, "POST", "/v1/webhooks", "key-1", &fields).await;
        (again.status == 201).then_some(again)
    })
    .await;
    assert!(is_replay(&found));
    assert_eq!(all(&world.bridge, "/v1/webhooks").await.len(), 1);
}

/// Lets the call get as far as noting its answer, and no further: an advisory lock holds the write up until
/// the test has locked the row of the key.
async fn hold_the_answer_up(
    pool: &PgPool,
    key_is_reserved: impl Future<Output = ()>,
) -> Transaction<'static, Postgres> {
    let mut gate = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(7)").execute(&mut *gate).await.unwrap();
    key_is_reserved.await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select from idempotency for update").execute(&mut *holder).await.unwrap();
    gate.rollback().await.unwrap();
    eventually("the answer is about to be kept", || async {
        let waits: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where wait_event_type = 'Lock' and query like 'update idempotency%'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (waits == 1).then_some(())
    })
    .await;
    holder
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_answer_is_kept_a_write_was_never_made() {
    let mut world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let gate = "create function gate() returns trigger language plpgsql as
                $$ begin perform pg_advisory_xact_lock_shared(7); return new; end $$;
                create trigger gate before insert on webhook for each row execute function gate()";
    sqlx::raw_sql(gate).execute(&pool).await.unwrap();
    let fields = json!({"url": world.crm.url("/hooks/a")});
    let (url, body) = (world.bridge.url.clone(), fields.to_string());
    let holder = hold_the_answer_up(&pool, async {
        let head = format!(
            "POST /v1/webhooks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {API_KEY}\r\nidempotency-key: key-1\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut caller = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        caller.write_all(head.as_bytes()).await.unwrap();
        eventually("the key is reserved", || async {
            let known: i64 =
                sqlx::query_scalar("select count(*) from idempotency").fetch_one(&pool).await.unwrap();
            (known == 1).then_some(())
        })
        .await;
    })
    .await;
    world.bridge.kill().await;
    holder.rollback().await.unwrap();
    world.bridge.restart().await;
    assert_eq!(
        write(&world, "POST", "/v1/webhooks", "key-1", &fields).await.status,
        409,
        "perhaps it is under way"
    );
    sqlx::query("update idempotency set created_at = now() - interval '61 s'").execute(&pool).await.unwrap();
    let fresh = write(&world, "POST", "/v1/webhooks", "key-1", &fields).await;
    assert_eq!((fresh.status, is_replay(&fresh)), (201, false));
    let again = write(&world, "POST", "/v1/webhooks", "key-1", &fields).await;
    assert_eq!((again.status, is_replay(&again)), (201, true));
    assert_eq!(again.body, fresh.body);
    assert_eq!(all(&world.bridge, "/v1/webhooks").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_several_steps_sees_its_own_writes_and_ends_as_one() {
    let world = World::watching(&["ann"]).await;
    let hook = world.register("/hooks/a").await;
    world.crm.always("/hooks/a", Behaviour::status(500));
    world.genesys.set_presence("ann", "AWAY").await;
    let delivery = eventually("a delivery that waits", || async {
        let open = world.bridge.get("/v1/deliveries?state=waiting").await.json();
        open["items"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    // The retry is one step, what the answer shows of it another.
    let retried =
        write(&world, "POST", &format!("/v1/deliveries/{delivery}/retry"), "key-1", &json!({})).await;
    assert_eq!((retried.status, &retried.json()["id"]), (202, &json!(delivery)));
    world.crm.always("/hooks/a", Behaviour::status(204));
    let wanted = json!({"since": "2020-01-01T00:00:00Z"});
    let recovery = write(&world, "POST", &format!("/v1/webhooks/{hook}/recover"), "key-2", &wanted).await;
    assert_eq!(recovery.status, 202);
    assert_eq!(recovery.json()["state"], "running", "it begins once the answer is kept");
    let id = recovery.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(world.recovery_ended(&id).await["state"], "done");
    let cancelled = write(&world, "POST", &format!("/v1/recoveries/{id}/cancel"), "key-3", &json!({})).await;
    assert!(cancelled.status == 200 || cancelled.status == 409, "{}", cancelled.text());
    assert_eq!(
        write(&world, "DELETE", &format!("/v1/webhooks/{hook}"), "key-4", &json!({})).await.status,
        204
    );
    assert_eq!(world.audit("WEBHOOK_DELETED").await.len(), 1);
}
