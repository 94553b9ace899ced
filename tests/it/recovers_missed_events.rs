//! A recovery that was asked for comes to its end, whatever becomes of the process, and says how it ended.

use std::collections::BTreeSet;

use genesys_simulator::crm::Behaviour;
use genesys_simulator::crm::check::{holes, inversions};
use serde_json::{Value, json};
use sqlx::{PgPool, Postgres, Transaction};

use crate::support::look::give_up;
use crate::support::{SOON, World, database, eventually};

const AGENTS: [&str; 3] = ["ann", "bob", "cid"];
/// Changes of each of them that were missed.
const EACH: usize = 20;

/// A world in which all deliveries of one webhook have failed.
struct Missed {
    world: World,
    pool: PgPool,
    webhook: String,
}

impl Missed {
    async fn start() -> Self {
        let world = World::watching(&AGENTS).await;
        let pool = database::pool(&world.bridge.database_url).await;
        let webhook = world.register("/hooks/a").await;
        world.bridge.post(&format!("/v1/webhooks/{webhook}/pause"), &json!({})).await;
        for n in 0..EACH {
            for agent in AGENTS {
                world.genesys.push_presence(agent, ["BUSY", "AWAY"][n % 2]);
            }
        }
        eventually("all are pending", || async {
            (world.open_deliveries(&pool).await == (AGENTS.len() * EACH) as i64).then_some(())
        })
        .await;
        give_up(&pool).await;
        Self { world, pool, webhook }
    }

