//! A person is erased, and nothing else is: what was stored of them is found nowhere, the rest stays, and the
//! audit log verifies as before.

use std::process::Command;
use std::time::Duration;

use genesys_simulator::cloud::{Deed, Fate, Reach};
use genesys_simulator::crm::Behaviour;
use presence_bridge::domain::audit::seal::RowFault;
use presence_bridge::domain::secret::MasterKey;
use presence_bridge::store::Store;
use presence_bridge::store::audit::verify::{Fault, FaultKind};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use time::OffsetDateTime;

use crate::support::bridge::{API_KEY, MASTER_KEY};
use crate::support::canaries::{dump, forms};
use crate::support::cloud::CloudWorld;
use crate::support::crowd::items;
use crate::support::look::all;
use crate::support::{Bridge, World, database, eventually};

const AGENT: &str = "ann-zimtstern";
const OTHER: &str = "bob-pfeffer";
const MESSAGE: &str = "canary-message-7f3a";
const RAW: &str = "canary-raw-word-91c4";
const MALFORMED: &str = "canary-malformed-word-0d1c";
const EXTERNAL_ID: &str = "canary-crm-id-6a90";
/// What is known of the person; the platform makes name and address of the id.
const CANARIES: [&str; 6] =
    ["Ann zimtstern", "ann-zimtstern@example.com", MESSAGE, RAW, MALFORMED, EXTERNAL_ID];

fn frame(agent: &str, message: &str, n: i64) -> String {
    let at = OffsetDateTime::now_utc() + time::Duration::milliseconds(n);
    let at = at.format(&time::format_description::well_known::Rfc3339).unwrap();
    let system = if n % 2 == 0 { "BUSY" } else { "AWAY" };
    json!({"topicName": format!("v2.users.{agent}.activity"), "eventBody": {
        "id": agent, "note": if agent == AGENT { RAW } else { "kept-raw-word" },
        "presence": {
            "presenceDefinition": {"id": "d-busy", "systemPresence": system},
            "presenceMessage": message, "modifiedDate": at,
        },
    }})
    .to_string()
}

fn erase_path(agent: &str, watch: bool) -> String {
    format!("/v1/agents/{agent}/data?watch={watch}")
}

/// Asks for an erasure; gives it as it is at first.
async fn erase(bridge: &Bridge, agent: &str, watch: bool) -> Value {
    let asked = bridge.delete(&erase_path(agent, watch)).await;
    assert_eq!(asked.status, 202, "{}", asked.text());
    asked.json()
}

async fn in_state(bridge: &Bridge, erasure: &Value, state: &str) -> Value {
    eventually(&format!("the erasure is at {state}"), || async {
        let now = bridge.get(&format!("/v1/erasures/{}", erasure["id"].as_str().unwrap())).await.json();
        (now["state"] == state).then_some(now)
    })
    .await
}

/// Which of the canaries a database holds, in whatever form.
fn found(url: &str) -> Vec<&'static str> {
    let dump = dump(url);
    let is_there = |canary: &str| forms(canary.as_bytes()).iter().any(|form| dump.contains(form));
    CANARIES.into_iter().filter(|canary| is_there(canary)).collect()
}

fn verify(url: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_presence-bridge"))
        .args(["audit", "verify", "--json"])
        .env_clear()
        .env("DATABASE_URL", url)
        .env("BRIDGE_MASTER_KEY", MASTER_KEY)
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), said + &String::from_utf8_lossy(&output.stderr))
}

async fn deliveries(bridge: &Bridge, query: &str) -> Vec<Value> {
    all(bridge, &format!("/v1/deliveries?{query}")).await
}

async fn run(pool: &PgPool, statement: &str) -> Result<u64, sqlx::Error> {
    sqlx::query(AssertSqlSafe(statement)).execute(pool).await.map(|done| done.rows_affected())
}

