//! The database may go away, go silent, restart, or take a commit without saying so: nothing is lost, nothing
//! is told twice, and the bridge says what is the matter.

use std::time::{Duration, Instant};

use genesys_simulator::crm::Behaviour;
use genesys_simulator::crm::check::{Findings, repeats};
use genesys_simulator::genesys::{GenesysOptions, Route};
use presence_bridge::embedded_postgres::Embedded;

use crate::support::bridge::API_KEY;
use crate::support::chaos::{Chaos, Mode};
use crate::support::look::{assert_sequences_have_no_holes, feed, waiting_for_locks};
use crate::support::{Bridge, SOON, World, database, eventually};

const AGENTS: [&str; 3] = ["ann", "bob", "cid"];

/// A world whose bridge reaches its database over a wire that can be hurt.
async fn wired() -> (World, Chaos) {
    let chaos = Chaos::before(&database::create().await).await;
    let url = chaos.url();
    (on_database(&url).await, chaos)
}

async fn on_database(url: &str) -> World {
    let world = World::with_options(&AGENTS, GenesysOptions::default(), &[("DATABASE_URL", url)]).await;
    world.register("/hooks/a").await;
    world
}

fn push(world: &World, count: usize) {
    for n in 0..count {
        for agent in AGENTS {
            world.genesys.push_presence(agent, ["BUSY", "AWAY", "MEAL"][n % 3]);
        }
    }
}

/// Waits for every change up to this number, and looks at what came and at what is kept.
async fn all_arrived_once(world: &World, last: u64) {
    world
        .crm
        .wait_until(
            |posts| {
                let accepted = posts.iter().filter(|post| post.accepted());
                accepted.filter_map(|post| post.n()).collect::<std::collections::BTreeSet<_>>().len() as u64
                    == last
            },
            SOON,
        )
        .await
        .unwrap();
    let findings = Findings::of(&world.crm.posts(), 1..=last);
    assert!(findings.is_clean(), "{findings:#?}");
    let events = feed(&world.bridge).await;
    assert_sequences_have_no_holes(&events);
    let mut ids: Vec<_> = events.iter().map(|event| event["event_id"].to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), events.len()), (last as usize, last as usize), "each change is one event");
}

