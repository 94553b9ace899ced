//! All deliveries that match are tried again: as many as were counted, each once, in order, whatever becomes
//! of the process.

use std::collections::BTreeSet;

use genesys_simulator::crm::check::{holes, inversions};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::look::{all, give_up};
use crate::support::{SOON, World, database, eventually};

const AGENTS: [&str; 3] = ["ann", "bob", "cid"];
/// Changes of each of them.
const EACH: usize = 10;
const HOOKS: [&str; 2] = ["/hooks/a", "/hooks/b"];

/// A world in which all deliveries of two paused webhooks are dead.
struct Failed {
    world: World,
    pool: PgPool,
    webhooks: Vec<String>,
}

impl Failed {
    async fn start() -> Self {
        let world = World::watching(&AGENTS).await;
        let pool = database::pool(&world.bridge.database_url).await;
        let mut webhooks = Vec::new();
        for path in HOOKS {
            let webhook = world.register(path).await;
            world.bridge.post(&format!("/v1/webhooks/{webhook}/pause"), &json!({})).await;
            webhooks.push(webhook);
        }
        webhooks.sort();
        for n in 0..EACH {
            for agent in AGENTS {
                world.genesys.push_presence(agent, ["BUSY", "AWAY"][n % 2]);
            }
        }
        let failed = Self { world, pool, webhooks };
        failed.open(HOOKS.len() * AGENTS.len() * EACH).await;
        give_up(&failed.pool).await;
        failed
    }

    /// Waits until that many deliveries are open.
    async fn open(&self, count: usize) {
        eventually("as many are open", || async {
            (self.world.open_deliveries(&self.pool).await == count as i64).then_some(())
        })
        .await;
    }

    async fn retry(&self, body: Value) -> Value {
        let answer = self.world.bridge.post("/v1/deliveries/retry", &body).await;
        let expected = if body["dry_run"] == true { 200 } else { 202 };
        assert_eq!(answer.status, expected, "{}", answer.text());
        answer.json()
    }