    /// Keeps the lane of an agent from being opened.
    async fn hold(&self, agent: &str) -> Transaction<'static, Postgres> {
        let mut held = self.pool.begin().await.unwrap();
        sqlx::query("select from agent where agent_id = $1 for update")
            .bind(agent)
            .execute(&mut *held)
            .await
            .unwrap();
        held
    }

    /// Asks for all that failed; gives the answer.
    async fn ask(&self) -> Value {
        let path = format!("/v1/webhooks/{}/recover", self.webhook);
        let answer = self.world.bridge.post(&path, &json!({"since": "2020-01-01T00:00:00Z"})).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()
    }

    async fn nothing_is_pending(&self) {
        eventually("nothing is pending", || async {
            (self.world.open_deliveries(&self.pool).await == 0).then_some(())
        })
        .await;
    }

    /// Waits until that is true of everything that was missed.
    async fn is_older_than_a_second(&self) {
        eventually("time passes", || async {
            let older = "select now() - max(received_at) > interval '1 second' from event";
            let older: bool = sqlx::query_scalar(older).fetch_one(&self.pool).await.unwrap();
            older.then_some(())
        })
        .await;
    }

    async fn resume(&self) {
        self.world.bridge.post(&format!("/v1/webhooks/{}/resume", self.webhook), &json!({})).await;
    }

    async fn look(&self, recovery: &Value) -> Value {
        self.world.bridge.get(&format!("/v1/recoveries/{}", recovery["id"].as_str().unwrap())).await.json()
    }

    async fn ended(&self, recovery: &Value) -> Value {
        self.world.recovery_ended(recovery["id"].as_str().unwrap()).await
    }

    async fn list(&self, query: &str) -> Vec<Value> {
        let page = self.world.bridge.get(&format!("/v1/recoveries{query}")).await.json();
        page["items"].as_array().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_a_kill_cut_off_goes_on_to_its_end_and_its_count_is_right() {
    let mut missed = Missed::start().await;
    let held = missed.hold("bob").await;
    let asked = missed.ask().await;
    assert_eq!(asked["state"], "running", "{asked}");
    eventually("the others' lanes are open", || async {
        (missed.look(&asked).await["recovered"] == 2 * EACH).then_some(())
    })
    .await;
    missed.world.bridge.kill().await;
    held.rollback().await.unwrap();
    missed.world.bridge.restart().await;
    let ended = missed.ended(&asked).await;
    let found = json!([ended["state"], ended["reason"], ended["recovered"], ended["skipped"]]);
    assert_eq!(found, json!(["done", null, 3 * EACH, 0]));
    let told = missed.world.audit_of("RECOVERY_ENDED", 1).await;
    assert_eq!(told[0]["data"]["recovery"], asked["id"]);
    assert_eq!(told[0]["data"]["recovered"], 3 * EACH);
    missed.resume().await;
    let posts = missed.world.crm.wait_for((3 * EACH) as u64, SOON).await.unwrap();
    assert_eq!(inversions(&posts), Vec::<String>::new());
    assert_eq!(holes(&posts), Vec::<String>::new());
    let told: BTreeSet<_> = posts.iter().map(|post| post.webhook_id()).collect();
    assert_eq!(told.len(), 3 * EACH, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_off_recovery_had_opened_and_has_ended_is_not_opened_twice() {
    // What is opened is delivered, or expires at once.
    for (max_age, posts) in [(json!(null), 3 * EACH), (json!(1), 0)] {
        let mut missed = Missed::start().await;
        let webhook = format!("/v1/webhooks/{}", missed.webhook);
        let settings = json!({"max_age_seconds": max_age});
        assert_eq!(missed.world.bridge.patch(&webhook, &settings).await.status, 200);
        if posts == 0 {
            missed.is_older_than_a_second().await;
        }
        missed.resume().await;
        let held = missed.hold("bob").await;
        let asked = missed.ask().await;
        assert_eq!(asked["state"], "running", "{asked}");
        eventually("the others' lanes were opened", || async {
            (missed.look(&asked).await["recovered"] == 2 * EACH).then_some(())
        })
        .await;
        missed.nothing_is_pending().await;
        missed.world.bridge.kill().await;
        held.rollback().await.unwrap();
        missed.world.bridge.restart().await;
        assert_eq!(missed.ended(&asked).await["recovered"], 3 * EACH);
        missed.nothing_is_pending().await;
        assert_eq!(missed.world.crm.posts().len(), posts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_runs_at_a_time_and_can_be_cancelled() {
    let missed = Missed::start().await;
    let held = missed.hold("bob").await;
    let first = missed.ask().await;
    assert_eq!(first["state"], "running", "{first}");
    let path = format!("/v1/webhooks/{}/recover", missed.webhook);
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    let second = missed.world.bridge.post(&path, &since).await;
    assert_eq!(second.status, 409);
    assert!(second.text().contains(first["id"].as_str().unwrap()), "{}", second.text());
    eventually("the others' lanes are open", || async {
        (missed.look(&first).await["recovered"] == 2 * EACH).then_some(())
    })
    .await;
    let cancel = format!("/v1/recoveries/{}/cancel", first["id"].as_str().unwrap());
    let cancelled = missed.world.bridge.post(&cancel, &json!({})).await;
    assert_eq!(cancelled.status, 200);
    assert_eq!(cancelled.json()["reason"], "cancelled");
    assert_eq!(missed.world.bridge.post(&cancel, &json!({})).await.status, 409, "it has ended");
    let told = missed.world.audit_of("RECOVERY_ENDED", 1).await;
    assert_eq!(told[0]["outcome"], "cancelled");
    held.rollback().await.unwrap();
    let third = missed.world.recover(&missed.webhook, &since).await;
    assert_eq!(
        json!([third["state"], third["recovered"]]),
        json!(["done", EACH]),
        "nothing is opened afterwards"
    );
}

/// Its dispatcher lives, but has never heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_taken_in_an_answer_that_was_lost_is_worked_on_all_the_same() {
    let missed = Missed::start().await;
    let id: uuid::Uuid = sqlx::query_scalar(
        "insert into recovery (
             recovery_id, webhook_id, since, until, only_failed, agents, newest_only, principal, requested_at, held_by)
         select gen_random_uuid(), webhook_id, now() - interval '1 day', now(), true, '{}', false, 'test', now(),
                (select dispatcher_id from dispatcher)
         from webhook
         returning recovery_id",
    )
    .fetch_one(&missed.pool)
    .await
    .unwrap();
    assert_eq!(missed.ended(&json!({"id": id.to_string()})).await["recovered"], 3 * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_lane_is_delivered_again_in_order_and_in_mode_latest_the_newest_of_each_alone() {
    let missed = Missed::start().await;
    let world = &missed.world;
    // Of one agent more than one transaction opens.
    let more = 130;
    for n in 0..more {
        world.genesys.push_presence("ann", ["MEAL", "IDLE"][n % 2]);
    }
    missed.resume().await;
    let posts = world.crm.wait_for(more as u64, SOON).await.unwrap();
    assert_eq!(inversions(&posts), Vec::<String>::new());
    missed.nothing_is_pending().await;
    let all = json!({"since": "2020-01-01T00:00:00Z", "only_failed": false});
    assert_eq!(world.recover(&missed.webhook, &all).await["recovered"], more + 3 * EACH);
    let posts = world.crm.wait_for((2 * more + 3 * EACH) as u64, SOON).await.unwrap();
    assert_eq!(inversions(&posts[more..]), Vec::<String>::new());
    missed.nothing_is_pending().await;
    let webhook = format!("/v1/webhooks/{}", missed.webhook);
    assert_eq!(world.bridge.patch(&webhook, &json!({"mode": "latest"})).await.status, 200);
    assert_eq!(world.recover(&missed.webhook, &all).await["recovered"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_whose_webhook_is_removed_or_disabled_meanwhile_says_so() {
    let missed = Missed::start().await;
    missed.world.crm.always("/hooks/a", Behaviour::status(410));
    missed.resume().await;
    let held = missed.hold("bob").await;
    let first = missed.ask().await;
    assert_eq!(first["state"], "running", "{first}");
    missed.world.audit_of("WEBHOOK_DISABLED", 1).await;
    held.rollback().await.unwrap();
    let first = missed.ended(&first).await;
    assert_eq!(json!([first["state"], first["reason"]]), json!(["failed", "webhook_disabled"]));

    missed.world.crm.always("/hooks/a", Behaviour::status(204));
    let enable = format!("/v1/webhooks/{}/enable", missed.webhook);
    assert_eq!(missed.world.bridge.post(&enable, &json!({})).await.status, 200);
    let held = missed.hold("ann").await;
    let second = missed.ask().await;
    assert_eq!(second["state"], "running", "{second}");
    assert_eq!(missed.list("?state=running").await.len(), 1);
    assert_eq!(missed.world.bridge.delete(&format!("/v1/webhooks/{}", missed.webhook)).await.status, 204);
    held.rollback().await.unwrap();
    let second = missed.ended(&second).await;
    assert_eq!(json!([second["state"], second["reason"]]), json!(["failed", "webhook_gone"]));

    assert_eq!(missed.list("").await, [second.clone(), first.clone()], "newest first");
    assert_eq!(missed.list(&format!("?state=failed&webhook={}", missed.webhook)).await.len(), 2);
    assert_eq!(missed.list("?state=done").await, Vec::<Value>::new());
    let page = missed.world.bridge.get("/v1/recoveries?limit=1").await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(missed.list(&format!("?cursor={cursor}")).await, [first]);
    let nobodys = format!("/v1/recoveries/{}", missed.webhook);
    assert_eq!(missed.world.bridge.get(&nobodys).await.status, 404);
    assert_eq!(missed.world.bridge.get("/v1/recoveries?state=ended").await.status, 400);
}