async fn ready(world: &World) {
    eventually("ready again", || async { (world.bridge.get("/readyz").await.status == 200).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_unavailable_changes_wait_and_readiness_says_why() {
    let (world, chaos) = wired().await;
    push(&world, 5);
    world.crm.wait_for(15, SOON).await.unwrap();
    chaos.set(Mode::Refuse);
    push(&world, 20);
    let answer = eventually("not ready", || async {
        let answer = world.bridge.get("/readyz").await;
        (answer.status == 503).then(|| answer.text())
    })
    .await;
    assert!(answer.contains("database"), "{answer}");
    assert_eq!(world.bridge.get("/healthz").await.status, 200, "the process stays up");
    let refused = world.bridge.get("/v1/events").await;
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(world.genesys.snapshot().connected(), AGENTS.len(), "sockets stay open");
    // Ten minutes, for whoever has them: AWAY_SECONDS=600 cargo test --test it while_the_database_is_away
    let longer = std::env::var("AWAY_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    tokio::time::sleep(Duration::from_secs(longer.unwrap_or(0))).await;
    chaos.set(Mode::Pass);
    let back = Instant::now();
    all_arrived_once(&world, 75).await;
    let took = back.elapsed();
    assert!(took < Duration::from_secs(5), "delivered {took:?} after it was back");
    ready(&world).await;
    println!("all delivered {took:?}, ready {:?} after the database was back", back.elapsed());
}

/// More than a minute's worth of a busy site. The long form, two minutes at 300 a second with its figures, is
/// `make bench ARGS="outage --database"`.
#[tokio::test(flavor = "multi_thread")]
async fn twelve_thousand_changes_of_an_outage_are_stored_without_a_gap() {
    let url = database::create().await;
    let chaos = Chaos::before(&url).await;
    let world =
        World::with_options(&AGENTS, GenesysOptions::default(), &[("DATABASE_URL", &chaos.url())]).await;
    let opened = world.genesys.snapshot().requests(Route::Upgrade);
    chaos.set(Mode::Refuse);
    push(&world, 4000);
    let waiting = async || world.bridge.metric("presence_bridge_changes_waiting").await;
    eventually("all of them wait", || async { (waiting().await == 12_000.0).then_some(()) }).await;
    let (rss, _) = world.bridge.memory_mib();
    assert!(rss < 256.0, "{rss} MiB");
    chaos.set(Mode::Pass);
    let back = Instant::now();
    eventually("all of them are stored", || async { (waiting().await == 0.0).then_some(()) }).await;
    println!(
        "12,000 changes took {rss} MiB and were stored {:?} after the database was back",
        back.elapsed()
    );
    let pool = database::pool(&url).await;
    let by_agent: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select count(*), min(sequence), max(sequence)
         from event
         where kind = 'presence.updated'
         group by agent_key",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(by_agent, [(4000, 1, 4000); 3], "each is one event");
    let gaps: i64 = sqlx::query_scalar("select count(*) from gap").fetch_one(&pool).await.unwrap();
    let seen = world.genesys.snapshot();
    assert_eq!((gaps, seen.requests(Route::Upgrade), seen.connected()), (0, opened, 3), "sockets stay");
    ready(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_neither_loses_nor_doubles() {
    let (world, chaos) = wired().await;
    let mut last = 0;
    for round in 1..=6 {
        chaos.swallow_commits(2);
        push(&world, 4);
        last += 12;
        eventually("answers are lost", || async { (chaos.swallowed() >= round * 2).then_some(()) }).await;
    }
    let back = Instant::now();
    all_arrived_once(&world, last).await;
    let took = back.elapsed();
    assert!(took < Duration::from_secs(5), "what a lost answer had claimed left after {took:?}");
    assert_eq!(repeats(&world.crm.posts()), 0, "no answered POST is repeated");
    let pool = database::pool(&chaos.url()).await;
    let twice: Vec<(String, i64)> = eventually("all ends are written", || async {
        let open: i64 = world.open_deliveries(&pool).await;
        let rows = sqlx::query_as(
            "select kind || ' ' || coalesce(delivery_id, event_id)::text || ' ' || coalesce(attempt, 0), count(*)
             from audit_log
             where kind in ('EVENT_RECEIVED', 'DELIVERY_ATTEMPT')
             group by 1
             having count(*) > 1",
        );
        (open == 0).then_some(rows.fetch_all(&pool).await.unwrap())
    })
    .await;
    assert_eq!(twice, [], "written down twice");
    let attempts: i64 = sqlx::query_scalar("select count(*) from audit_log where kind = 'DELIVERY_ATTEMPT'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(attempts, world.crm.count() as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_falls_silent_is_given_up_and_found_again() {
    let (world, chaos) = wired().await;
    push(&world, 2);
    world.crm.wait_for(6, SOON).await.unwrap();
    chaos.set(Mode::Silent);
    let silent = Instant::now();
    push(&world, 10);
    eventually("the recorder gives its step up", || async {
        world.bridge.log().contains("failed to store presence changes").then_some(())
    })
    .await;
    let took = silent.elapsed();
    assert!(took < Duration::from_secs(6), "it took {took:?}");
    assert_eq!(world.bridge.get("/readyz").await.status, 503);
    every_call_ends(&world).await;
    chaos.set(Mode::PassNew); // connections from before never answer again
    let back = Instant::now();
    all_arrived_once(&world, 36).await;
    let took = back.elapsed();
    assert!(took < Duration::from_secs(10), "delivered {took:?} after it was back");
    ready(&world).await;
}

/// Calls of the API, all at once, while the database says nothing.
async fn every_call_ends(world: &World) {
    let nobody = "019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50";
    let mut calls: Vec<(&str, String)> = [
        "webhooks",
        "sources",
        "connections",
        "agents",
        "events",
        "deliveries",
        "audit",
        "gaps",
        "rejected-topics",
    ]
    .iter()
    .map(|list| ("GET", format!("/v1/{list}")))
    .collect();
    for list in ["webhooks", "sources", "connections", "events", "deliveries"] {
        calls.push(("GET", format!("/v1/{list}/{nobody}")));
    }
    for (method, path) in [
        ("POST", "webhooks/ID/pause"),
        ("POST", "webhooks/ID/test"),
        ("POST", "webhooks/ID/snapshot"),
        ("DELETE", "webhooks/ID"),
        ("POST", "connections/ID/restart"),
        ("POST", "deliveries/ID/retry"),
        ("DELETE", "sources/ID"),
    ] {
        calls.push((method, format!("/v1/{}", path.replace("ID", nobody))));
    }
    let ends = calls.iter().map(|(method, path)| async move {
        let begun = Instant::now();
        let answer = world.bridge.send(method, path, None).await;
        (format!("{method} {path}"), answer.status, begun.elapsed())
    });
    let ends = futures_util::future::join_all(ends).await;
    let longest = ends.iter().map(|(_, _, took)| *took).max().unwrap();
    println!("{} calls of the API ended within {longest:?}", ends.len());
    for (call, status, took) in ends {
        assert_eq!(status, 503, "{call}");
        assert!(took < Duration::from_millis(5500), "{call} took {took:?}");
    }
}

/// Silence that falls in the middle of a statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_under_way_when_the_database_falls_silent_ends_too() {
    let direct = database::create().await;
    let chaos = Chaos::before(&direct).await;
    let world = on_database(&chaos.url()).await;
    let pool = database::pool(&direct).await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("lock table gap, idempotency in access exclusive mode").execute(&mut *holder).await.unwrap();
    let begun = Instant::now();
    let read = world.bridge.get("/v1/gaps");
    let key = format!("Bearer {API_KEY}");
    let headers = [("authorization", key.as_str()), ("idempotency-key", "k")];
    let write = world.bridge.send_raw("POST", "/v1/tenants", &headers, Some(b"{}".to_vec()));
    let silence = async {
        eventually("both wait", || async { (waiting_for_locks(&pool).await == 2).then_some(()) }).await;
        chaos.set(Mode::Silent);
    };
    let (read, write, ()) = tokio::join!(read, write, silence);
    let took = begun.elapsed();
    assert_eq!((read.status, write.status), (503, 503));
    assert!(took < Duration::from_millis(5500), "it took {took:?}");
    println!("calls in the middle of a statement ended within {took:?}");
    chaos.set(Mode::PassNew);
    holder.rollback().await.unwrap();
    eventually("it is well again", || async {
        (world.bridge.get("/v1/gaps").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_takes_longer_than_its_caller_waits_is_carried_out() {
    let url = database::create().await;
    let world = on_database(&url).await;
    let pool = database::pool(&url).await;
    let hook = world.bridge.get("/v1/webhooks").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let slow = "create function slow() returns trigger language plpgsql as
                    'begin perform pg_sleep(3); return new; end';
                create trigger slow before update of deleted_at on webhook
                    for each row execute function slow();
                create trigger slow before insert on webhook_work
                    for each row execute function slow();";
    sqlx::raw_sql(slow).execute(&pool).await.unwrap();
    let answer = world.bridge.delete(&format!("/v1/webhooks/{hook}")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(world.bridge.get(&format!("/v1/webhooks/{hook}")).await.status, 200);
    eventually("the webhook is gone", || async {
        (world.bridge.get(&format!("/v1/webhooks/{hook}")).await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_postgres_is_survived() {
    let dir = tempfile::Builder::new().prefix("pb-restart-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let start = || {
        let path = dir.path().to_owned();
        tokio::task::block_in_place(|| Embedded::start(&path, database::options()).unwrap())
    };
    let server = start();
    let world = on_database(&server.url("postgres")).await;
    world.crm.always("/hooks/a", Behaviour::status(204).after(Duration::from_millis(10)));
    push(&world, 10);
    world.crm.wait_for(8, SOON).await.unwrap();
    tokio::task::block_in_place(|| server.stop());
    push(&world, 10);
    let _server = start();
    all_arrived_once(&world, 60).await;
    ready(&world).await;
}

/// The order of starting does not matter: a bridge waits for a database that is not there yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_comes_later_than_the_bridge_is_waited_for() {
    let chaos = Chaos::before(&database::create_bare().await).await;
    chaos.set(Mode::Refuse);
    let later = chaos.clone();
    let opened = tokio::spawn(async move {
        eventually("the bridge has tried", || async { (later.refused() > 0).then_some(()) }).await;
        later.set(Mode::Pass);
    });
    let bridge = Bridge::start_on(&chaos.url(), &[]).await;
    opened.await.unwrap();
    assert!(bridge.log().contains("does not answer yet"));
}
