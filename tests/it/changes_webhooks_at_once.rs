//! A change of a webhook is answered at once, however many deliveries it has, and holds up nobody else; what
//! follows from it for its open deliveries is done soon after, whatever dies meanwhile.

use std::time::Duration;

use genesys_simulator::crm::Behaviour;
use serde_json::json;
use sqlx::PgPool;

use crate::support::look::waiting_for_locks;
use crate::support::{SOON, World, database, eventually};

/// Inserts `count` pending deliveries for a webhook, ten to a lane, whose events are long gone.
async fn insert_pending(pool: &PgPool, hook: &str, count: i64, due_at: &str) {
    sqlx::query(
        "insert into delivery (
             delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at, attempt, created_at)
         select gen_random_uuid(), $1::uuid, 1000000 + n / 10, n, gen_random_uuid(), now() - interval '1 hour',
                case when n % 10 = 0 then $3::timestamptz end, 0, now() - interval '1 hour'
         from generate_series(0, $2 - 1) n",
    )
    .bind(hook)
    .bind(count)
    .bind(due_at)
    .execute(pool)
    .await
    .unwrap();
}

async fn open(pool: &PgPool, hook: &str) -> i64 {
    sqlx::query_scalar("select count(*) from delivery where webhook_id = $1::uuid")
        .bind(hook)
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn received(world: &World, path: &str, count: usize) {
    let arrived = |posts: &[std::sync::Arc<genesys_simulator::crm::Post>]| {
        posts.iter().filter(|post| post.path() == path).count() >= count
    };
    world.crm.wait_until(arrived, SOON).await.unwrap_or_else(|_| panic!("{path} gets {count}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_of_a_webhook_with_very_many_deliveries_survives_a_kill_in_the_middle() {
    const PENDING: i64 = 150_000;
    let mut world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    world.register("/hooks/b").await;
    insert_pending(&pool, &hook, PENDING, "infinity").await;
    assert_eq!(world.bridge.delete(&format!("/v1/webhooks/{hook}")).await.status, 204);
    // Others go on meanwhile.
    world.register("/hooks/c").await;
    world.genesys.set_presence("ann", "BUSY").await;
    received(&world, "/hooks/b", 1).await;
    received(&world, "/hooks/c", 1).await;
    eventually("some have ended", || async { (open(&pool, &hook).await < PENDING).then_some(()) }).await;
    world.bridge.kill().await;
    assert!(open(&pool, &hook).await > 0, "it was killed in the middle");
    world.bridge.restart().await;
    eventually("all have ended", || async { (open(&pool, &hook).await == 0).then_some(()) }).await;
    let told: (i64, i64) = sqlx::query_as(
        "select count(*), count(distinct delivery_id)
         from audit_log
         where kind = 'DELIVERY_ENDED' and end_state = 'webhook_gone' and principal = 'api-key:bootstrap'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(told, (PENDING, PENDING), "each end is written down once");
    eventually("no work is left", || async {
        let left: i64 =
            sqlx::query_scalar("select count(*) from webhook_work").fetch_one(&pool).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_a_webhook_with_batches_ends_however_much_was_suspended() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let fields = json!({"batch": {"max_items": 1000, "max_wait_ms": 1}});
    let hook = world.register_with("/hooks/a", fields).await["id"].as_str().unwrap().to_owned();
    assert_eq!(world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await.status, 200);
    insert_pending(&pool, &hook, 30_000, "infinity").await;
    world.genesys.set_presence("ann", "BUSY").await;
    eventually("it is pending too", || async { (open(&pool, &hook).await == 30_001).then_some(()) }).await;
    let resumed = world.bridge.post(&format!("/v1/webhooks/{hook}/resume"), &json!({})).await;
    assert_eq!(resumed.json()["state"], "active");
    received(&world, "/hooks/a", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_after_a_removal_and_what_was_under_way_ends_as_it_is_answered() {
    let agents = ["ann", "bob", "cid", "dee"];
    let world = World::watching(&agents).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register_with("/hooks/a", json!({"max_concurrency": 2})).await;
    let hook = hook["id"].as_str().unwrap();
    // Before its first success it would get one POST at a time.
    world.genesys.set_presence("ann", "AWAY").await;
    received(&world, "/hooks/a", 1).await;
    world.crm.always("/hooks/a", Behaviour::status(204).after(Duration::from_millis(800)));
    for agent in agents {
        world.genesys.push_presence(agent, "BUSY");
    }
    received(&world, "/hooks/a", 3).await;
    assert_eq!(world.bridge.delete(&format!("/v1/webhooks/{hook}")).await.status, 204);
    eventually("all have ended", || async { (open(&pool, hook).await == 0).then_some(()) }).await;
    let posts = world.crm.received("/hooks/a");
    assert_eq!(posts.len(), 3, "no POST begins after the answer");
    for post in posts {
        world.delivery_in(post.webhook_id(), "delivered").await;
    }
    let ends: Vec<(String, i64)> = sqlx::query_as(
        "select end_state, count(*) from audit_log where end_state is not null group by 1 order by 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(ends, [("delivered".to_owned(), 3), ("webhook_gone".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cycle_waits_for_one_webhooks_health() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    world.register("/hooks/b").await;
    world.crm.always("/hooks/a", Behaviour::status(500));
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select from webhook_health where webhook_id = $1::uuid for update")
        .bind(&hook)
        .execute(&mut *held)
        .await
        .unwrap();
    for (count, state) in ["BUSY", "AWAY", "MEAL"].into_iter().enumerate() {
        world.genesys.set_presence("ann", state).await;
        received(&world, "/hooks/b", count + 1).await;
    }
    world.audit_of("DELIVERY_ATTEMPT", 4).await;
    assert_eq!(waiting_for_locks(&pool).await, 0);
    held.rollback().await.unwrap();
    eventually("the failure is kept", || async {
        let webhook = world.bridge.get(&format!("/v1/webhooks/{hook}")).await.json();
        (webhook["health"]["failures"].as_u64()? > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_back_gets_what_waits_for_its_next_attempt() {
    let agents = ["ann", "bob"];
    let world = World::watching(&agents).await;
    let mut hooks = Vec::new();
    for path in ["/hooks/test", "/hooks/move", "/hooks/pause", "/hooks/recover"] {
        world.crm.always(path, Behaviour::status(503));
        let fields = json!({"retry_schedule_seconds": [1, 3600]});
        hooks.push(world.register_with(path, fields).await["id"].as_str().unwrap().to_owned());
    }
    for agent in agents {
        world.genesys.set_presence(agent, "BUSY").await;
    }
    world.audit_of("DELIVERY_ATTEMPT", 16).await;
    for path in ["/hooks/test", "/hooks/moved", "/hooks/pause", "/hooks/recover"] {
        world.crm.always(path, Behaviour::status(204));
    }
    let hook = |n: usize, verb: &str| format!("/v1/webhooks/{}{verb}", hooks[n]);
    assert_eq!(world.bridge.post(&hook(0, "/test"), &json!({})).await.status, 202);
    let moved = json!({"url": world.crm.url("/hooks/moved")});
    assert_eq!(world.bridge.patch(&hook(1, ""), &moved).await.status, 200);
    assert_eq!(world.bridge.post(&hook(2, "/pause"), &json!({})).await.status, 200);
    assert_eq!(world.bridge.post(&hook(2, "/resume"), &json!({})).await.status, 200);
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    assert_eq!(world.bridge.post(&hook(3, "/recover"), &since).await.status, 202);
    // Two attempts of each agent failed before; the test ping is one more.
    for (path, count) in [("/hooks/test", 7), ("/hooks/moved", 2), ("/hooks/pause", 6), ("/hooks/recover", 6)]
    {
        received(&world, path, count).await;
    }
    let pool = database::pool(&world.bridge.database_url).await;
    eventually("nothing is pending", || async { (world.open_deliveries(&pool).await == 0).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_fails_after_the_removal_is_not_tried_again() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register_with("/hooks/a", json!({"retry_schedule_seconds": [3600]})).await;
    let hook = hook["id"].as_str().unwrap();
    world.crm.always("/hooks/a", Behaviour::status(500).after(Duration::from_secs(2)));
    world.genesys.push_presence("ann", "BUSY");
    received(&world, "/hooks/a", 1).await;
    assert_eq!(world.bridge.delete(&format!("/v1/webhooks/{hook}")).await.status, 204);
    world.audit_of("DELIVERY_ATTEMPT", 1).await;
    eventually("it has ended", || async { (open(&pool, hook).await == 0).then_some(()) }).await;
    let post = world.crm.received("/hooks/a").remove(0);
    world.delivery_in(post.webhook_id(), "webhook_gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_an_enable_leaves_once_what_it_stood_behind_has_ended() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    for agent in ["ann", "bob"] {
        world.genesys.set_presence(agent, "BUSY").await;
    }
    received(&world, "/hooks/a", 2).await;
    // Of one agent something old waits for its next attempt.
    sqlx::query(
        "insert into delivery (
             delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at, attempt, created_at)
         select gen_random_uuid(), $1::uuid, agent_key, 1, gen_random_uuid(), now() - interval '1 hour',
                now() + interval '1 hour', 1, now() - interval '1 hour'
         from agent
         where agent_id = 'bob'",
    )
    .bind(&hook)
    .execute(&pool)
    .await
    .unwrap();
    // No piece is begun before the cycles have ended that were under way.
    world.crm.always("/hooks/a", Behaviour::status(410).after(Duration::from_millis(500)));
    world.genesys.push_presence("ann", "AWAY");
    received(&world, "/hooks/a", 3).await;
    let mut cycle = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(7700452)").execute(&mut *cycle).await.unwrap();
    let state = || async { world.bridge.get(&format!("/v1/webhooks/{hook}")).await.json()["state"].clone() };
    eventually("it is disabled", || async { (state().await == "disabled").then_some(()) }).await;
    let mut work = pool.begin().await.unwrap();
    sqlx::query("select from webhook_work where kind = 'end' for update").execute(&mut *work).await.unwrap();
    cycle.rollback().await.unwrap();
    world.crm.always("/hooks/a", Behaviour::default());
    assert_eq!(world.bridge.post(&format!("/v1/webhooks/{hook}/enable"), &json!({})).await.status, 200);
    for agent in ["bob", "ann"] {
        world.genesys.set_presence(agent, "MEAL").await;
    }
    let of = |agent: &'static str| move |post: &&std::sync::Arc<genesys_simulator::crm::Post>| matches!(&*post.event, Ok(event) if event.agent() == agent && event.state() == "MEAL");
    eventually("what stands behind nothing leaves", || async {
        world.crm.received("/hooks/a").iter().find(of("ann")).map(|_| ())
    })
    .await;
    work.rollback().await.unwrap();
    eventually("what stood behind something that ended leaves", || async {
        world.crm.received("/hooks/a").iter().find(of("bob")).map(|_| ())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_back_is_not_flooded_with_what_waited() {
    const PENDING: i64 = 3000;
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/a").await;
    sqlx::query(
        "insert into delivery (
             delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at, attempt, created_at)
         select gen_random_uuid(), $1::uuid, 1000000 + n, n, gen_random_uuid(), now() - interval '1 hour',
                now() + interval '1 hour', 1, now() - interval '1 hour'
         from generate_series(1, $2) n",
    )
    .bind(&hook)
    .bind(PENDING)
    .execute(&pool)
    .await
    .unwrap();
    let woken = || async {
        let far: i64 = sqlx::query_scalar(
            "select count(*) from delivery where webhook_id = $1::uuid and due_at > now() + interval '30 minutes'",
        )
        .bind(&hook)
        .fetch_one(&pool)
        .await
        .unwrap();
        PENDING - far
    };
    assert_eq!(world.bridge.post(&format!("/v1/webhooks/{hook}/test"), &json!({})).await.status, 202);
    eventually("some have become due", || async { (woken().await > 0).then_some(()) }).await;
    let since = std::time::Instant::now();
    loop {
        let (count, passed) = (woken().await, since.elapsed());
        // A piece is due within the five seconds after it.
        let most = 1000 + 100 * i64::try_from(passed.as_secs()).unwrap();
        assert!(count <= most, "{count} have become due after {passed:?}");
        if count > 1000 {
            break;
        }
        assert!(passed < SOON, "the rest becomes due too");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
