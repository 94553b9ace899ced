//! A commit may answer long after everybody has given it up: a standby is away, a disk stalls. What it stored
//! is stored, and leaves like everything else, once.

use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::crm::check::{Findings, altered_repeats, repeats};
use genesys_simulator::crm::{Behaviour, Post};
use genesys_simulator::genesys::GenesysOptions;
use presence_bridge::actors::recorder::Recorder;
use presence_bridge::config::Buffer;
use presence_bridge::domain::ids::{AgentId, ConnectionId, DeliveryId, DispatcherId, EventId, SourceId};
use presence_bridge::domain::presence::{Origin, PresenceChange};
use presence_bridge::metrics::Metrics;
use presence_bridge::store::Store;
use sqlx::types::Uuid;
use time::OffsetDateTime;

use crate::support::late::Late;
use crate::support::look::{assert_sequences_have_no_holes, feed, waiting_for_locks};
use crate::support::{SOON, World, database, eventually};

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
    late.nothing_is_pending(&world).await;

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
        (asks && says(&world, "failed to store presence changes")).then_some(())
    })
    .await;
    stalled.rollback().await.unwrap();
    for status in ["MEAL", "BUSY"] {
        world.genesys.push_presence("ann", status);
        world.genesys.push_presence("bob", status);
    }

    world.crm.wait_for(8, SOON).await.unwrap();
    late.nothing_is_pending(&world).await;
    let posts = world.crm.posts();
    let findings = Findings::of(&posts, 1..=8);
    assert!(findings.is_clean(), "{findings:#?}");
    assert_eq!(repeats(&posts), 0, "no answered POST is repeated");
    let events = feed(&world.bridge).await;
    assert_sequences_have_no_holes(&events);
    assert_eq!(events.len(), 8);
    assert_eq!(world.audit("FRAME_REJECTED").await, Vec::<serde_json::Value>::new(), "all of it is stored");
}

