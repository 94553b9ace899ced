//! What one webhook is told of one agent arrives in order, whatever fails; and nothing waits for what it need
//! not.

use std::time::Duration;

use genesys_simulator::crm::Behaviour;
use genesys_simulator::crm::check::{Findings, holes, inversions};

use crate::support::look::{assert_sequences_have_no_holes, feed};
use crate::support::{SOON, World, database, eventually};

const STATES: [&str; 4] = ["AVAILABLE", "BUSY", "AWAY", "ON_QUEUE"];

/// The same numbers in every run.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |n| {
        Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    })
    .skip(1)
    .map(|n| n >> 33)
}

#[tokio::test(flavor = "multi_thread")]
async fn first_deliveries_are_in_order_while_receivers_fail_and_dawdle() {
    let agents = ["ann", "bob", "cid", "dan"];
    let world = World::watching(&agents).await;
    for (seed, path) in (7..).zip(["/hooks/a", "/hooks/b"]) {
        world.register(path).await;
        let behaviours = numbers(seed).take(250).map(|n| match n % 10 {
            0 => Behaviour::status(503).after(Duration::from_millis(n / 10 % 20)),
            _ => Behaviour::status(204).after(Duration::from_millis(n / 10 % 20)),
        });
        world.crm.next(path, behaviours);
    }
    for round in 0..40 {
        for agent in agents {
            world.genesys.push_presence(agent, STATES[round % STATES.len()]);
        }
    }
    eventually("all is written", || async {
        (world.bridge.metric("presence_bridge_events_received_total").await >= 160.0).then_some(())
    })
    .await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.drained(&pool).await;
    for path in ["/hooks/a", "/hooks/b"] {
        let posts = world.crm.received(path);
        assert!(posts.len() > 160, "some failed and were repeated: {}", posts.len());
        let findings = Findings::of(&posts, 1..=160);
        assert!(findings.is_clean(), "{path}: {findings:#?}");
    }
    let events = feed(&world.bridge).await;
    assert_eq!(events.len(), 160);
    assert_sequences_have_no_holes(&events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_lane_holds_up_itself_and_nothing_else() {
    let world = World::watching(&["ann", "bob"]).await;
    world.register("/hooks/a").await;
    world.crm.next("/hooks/a", [Behaviour::status(500)]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let refused = world.crm.wait_for(1, SOON).await.unwrap()[0].webhook_id().to_owned();
    for state in STATES {
        world.genesys.set_presence("ann", state).await;
        world.genesys.set_presence("bob", state).await;
    }
    let posts = world.crm.wait_for(1 + 4, SOON).await.unwrap();
    let of_bob = posts.iter().filter(|post| {
        let event = post.event.as_ref().unwrap();
        event.agent() == "bob"
    });
    assert_eq!(of_bob.count(), 4, "bob's lane flows while ann's waits");
    let waiting = world.delivery_in(&refused, "waiting").await;
    assert_eq!(waiting["attempts_begun"], 1);
    let pool = database::pool(&world.bridge.database_url).await;
    world.drained(&pool).await;
    let findings = Findings::of(&world.crm.received("/hooks/a"), 1..=9);
    assert!(findings.is_clean(), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_hangs_does_not_delay_another() {
    let agents = ["ann", "bob", "cid"];
    let world = World::watching(&agents).await;
    world.register("/hooks/hangs").await;
    // Before its first success it would get one POST at a time.
    world.genesys.set_presence("ann", "MEAL").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    world.crm.always("/hooks/hangs", Behaviour::Hang);
    world.register("/hooks/well").await;
    for round in 0..20 {
        for agent in agents {
            world.genesys.push_presence(agent, STATES[round % STATES.len()]);
        }
    }
    world
        .crm
        .wait_until(
            |posts| posts.iter().filter(|post| post.path() == "/hooks/well" && post.accepted()).count() == 60,
            SOON,
        )
        .await
        .unwrap();
    assert_eq!(world.crm.hangups(), [], "all was delivered before the first POST to the other gave up");
    assert_eq!(world.crm.received("/hooks/hangs").len(), 1 + 3, "one POST a lane is under way, no more");
    assert!(Findings::of(&world.crm.received("/hooks/well"), 2..=61).is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_at_once_of_one_agent_stay_in_order() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.register("/hooks/b").await;
    for n in 0..600 {
        world.genesys.push_presence("ann", STATES[n % STATES.len()]);
    }
    world.crm.wait_for(1200, SOON).await.unwrap();
    for path in ["/hooks/a", "/hooks/b"] {
        let posts = world.crm.received(path);
        assert_eq!(posts.len(), 600, "each gets the whole, once");
        assert!(Findings::of(&posts, 1..=600).is_clean());
    }
    let events = feed(&world.bridge).await;
    assert_sequences_have_no_holes(&events);
    assert!(
        events.windows(2).all(|two| two[1]["previous"]["system"] == two[0]["presence"]["system"]),
        "each event knows the one before it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_registered_late_is_told_from_then_on_and_in_order() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/early").await;
    for n in 0..10 {
        world.genesys.set_presence("ann", STATES[n % STATES.len()]).await;
    }
    world.crm.wait_for(10, SOON).await.unwrap();
    world.register("/hooks/late").await;
    for n in 0..10 {
        world.genesys.set_presence("ann", STATES[n % STATES.len()]).await;
    }
    world.crm.wait_for(10 + 20, SOON).await.unwrap();
    let late = world.crm.received("/hooks/late");
    assert_eq!(late.len(), 10);
    assert_eq!(late[0].event.as_ref().unwrap().data.sequence, 11);
    assert_eq!((inversions(&late), holes(&late)), (vec![], vec![]));
}
