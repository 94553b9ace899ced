//! Looking at everything the bridge keeps, and moving a retry's clock.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use genesys_simulator::clock::parse_rfc3339;
use genesys_simulator::genesys::Change;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{Bridge, SOON, World, eventually};

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

/// Makes every delivery that waits for its next attempt due now, and leaves no receiver alone.
pub async fn hurry(pool: &PgPool) -> u64 {
    sqlx::query("update webhook_health set hold_until = null where hold_until is not null")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query(
        "update delivery set due_at = now() where leased_by is null and due_at > now() and due_at < 'infinity'",
    )
    .execute(pool)
    .await
    .unwrap()
    .rows_affected()
}

/// Gives up everything that is pending, as an outage leaves it: ended as dead, each with its entry. Says how
/// many there were.
pub async fn give_up(pool: &PgPool) -> u64 {
    sqlx::query(
        "with gone as (delete from delivery returning *)
         insert into audit_log (at, kind, webhook_id, event_id, delivery_id, agent_id, attempt, end_state)
         select now(), 'DELIVERY_ENDED', webhook_id, event_id, delivery_id,
                (select agent_id from agent where agent_key = lane), 11, 'dead'
         from gone",
    )
    .execute(pool)
    .await
    .unwrap()
    .rows_affected()
}

/// How many statements of the bridge wait for a lock.
pub async fn waiting_for_locks(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "select count(*)
         from pg_stat_activity
         where datname = current_database()
           and wait_event_type = 'Lock'
           and application_name like 'presence-bridge%'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

impl World {
    /// Waits until nothing is pending any more, making retries due at once.
    pub async fn drained(&self, pool: &PgPool) {
        // Each retry waits up to a second for the dispatcher's poll, so this is longer than any single wait.
        let by = Instant::now() + 3 * SOON;
        while self.open_deliveries(pool).await > 0 {
            assert!(Instant::now() < by, "not everything is delivered");
            hurry(pool).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Deliveries that have not ended.
    pub async fn open_deliveries(&self, pool: &PgPool) -> i64 {
        sqlx::query_scalar("select count(*) from delivery").fetch_one(pool).await.unwrap()
    }

    /// Changes that upstream gave an agent and that are neither an event nor within a gap that we admit to.
    pub async fn lost_without_a_word(&self) -> Vec<Change> {
        let events = feed(&self.bridge).await;
        let numbers: BTreeSet<_> = events.iter().filter_map(|event| event["raw"]["n"].as_u64()).collect();
        let gaps = all(&self.bridge, "/v1/gaps").await;
        let time = |text: &Value| parse_rfc3339(text.as_str()?);
        let admitted = |change: &Change| {
            gaps.iter().any(|gap| {
                gap["agents"].as_array().unwrap().contains(&json!(change.agent))
                    && time(&gap["from"]).unwrap() <= change.sent_at
                    && time(&gap["to"]).is_none_or(|to| change.sent_at <= to)
            })
        };
        let mut changes = self.genesys.changes_after(0);
        changes.retain(|change| !numbers.contains(&change.number) && !admitted(change));
        changes
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
