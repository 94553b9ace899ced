//! Failovers that lost commits, when more than commits goes wrong: another failover at once, an event that the
//! database refuses, requests and ends of deliveries that were lost with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::crm::check::{Findings, altered_repeats, inversions};
use genesys_simulator::crm::{Behaviour, Post};
use serde_json::json;

use crate::support::crowd::items;
use crate::support::failover::{fails_over, has_all, is_ready, of_path, on, push};
use crate::support::look::{all, assert_sequences_have_no_holes, feed};
use crate::support::pair::Pair;
use crate::support::{SOON, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn two_failovers_in_a_row_lose_nothing_even_if_the_first_was_not_settled() {
    let pair = Pair::start().await;
    let world = on(&pair.url()).await;
    push(&world, 3);
    has_all(&world, 3).await;
    pair.first.say(&[HOLD, HOLD_TRIGGER]).await;
    pair.caught_up().await;
    pair.second.is_cut_off().await;
    push(&world, 3);
    has_all(&world, 6).await;

    fails_over(&pair).await;
    eventually("what was lost is there, and settling is held up behind it", || async {
        (pair.second.ask::<i64>("select count(*) from event where kind = 'presence.updated'").await == 6)
            .then_some(())
    })
    .await;
    pair.first.follow(&pair.second);
    pair.first.caught_up_with(&pair.second).await;
    fails_back(&pair).await;
    is_ready(&world.bridge, 3).await;
    push(&world, 3);
    has_all(&world, 9).await;
    let told = world.audit_of("DATABASE_FAILED_OVER", 1).await;
    assert_eq!(
        told[0]["data"],
        json!({"timeline": 3, "restored": 3, "not_restorable": 0, "lost_since": null})
    );
    let events = feed(&world.bridge).await;
    assert_eq!(events.len(), 9);
    assert_sequences_have_no_holes(&events);
}

/// Holds settling up in timeline 2 before it ends.
const HOLD: &str = "create function hold() returns trigger language plpgsql as $$
    begin
        if pg_walfile_name(pg_current_wal_lsn()) like '00000002%' then
            perform pg_sleep(60);
        end if;
        return new;
    end $$";
const HOLD_TRIGGER: &str =
    "create trigger hold before update on incarnation for each row execute function hold()";

/// The second dies, and the first, its standby by now, becomes the primary again.
async fn fails_back(pair: &Pair) {
    pair.second.kill();
    pair.first.promote().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_that_the_database_refuses_for_good_does_not_take_others_with_it() {
    let pair = Pair::start().await;
    let variables = [("DATABASE_URL", &*pair.url())];
    let world = World::with_options(&["ann", "bob"], Default::default(), &variables).await;
    world.register("/hooks/a").await;
    let numbers: Vec<_> = ["ann", "bob"].map(|agent| world.genesys.push_presence(agent, "BUSY")).into();
    has_all(&world, *numbers.last().unwrap()).await;
    let refuse = "create function refuse() returns trigger language plpgsql as $$
        begin
            if pg_walfile_name(pg_current_wal_lsn()) like '00000002%'
               and new.agent_id = 'bob' and new.sequence = 3 then
                raise exception 'refused' using errcode = '23514';
            end if;
            return new;
        end $$";
    let trigger = "create trigger refuse before insert on event for each row execute function refuse()";
    pair.first.say(&[refuse, trigger]).await;
    pair.caught_up().await;
    pair.second.is_cut_off().await;
    for state in ["AWAY", "MEAL", "BUSY"] {
        for agent in ["ann", "bob"] {
            world.genesys.push_presence(agent, state);
        }
    }
    has_all(&world, 8).await;

    fails_over(&pair).await;
    let told = world.audit_of("DATABASE_FAILED_OVER", 1).await;
    assert_eq!((&told[0]["data"]["restored"], &told[0]["data"]["not_restorable"]), (&json!(5), &json!(1)));
    assert!(told[0]["data"]["lost_since"].is_string(), "{}", told[0]);
    for agent in ["ann", "bob"] {
        world.genesys.push_presence(agent, "AWAY");
    }
    let came = |posts: &[_]| Findings::of(posts, 1..=10).missing.is_empty();
    world.crm.wait_until(came, SOON).await.unwrap();
    assert_eq!(inversions(&world.crm.posts()), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_answered_in_the_lost_time_is_as_if_never_asked() {
    let pair = Pair::start().await;
    let world = on(&pair.url()).await;
    let removed = world.register("/hooks/removed").await;
    let changed = world.register("/hooks/changed").await;
    push(&world, 1);
    world.crm.wait_until(|posts| posts.len() == 3, SOON).await.unwrap();
    eventually("all is settled", || async {
        (pair.first.ask::<i64>("select count(*) from delivery").await == 0).then_some(())
    })
    .await;
    pair.caught_up().await;
    pair.second.is_cut_off().await;
    assert_eq!(world.bridge.delete(&format!("/v1/webhooks/{removed}")).await.status, 204);
    let elsewhere = json!({"url": world.crm.url("/hooks/elsewhere")});
    assert_eq!(world.bridge.patch(&format!("/v1/webhooks/{changed}"), &elsewhere).await.status, 200);

    fails_over(&pair).await;
    is_ready(&world.bridge, 2).await;
    world.audit_of("DATABASE_FAILED_OVER", 1).await;
    assert_eq!(world.bridge.get(&format!("/v1/webhooks/{removed}")).await.status, 200, "it is back");
    push(&world, 1);
    for path in ["/hooks/a", "/hooks/removed"] {
        let came = world.crm.wait_until(|posts| of_path(posts, path) == 2, SOON).await;
        assert!(came.is_ok(), "{path}: {}", world.bridge.log());
    }
    // The first ones may go where the lost change led, until its webhook is read again.
    eventually("the former address counts again", || async {
        push(&world, 1);
        (of_path(&world.crm.posts(), "/hooks/changed") > 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_whose_ends_were_lost_come_again_and_hold_up_no_lane() {
    let pair = Pair::start().await;
    let world = on(&pair.url()).await;
    world.register_with("/hooks/batched", json!({"batch": {"max_items": 3, "max_wait_ms": 200}})).await;
    let slow = Behaviour::status(204).after(Duration::from_millis(2500));
    world.crm.always_everywhere(slow);
    push(&world, 1);
    world.crm.wait_until(|posts| posts.len() == 2, SOON).await.unwrap();
    pair.caught_up().await;
    pair.second.is_cut_off().await;
    eventually("both are settled", || async {
        (pair.first.ask::<i64>("select count(*) from delivery").await == 0).then_some(())
    })
    .await;
    world.crm.always_everywhere(Behaviour::status(204));

    fails_over(&pair).await;
    push(&world, 2);
    has_all_items(&world, "/hooks/batched", 3).await;
    world.crm.wait_until(|posts| of_path(posts, "/hooks/a") == 3, SOON).await.unwrap();
    eventually("nothing is left", || async {
        (pair.second.ask::<i64>("select count(*) from delivery").await == 0).then_some(())
    })
    .await;
    assert_eq!(altered_repeats(&world.crm.posts()), [] as [String; 0]);
    assert_sequences_have_no_holes(&feed(&world.bridge).await);
}

/// Waits until a webhook with batches has items of that many different ids.
async fn has_all_items(world: &World, path: &str, count: usize) {
    let came = |posts: &[Arc<Post>]| {
        let here: Vec<_> = posts.iter().filter(|post| post.path() == path).cloned().collect();
        items(&here).iter().map(|item| item["id"].to_string()).collect::<BTreeSet<_>>().len() == count
    };
    world.crm.wait_until(came, SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_was_erased_in_the_lost_time_is_erased_again() {
    let pair = Pair::start().await;
    let variables = [("DATABASE_URL", &*pair.url())];
    let world = World::with_options(&["ann", "bob"], Default::default(), &variables).await;
    world.register("/hooks/a").await;
    world.genesys.push_presence("bob", "AWAY");
    push(&world, 2);
    has_all(&world, 3).await;
    pair.caught_up().await;
    pair.second.is_cut_off().await;
    push(&world, 1);
    has_all(&world, 4).await;
    let asked = world.bridge.delete("/v1/agents/ann/data?watch=true").await;
    assert_eq!(asked.status, 202, "{}", asked.text());

    fails_over(&pair).await;
    is_ready(&world.bridge, 2).await;
    eventually("the erasure is done", || async {
        let requests = all(&world.bridge, "/v1/erasures").await;
        (requests.len() == 1 && requests[0]["state"] == "done").then_some(())
    })
    .await;
    let left = "select count(*) from event e join erasure x using (agent_id)
                where e.received_at < x.requested_at and e.erased_at is null";
    assert_eq!(pair.second.ask::<i64>(left).await, 0);
    world.genesys.push_presence("ann", "BUSY");
    let came = |posts: &[_]| Findings::of(posts, 1..=5).missing.is_empty();
    world.crm.wait_until(came, SOON).await.unwrap();
    assert_eq!(inversions(&world.crm.posts()), [] as [String; 0], "no number was given out twice");
}