/// A world in which something of the person lies in every place: delivered, refused with the person's own
/// words, waiting, malformed, mapped.
async fn told_everywhere() -> (CloudWorld, String, String) {
    let world = CloudWorld::watching(&[AGENT, OTHER]).await;
    world.bridge.patch(&format!("/v1/agents/{AGENT}"), &json!({"external_id": EXTERNAL_ID})).await;
    world.crm.always("/refuses", Behaviour::Echo { status: 500 });
    let refuses = world.register("/refuses", json!({})).await;
    let paused = world.register("/paused", json!({})).await;
    world.register("/accepts", json!({})).await;
    world.bridge.post(&format!("/v1/webhooks/{paused}/pause"), &json!({})).await;
    let say = |text: String| world.cloud.obey(Deed::Text { reach: Reach::All, text });
    for n in 0..3 {
        say(frame(AGENT, MESSAGE, n));
        say(frame(OTHER, "kept-message", n));
    }
    // Older than what is known: dropped, and quoted.
    say(frame(AGENT, MESSAGE, -60_000));
    say(json!({"topicName": format!("v2.users.{AGENT}.activity"), "eventBody": MALFORMED}).to_string());
    eventually("all is told", || async {
        let open = deliveries(&world.bridge, "state=open").await.len();
        let refused = world.audit("DELIVERY_ATTEMPT").await;
        let quoted = refused.iter().filter(|entry| entry["data"]["answer"].to_string().contains(MESSAGE));
        (open == 12
            && quoted.count() > 0
            && !world.audit("STATE_STALE").await.is_empty()
            && !world.audit("FRAME_REJECTED").await.is_empty())
        .then_some(())
    })
    .await;
    (world, refuses, paused)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_found_in_no_table_any_more_and_the_log_verifies() {
    let (world, refuses, paused) = told_everywhere().await;
    let (bridge, url) = (&world.bridge, &world.bridge.database_url);
    assert_eq!(found(url), CANARIES, "all are there before");
    assert_eq!(bridge.delete(&format!("/v1/agents/{AGENT}/data")).await.status, 400, "watch must be said");
    assert_eq!(bridge.delete(&erase_path("nobody", true)).await.status, 404);
    // Asked for twice, done once.
    let bearer = format!("Bearer {API_KEY}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "erase-1")];
    let ask = async || bridge.send_raw("DELETE", &erase_path(AGENT, true), &headers, None).await.json();
    let asked = ask().await;
    assert_eq!(ask().await["id"], asked["id"]);
    let now = world.agent(AGENT).await;
    assert_eq!(
        json!([now["name"], now["email"], now["external_id"], now["presence"]]),
        json!([null, null, null, null])
    );
    let done = in_state(bridge, &asked, "done").await;
    assert_eq!(found(url), Vec::<&str>::new());
    assert_eq!(json!([done["deliveries"], done["quarantined"]]), json!([6, 1]), "{done}");
    let (holds, said) = verify(url);
    assert!(holds, "{said}");
    let verdict: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(verdict["rows_erased"], done["audit_entries"]);
    assert!(done["audit_entries"].as_u64().unwrap() >= 3, "{done}");
    // The events are there, and say so.
    let events = world.events_of(AGENT).await;
    assert_eq!(done["events"], events.len());
    for event in &events {
        assert!(event["erased_at"].is_string(), "{event}");
        assert_eq!(
            json!([event["raw"], event["presence"], event["agent"]["name"]]),
            json!([null, null, null])
        );
    }
    for (webhook, retried) in [(&refuses, true), (&paused, false)] {
        for ended in deliveries(bridge, &format!("webhook={webhook}&agent={AGENT}")).await {
            assert_eq!(ended["state"], "erased", "{ended}");
            let event = ended["event_id"].as_str().unwrap();
            let told = bridge.get(&format!("/v1/explain?event={event}&webhook={webhook}")).await.json();
            assert_eq!(told["verdict"], "erased", "{told}");
            let id = ended["id"].as_str().unwrap();
            let again = bridge.post(&format!("/v1/deliveries/{id}/retry"), &json!({})).await;
            assert_eq!((again.status, retried), (409, retried), "{}", again.text());
        }
    }
    // Nothing of anybody else went.
    let others = deliveries(bridge, &format!("state=open&agent={OTHER}")).await;
    assert_eq!(others.len(), 6);
    for event in world.events_of(OTHER).await {
        assert!(event["erased_at"].is_null() && !event["raw"].is_null(), "{event}");
    }
    assert_eq!(world.agent(OTHER).await["email"], "bob-pfeffer@example.com");
    let kept = dump(url);
    assert!(kept.contains("kept-message") || kept.contains(&forms(b"kept-message")[7]));
    // Who asked and what went is on record.
    let entries = world.audit("AGENT_ERASED").await;
    let told: Vec<_> =
        entries.iter().map(|entry| json!([entry["data"]["state"], entry["principal"]])).collect();
    assert_eq!(json!(told), json!([["done", "api-key:bootstrap"], ["requested", "api-key:bootstrap"]]));
    assert_eq!(bridge.metric("presence_bridge_deliveries_total{outcome=\"erased\"}").await, 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_to_be_watched_further_is_not_until_it_is_said_again() {
    let world = CloudWorld::watching(&[AGENT, OTHER]).await;
    let asked = erase(&world.bridge, AGENT, false).await;
    let unwatched = async |agent: &'static str| {
        eventually("nobody watches it", || async {
            (world.cloud.set_presence(agent, "AVAILABLE").await.fate == Fate::Unwatched).then_some(())
        })
        .await;
    };
    unwatched(AGENT).await;
    in_state(&world.bridge, &asked, "done").await;
    let source = world.bridge.get("/v1/sources").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let plans = async || {
        let source = world.bridge.get(&format!("/v1/sources/{source}")).await.json();
        source["health"]["roster_read_at"].to_string()
    };
    let before = plans().await;
    world.bridge.post(&format!("/v1/sources/{source}/refresh"), &json!({})).await;
    eventually("the rosters are read again", || async { (plans().await != before).then_some(()) }).await;
    unwatched(AGENT).await;
    let now = world.agent(AGENT).await;
    assert_eq!(
        json!([now["watched"], now["connected"], now["name"], now["presence"]]),
        json!([false, false, null, null])
    );
    assert_eq!(world.cloud.set_presence(OTHER, "BUSY").await.fate, Fate::Written, "the other one is");
    erase(&world.bridge, AGENT, true).await;
    eventually("it is watched again", || async {
        (world.cloud.set_presence(AGENT, "AVAILABLE").await.fate == Fate::Written).then_some(())
    })
    .await;
    eventually("its changes are stored", || async {
        world.cloud.set_presence(AGENT, "BUSY").await;
        world.cloud.set_presence(AGENT, "AWAY").await;
        let events = world.events_of(AGENT).await;
        events.iter().any(|event| event["erased_at"].is_null()).then_some(())
    })
    .await;
    assert_eq!(world.agent(AGENT).await["watched"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_a_list_is_left_out_in_protocol_realtime_too() {
    let world = World::watching(&["ann", "bob"]).await;
    erase(&world.bridge, "ann", false).await;
    world.sockets_open(1).await;
    let again = world.bridge.delete(&erase_path("ann", true)).await;
    if again.status == 409 {
        // The first one is still at the audit log.
        eventually("it may be asked for", || async {
            (world.bridge.delete(&erase_path("ann", true)).await.status == 202).then_some(())
        })
        .await;
    }
    world.sockets_open(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_behind_what_was_erased_and_recovery_leaves_it_out() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.crm.always("/hooks/a", Behaviour::status(503));
    let hook = world.register("/hooks/a").await;
    for agent in ["ann", "bob"] {
        for state in ["BUSY", "AWAY"] {
            world.genesys.set_presence(agent, state).await;
        }
    }
    eventually("all wait", || async { (world.open_deliveries(&pool).await == 4).then_some(()) }).await;
    let asked = erase(&world.bridge, "ann", true).await;
    eventually("hers have ended", || async {
        let ended = deliveries(&world.bridge, "state=erased").await;
        (ended.len() == 2).then_some(())
    })
    .await;
    world.crm.forget();
    world.crm.always("/hooks/a", Behaviour::status(204));
    world.genesys.set_presence("ann", "MEAL").await;
    world.drained(&pool).await;
    let posts = world.crm.received("/hooks/a");
    let states: Vec<_> = posts
        .iter()
        .map(|post| serde_json::from_slice::<Value>(&post.body).unwrap()["data"].clone())
        .filter(|data| data["agent"]["id"] == "ann")
        .map(|data| (data["sequence"].clone(), data["presence"]["system"].clone()))
        .collect();
    assert_eq!(states, [(json!(3), json!("MEAL"))], "numbers go on, and nothing older is sent");
    in_state(&world.bridge, &asked, "done").await;
    let everything = json!({"since": "2020-01-01T00:00:00Z", "only_failed": false});
    let recovered = world.recover(&hook, &everything).await;
    assert_eq!(recovered["recovered"], 3, "two of bob, one of ann: {recovered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_under_way_comes_to_its_end_first_and_nothing_overtakes_it() {
    let world = World::watching(&["ann"]).await;
    world.crm.next("/hooks/a", [Behaviour::status(500).after(Duration::from_secs(2))]);
    world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "BUSY").await;
    eventually("its POST is under way", || async {
        (deliveries(&world.bridge, "state=sending").await.len() == 1).then_some(())
    })
    .await;
    let asked = erase(&world.bridge, "ann", true).await;
    world.genesys.set_presence("ann", "AWAY").await;
    in_state(&world.bridge, &asked, "answers").await;
    assert_eq!(deliveries(&world.bridge, "state=sending").await.len(), 1, "it is left to its dispatcher");
    let ended = eventually("it has ended", || async {
        deliveries(&world.bridge, "state=erased").await.into_iter().next()
    })
    .await;
    eventually("the next one is delivered", || async {
        (deliveries(&world.bridge, "state=delivered").await.len() == 1).then_some(())
    })
    .await;
    let posts = world.crm.received("/hooks/a");
    let ids: Vec<_> = posts.iter().map(|post| post.webhook_id().to_owned()).collect();
    assert_eq!(ids.len(), 2, "one POST each, in order: {ids:?}");
    assert_eq!(ids[0], ended["id"]);
    in_state(&world.bridge, &asked, "done").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_to_be_tried_again_leaves_without_what_was_erased() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.crm.always("/hooks/a", Behaviour::status(503));
    world.register_with("/hooks/a", json!({"batch": {"max_items": 4, "max_wait_ms": 60000}})).await;
    for agent in ["ann", "bob"] {
        for state in ["BUSY", "AWAY"] {
            world.genesys.set_presence(agent, state).await;
        }
    }
    let refused =
        eventually("a batch of four was refused", || async { world.crm.posts().first().cloned() }).await;
    assert_eq!(items(std::slice::from_ref(&refused)).len(), 4);
    let asked = erase(&world.bridge, "ann", true).await;
    eventually("hers have ended", || async {
        (deliveries(&world.bridge, "state=erased").await.len() == 2).then_some(())
    })
    .await;
    world.crm.forget();
    world.crm.always("/hooks/a", Behaviour::status(204));
    world.drained(&pool).await;
    let last = world.crm.received("/hooks/a").pop().unwrap();
    let told: Vec<_> =
        items(std::slice::from_ref(&last)).iter().map(|item| item["data"]["agent"]["id"].clone()).collect();
    assert_eq!(told, [json!("bob"), json!("bob")]);
    assert_ne!(last.webhook_id(), refused.webhook_id(), "other bytes, another id");
    in_state(&world.bridge, &asked, "done").await;
}

/// Events of a person, more than an erasure takes at once.
async fn grow(pool: &PgPool) {
    let grown = run(
        pool,
        &format!(
            "insert into event (event_id, received_at, position, source_id, source_name, agent_key, agent_id, sequence,
                                topic, presence, raw)
             select gen_random_uuid(), now() - n * interval '1 minute', nextval('event_position_seq'), a.source_id,
                    'grown', a.agent_key, a.agent_id, 10 + n, 't', 'BUSY', convert_to('{RAW}', 'UTF8')
             from agent a
             cross join generate_series(1, 3000) n
             where a.agent_id = 'ann'"
        ),
    )
    .await
    .unwrap();
    assert_eq!(grown, 3000);
    // All of yesterday, whatever the hour is: that day can be dropped, today goes on.
    run(
        pool,
        &format!(
            "insert into audit_log (at, kind, source_id, agent_id, data)
             select date_trunc('day', now(), 'UTC') - n * interval '1 minute', 'STATE_STALE', a.source_id, a.agent_id,
                    jsonb_build_object('state', '{RAW}')
             from agent a
             cross join generate_series(1, 1200) n
             where a.agent_id = 'ann'"
        ),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_goes_on_to_its_end() {
    let mut world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.genesys.set_presence("ann", "BUSY").await;
    eventually("she is known", || async {
        (world.bridge.get("/v1/agents/ann").await.json()["sequence"] == 1).then_some(())
    })
    .await;
    grow(&pool).await;
    let asked = erase(&world.bridge, "ann", true).await;
    let (mut seen, mut kills) = (Vec::new(), 0);
    for state in ["deliveries", "audit"] {
        if state == "audit" {
            in_state(&world.bridge, &asked, state).await;
        }
        world.bridge.kill().await;
        let progress: (String, i64, i64) = sqlx::query_as("select state, events, audit_entries from erasure")
            .fetch_one(&pool)
            .await
            .unwrap();
        seen.push(progress);
        kills += 1;
        world.bridge.restart().await;
    }
    assert!(seen[0].1 < 3001, "the first kill came in the middle: {seen:?}");
    let done = in_state(&world.bridge, &asked, "done").await;
    assert_eq!(json!([done["events"], kills]), json!([3001, 2]), "{seen:?}");
    assert!(done["audit_entries"].as_u64().unwrap() >= 1200, "{done}");
    assert_eq!(found(&world.bridge.database_url), Vec::<&str>::new());
    let (holds, said) = verify(&world.bridge.database_url);
    assert!(holds, "{said}");
    tampering_is_found(&mut world, &pool).await;
}

/// What a superuser does who knows how to get round triggers and foreign keys.
async fn tamper(pool: &PgPool, statement: &str) {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("set local session_replication_role = replica").execute(&mut *tx).await.unwrap();
    sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn tampering_is_found(world: &mut World, pool: &PgPool) {
    let number = async |query: &str| -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(pool).await.unwrap()
    };
    let row = number("select audit_id from audit_erasure order by audit_id offset 50 limit 1").await;
    let whole = number(
        "select min(l.audit_id) from audit_log l where not exists (select from audit_erasure e where e.audit_id = l.audit_id)",
    )
    .await;
    for refused in [
        format!("update audit_log set data = '{{}}' where audit_id = {row}"),
        format!("update audit_log set kind = 'x' where audit_id = {row}"),
        format!("update audit_log set data = '{{\"erased\": \"x\"}}' where audit_id = {whole}"),
        format!(
            "update audit_log set data = (select data from audit_log where audit_id = {row}) where audit_id = {whole}"
        ),
        format!("delete from audit_log where audit_id = {row}"),
        format!("update audit_erasure set original = erased where audit_id = {row}"),
        format!("delete from audit_erasure where audit_id = {row}"),
        "truncate audit_erasure".to_owned(),
    ] {
        let error = run(pool, &refused).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{refused}: {error}");
    }
    world.bridge.kill().await;
    let store = Store::connect(world.bridge.database_url.parse().unwrap(), 4).await.unwrap();
    let master_key = MasterKey::from_base64(MASTER_KEY).unwrap();
    let key = store.audit_key(&master_key).await.unwrap();
    let keys = [key].into();
    let fault = async || store.verify_audit(&keys, None).await.unwrap().fault;
    run(pool, "create table kept as select * from audit_erasure").await.unwrap();
    run(pool, "create table kept_rows as select * from audit_log").await.unwrap();
    let edited = FaultKind::Row(RowFault::Edited);
    let forged = FaultKind::ErasureForged;
    for (deed, what, id) in [
        (
            format!("update audit_log set data = '{{\"erased\": \"another\"}}' where audit_id = {row}"),
            FaultKind::ErasedRowEdited,
            row,
        ),
        (
            format!("update audit_log set status = 204 where audit_id = {row}"),
            FaultKind::ErasedRowEdited,
            row,
        ),
        (
            format!("update audit_log set data = '{{\"state\": \"{RAW}\"}}' where audit_id = {row}"),
            FaultKind::ErasedRowEdited,
            row,
        ),
        (format!("delete from audit_erasure where audit_id = {row}"), edited, row),
        (format!("update audit_erasure set original = sha256(original) where audit_id = {row}"), forged, row),
        (format!("update audit_erasure set original = '\\x00' where audit_id = {row}"), forged, row),
        (format!("update audit_erasure set erased = original where audit_id = {row}"), forged, row),
        (format!("update audit_erasure set mac = sha256(mac) where audit_id = {row}"), forged, row),
        (
            format!("update audit_erasure set erasure_id = gen_random_uuid() where audit_id = {row}"),
            forged,
            row,
        ),
        (format!("update audit_erasure set day = day - 1 where audit_id = {row}"), forged, row),
        (
            format!(
                "insert into audit_erasure select {whole}, day, original, erased, erasure_id, erased_at, mac, key_id from audit_erasure where audit_id = {row}"
            ),
            forged,
            whole,
        ),
        (format!("delete from audit_log where audit_id = {row}"), FaultKind::Row(RowFault::Deleted), row),
    ] {
        tamper(pool, &deed).await;
        let found = fault().await.unwrap_or_else(|| panic!("not found: {deed}"));
        assert_eq!((found.what, found.audit_id), (what, Some(id)), "{deed}");
        tamper(pool, &format!("delete from audit_erasure where audit_id in ({row}, {whole})")).await;
        tamper(
            pool,
            &format!("insert into audit_erasure select * from kept where audit_id in ({row}, {whole})"),
        )
        .await;
        tamper(pool, &format!("delete from audit_log where audit_id = {row}")).await;
        tamper(pool, &format!("insert into audit_log select * from kept_rows where audit_id = {row}")).await;
        assert_eq!(fault().await, None::<Fault>, "all is as it was again");
    }
    // Retention takes erased entries like others, and what is signed of them.
    run(pool, "drop table kept, kept_rows").await.unwrap();
    let tomorrow = OffsetDateTime::now_utc().date().next_day().unwrap();
    assert!(store.drop_audit_days(tomorrow, 0, &master_key).await.unwrap().done >= 1);
    assert_eq!(fault().await, None::<Fault>);
    let left = number(
        "select count(*) from audit_erasure e where not exists (select from audit_log l where l.audit_id = e.audit_id)",
    );
    assert_eq!(left.await, 0);
    assert!(number("select count(*) from audit_log where data ? 'erased'").await < 1200);
}
