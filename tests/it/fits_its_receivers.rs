//! Batches that their receivers take: none is larger than its webhook allows, and one that was too large all
//! the same comes in halves.

use std::collections::BTreeSet;
use std::sync::Arc;

use genesys_simulator::crm::{Behaviour, Post, Standing, check};
use serde_json::{Value, json};

use crate::support::crowd::{Crowd, ended_twice, items};
use crate::support::eventually;
use crate::support::look::all;
use crate::support::neighbour::{Neighbour, set_up_nginx};

fn batch(max_bytes: usize) -> Value {
    json!({
        "retry_schedule_seconds": [],
        "batch": {"max_items": 1000, "max_wait_ms": 50, "max_bytes": max_bytes},
    })
}

/// As many agents, whose snapshots take 1.6 kB each.
async fn crowd(count: i32) -> Crowd {
    let crowd = Crowd::of(count).await;
    let name = "update agent set name = repeat('n', 1000)";
    sqlx::query(name).execute(&crowd.pool).await.unwrap();
    crowd
}

fn ids(posts: &[Arc<Post>]) -> Vec<String> {
    items(posts).iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// The POSTs that were accepted hold everything once, in the order in which it was stored.
fn assert_whole(posts: &[Arc<Post>], count: usize) {
    let accepted: Vec<_> = posts.iter().filter(|post| post.accepted()).cloned().collect();
    let agents = items(&accepted);
    let agents: Vec<_> = agents.iter().map(|item| item["data"]["agent"]["id"].as_str().unwrap()).collect();
    let expected: Vec<_> = (1..=count).map(|n| format!("agent-{n}")).collect();
    assert_eq!(agents, expected);
    assert_eq!(check::altered_repeats(posts), Vec::<String>::new());
    assert!(posts.iter().all(|post| post.verified()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_as_large_as_its_webhook_allows_and_a_larger_item_goes_alone() {
    let crowd = crowd(200).await;
    let usual = json!({"batch": {"max_items": 1000, "max_wait_ms": 50}});
    let shown = crowd.register("/hooks/usual", usual).await;
    let shown = crowd.bridge.get(&format!("/v1/webhooks/{shown}")).await.json();
    assert_eq!(shown["batch"]["max_bytes"], 96_000);
    let mut hooks = vec![shown["id"].as_str().unwrap().to_owned()];
    hooks.push(crowd.register("/hooks/small", batch(8192)).await);
    let mut events = batch(8192);
    events["format"] = json!("cloudevents-structured");
    hooks.push(crowd.register("/hooks/events", events).await);
    hooks.push(crowd.register("/hooks/least", batch(1024)).await);
    for hook in &hooks {
        crowd.snapshot(hook).await;
    }
    crowd.drained().await;
    for (path, most) in [("/hooks/usual", 96_000), ("/hooks/small", 8192), ("/hooks/events", 8192)] {
        let posts = crowd.crm.received(path);
        let sizes: Vec<_> = posts.iter().map(|post| post.body.len()).collect();
        assert!(sizes.len() > 2 && sizes.iter().all(|size| *size <= most), "{path}: {sizes:?}");
        let filled = &sizes[..sizes.len() - 1];
        assert!(filled.iter().all(|size| *size > most - 2200), "each is as full as it may be: {sizes:?}");
    }
    assert_whole(&crowd.crm.received("/hooks/usual"), 200);
    assert_whole(&crowd.crm.received("/hooks/small"), 200);
    let alone = crowd.crm.received("/hooks/least");
    assert_eq!(alone.len(), 200, "none of them is smaller than a kilobyte");
    assert_whole(&alone, 200);
}

/// nginx at its defaults in front of a receiver; `None` where it cannot be had.
async fn nginx_before(receiver: &str) -> Option<Neighbour> {
    Neighbour::start("nginx", |command, dir, port| {
        let server = format!("server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {receiver}; }} }}");
        set_up_nginx(command, dir, &server);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_at_its_defaults_takes_the_largest_batch_that_can_be_asked_for() {
    let crowd = crowd(1000).await;
    let Some(nginx) = nginx_before(&crowd.crm.url("")).await else { return };
    let hook = crowd.register("/hooks/a", batch(1_048_576)).await;
    let url = json!({"url": format!("http://127.0.0.1:{}/hooks/a", nginx.port)});
    let moved = crowd.bridge.patch(&format!("/v1/webhooks/{hook}"), &url).await;
    assert_eq!(moved.status, 200, "{}", moved.text());
    crowd.pile_up(&[&hook]).await;
    crowd.drained().await;
    let posts = crowd.crm.received("/hooks/a");
    assert!(posts[0].body.len() > 1_000_000, "the first is large: {}", posts[0].body.len());
    assert_whole(&posts, 1000);
    let attempts = all(&crowd.bridge, "/v1/audit?kind=DELIVERY_ATTEMPT").await;
    assert!(attempts.iter().all(|attempt| attempt["status"] == 204), "nothing was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_comes_in_halves_at_once_and_the_next_are_smaller() {
    let crowd = crowd(400).await;
    crowd.crm.always("/hooks/a", Standing::UpTo(60_000));
    let hook = crowd.register("/hooks/a", batch(400_000)).await;
    crowd.pile_up(&[&hook]).await;
    crowd.drained().await;
    let posts = crowd.crm.received("/hooks/a");
    assert_whole(&posts, 400);
    let (refused, accepted): (Vec<_>, Vec<_>) = posts.iter().cloned().partition(|post| !post.accepted());
    assert_eq!(refused.len(), 7, "one of 400 kB, two of 200, four of 100");
    let named: BTreeSet<_> = posts.iter().map(|post| post.webhook_id()).collect();
    assert_eq!(named.len(), posts.len(), "no batch came twice, and each half has an id of its own");
    for pair in posts.windows(2).filter(|pair| !pair[0].accepted()) {
        let (whole, half) = (ids(&pair[..1]), ids(&pair[1..]));
        assert_eq!(half.len(), whole.len().div_ceil(2), "the first half follows");
        assert!(whole.starts_with(&half));
    }
    assert!(accepted.iter().all(|post| post.body.len() <= 60_000));
    let health = crowd.bridge.get(&format!("/v1/webhooks/{hook}")).await.json()["health"].take();
    assert_eq!(health["failures"], 0, "its receiver does not fail: {health}");
    let halved = all(&crowd.bridge, "/v1/audit?kind=DELIVERY_ATTEMPT&level=WARN").await;
    assert!(halved.iter().all(|entry| entry["status"] == 413 && entry["data"]["halved_into"].is_string()));
    assert_eq!(halved.len(), items(&refused).len());
    assert_eq!(ended_twice(&crowd.pool).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_for_which_each_item_is_too_large_fails_item_by_item() {
    let crowd = crowd(4).await;
    crowd.crm.always("/hooks/a", Behaviour::status(413));
    let hook = crowd.register("/hooks/a", batch(96_000)).await;
    crowd.snapshot(&hook).await;
    crowd.drained().await;
    let posts = crowd.crm.received("/hooks/a");
    let sizes: Vec<_> = posts.iter().map(|post| items(std::slice::from_ref(post)).len()).collect();
    assert_eq!(sizes, [4, 2, 1, 1, 2, 1, 1]);
    let dead = all(&crowd.bridge, "/v1/deliveries?state=dead").await;
    assert_eq!(dead.len(), 4);
    let health = crowd.bridge.get(&format!("/v1/webhooks/{hook}")).await.json()["health"].take();
    assert_eq!((&health["failures"], &health["last_outcome"]), (&json!(4), &json!("http_4xx")));
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_outlast_a_kill_and_come_again_as_they_were() {
    let mut crowd = crowd(40).await;
    let wait = json!({"max_items": 1000, "max_wait_ms": 200, "max_bytes": 96_000});
    let refused_then_cut_off =
        [Behaviour::status(413), Behaviour::status(503), Behaviour::status(413), Behaviour::Hang];
    crowd.crm.next("/hooks/a", refused_then_cut_off);
    let hook = crowd.register("/hooks/a", json!({"batch": wait, "retry_schedule_seconds": [1, 1, 1]})).await;
    crowd.snapshot(&hook).await;
    eventually("the POST that hangs", || async { (crowd.crm.count() == 4).then_some(()) }).await;
    crowd.bridge.kill().await;
    crowd.bridge.restart().await;
    crowd.drained().await;
    let posts = crowd.crm.received("/hooks/a");
    assert_whole(&posts, 40);
    let sizes: Vec<_> = posts.iter().map(|post| items(std::slice::from_ref(post)).len()).collect();
    assert_eq!(sizes, [40, 20, 20, 10, 10, 10, 20]);
    let ids: Vec<_> = posts.iter().map(|post| post.webhook_id()).collect();
    assert!(ids[1] == ids[2] && ids[3] == ids[4] && ids[4] != ids[5], "{ids:?}");
    assert_eq!(ended_twice(&crowd.pool).await, []);
}
