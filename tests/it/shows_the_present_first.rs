//! Snapshots: the present state of every agent that a webhook watches, when it is registered, asked for, or
//! enabled again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use genesys_simulator::crm::Behaviour;
use genesys_simulator::crm::check::altered_repeats;
use serde_json::json;

use crate::support::crowd::{Crowd, data};
use crate::support::{SOON, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_webhook_that_asks_for_it_is_told_the_present_before_any_change() {
    let world = World::watching(&["ann", "bob", "cid"]).await;
    for (agent, state) in [("ann", "AVAILABLE"), ("ann", "ON_QUEUE"), ("bob", "AWAY")] {
        world.genesys.set_presence(agent, state).await;
    }
    world.audit_of("EVENT_RECEIVED", 3).await;
    world.register_with("/hooks/all", json!({"snapshot": true})).await;
    world.register_with("/hooks/some", json!({"snapshot": true, "presences": ["AWAY"]})).await;
    world.register("/hooks/none").await;
    let posts = world.crm.wait_for(3, SOON).await.unwrap();
    world.genesys.set_presence("ann", "AWAY").await;
    world.crm.wait_for(6, SOON).await.unwrap();
    assert!(posts.iter().all(|post| post.kind().as_deref() == Some("presence.snapshot") && post.verified()));
    let told = |path: &str| {
        let posts = world.crm.received(path);
        let told = posts.iter().map(|post| {
            let data = data(post);
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            (
                post.kind().unwrap(),
                text(&data["agent"]["id"]),
                text(&data["presence"]["system"]),
                data["sequence"].as_u64(),
            )
        });
        told.collect::<BTreeSet<_>>()
    };
    let item = |kind: &str, agent: &str, state: &str, sequence| {
        (format!("presence.{kind}"), agent.to_owned(), state.to_owned(), Some(sequence))
    };
    let now = item("snapshot", "bob", "AWAY", 1);
    let change = item("updated", "ann", "AWAY", 3);
    assert_eq!(
        told("/hooks/all"),
        [item("snapshot", "ann", "ON_QUEUE", 2), now.clone(), change.clone()].into()
    );
    assert_eq!(told("/hooks/some"), [now, change.clone()].into());
    assert_eq!(told("/hooks/none"), [change].into());
}

/// A snapshot is older than the changes after it, and newer than those before: in the lane as in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_keeps_its_place_among_the_changes() {
    let world = World::watching(&["ann"]).await;
    let hook = world.register("/hooks/a").await;
    world.crm.next("/hooks/a", [Behaviour::status(204).after(Duration::from_millis(300))]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    world.genesys.set_presence("ann", "BUSY").await;
    world.audit_of("EVENT_RECEIVED", 2).await;
    assert_eq!(world.bridge.post(&format!("/v1/webhooks/{hook}/snapshot"), &json!({})).await.status, 202);
    world.audit_of("SNAPSHOT_WRITTEN", 1).await;
    world.genesys.set_presence("ann", "AWAY").await;
    let posts = world.crm.wait_for(4, SOON).await.unwrap();
    let told: Vec<_> = posts
        .iter()
        .map(|post| {
            let data = data(post);
            (
                post.kind().unwrap(),
                data["presence"]["system"].as_str().unwrap().to_owned(),
                data["sequence"].clone(),
            )
        })
        .collect();
    let item = |kind: &str, state: &str, n: u64| (format!("presence.{kind}"), state.to_owned(), json!(n));
    assert_eq!(
        told,
        [
            item("updated", "AVAILABLE", 1),
            item("updated", "BUSY", 2),
            item("snapshot", "BUSY", 2),
            item("updated", "AWAY", 3)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_enabled_again_is_told_what_it_missed_as_the_present() {
    let world = World::watching(&["ann"]).await;
    let hook = world.register("/hooks/a").await;
    world.crm.next("/hooks/a", [Behaviour::status(410)]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("WEBHOOK_DISABLED", 1).await;
    world.genesys.set_presence("ann", "BUSY").await;
    world.audit_of("EVENT_RECEIVED", 2).await;
    assert_eq!(world.bridge.post(&format!("/v1/webhooks/{hook}/enable"), &json!({})).await.status, 200);
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    assert_eq!(posts[1].kind().as_deref(), Some("presence.snapshot"));
    assert_eq!(
        (&data(&posts[1])["presence"]["system"], &data(&posts[1])["sequence"]),
        (&json!("BUSY"), &json!(2))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_big_snapshot_leaves_nobody_out_and_nobody_twice() {
    let agents = 1600;
    let mut crowd = Crowd::of(agents).await;
    let lock = "select pg_advisory_xact_lock(7700451)";
    let mut first = crowd.pool.begin().await.unwrap();
    sqlx::query(lock).execute(&mut *first).await.unwrap();
    let hook = crowd.register("/hooks/a", json!({"snapshot": true})).await;
    let waits = |count: i64| {
        let url = crowd.bridge.database_url.clone();
        async move {
            let pool = crate::support::database::pool(&url).await;
            eventually("somebody waits to write", || async {
                let waiting: i64 = sqlx::query_scalar(
                    "select count(*) from pg_locks where locktype = 'advisory' and objid = 7700451 and not granted
                     and database = (select oid from pg_database where datname = current_database())",
                )
                .fetch_one(&pool)
                .await
                .unwrap();
                (waiting >= count).then_some(())
            })
            .await;
        }
    };
    waits(1).await;
    // We stand behind the first part, and before the second.
    let mut second = crowd.pool.begin().await.unwrap();
    let (locked, ()) = tokio::join!(sqlx::query(lock).execute(&mut *second), async {
        waits(2).await;
        first.rollback().await.unwrap();
    });
    locked.unwrap();
    crowd.bridge.kill().await;
    let written: i64 =
        sqlx::query_scalar("select snapshot_next from webhook").fetch_one(&mut *second).await.unwrap();
    assert!(written > 0, "a part is written");
    second.rollback().await.unwrap();
    crowd.bridge.restart().await;
    crowd.snapshot_written(&hook).await;
    crowd.drained().await;
    let posts = crowd.crm.received("/hooks/a");
    let mut ids: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for post in &posts {
        let agent = data(post)["agent"]["id"].as_str().unwrap().to_owned();
        ids.entry(agent).or_default().insert(post.webhook_id());
    }
    assert_eq!(ids.len(), usize::try_from(agents).unwrap());
    assert!(ids.values().all(|ids| ids.len() == 1), "each state was told under one id");
    assert_eq!(altered_repeats(&posts), Vec::<String>::new());
}
