//! What a receiver is asked to bear at most, and that one which fails takes nothing from the others.

use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::crm::{Behaviour, Post};
use serde_json::json;

use crate::support::crowd::Crowd;
use crate::support::{SOON, World, database};

/// Most POSTs that were surely under way at one moment, if each is answered so long after it arrived.
fn at_once(posts: &[Arc<Post>], answered_after: Duration) -> usize {
    let under_way = |post: &Arc<Post>| {
        let is = |other: &&Arc<Post>| {
            other.arrived <= post.arrived && post.arrived < other.arrived + answered_after
        };
        posts.iter().filter(is).count()
    };
    posts.iter().map(under_way).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_posts_are_under_way_at_once_than_allowed_and_no_fewer() {
    let crowd = Crowd::of(400).await;
    let slow = Duration::from_millis(40);
    crowd.crm.always_everywhere(Behaviour::status(204).after(slow));
    for (path, limit) in [("/hooks/7", 7), ("/hooks/1", 1)] {
        let mut agents: Vec<String> = (1..=400).map(|n| format!("agent-{n}")).collect();
        agents.truncate(limit * 40);
        let hook = crowd.register(path, json!({"max_concurrency": limit, "agents": agents})).await;
        crowd.snapshot(&hook).await;
        crowd.drained().await;
        let posts = crowd.crm.received(path);
        assert_eq!(posts.len(), agents.len());
        assert_eq!(at_once(&posts, slow), limit, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_holds_in_every_window_though_hundreds_are_due() {
    let crowd = Crowd::of(500).await;
    let limit = 100;
    let fields = json!({"rate_limit": {"requests": limit, "per_seconds": 1}});
    let hook = crowd.register("/hooks/a", fields).await;
    crowd.snapshot(&hook).await;
    crowd.drained().await;
    let posts = crowd.crm.received("/hooks/a");
    assert_eq!(posts.len(), 500);
    let window = Duration::from_secs(1);
    for (first, post) in posts.iter().enumerate() {
        let within = posts[first..].iter().take_while(|later| later.arrived - post.arrived < window).count();
        assert!(within <= limit, "{within} POSTs within {window:?}");
    }
    let took = posts[499].arrived - posts[0].arrived;
    assert!(took < Duration::from_secs(10), "the limit is used: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_gets_few_posts_while_the_others_get_theirs() {
    let agents = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"];
    let world = World::watching(&agents).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register("/hooks/dead").await;
    world.register("/hooks/well").await;
    world.crm.always("/hooks/dead", Behaviour::status(500));
    for round in 0..40 {
        for agent in agents {
            world.genesys.push_presence(agent, ["AVAILABLE", "BUSY", "AWAY"][round % 3]);
        }
    }
    let all = agents.len() * 40;
    let well = |posts: &[Arc<Post>]| posts.iter().filter(|post| post.path() == "/hooks/well").count();
    world.crm.wait_until(|posts| well(posts) == all, SOON).await.unwrap();
    let dead = world.crm.received("/hooks/dead").len();
    // Each lane's first may be under way when the circuit opens; afterwards it is tried once in five seconds and more.
    assert!(dead <= agents.len() + 3, "{dead} POSTs to a dead receiver");
    let owed: i64 = sqlx::query_scalar("select count(*) from delivery where webhook_id = $1::uuid")
        .bind(&hook)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(owed, all as i64, "nothing is forgotten");
}
