//! A synchronous standby is away for longer than the bridge waits for anything else: commits of that time are
//! waited for, and nothing is given up, stranded, lost, told twice or put into quarantine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use genesys_simulator::crm::Post;
use genesys_simulator::crm::check::repeats;
use genesys_simulator::genesys::{GenesysOptions, Target};
use serde_json::{Value, json};

use crate::support::bridge::{API_KEY, Bridge};
use crate::support::cloud::{self, CloudWorld};
use crate::support::look::{assert_sequences_have_no_holes, feed};
use crate::support::pair::Pair;
use crate::support::{SOON, World, eventually};

/// Longer than any step of the bridge waits, and than a dispatcher may go without a sign of life. Sixty
/// seconds, for whoever has them: AWAY_SECONDS=60 cargo test --test it standby_is_absent
fn away_for() -> Duration {
    let longer = std::env::var("AWAY_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(longer.unwrap_or(8))
}

/// A primary each of whose commits waits for its standby.
async fn synchronous() -> Pair {
    let pair = Pair::start().await;
    pair.commits_wait_for_standby(true).await;
    pair
}

async fn commits_wait(pair: &Pair) {
    eventually("commits wait", || async {
        let asked = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
        (pair.first.ask::<i64>(asked).await > 0).then_some(())
    })
    .await;
}

/// Some twenty changes a second while the standby is away; gives how many.
async fn changes_meanwhile(pair: &Pair, bridge: &Bridge, push: impl Fn(usize)) -> usize {
    pair.second.freeze();
    push(0);
    commits_wait(pair).await;
    let (mut pushed, back) = (1, Instant::now() + away_for());
    while Instant::now() < back {
        push(pushed);
        pushed += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = bridge.get("/readyz").await;
    let why = "commits wait for its synchronous standby";
    assert!(answer.status == 503 && answer.text().contains(why), "{}", answer.text());
    pair.second.thaw();
    pushed
}

async fn nothing_is_pending(pair: &Pair) {
    eventually("nothing is pending any more", || async {
        (pair.first.ask::<i64>("select count(*) from delivery").await == 0).then_some(())
    })
    .await;
}

fn of_kind(posts: &[Arc<Post>], kind: &str) -> usize {
    posts.iter().filter(|post| post.kind().as_deref() == Some(kind)).count()
}

const STATES: [&str; 3] = ["AWAY", "MEAL", "BUSY"];

#[tokio::test(flavor = "multi_thread")]
async fn while_a_standby_is_absent_every_change_is_stored_once_in_protocol_realtime() {
    let pair = synchronous().await;
    let url = pair.first.url();
    let world =
        World::with_options(&["ann", "bob"], GenesysOptions::default(), &[("DATABASE_URL", &url)]).await;
    world.register_with("/hooks/a", json!({"events": ["presence.updated", "presence.gap"]})).await;
    world.genesys.set_presence("ann", "BUSY").await;
    world.genesys.set_presence("bob", "BUSY").await;
    world.crm.wait_for(2, SOON).await.unwrap();
    nothing_is_pending(&pair).await;

    // A gap opens before; its end, changes, and a snapshot are written meanwhile.
    let pushing = changes_meanwhile(&pair, &world.bridge, |n| {
        world.genesys.push_presence("ann", STATES[n % 3]);
        if n == 1 {
            world.genesys.drop_sockets(Target::Agent("bob".to_owned()));
        }
    });
    let asking = async {
        commits_wait(&pair).await;
        pair.first.say(&["set synchronous_commit = local", "update webhook set snapshot_next = 0"]).await;
    };
    let (pushed, ()) = tokio::join!(pushing, asking);
    world.sockets_open(2).await;
    for status in ["MEAL", "BUSY"] {
        world.genesys.push_presence("ann", status);
        world.genesys.push_presence("bob", status);
    }

    let told = 2 + pushed + 4;
    world.crm.wait_until(|posts| of_kind(posts, "presence.updated") == told, SOON).await.unwrap();
    world.crm.wait_until(|posts| of_kind(posts, "presence.snapshot") >= 2, SOON).await.unwrap();
    nothing_is_pending(&pair).await;
    let posts = world.crm.posts();
    assert_eq!((of_kind(&posts, "presence.updated"), repeats(&posts)), (told, 0), "each once");
    assert!(of_kind(&posts, "presence.gap") >= 1, "{posts:#?}");
    let events = feed(&world.bridge).await;
    assert_eq!(events.len(), told);
    assert_sequences_have_no_holes(&events);
    assert_eq!(world.audit("FRAME_REJECTED").await, Vec::<Value>::new(), "all of it is stored");
    assert!(!world.bridge.log().contains("failed to store presence changes"), "its commit was waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_standby_is_absent_every_change_is_stored_once_in_protocol_notifications() {
    let pair = synchronous().await;
    let url = pair.first.url();
    let variables = [("GENESYS_AGENTS", "ann,bob"), ("DATABASE_URL", url.as_str())];
    let world = CloudWorld::starting(cloud::options(&["ann", "bob"]), &variables).await;
    world.sees(2).await;
    world.register("/hooks/a", json!({})).await;
    let pushed = changes_meanwhile(&pair, &world.bridge, |n| {
        world.cloud.push_presence("ann", STATES[n % 3]);
    })
    .await;
    for status in ["MEETING", "TRAINING"] {
        world.cloud.push_presence("ann", status);
        world.cloud.push_presence("bob", status);
    }
    world.crm.wait_until(|posts| posts.len() == pushed + 4, SOON).await.unwrap();
    nothing_is_pending(&pair).await;
    let posts = world.crm.posts();
    assert_eq!((posts.len(), repeats(&posts)), (pushed + 4, 0));
    assert_sequences_have_no_holes(&feed(&world.bridge).await);
    assert_eq!(world.audit("FRAME_REJECTED").await, Vec::<Value>::new(), "all of it is stored");
    assert!(!world.bridge.log().contains("failed to store presence changes"), "its commit was waited for");
}

/// The caller is told to come again, and with the same key it finds what its first call made.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_commit_waits_for_the_standby_is_answered_503_and_found_by_its_key() {
    let pair = synchronous().await;
    let bridge = Bridge::start_on(&pair.first.url(), &[]).await;
    let bearer = format!("Bearer {API_KEY}");
    let register = async |key: &str, name: &str| {
        let body = json!({"url": format!("https://crm.example.com/{name}")}).to_string().into_bytes();
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        bridge.send_raw("POST", "/v1/webhooks", &headers, Some(body)).await
    };
    let pause = json!({});
    let hook = register("made-before", "before").await.json()["id"].as_str().unwrap().to_owned();
    pair.second.freeze();
    let calls = futures_util::future::join_all(["a", "b"].map(|key| register(key, key)));
    let paused = format!("/v1/webhooks/{hook}/pause");
    let (registered, paused) = tokio::join!(calls, bridge.post(&paused, &pause));
    for answer in registered.into_iter().chain([paused]) {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.headers.contains_key("retry-after"));
    }
    let again = register("a", "a").await;
    assert!(
        [409, 503].contains(&again.status) && again.headers.contains_key("retry-after"),
        "{}",
        again.text()
    );
    pair.second.thaw();
    for key in ["a", "b"] {
        let found = eventually("the first call's answer", || async {
            let answer = register(key, key).await;
            (answer.status == 201).then_some(answer)
        })
        .await;
        assert_eq!(found.json()["url"], format!("https://crm.example.com/{key}"));
    }
    let hooks: i64 = pair.first.ask("select count(*) from webhook").await;
    assert_eq!(hooks, 3, "each call made one webhook");
    let read = bridge.get(&format!("/v1/webhooks/{hook}")).await.json();
    assert_eq!(read["state"], "paused", "what was answered 503 is carried out");
}
