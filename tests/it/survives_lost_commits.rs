//! A failover that lost commits, and a backup that is restored: what the bridge had stored is stored again as it
//! was, and no number is given out twice.

use std::process::Command;

use genesys_simulator::crm::check::{Findings, inversions};
use serde_json::{Value, json};

use crate::support::bridge::{self, MASTER_KEY};
use crate::support::failover::{fails_over, has_all, is_ready, of_path, on, push};
use crate::support::look::{all, assert_sequences_have_no_holes, feed};
use crate::support::pair::Pair;
use crate::support::{SOON, World, database, eventually};

/// Waits for what the operator's webhook is told of a failover.
async fn operators_notice(world: &World) -> Value {
    world.crm.wait_until(|posts| of_path(posts, "/hooks/operator") > 0, SOON).await.unwrap();
    let posts = world.crm.received("/hooks/operator");
    let body: Value = serde_json::from_slice(&posts[0].body).unwrap();
    assert_eq!(body["type"], "database.failed_over");
    body["data"].clone()
}

/// `audit verify` against a head that was kept elsewhere.
fn verify(url: &str, head: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_presence-bridge"))
        .args(["audit", "verify", "--json", "--head", head])
        .env_clear()
        .envs([("DATABASE_URL", url), ("BRIDGE_MASTER_KEY", MASTER_KEY)])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Number and digest of the last seal, as `audit head` writes them.
const HEAD: &str =
    "select seal_id || ':' || encode(digest, 'hex') from audit_seal order by seal_id desc limit 1";

#[tokio::test(flavor = "multi_thread")]
async fn what_an_asynchronous_failover_lost_is_stored_again_as_it_was() {
    let pair = Pair::start().await;
    let world = on(&pair.url()).await;
    push(&world, 5);
    has_all(&world, 5).await;
    pair.caught_up().await;
    pair.second.is_cut_off().await;

    push(&world, 5);
    has_all(&world, 10).await;
    let lost = world.register("/hooks/lost").await;
    let before = feed(&world.bridge).await;
    let cursor =
        world.bridge.get("/v1/events?limit=7").await.json()["next_cursor"].as_str().unwrap().to_owned();
    let sealed: i64 = pair.first.ask("select coalesce(max(seal_id), 0) from audit_seal").await;
    eventually("a seal is made that will be lost", || async {
        let last: i64 = pair.first.ask("select coalesce(max(seal_id), 0) from audit_seal").await;
        (last > sealed).then_some(())
    })
    .await;
    let head: String = pair.first.ask(HEAD).await;

    fails_over(&pair).await;
    is_ready(&world.bridge, 2).await;
    let told = world.audit_of("DATABASE_FAILED_OVER", 1).await;
    assert_eq!(
        told[0]["data"],
        json!({"timeline": 2, "restored": 5, "not_restorable": 0, "lost_since": null})
    );
    let notice = operators_notice(&world).await;
    assert_eq!(
        (&notice["timeline"], &notice["restored"], &notice["lost_since"]),
        (&json!(2), &json!(5), &Value::Null)
    );
    world.register("/hooks/new").await;
    push(&world, 5);
    has_all(&world, 15).await;
    world.crm.wait_until(|posts| of_path(posts, "/hooks/new") == 5, SOON).await.unwrap();
    assert_eq!(world.bridge.get(&format!("/v1/webhooks/{lost}")).await.status, 404);
    assert_eq!(world.crm.received("/hooks/lost").len(), 0, "the database does not know it");

    let events = feed(&world.bridge).await;
    assert_eq!(events.len(), 15);
    assert_sequences_have_no_holes(&events);
    assert_eq!(events[..10], before, "the same events, at the same places");
    let rest = world.bridge.get(&format!("/v1/events?limit=200&cursor={cursor}")).await.json();
    assert_eq!(rest["items"].as_array().unwrap()[..], events[7..], "a reader goes on where it was");
    assert_eq!(all(&world.bridge, "/v1/gaps").await, [] as [Value; 0]);
    assert_eq!(world.bridge.metric("presence_bridge_events_restored_total").await, 5.0);

    let found = world.audit_of("AUDIT_HEAD_LOST", 1).await;
    assert_eq!(found[0]["data"]["head"], *head);
    let verdict = verify(&pair.second.url(), &head);
    assert_eq!(
        (&verdict["ok"], &verdict["heads_lost"], &verdict["lost_head"]),
        (&json!(true), &json!(1), &json!(head)),
        "{verdict}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_failover_loses_nothing_and_leaves_no_hole() {
    let pair = Pair::start().await;
    pair.commits_wait_for_standby(true).await;
    let world = on(&pair.url()).await;
    push(&world, 5);
    has_all(&world, 5).await;
    fails_over(&pair).await;
    push(&world, 5);
    has_all(&world, 10).await;
    let told = world.audit_of("DATABASE_FAILED_OVER", 1).await;
    assert_eq!(
        told[0]["data"],
        json!({"timeline": 2, "restored": 0, "not_restorable": 0, "lost_since": null})
    );
    let events = feed(&world.bridge).await;
    assert_eq!(events.len(), 10);
    assert_sequences_have_no_holes(&events);
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_bridge_dies_too_no_number_is_given_out_twice_and_the_loss_is_told() {
    let pair = Pair::start().await;
    let mut world = on(&pair.url()).await;
    push(&world, 5);
    has_all(&world, 5).await;
    pair.caught_up().await;
    pair.second.is_cut_off().await;
    push(&world, 5);
    has_all(&world, 10).await;
    let read = world.bridge.get("/v1/events?limit=200").await.json();
    let cursor = read["next_cursor"].as_str().unwrap().to_owned();

    world.bridge.kill().await;
    fails_over(&pair).await;
    world.bridge.restart().await;
    world.sockets_open(1).await;
    let told = world.audit_of("DATABASE_FAILED_OVER", 1).await;
    assert_eq!(told[0]["data"]["restored"], 0);
    assert!(told[0]["data"]["lost_since"].is_string(), "{}", told[0]);
    assert_eq!(operators_notice(&world).await["lost_since"], told[0]["data"]["lost_since"]);
    push(&world, 3);
    let came = |posts: &[_]| Findings::of(posts, 1..=13).missing.is_empty();
    world.crm.wait_until(came, SOON).await.unwrap();

    let posts = world.crm.posts();
    assert_eq!(inversions(&posts), [] as [String; 0]);
    let rest = world.bridge.get(&format!("/v1/events?limit=200&cursor={cursor}")).await.json();
    let fresh = rest["items"].as_array().unwrap();
    assert!(fresh.len() >= 3, "a reader of before skips none: {rest}");
    let last_before = read["items"].as_array().unwrap().last().unwrap();
    for event in fresh {
        assert!(event["sequence"].as_i64() >= Some(1005 + 1), "{event}");
        assert!(event["position"].as_i64() > last_before["position"].as_i64(), "{event}");
    }
    let gaps = all(&world.bridge, "/v1/gaps").await;
    assert!(!gaps.is_empty(), "the loss is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_files_counts_as_restored_once_that_is_said() {
    let url = database::create().await;
    let mut world = on(&url).await;
    push(&world, 2);
    has_all(&world, 2).await;
    world.bridge.terminate().await;
    assert_eq!(bridge::migrate_with(&url, &["--restored"]).0, Some(0));
    world.bridge.restart().await;
    world.sockets_open(1).await;
    push(&world, 1);
    let came = |posts: &[_]| Findings::of(posts, 1..=3).missing.is_empty();
    world.crm.wait_until(came, SOON).await.unwrap();
    let events = feed(&world.bridge).await;
    assert!(events.last().unwrap()["sequence"].as_i64() > Some(1002), "{events:?}");
    assert_eq!(world.audit("DATABASE_FAILED_OVER").await.len(), 1);
    world.bridge.kill_and_restart().await;
    assert_eq!(world.audit("DATABASE_FAILED_OVER").await.len(), 1, "once");

    world.bridge.terminate().await;
    world.bridge.set("DATABASE_URL", &database::copy(&url).await);
    world.bridge.restart().await;
    assert_eq!(
        world.audit("DATABASE_FAILED_OVER").await.len(),
        2,
        "a copy by template is seen without a word"
    );
}
