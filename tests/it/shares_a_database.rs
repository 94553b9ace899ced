//! Two bridges on one database: a lane is never leased to both, and what one leaves behind the other sends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::crm::check::{altered_repeats, first_arrivals};
use genesys_simulator::crm::{Behaviour, Post};
use serde_json::json;

use crate::support::crowd::{Crowd, data, ended_twice};
use crate::support::{Bridge, eventually};

/// POSTs of each agent's lane, in the order of arrival.
fn lanes(posts: &[Arc<Post>]) -> BTreeMap<String, Vec<Arc<Post>>> {
    let mut lanes: BTreeMap<String, Vec<Arc<Post>>> = BTreeMap::new();
    for post in posts {
        lanes.entry(data(post)["agent"]["id"].as_str().unwrap().to_owned()).or_default().push(post.clone());
    }
    lanes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_is_in_one_hand_at_a_time_and_in_order() {
    let (agents, rounds) = (30, 12);
    let mut crowd = Crowd::of(agents).await;
    let other = Bridge::start_on(&crowd.bridge.database_url.clone(), &[]).await;
    let slow = Duration::from_millis(25);
    let hook = crowd.register("/hooks/a", json!({})).await;
    crowd.crm.always("/hooks/a", Behaviour::status(204).after(slow));
    for round in 0..rounds {
        if round == rounds - 3 {
            crowd.crm.always("/hooks/a", Behaviour::status(204).after(8 * slow));
        }
        let bridge = if round % 2 == 0 { &crowd.bridge } else { &other };
        if round == 3 {
            // Some fail, so that both claim as well.
            crowd
                .crm
                .next("/hooks/a", (0..20).map(|n| Behaviour::status(if n % 6 == 0 { 500 } else { 204 })));
        }
        bridge.post(&format!("/v1/webhooks/{hook}/snapshot"), &json!({})).await;
        crowd.snapshot_written(&hook).await;
        sqlx::query("update delivery set due_at = now() where leased_by is null and due_at > now()")
            .execute(&crowd.pool)
            .await
            .unwrap();
    }
    // One of them dies with POSTs under way; the other takes over what it held.
    crowd.bridge.kill().await;
    eventually("nothing is pending", || async {
        sqlx::query("update delivery set due_at = now() where leased_by is null and due_at > now()")
            .execute(&crowd.pool)
            .await
            .unwrap();
        let open: i64 =
            sqlx::query_scalar("select count(*) from delivery").fetch_one(&crowd.pool).await.unwrap();
        (open == 0).then_some(())
    })
    .await;
    let posts = crowd.crm.received("/hooks/a");
    eventually("the dead one is forgotten", || async {
        let alive: i64 =
            sqlx::query_scalar("select count(*) from dispatcher").fetch_one(&crowd.pool).await.unwrap();
        (alive == 1).then_some(())
    })
    .await;
    let lanes = lanes(&posts);
    assert_eq!(lanes.len(), usize::try_from(agents).unwrap());
    for (agent, posts) in lanes {
        let first = first_arrivals(&posts);
        assert_eq!(first.len(), rounds, "{agent}");
        let stored: Vec<_> =
            first.iter().map(|post| data(post)["committed_at"].as_str().unwrap().to_owned()).collect();
        assert!(stored.is_sorted(), "{agent}: {stored:?}");
        for two in posts.windows(2) {
            let gap = two[1].arrived - two[0].arrived;
            let answered = match &two[0].behaviour {
                Behaviour::Answer(answer) => answer.delay,
                _ => Duration::ZERO,
            };
            // A POST that the kill cut off is not under way any more.
            assert!(gap >= answered || two[0].webhook_id() == two[1].webhook_id(), "{agent}: {gap:?}");
        }
    }
    assert_eq!(altered_repeats(&posts), Vec::<String>::new());
    assert_eq!(ended_twice(&crowd.pool).await, []);
    drop(other);
}
