//! Looking at everything the bridge keeps, and moving a retry's clock.

use serde_json::Value;
use sqlx::PgPool;

use super::{Bridge, World, eventually};

/// All events of the feed, in its order, page by page.
pub async fn feed(bridge: &Bridge) -> Vec<Value> {
    let mut events = Vec::new();
    let mut path = "/v1/events?limit=200".to_owned();
    loop {
        let page = bridge.get(&path).await.json();
        let items = page["items"].as_array().expect("a page of events");
        if items.is_empty() {
            return events;
        }
        events.extend(items.iter().cloned());
        let cursor = page["next_cursor"].as_str().expect("the feed always has a cursor");
        path = format!("/v1/events?limit=200&cursor={cursor}");
    }
}

/// All items of a list, newest first.
pub async fn all(bridge: &Bridge, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let separator = if path.contains('?') { '&' } else { '?' };
    let first = format!("{path}{separator}limit=200");
    let mut next = Some(first.clone());
    while let Some(path) = next {
        let page = bridge.get(&path).await.json();
        items.extend(page["items"].as_array().expect("a page").iter().cloned());
        next = page["next_cursor"].as_str().map(|cursor| format!("{first}&cursor={cursor}"));
    }
    items
}

/// Sequences of the feed, by agent: each must be 1, 2, 3 …
pub fn assert_sequences_have_no_holes(events: &[Value]) {
    let mut last = std::collections::BTreeMap::new();
    for event in events {
        let expected = last.entry(event["agent"]["id"].to_string()).or_insert(0);
        *expected += 1;
        assert_eq!(event["sequence"], *expected, "{event}");
    }
}

/// Makes every delivery that waits for its next attempt due now.
pub async fn hurry(pool: &PgPool) -> u64 {
    sqlx::query(
        "update delivery set due_at = now() where leased_by is null and due_at > now() and due_at < 'infinity'",
    )
    .execute(pool)
    .await
    .unwrap()
    .rows_affected()
}

impl World {
    /// Waits until nothing is owed any more, making retries due at once.
    pub async fn drained(&self, pool: &PgPool) {
        eventually("everything is delivered", || async {
            hurry(pool).await;
            self.open_deliveries(pool).await.eq(&0).then_some(())
        })
        .await;
    }

    /// Deliveries that have not ended.
    pub async fn open_deliveries(&self, pool: &PgPool) -> i64 {
        sqlx::query_scalar("select count(*) from delivery").fetch_one(pool).await.unwrap()
    }

    /// A delivery with its attempts, as the API shows it.
    pub async fn delivery(&self, id: &str) -> Value {
        self.bridge.get(&format!("/v1/deliveries/{id}")).await.json()
    }

    /// Waits until a delivery is in this state; gives it with its attempts.
    pub async fn delivery_in(&self, id: &str, state: &str) -> Value {
        eventually(state, || async {
            let delivery = self.delivery(id).await;
            (delivery["state"] == state).then_some(delivery)
        })
        .await
    }
}
