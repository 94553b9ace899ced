//! Receivers that hang keep no place from those that answer.

use genesys_simulator::crm::Behaviour;
use serde_json::json;

use crate::support::crowd::Crowd;
use crate::support::{SOON, database, eventually};

/// More lanes than this process has places, if all that hang may have a hundred.
const AGENTS: i32 = 150;
const HANGING: usize = 45;

fn hanging(n: usize) -> String {
    format!("/hooks/hanging/{n}")
}

/// Registers the webhooks whose receivers are to hang; their POSTs last longer than anything in these tests.
async fn register_hanging(crowd: &Crowd) -> Vec<String> {
    let mut hooks = Vec::new();
    for n in 0..HANGING {
        hooks.push(crowd.register(&hanging(n), json!({"timeout_ms": 30_000})).await);
    }
    hooks
}

/// All of their deliveries are due at once, and they hang: that many of them hold something at least.
async fn hang(crowd: &Crowd, hooks: &[String], at_least: usize) {
    for n in 0..HANGING {
        crowd.crm.always(&hanging(n), Behaviour::Hang);
    }
    let hooks: Vec<&str> = hooks.iter().map(String::as_str).collect();
    crowd.pile_up(&hooks).await;
    eventually("most of them hang", || async {
        let held: i64 =
            sqlx::query_scalar("select count(distinct webhook_id) from delivery where leased_by is not null")
                .fetch_one(&crowd.pool)
                .await
                .unwrap();
        (usize::try_from(held).unwrap() >= at_least).then_some(())
    })
    .await;
}

/// A snapshot of every agent comes to a webhook long before the first POST that hangs has ended.
async fn all_come(crowd: &Crowd, hook: &str, path: &str) {
    crowd.snapshot(hook).await;
    let wanted = usize::try_from(AGENTS).unwrap();
    let all = crowd.crm.wait_until(
        |posts| {
            posts
                .iter()
                .filter(|post| post.path() == path && post.kind().as_deref() == Some("presence.snapshot"))
                .count()
                >= wanted
        },
        SOON,
    );
    assert!(all.await.is_ok(), "a receiver that answers waits for those that hang");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_webhooks_that_hang_stop_no_other() {
    let crowd = Crowd::of(AGENTS).await;
    let well = crowd.register("/hooks/well", json!({})).await;
    all_come(&crowd, &well, "/hooks/well").await;
    crowd.crm.forget();
    let hooks = register_hanging(&crowd).await;
    hang(&crowd, &hooks, HANGING - 5).await;
    all_come(&crowd, &well, "/hooks/well").await;
    let new = crowd.register("/hooks/new", json!({})).await;
    all_come(&crowd, &new, "/hooks/new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_begin_to_hang_stop_no_other() {
    let crowd = Crowd::of(AGENTS).await;
    let hooks = register_hanging(&crowd).await;
    for hook in &hooks {
        crowd.snapshot(hook).await;
    }
    let wanted = HANGING * usize::try_from(AGENTS).unwrap();
    crowd.crm.wait_until(|posts| posts.len() >= wanted, SOON).await.unwrap();
    crowd.crm.forget();
    hang(&crowd, &hooks, HANGING - 5).await;
    let well = crowd.register("/hooks/well", json!({})).await;
    all_come(&crowd, &well, "/hooks/well").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_hang_stop_no_other() {
    let crowd = Crowd::of(AGENTS).await;
    let mut hooks = Vec::new();
    for n in 0..HANGING {
        let batch = json!({"max_items": 1000, "max_wait_ms": 0});
        hooks.push(crowd.register(&hanging(n), json!({"timeout_ms": 30_000, "batch": batch})).await);
    }
    hang(&crowd, &hooks, 8).await;
    let well = crowd.register("/hooks/well", json!({})).await;
    all_come(&crowd, &well, "/hooks/well").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_new_webhooks_that_hang_leave_the_next_one_a_place() {
    // More than ever have a place by being new.
    const NEW: usize = 520;
    let crowd = Crowd::on(&database::create().await, 8, &[("BRIDGE_API_RATE", "off")]).await;
    for n in 0..NEW {
        crowd.crm.always(&hanging(n), Behaviour::Hang);
        crowd.register(&hanging(n), json!({"timeout_ms": 30_000, "snapshot": true})).await;
    }
    eventually("they hang", || async {
        let held: i64 = sqlx::query_scalar("select count(*) from delivery where leased_by is not null")
            .fetch_one(&crowd.pool)
            .await
            .unwrap();
        (usize::try_from(held).unwrap() >= NEW - 20).then_some(())
    })
    .await;
    let new = crowd.register("/hooks/new", json!({})).await;
    crowd.snapshot(&new).await;
    let come = crowd
        .crm
        .wait_until(|posts| posts.iter().filter(|post| post.path() == "/hooks/new").count() >= 8, SOON);
    assert!(come.await.is_ok(), "a new receiver that answers waits for those that hang");
}
