//! Many agents that the bridge knows without any open socket: rows as an earlier life of it left them, for
//! tests that need more lanes than a simulated client may watch. Snapshots make their deliveries.

use std::sync::Arc;

use genesys_simulator::crm::{Crm, CrmOptions, Post, Secret};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{Bridge, database, eventually};

/// A bridge that watches nobody, a receiver, and the bridge's database.
pub struct Crowd {
    pub bridge: Bridge,
    pub crm: Crm,
    pub pool: PgPool,
}

impl Crowd {
    /// Starts a bridge that knows that many agents, `agent-1` and so on, all on queue.
    pub async fn of(count: i32) -> Self {
        Self::on(&database::create().await, count, &[]).await
    }

    /// The same on this database, with more variables for the bridge.
    pub async fn on(database_url: &str, count: i32, variables: &[(&str, &str)]) -> Self {
        let bridge = Bridge::start_on(database_url, variables).await;
        let pool = database::pool(&bridge.database_url).await;
        let source = json!({
            "name": "former", "protocol": "realtime", "api_url": "http://127.0.0.1:9", "client_id": "x",
            "client_secret": "x", "agents": ["nobody"], "topic_matrix": {"state": ["routing:agent:state"]},
        });
        let source = bridge.post("/v1/sources", &source).await;
        assert_eq!(source.status, 201, "{}", source.text());
        let source = source.json()["id"].as_str().unwrap().to_owned();
        sqlx::query(
            "insert into agent (source_id, agent_id, sequence, presence, topic, since, occurred_at, received_at)
             select $1::uuid, 'agent-' || n, 1, 'ON_QUEUE', 't', now(), now(), now()
             from generate_series(1, $2) as n",
        )
        .bind(source)
        .bind(count)
        .execute(&pool)
        .await
        .unwrap();
        let crm = Crm::start(CrmOptions::default()).await.unwrap();
        Self { bridge, crm, pool }
    }

    /// Registers a webhook at `path` of the receiver and teaches the receiver its secret; gives its id.
    pub async fn register(&self, path: &str, mut fields: Value) -> String {
        fields["url"] = json!(self.crm.url(path));
        let answer = self.bridge.post("/v1/webhooks", &fields).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let webhook = answer.json();
        let secret = Secret::parse(webhook["secret"].as_str().unwrap()).unwrap();
        self.crm.set_secrets_of(path, vec![secret]);
        webhook["id"].as_str().unwrap().to_owned()
    }

    /// Has a snapshot written, and waits until it is.
    pub async fn snapshot(&self, webhook: &str) {
        let asked = self.bridge.post(&format!("/v1/webhooks/{webhook}/snapshot"), &json!({})).await;
        assert_eq!(asked.status, 202, "{}", asked.text());
        self.snapshot_written(webhook).await;
    }

    /// Has a snapshot written for each while it is paused, and then lets all of it go at once: it is due, and
    /// in nobody's hands.
    pub async fn pile_up(&self, webhooks: &[&str]) {
        for webhook in webhooks {
            self.bridge.post(&format!("/v1/webhooks/{webhook}/pause"), &json!({})).await;
            self.snapshot(webhook).await;
        }
        for webhook in webhooks {
            let resumed = self.bridge.post(&format!("/v1/webhooks/{webhook}/resume"), &json!({})).await;
            assert_eq!(resumed.status, 200, "{}", resumed.text());
        }
    }

    /// Waits until no snapshot is under way.
    pub async fn snapshot_written(&self, webhook: &str) {
        eventually("the snapshot is written", || async {
            let left: Option<i64> =
                sqlx::query_scalar("select snapshot_next from webhook where webhook_id = $1::uuid")
                    .bind(webhook)
                    .fetch_one(&self.pool)
                    .await
                    .unwrap();
            left.is_none().then_some(())
        })
        .await;
    }

    /// Waits until nothing is pending any more.
    pub async fn drained(&self) {
        eventually("nothing is pending", || async {
            let open: i64 =
                sqlx::query_scalar("select count(*) from delivery").fetch_one(&self.pool).await.unwrap();
            (open == 0).then_some(())
        })
        .await;
    }
}

/// The body as JSON.
pub fn body(post: &Arc<Post>) -> Value {
    serde_json::from_slice(&post.body).unwrap()
}

/// `data` of the body.
pub fn data(post: &Arc<Post>) -> Value {
    body(post)["data"].take()
}

/// Items of the POSTs in their order: of a batch each, of another POST its only one, as
/// `{"id", "type", "data", …}`.
pub fn items(posts: &[Arc<Post>]) -> Vec<Value> {
    let mut items = Vec::new();
    for post in posts {
        let mut body = body(post);
        if body["type"] == "presence.batch" {
            items.extend(body["data"].as_array().unwrap().iter().cloned());
        } else {
            body["id"] = json!(post.webhook_id());
            items.push(body);
        }
    }
    items
}

/// Deliveries that the audit log lets end more than once.
pub async fn ended_twice(pool: &PgPool) -> Vec<(String, i64)> {
    sqlx::query_as(
        "select delivery_id::text, count(*)
         from audit_log
         where end_state is not null
           and delivery_id is not null
         group by 1
         having count(*) > 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}
