//! A commit may answer long after everybody has given it up: a standby is away, a disk stalls. What it stored is stored, and
//! leaves like everything else, once.

use std::time::Duration;

use genesys_simulator::crm::check::{Findings, altered_repeats, repeats};
use genesys_simulator::crm::{Behaviour, Post};
use genesys_simulator::genesys::GenesysOptions;
use sqlx::{PgPool, Postgres, Transaction};

use crate::support::look::{assert_sequences_have_no_holes, feed, waiting_for_locks};
use crate::support::{SOON, World, database, eventually};

/// A database in which the commit of whoever has stored an event can be made to wait, as it waits for a standby or a disk:
/// nobody sees what it wrote, and it holds its locks. No time limit of a statement ends it.
struct Late {
    pool: PgPool,
    url: String,
}

const STALL: &str = "
    create function stall() returns trigger language plpgsql set lock_timeout = 0 as
        'begin perform pg_advisory_xact_lock_shared(1); return null; end';
    create constraint trigger stall after insert on event deferrable initially deferred
        for each row execute function stall();";

impl Late {
    async fn prepare() -> Self {
        let url = database::create().await;
        let pool = database::pool(&url).await;
        sqlx::raw_sql(STALL).execute(&pool).await.unwrap();
        Self { pool, url }
    }

    async fn world(&self, agents: &[&str]) -> World {
        World::with_options(agents, GenesysOptions::default(), &[("DATABASE_URL", &self.url)]).await
    }

    /// Commits wait until this is rolled back.
    async fn stall(&self) -> Transaction<'static, Postgres> {
        let mut stalled = self.pool.begin().await.unwrap();
        sqlx::query("select pg_advisory_xact_lock(1)").execute(&mut *stalled).await.unwrap();
        stalled
    }

    async fn a_commit_waits(&self) {
        eventually("a commit waits", || async { (waiting_for_locks(&self.pool).await > 0).then_some(()) })
            .await;
    }

    async fn nothing_is_owed(&self, world: &World) {
        eventually("nothing is owed any more", || async {
            (world.open_deliveries(&self.pool).await == 0).then_some(())
        })
        .await;
    }
}

fn says(world: &World, text: &str) -> bool {
    world.bridge.log().contains(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_commit_answers_late_leaves_and_so_does_what_follows() {
    let late = Late::prepare().await;
    let world = late.world(&["ann", "bob"]).await;
    world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "BUSY").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    late.nothing_is_owed(&world).await;

    // One of bob's is under way meanwhile: what is stored in the stall stands behind it.
    world.crm.next("/hooks/a", [Behaviour::status(204).after(Duration::from_secs(2))]);
    world.genesys.set_presence("bob", "BUSY").await;
    world.crm.wait_for(2, SOON).await.unwrap();
    let stalled = late.stall().await;
    world.genesys.push_presence("ann", "AWAY");
    world.genesys.push_presence("bob", "AWAY");
    late.a_commit_waits().await;
    eventually("the recorder has given it up and asks what became of it", || async {
        let asks = waiting_for_locks(&late.pool).await >= 2;
        (asks && says(&world, "presence changes wait for the database")).then_some(())
    })
    .await;
    stalled.rollback().await.unwrap();
    for status in ["MEAL", "BUSY"] {
        world.genesys.push_presence("ann", status);
        world.genesys.push_presence("bob", status);
    }

    world.crm.wait_for(8, SOON).await.unwrap();
    late.nothing_is_owed(&world).await;
    let posts = world.crm.posts();
    let findings = Findings::of(&posts, 1..=8);
    assert!(findings.is_clean(), "{findings:#?}");
    assert_eq!(repeats(&posts), 0, "no answered POST is repeated");
    let events = feed(&world.bridge).await;
    assert_sequences_have_no_holes(&events);
    assert_eq!(events.len(), 8);
    assert_eq!(world.audit("FRAME_REJECTED").await, Vec::<serde_json::Value>::new(), "all of it is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_whose_commit_answers_late_leaves() {
    let late = Late::prepare().await;
    let world = late.world(&["ann", "bob"]).await;
    let hook = world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "BUSY").await;
    world.genesys.set_presence("bob", "BUSY").await;
    world.crm.wait_for(2, SOON).await.unwrap();
    late.nothing_is_owed(&world).await;

    let stalled = late.stall().await;
    sqlx::query("update webhook set snapshot_next = 0 where webhook_id::text = $1")
        .bind(&hook)
        .execute(&late.pool)
        .await
        .unwrap();
    late.a_commit_waits().await;
    eventually("the dispatcher has given it up", || async {
        says(&world, "the dispatcher's upkeep waits for the database").then_some(())
    })
    .await;
    stalled.rollback().await.unwrap();

    late.nothing_is_owed(&world).await;
    let posts = world.crm.posts();
    let is_snapshot = |post: &Post| String::from_utf8_lossy(&post.body).contains("\"presence.snapshot\"");
    let snapshots = posts.iter().filter(|post| is_snapshot(post)).count();
    assert!(snapshots >= 2, "both agents' present states arrived");
    assert_eq!(altered_repeats(&posts), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_commit_answers_when_its_process_is_long_dead_leaves() {
    let late = Late::prepare().await;
    let mut world = late.world(&["ann"]).await;
    world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "BUSY").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    late.nothing_is_owed(&world).await;
    let dispatcher = "select array_agg(dispatcher_id::text) from dispatcher";
    let before: Vec<String> = sqlx::query_scalar(dispatcher).fetch_one(&late.pool).await.unwrap();

    let stalled = late.stall().await;
    world.genesys.push_presence("ann", "AWAY");
    late.a_commit_waits().await;
    world.bridge.kill_and_restart().await;
    eventually("the dead one's dispatcher is forgotten", || async {
        let now: Option<Vec<String>> = sqlx::query_scalar(dispatcher).fetch_one(&late.pool).await.unwrap();
        now.is_some_and(|now| now.iter().all(|id| !before.contains(id))).then_some(())
    })
    .await;
    stalled.rollback().await.unwrap();

    world.crm.wait_for(2, SOON).await.unwrap();
    late.nothing_is_owed(&world).await;
    assert_eq!(repeats(&world.crm.posts()), 0, "no answered POST is repeated");
}
