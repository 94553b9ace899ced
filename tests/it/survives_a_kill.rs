//! A bridge that is killed at any moment loses nothing it had received, and says what it could not see.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use genesys_simulator::clock::parse_rfc3339;
use genesys_simulator::crm::Behaviour;
use genesys_simulator::crm::check::{altered_repeats, distrusted, doubled_events, holes, inversions};
use serde_json::Value;
use time::OffsetDateTime;

use crate::support::look::{all, assert_sequences_have_no_holes, feed};
use crate::support::{SOON, World, database, eventually};

const AGENTS: [&str; 3] = ["ann", "bob", "cid"];

fn instant(text: &Value) -> Option<OffsetDateTime> {
    parse_rfc3339(text.as_str()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_loses_nothing_and_keeps_order() {
    let mut world = World::watching(&AGENTS).await;
    world.register("/hooks/a").await;
    world.crm.always("/hooks/a", Behaviour::status(204).after(Duration::from_millis(15)));
    for round in 0..5 {
        for n in 0..30 {
            for agent in AGENTS {
                world.genesys.push_presence(agent, ["BUSY", "AWAY", "MEAL"][n % 3]);
            }
        }
        let enough = world.crm.count() + 10 + round * 7;
        world.crm.wait_until(|posts| posts.len() as u64 >= enough, SOON).await.unwrap();
        world.bridge.kill().await;
        world.genesys.set_presence("ann", "AVAILABLE").await; // nobody sees this one
        world.bridge.restart().await;
        world.sockets_open(AGENTS.len()).await;
    }
    for agent in AGENTS {
        world.genesys.set_presence(agent, "ON_QUEUE").await;
    }
    let pool = database::pool(&world.bridge.database_url).await;
    eventually("the last changes are stored", || async {
        let events = feed(&world.bridge).await;
        let last = |agent: &&str| {
            events
                .iter()
                .rfind(|event| event["agent"]["id"] == *agent)
                .is_some_and(|event| event["presence"]["system"] == "ON_QUEUE")
        };
        AGENTS.iter().all(last).then_some(())
    })
    .await;
    eventually("everything is delivered", || async {
        world.open_deliveries(&pool).await.eq(&0).then_some(())
    })
    .await;

    let events = feed(&world.bridge).await;
    assert_sequences_have_no_holes(&events);
    let posts = world.crm.posts();
    let arrived: BTreeSet<_> = posts.iter().filter_map(|post| post.event_id()).collect();
    let stored: BTreeSet<_> =
        events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(arrived, stored, "what is in the feed arrived, and nothing else");
    assert_eq!(altered_repeats(&posts), Vec::<String>::new());
    assert_eq!(doubled_events(&posts), Vec::<String>::new());
    assert_eq!(inversions(&posts), Vec::<String>::new());
    assert_eq!(holes(&posts), Vec::<String>::new());
    assert_eq!(distrusted(&posts), Vec::<String>::new());

    let silent = world.lost_without_a_word().await;
    assert!(silent.is_empty(), "{silent:#?}");
}

/// A proof of life must not overtake the changes before it, or a gap would begin after a change that is
/// lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_received_and_not_stored_lies_in_the_gap() {
    let mut world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let mut recording = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(7700451)").execute(&mut *recording).await.unwrap();
    world.genesys.set_presence("ann", "BUSY").await;
    eventually("it cannot be stored", || async {
        world.bridge.log().contains("failed to store presence changes").then_some(())
    })
    .await;
    world.bridge.kill().await;
    recording.rollback().await.unwrap();
    world.bridge.restart().await;
    world.sockets_open(1).await;
    assert!(feed(&world.bridge).await.is_empty(), "the change died with the process");
    let silent = world.lost_without_a_word().await;
    assert!(silent.is_empty(), "{silent:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_bridge_was_sending_leaves_soon_after() {
    let mut world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.crm.next("/hooks/a", [Behaviour::Hang]);
    world.genesys.set_presence("ann", "BUSY").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    world.bridge.kill().await;
    let killed = Instant::now();
    world.bridge.restart().await;
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    let after = posts[1].arrived - killed;
    assert!(after < Duration::from_secs(10), "it left after {after:?}");
    assert_eq!(posts[0].webhook_id(), posts[1].webhook_id());
    assert_eq!(posts[0].body, posts[1].body);
    let delivered = world.delivery_in(posts[0].webhook_id(), "delivered").await;
    assert_eq!(delivered["attempts_begun"], 2, "the attempt that was cut off counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blind_time_is_a_gap_and_nothing_is_left_upstream() {
    let mut world = World::watching(&AGENTS).await;
    world.bridge.kill().await;
    let blind = OffsetDateTime::now_utc();
    assert_eq!(world.genesys.snapshot().connections.len(), 3, "left behind");
    world.bridge.restart().await;
    world
        .genesys
        .wait_until(|seen| seen.connected() == 3 && seen.connections.len() == 3, SOON)
        .await
        .expect("one connection an agent, the leftovers deleted");
    for agent in AGENTS {
        assert!(world.genesys.snapshot().watches(agent));
    }
    let gaps = eventually("the gaps are closed", || async {
        let gaps = all(&world.bridge, "/v1/gaps").await;
        (gaps.len() == 3 && gaps.iter().all(|gap| instant(&gap["to"]).is_some())).then_some(gaps)
    })
    .await;
    for gap in gaps {
        assert_eq!(gap["cause"], "bridge_down");
        assert!(instant(&gap["from"]).unwrap() <= blind && blind <= instant(&gap["to"]).unwrap());
    }
}
