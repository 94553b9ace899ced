//! What a receiver is asked to bear at most, and that one which fails takes nothing from the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use genesys_simulator::crm::check::first_arrivals;
use genesys_simulator::crm::{Behaviour, Post};
use serde_json::json;

use crate::support::crowd::Crowd;
use crate::support::{Bridge, SOON, World, database, eventually};

/// Most POSTs that were surely under way at one moment, if each is answered this long after it arrived.
fn at_once(posts: &[Arc<Post>], answered_after: Duration) -> usize {
    let under_way = |post: &Arc<Post>| {
        let is = |other: &&Arc<Post>| {
            other.arrived <= post.arrived && post.arrived < other.arrived + answered_after
        };
        posts.iter().filter(is).count()
    };
    posts.iter().map(under_way).max().unwrap_or_default()
}

/// Most POSTs that arrived within any window of this length.
fn most_within(window: Duration, posts: &[Arc<Post>]) -> usize {
    let within = |(first, post): (usize, &Arc<Post>)| {
        posts[first..].iter().take_while(|later| later.arrived - post.arrived < window).count()
    };
    posts.iter().enumerate().map(within).max().unwrap_or_default()
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
async fn what_has_piled_up_leaves_without_pauses_though_few_posts_may_be_under_way() {
    let crowd = Crowd::of(200).await;
    let hook = crowd.register("/hooks/a", json!({"max_concurrency": 4})).await;
    crowd.pile_up(&[&hook]).await;
    crowd.drained().await;
    let posts = crowd.crm.received("/hooks/a");
    assert_eq!(posts.len(), 200);
    // Not once is the poll waited for, which comes every second and finds what nothing else does.
    let pauses: Vec<_> = posts.windows(2).map(|two| two[1].arrived - two[0].arrived).collect();
    assert!(pauses.iter().all(|pause| *pause < Duration::from_millis(500)), "{pauses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_costs_the_same_however_many_are_open_and_whatever_was_there_when_statistics_were_taken() {
    let (agents, per_delivery) = (6000_i32, 6_i64);
    let crowd = Crowd::of(agents).await;
    let hook = crowd.register("/hooks/a", json!({})).await;
    // As autovacuum often finds it: empty. Plans that rest on that must do for a backlog too.
    sqlx::query("vacuum analyze delivery").execute(&crowd.pool).await.unwrap();
    let began = Instant::now();
    crowd.pile_up(&[&hook]).await;
    crowd.crm.wait_for(u64::try_from(agents).unwrap(), SOON).await.unwrap();
    crowd.drained().await;
    let looked_at = || async {
        sqlx::query("select pg_stat_clear_snapshot()").execute(&crowd.pool).await.unwrap();
        let looks = "select idx_tup_fetch + seq_tup_read from pg_stat_user_tables where relname = 'delivery'";
        sqlx::query_scalar::<_, i64>(looks).fetch_one(&crowd.pool).await.unwrap()
    };
    eventually("the server has counted", || async { (looked_at().await >= i64::from(agents)).then_some(()) })
        .await;
    let looks = looked_at().await;
    // Besides, maintenance reads the table every two seconds, however long the rest takes.
    let scans = began.elapsed().as_secs() / 2;
    assert!(
        looks < i64::from(agents) * (per_delivery + i64::try_from(scans).unwrap()),
        "{} rows are looked at for each",
        looks / i64::from(agents)
    );
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
    let within = most_within(Duration::from_secs(1), &posts);
    assert!(within <= limit, "{within} POSTs within a second");
    let took = posts[499].arrived - posts[0].arrived;
    assert!(took < Duration::from_secs(10), "the limit is used: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_though_two_bridges_share_the_database_and_one_dies() {
    let mut crowd = Crowd::of(400).await;
    let other = Bridge::start_on(&crowd.bridge.database_url.clone(), &[]).await;
    let slow = Duration::from_millis(40);
    crowd.crm.always_everywhere(Behaviour::status(204).after(slow));
    let few = crowd.register("/hooks/few", json!({"max_concurrency": 4})).await;
    let fields = json!({"rate_limit": {"requests": 100, "per_seconds": 1}});
    let rare = crowd.register("/hooks/rare", fields).await;
    // What has piled up is due to both bridges at once.
    crowd.pile_up(&[&few, &rare]).await;
    crowd.drained().await;
    let posts = crowd.crm.received("/hooks/few");
    assert_eq!((posts.len(), at_once(&posts, slow)), (400, 4));
    let posts = crowd.crm.received("/hooks/rare");
    assert_eq!(posts.len(), 400);
    assert!(most_within(Duration::from_secs(1), &posts) <= 100);

    // The one that has served them dies; the other takes over when it counts as dead.
    other.post(&format!("/v1/webhooks/{few}/snapshot"), &json!({})).await;
    crowd.crm.wait_until(|posts| posts.len() > 800, SOON).await.unwrap();
    crowd.bridge.kill().await;
    let posts = crowd.crm.wait_until(|posts| first_arrivals(posts).len() == 1200, SOON).await.unwrap();
    let few: Vec<_> = posts.into_iter().filter(|post| post.path() == "/hooks/few").collect();
    assert!(at_once(&few[400..], slow) <= 4);
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
    // Each lane's first may be under way when the circuit opens; afterwards it is tried once in five seconds
    // and more.
    assert!(dead <= agents.len() + 3, "{dead} POSTs to a dead receiver");
    let pending: i64 = sqlx::query_scalar("select count(*) from delivery where webhook_id = $1::uuid")
        .bind(&hook)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(pending, all as i64, "nothing is forgotten");
}