/// However it comes that a change is handed in again, be it without a doubt about the first time.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_stored_already_is_not_put_into_quarantine() {
    let world = World::with_options(&["ann"], GenesysOptions::default(), &[]).await;
    world.genesys.set_presence("ann", "BUSY").await;
    let pool = database::pool(&world.bridge.database_url).await;
    let (source_id, connection_id): (Uuid, Uuid) = eventually("it is stored", || async {
        let stored = sqlx::query_as("select source_id, connection_id from event");
        stored.fetch_optional(&pool).await.unwrap()
    })
    .await;
    let change = PresenceChange {
        event_id: EventId::generate(),
        source_id: SourceId(source_id),
        source_name: "environment".to_owned(),
        connection_id: ConnectionId(connection_id),
        agent_id: AgentId("ann".to_owned()),
        topic: "topic".to_owned(),
        presence: Some("AWAY".to_owned()),
        state: None,
        occurred_at: None,
        received_at: OffsetDateTime::now_utc(),
        origin: Origin::Live,
        raw: "{}".into(),
    };
    let store = Store::connect(world.bridge.database_url.parse().unwrap(), 2).await.unwrap();
    store.record(std::slice::from_ref(&change)).await.unwrap();
    let (recorder, worker) = Recorder::new(store.clone(), Arc::default(), Metrics::new(), Buffer::default());
    let working = tokio::spawn(worker.run());
    let newer = PresenceChange { event_id: EventId::generate(), ..change.clone() };
    for change in [change, newer] {
        recorder.try_record(change).unwrap();
    }
    assert!(recorder.flushed().await);
    drop(recorder);
    working.await.unwrap();
    store.close().await;
    let events: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&pool).await.unwrap();
    assert_eq!(events, 3, "one more is new");
    assert_eq!(world.audit("FRAME_REJECTED").await, Vec::<serde_json::Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_whose_commit_answers_late_leaves() {
    let late = Late::prepare().await;
    let world = late.world(&["ann", "bob"]).await;
    let hook = world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "BUSY").await;
    world.genesys.set_presence("bob", "BUSY").await;
    world.crm.wait_for(2, SOON).await.unwrap();
    late.nothing_is_pending(&world).await;

    let stalled = late.stall().await;
    sqlx::query("update webhook set snapshot_next = 0 where webhook_id::text = $1")
        .bind(&hook)
        .execute(&late.pool)
        .await
        .unwrap();
    late.a_commit_waits().await;
    eventually("the dispatcher has given it up", || async {
        says(&world, "dispatcher maintenance failed").then_some(())
    })
    .await;
    stalled.rollback().await.unwrap();

    // The commit goes on only after the rollback: until then nothing is pending either.
    world.crm.wait_for(4, SOON).await.unwrap();
    late.nothing_is_pending(&world).await;
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
    late.nothing_is_pending(&world).await;
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
    late.nothing_is_pending(&world).await;
    assert_eq!(repeats(&world.crm.posts()), 0, "no answered POST is repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_nothing_wakes_is_found_while_the_bridge_runs() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.crm.next("/hooks/a", [Behaviour::status(500)]);
    world.genesys.set_presence("ann", "BUSY").await;
    // As a word leaves it that was lost with its process: first in its lane, neither due nor in anybody's
    // hands.
    let orphan = "update delivery set due_at = null where leased_by is null and due_at is not null";
    eventually("the delivery waits for its retry", || async {
        let stranded = sqlx::query(orphan).execute(&pool).await.unwrap().rows_affected();
        (stranded == 1).then_some(())
    })
    .await;
    world.crm.wait_for(2, SOON).await.unwrap();
    let posts = world.crm.posts();
    assert_eq!(posts[0].webhook_id(), posts[1].webhook_id());
}

/// What a dispatcher knows of it has leased, and perhaps under way: only what it cannot know of is given
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_nobody_was_told_of_is_given_back() {
    let url = database::create().await;
    let pool = database::pool(&url).await;
    let store = Store::connect(url.parse().unwrap(), 2).await.unwrap();
    let (dispatcher, event) = (DispatcherId::generate(), EventId::generate());
    for (lane, leased_at_insert, batch) in [(1, true, false), (2, false, false), (3, false, true)] {
        sqlx::query(
            "insert into delivery (delivery_id, webhook_id, lane, position, event_id, event_received_at, attempt,
                                   leased_by, created_at, sent_at, batch_id)
             select gen_random_uuid(), gen_random_uuid(), $1, $1, $2, now(), 1, $3, now(),
                    now() + case when $4 then interval '0' else interval '1 s' end,
                    case when $5 then gen_random_uuid() end",
        )
        .bind(lane)
        .bind(event.0)
        .bind(dispatcher.0)
        .bind(leased_at_insert)
        .bind(batch)
        .execute(&pool)
        .await
        .unwrap();
    }
    let held = async || -> Vec<i64> {
        sqlx::query_scalar("select lane from delivery where leased_by is not null order by lane")
            .fetch_all(&pool)
            .await
            .unwrap()
    };
    let leased_at_insert: Vec<(Uuid, OffsetDateTime)> =
        sqlx::query_as("select delivery_id, created_at from delivery").fetch_all(&pool).await.unwrap();
    let leased_at_insert: Vec<_> =
        leased_at_insert.into_iter().map(|(id, at)| (DeliveryId(id), at)).collect();
    store.release_unannounced(&leased_at_insert).await.unwrap();
    assert_eq!(held().await, [2, 3], "the recorder: what was leased leased to this process");
    sqlx::query("update delivery set leased_by = $1, due_at = null, attempt = 1 where lane = 1")
        .bind(dispatcher.0)
        .execute(&pool)
        .await
        .unwrap();
    store.reconcile_after_unknown_commit(dispatcher, OffsetDateTime::now_utc(), &[], &[]).await.unwrap();
    assert_eq!(held().await, [1, 3], "a cycle: what it may have claimed");
    store.close().await;
}
