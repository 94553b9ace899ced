//! What a webhook asks for counts from the moment at which it is answered, and costs no more than itself,
//! however many others there are.

use std::sync::atomic::{AtomicU64, Ordering};

use presence_bridge::store::Store;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::late::Late;
use crate::support::look::waiting_for_locks;
use crate::support::{Bridge, SOON, World, database, eventually};

/// Webhooks that ask for agents whom nobody watches.
const OTHERS: i32 = 3000;
/// Changes of the one that is looked at.
const ROUNDS: i64 = 20;

async fn register_others(pool: &PgPool) {
    sqlx::query(
        "insert into webhook (webhook_id, url, agents)
         select gen_random_uuid(), 'http://127.0.0.1:9/',
                array(select 'nobody-' || n || '-' || i from generate_series(1, 20) i)
         from generate_series(1, $1) n",
    )
    .bind(OTHERS)
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("analyze webhook").execute(pool).await.unwrap();
}

async fn ask_for(world: &World, hook: &str, agent: &str) {
    let changed = world.bridge.patch(&format!("/v1/webhooks/{hook}"), &json!({"agents": [agent]})).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
}

async fn count(world: &World, path: &str, count: usize) {
    let arrived = |posts: &[std::sync::Arc<genesys_simulator::crm::Post>]| {
        posts.iter().filter(|post| post.path() == path).count() >= count
    };
    world.crm.wait_until(arrived, SOON).await.unwrap_or_else(|_| panic!("{path} gets {count}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_after_a_registration_was_answered_is_delivered() {
    let late = Late::prepare().await;
    let world = late.world(&["ann"]).await;
    world.register("/hooks/former").await;
    world.genesys.set_presence("ann", "BUSY").await;
    count(&world, "/hooks/former", 1).await;

    let stalled = late.stall().await;
    world.genesys.push_presence("ann", "AWAY");
    late.a_commit_waits().await;
    let mut register = Box::pin(world.register("/hooks/a"));
    let answered = tokio::select! {
        _ = &mut register => true,
        () = eventually("the registration waits too", || async {
            (waiting_for_locks(&late.pool).await >= 2).then_some(())
        }) => false,
    };
    stalled.rollback().await.unwrap();
    if answered {
        count(&world, "/hooks/a", 1).await;
    } else {
        register.await;
    }
    let before = world.crm.received("/hooks/a").len();
    world.genesys.push_presence("ann", "MEAL");
    count(&world, "/hooks/a", before + 1).await;
    count(&world, "/hooks/former", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_webhook_among_thousands_counts_at_once_and_nobody_elses_filters_are_read() {
    let mut world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    register_others(&pool).await;
    let hook = world.register("/hooks/a").await;
    for round in 0..usize::try_from(ROUNDS).unwrap() {
        let (asked, other) = if round % 2 == 0 { ("ann", "bob") } else { ("bob", "ann") };
        let status = if round % 4 < 2 { "BUSY" } else { "AWAY" };
        ask_for(&world, &hook, asked).await;
        world.genesys.set_presence(other, status).await;
        world.genesys.set_presence(asked, status).await;
        count(&world, "/hooks/a", round + 1).await;
    }
    let posts = world.crm.received("/hooks/a");
    let agents: Vec<String> = posts
        .iter()
        .map(|post| serde_json::from_slice::<Value>(&post.body).unwrap())
        .map(|body| body["data"]["agent"]["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(agents, ["ann", "bob"].repeat(10), "whom it asked for, each time");

    // A server process tells what it has read when it ends.
    world.bridge.terminate().await;
    let read = || async {
        sqlx::query("select pg_stat_clear_snapshot()").execute(&pool).await.unwrap();
        // Writers of events never scan in sequence; others may, as small as the table is.
        let reads = "select idx_tup_fetch from pg_stat_user_tables where relname = 'webhook'";
        sqlx::query_scalar::<_, i64>(reads).fetch_one(&pool).await.unwrap()
    };
    let others = i64::from(OTHERS);
    eventually("the server has counted", || async { (read().await >= others).then_some(()) }).await;
    let read = read().await;
    // A few for each that was inserted and first read.
    assert!(read < ROUNDS * others / 2, "{read} rows were read for {ROUNDS} changes next to {OTHERS} others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_webhook_gets_nothing_that_is_stored_after_the_answer() {
    let world = World::watching(&["ann"]).await;
    let (gone, stays) = (world.register("/hooks/gone").await, world.register("/hooks/stays").await);
    world.genesys.set_presence("ann", "BUSY").await;
    count(&world, "/hooks/gone", 1).await;
    assert_eq!(world.bridge.delete(&format!("/v1/webhooks/{gone}")).await.status, 204);
    world.genesys.set_presence("ann", "AWAY").await;
    count(&world, "/hooks/stays", 2).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let ended = async |hook: &str| -> i64 {
        let ended = "select count(*) from audit_log where webhook_id = $1::uuid and end_state is not null";
        sqlx::query_scalar(ended).bind(hook).fetch_one(&pool).await.unwrap()
    };
    eventually("both were accepted", || async { (ended(&stays).await == 2).then_some(()) }).await;
    assert_eq!(ended(&gone).await, 1, "the one before its removal");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_stored_however_fast_webhooks_change_meanwhile() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    let others = [world.register("/hooks/b").await, world.register("/hooks/c").await];
    let changed = AtomicU64::new(0);
    let change = async |hook: &str| {
        for n in 0.. {
            ask_for(&world, hook, &format!("nobody-{n}")).await;
            changed.fetch_add(1, Ordering::Relaxed);
        }
    };
    let watch = async {
        // However slow the changes of webhooks are, twenty of them come between the first and the last.
        for (n, status) in (1..).zip(["BUSY", "AWAY"].into_iter().cycle()) {
            world.genesys.set_presence("ann", status).await;
            count(&world, "/hooks/a", n).await;
            if n >= 20 && changed.load(Ordering::Relaxed) >= 20 {
                break;
            }
        }
    };
    tokio::select! {
        _ = futures_util::future::join(change(&others[0]), change(&others[1])) => unreachable!(),
        () = watch => (),
    }
}

/// As after a failover to a server that was behind, or a restored copy: numbers are given a second time.
#[tokio::test(flavor = "multi_thread")]
async fn filters_are_those_of_the_database_when_that_has_gone_back() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register_with("/hooks/a", json!({"agents": ["ann"]})).await;
    let former = world.register_with("/hooks/b", json!({"agents": ["nobody"]})).await;
    // Changes that the copy has not.
    let number = "update webhook_generation set generation = generation + $1";
    sqlx::query(number).bind(100_i64).execute(&pool).await.unwrap();
    world.genesys.set_presence("ann", "BUSY").await;
    count(&world, "/hooks/a", 1).await;
    for (hook, agent) in [(&hook, "nobody"), (&former, "ann")] {
        sqlx::query("update webhook set agents = array[$2] where webhook_id = $1::uuid")
            .bind(hook["id"].as_str().unwrap())
            .bind(agent)
            .execute(&pool)
            .await
            .unwrap();
    }
    sqlx::query(number).bind(-100_i64).execute(&pool).await.unwrap();
    world.genesys.set_presence("ann", "AWAY").await;
    count(&world, "/hooks/b", 1).await;
    assert_eq!(world.crm.received("/hooks/a").len(), 1);
}

/// Dispatchers read again what they know of a webhook that has changed; of ten thousand in use, that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_is_told_which_webhooks_have_changed() {
    let bridge = Bridge::start(&[]).await;
    let register = async || {
        let answer = bridge.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await;
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let (first, second) = (register().await, register().await);
    let store = Store::connect(bridge.database_url.parse().unwrap(), 2).await.unwrap();
    let (start, any) = store.webhooks_changed(0).await.unwrap();
    assert_eq!(any, None, "who knows nothing yet may know anything");
    assert_eq!(store.webhooks_changed(start).await.unwrap(), (start, Some(vec![])));
    assert_eq!(store.webhooks_changed(start + 1).await.unwrap(), (start, None), "the database has gone back");
    let changes =
        [("POST", format!("/v1/webhooks/{first}/pause")), ("DELETE", format!("/v1/webhooks/{second}"))];
    for ((method, path), changed) in changes.iter().zip([&first, &second]) {
        let (before, _) = store.webhooks_changed(start).await.unwrap();
        assert!(bridge.send(method, path, None).await.status < 300);
        let (after, told) = store.webhooks_changed(before).await.unwrap();
        let told: Vec<String> = told.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!((after, told), (before + 1, vec![changed.clone()]), "{method} {path}");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_no_more_webhooks_and_filter_items_than_it_may() {
    let limits = [("BRIDGE_WEBHOOKS_MAX", "2"), ("BRIDGE_FILTER_ITEMS_MAX", "5")];
    let bridge = Bridge::start(&limits).await;
    let register = async |agents: &[&str]| {
        let fields = json!({"url": "http://127.0.0.1:9/", "agents": agents, "presences": ["BUSY"]});
        bridge.post("/v1/webhooks", &fields).await
    };
    let first = register(&["ann", "bob"]).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let path = format!("/v1/webhooks/{}", first.json()["id"].as_str().unwrap());
    let refused = |answer: crate::support::client::Answer, what: &str| {
        let problem = answer.json();
        assert_eq!((answer.status, &problem["code"]), (409, &json!("quota_exceeded")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(what), "{problem}");
    };
    refused(register(&["ann", "bob"]).await, "5 filter items");
    assert_eq!(register(&["ann"]).await.status, 201);
    refused(register(&[]).await, "2 webhooks");
    refused(bridge.patch(&path, &json!({"topics": ["t"]})).await, "5 filter items");
    assert_eq!(bridge.get(&path).await.json()["version"], 1, "a refused change changes nothing");
    // What takes no more is no matter of quota, and a removal makes room.
    assert_eq!(bridge.patch(&path, &json!({"agents": ["cid", "dee"]})).await.status, 200);
    assert_eq!(bridge.delete(&path).await.status, 204);
    assert_eq!(register(&["ann", "bob"]).await.status, 201);

    // Of two at the same time one is too many, and nobody else's count.
    assert_eq!(bridge.post("/v1/tenants", &json!({"name": "other"})).await.status, 201);
    let path = format!(
        "/v1/webhooks/{}",
        bridge.get("/v1/webhooks").await.json()["items"][0]["id"].as_str().unwrap()
    );
    assert_eq!(bridge.delete(&path).await.status, 204);
    let answers = futures_util::future::join_all((0..8).map(|_| register(&[]))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
}