    /// What a filter counts; then what its recoveries open, which must be the same.
    async fn counted_and_opened(&self, mut filter: Value) -> u64 {
        filter["dry_run"] = json!(true);
        let counted = self.retry(filter.clone()).await;
        assert!(counted["webhooks"].as_array().unwrap().iter().all(|of| of["recovery"].is_null()));
        filter["dry_run"] = json!(false);
        let mut opened = 0;
        for of in self.retry(filter).await["webhooks"].as_array().unwrap() {
            let recovery = self.world.recovery_ended(of["recovery"]["id"].as_str().unwrap()).await;
            assert_eq!(json!([recovery["state"], recovery["skipped"]]), json!(["done", 0]));
            assert_eq!(recovery["recovered"], of["deliveries"]);
            opened += of["deliveries"].as_u64().unwrap();
        }
        assert_eq!(counted["deliveries"], opened);
        opened
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_cuts_off_goes_on_and_each_delivery_comes_once_and_in_order() {
    let mut failed = Failed::start().await;
    let mut held = failed.pool.begin().await.unwrap();
    sqlx::query("select from agent where agent_id = 'bob' for update").execute(&mut *held).await.unwrap();
    let asked = failed.retry(json!({})).await;
    let found: Vec<_> =
        asked["webhooks"].as_array().unwrap().iter().map(|of| of["webhook_id"].clone()).collect();
    assert_eq!(json!(found), json!(failed.webhooks));
    assert_eq!(asked["deliveries"], HOOKS.len() * AGENTS.len() * EACH);
    failed.open(HOOKS.len() * 2 * EACH).await;
    failed.world.bridge.kill().await;
    held.rollback().await.unwrap();
    failed.world.bridge.restart().await;
    for of in asked["webhooks"].as_array().unwrap() {
        let ended = failed.world.recovery_ended(of["recovery"]["id"].as_str().unwrap()).await;
        let found = json!([ended["state"], ended["recovered"], ended["skipped"], ended["states"]]);
        let states = ["dead", "expired", "webhook_disabled"];
        assert_eq!(found, json!(["done", AGENTS.len() * EACH, 0, states]));
    }
    for webhook in &failed.webhooks {
        failed.world.bridge.post(&format!("/v1/webhooks/{webhook}/resume"), &json!({})).await;
    }
    let posts = failed.world.crm.wait_for((HOOKS.len() * AGENTS.len() * EACH) as u64, SOON).await.unwrap();
    for path in HOOKS {
        let of: Vec<_> = posts.iter().filter(|post| post.target == path).cloned().collect();
        assert_eq!((inversions(&of), holes(&of)), (vec![], vec![]));
    }
    let ids: BTreeSet<_> = posts.iter().map(|post| post.webhook_id()).collect();
    assert_eq!(ids.len(), posts.len(), "each once");
    assert_eq!(failed.retry(json!({"dry_run": true})).await["deliveries"], 0, "nothing has failed any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_opens_what_it_counts_and_what_the_list_shows_with_it() {
    let failed = Failed::start().await;
    let bridge = &failed.world.bridge;
    let named = bridge.patch("/v1/agents/bob", &json!({"external_id": "crm-7"})).await;
    assert_eq!(named.status, 200, "{}", named.text());
    // The filters that a webhook has now do not matter, and what was superseded only if it is asked for.
    let only_cid = json!({"agents": ["cid"]});
    assert_eq!(bridge.patch(&format!("/v1/webhooks/{}", failed.webhooks[0]), &only_cid).await.status, 200);
    let superseded = "insert into audit_log (at, kind, webhook_id, event_id, delivery_id, agent_id, end_state)
                      select now(), 'DELIVERY_ENDED', webhook_id, event_id, delivery_id, agent_id, 'superseded'
                      from audit_log
                      where end_state = 'dead' and agent_id = 'cid'";
    sqlx::query(superseded).execute(&failed.pool).await.unwrap();
    let both = |count: usize| (HOOKS.len() * count) as u64;
    let source = bridge.get("/v1/sources").await.json()["items"][0]["id"].clone();
    let of_bob = format!("/v1/deliveries?state=dead&agent=crm-7&source={}", source.as_str().unwrap());
    assert_eq!(all(bridge, &of_bob).await.len() as u64, both(EACH));
    let nobody = json!({"source": "019ab2ee-0c3b-7d11-8e5f-6a7b8c9d0e1f"});
    assert_eq!(failed.counted_and_opened(nobody).await, 0);
    assert_eq!(failed.counted_and_opened(json!({"until": "2026-01-01T00:00:00Z"})).await, 0);
    assert_eq!(failed.counted_and_opened(json!({"states": ["expired"]})).await, 0);
    let one = json!({"webhook": failed.webhooks[0], "agent": "ann", "since": "2026-01-01T00:00:00Z"});
    assert_eq!(failed.counted_and_opened(one).await, EACH as u64);
    assert_eq!(failed.counted_and_opened(json!({"agent": "crm-7", "source": source})).await, both(EACH));
    assert_eq!(all(bridge, &of_bob).await.len(), 0, "they are open now");
    assert_eq!(failed.counted_and_opened(json!({})).await, EACH as u64, "of the other webhook to ann");
    let rest = json!({"states": ["dead", "superseded"]});
    assert_eq!(failed.counted_and_opened(rest).await, both(EACH), "the rest of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_tried_says_so_and_a_repeated_call_asks_once() {
    let failed = Failed::start().await;
    let bridge = &failed.world.bridge;
    for wrong in [
        json!({"states": []}),
        json!({"states": ["delivered"]}),
        json!({"since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}),
        json!({"webhook": "x"}),
        json!({"event": failed.webhooks[0]}),
    ] {
        assert_eq!(bridge.post("/v1/deliveries/retry", &wrong).await.status, 422, "{wrong}");
    }
    sqlx::query(
        "update webhook set state = 'disabled', state_reason = 'failing' where webhook_id = $1::uuid",
    )
    .bind(&failed.webhooks[0])
    .execute(&failed.pool)
    .await
    .unwrap();
    let mut held = failed.pool.begin().await.unwrap();
    sqlx::query("select from agent for update").execute(&mut *held).await.unwrap();
    let key = ("idempotency-key", "once");
    let first = bridge.try_send("POST", "/v1/deliveries/retry", key, &json!({})).await.unwrap();
    let again = bridge.try_send("POST", "/v1/deliveries/retry", key, &json!({})).await.unwrap();
    assert_eq!((first.status, first.json()), (again.status, again.json()));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let of = first.json()["webhooks"].clone();
    assert!(of[0]["recovery"].is_null() && of[0]["refused"].as_str().unwrap().contains("disabled"), "{of}");
    assert_eq!(of[1]["recovery"]["state"], "running", "{of}");
    let other = failed.retry(json!({"dry_run": true})).await["webhooks"].clone();
    assert!(other[1]["refused"].as_str().unwrap().contains("is running"), "{other}");
    assert_eq!(all(bridge, "/v1/recoveries").await.len(), 1);
    let recovery = of[1]["recovery"]["id"].as_str().unwrap();
    let cancelled = bridge.post(&format!("/v1/recoveries/{recovery}/cancel"), &json!({})).await.json();
    assert_eq!(json!([cancelled["reason"], cancelled["recovered"]]), json!(["cancelled", 0]));
    held.rollback().await.unwrap();
    assert_eq!(failed.world.open_deliveries(&failed.pool).await, 0);
}
