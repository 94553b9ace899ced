//! A short life of a bridge in which everything happens once: register, changes, a failing receiver, retry,
//! recovery, batch, snapshot, pause, resume, removal, stop. One request to its database may be hurt; whoever
//! calls it asks again.

use std::time::{Duration, Instant};

use genesys_simulator::crm::{Behaviour, Crm, CrmOptions, Secret};
use genesys_simulator::genesys::{Genesys, GenesysOptions};
use genesys_simulator::relay::{Fault, Request};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::sleep;
use uuid::Uuid;

use super::chaos::Chaos;
use super::{Bridge, World, database, verdict};

/// Two watched by everybody, and one whose receiver fails.
const AGENTS: [&str; 3] = ["ann", "bob", "cid"];
const STATES: [&str; 4] = ["BUSY", "AWAY", "MEAL", "BREAK"];
/// Longest for a step: a statement that hangs, what it costs afterwards, and a machine with much to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Paths of the receiver.
pub const SINGLE: &str = "/hooks/single";
pub const BATCH: &str = "/hooks/batch";
pub const FAILING: &str = "/hooks/failing";

/// What a run has seen.
pub struct Seen {
    pub requests: Vec<Request>,
    pub hurt: Option<Request>,
    /// Starts that ended before the bridge listened.
    pub failed_starts: u32,
}

pub struct Script {
    pub world: World,
    /// Straight to the database.
    pub pool: PgPool,
    relay: Chaos,
    failed_starts: u32,
}

/// Plays it with this fault.
///
/// # Panics
/// If a promise is broken, or a step takes longer than [`PATIENCE`].
pub async fn play(fault: Option<Fault>) -> Seen {
    let script = Script::start(fault).await;
    let hooks = script.register().await;
    script.fail_and_retry(&hooks).await;
    script.pause_and_resume(&hooks).await;
    script.remove(&hooks).await;
    script.stop().await
}

struct Hooks {
    single: String,
    batch: String,
    failing: String,
}

impl Script {
    async fn start(fault: Option<Fault>) -> Self {
        let direct = database::create().await;
        let relay = Chaos::before(&direct).await;
        relay.remember();
        if let Some(fault) = fault {
            relay.arm(fault);
        }
        let genesys = Genesys::start(GenesysOptions::default()).await.unwrap();
        let crm = Crm::start(CrmOptions::default()).await.unwrap();
        let (api_url, agents) = (genesys.api_url(), AGENTS.join(","));
        let variables = [
            ("GENESYS_PROTOCOL", "realtime"),
            ("GENESYS_API_URL", api_url.as_str()),
            ("GENESYS_CLIENT_ID", "sim-client"),
            ("GENESYS_CLIENT_SECRET", "sim-secret"),
            ("GENESYS_AGENTS", agents.as_str()),
            ("BRIDGE_LOG", "info"),
        ];
        let mut failed_starts = 0;
        // Whoever runs it starts it again.
        let bridge = loop {
            match Bridge::try_start_on(&relay.url(), &variables).await {
                Ok(bridge) => break bridge,
                Err(log) => assert!(failed_starts == 0, "it does not start the second time either:\n{log}"),
            }
            failed_starts += 1;
        };
        let connected = genesys.wait_until(|seen| seen.connected() == AGENTS.len(), PATIENCE).await;
        connected.unwrap_or_else(|waiting| panic!("{waiting:?}\n{}", bridge.log()));
        let pool = database::pool(&direct).await;
        Self { world: World { genesys, crm, bridge }, pool, relay, failed_starts }
    }

    async fn register(&self) -> Hooks {
        let often = [1; 20];
        let batch = json!({"max_items": 3, "max_wait_ms": 200});
        Hooks {
            single: self.hook(SINGLE, json!({"retry_schedule_seconds": often})).await,
            batch: self.hook(BATCH, json!({"retry_schedule_seconds": often, "batch": batch})).await,
            failing: self.hook(FAILING, json!({"retry_schedule_seconds": [1], "agents": ["cid"]})).await,
        }
    }

    async fn hook(&self, path: &str, mut fields: Value) -> String {
        fields["url"] = json!(self.world.crm.url(path));
        fields["timeout_ms"] = json!(3000);
        let hook = self.insist("POST", "/v1/webhooks", &fields, &[201]).await;
        let secret = Secret::parse(hook["secret"].as_str().unwrap()).unwrap();
        self.world.crm.set_secrets_of(path, vec![secret]);
        hook["id"].as_str().unwrap().to_owned()
    }

    /// Everybody changes; two POSTs fail and are repeated, and its pending deliveries are given up.
    async fn fail_and_retry(&self, hooks: &Hooks) {
        let World { crm, .. } = &self.world;
        crm.next(SINGLE, [Behaviour::status(500), Behaviour::CloseUnanswered]);
        crm.next(BATCH, [Behaviour::status(503)]);
        crm.always(FAILING, Behaviour::status(500));
        for round in 0..2 {
            self.change(&AGENTS, round).await;
        }
        self.until("two are given up", "select count(*) = 2 from audit_log where end_state = 'dead'").await;
        crm.always(FAILING, Behaviour::status(204));
        let dead = self.read(&format!("/v1/deliveries?webhook={}&state=dead", hooks.failing)).await;
        let oldest = dead["items"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
        self.insist("POST", &format!("/v1/deliveries/{oldest}/retry"), &json!({}), &[202]).await;
        self.nothing_is_pending().await;
        let since = json!({"since": "2020-01-01T00:00:00Z"});
        let asked =
            self.insist("POST", &format!("/v1/webhooks/{}/recover", hooks.failing), &since, &[202]).await;
        let ended = format!("/v1/recoveries/{}", asked["id"].as_str().unwrap());
        let by = Instant::now() + PATIENCE;
        while self.read(&ended).await["state"] == "running" {
            assert!(Instant::now() < by, "the recovery has no end");
            sleep(Duration::from_millis(50)).await;
        }
        self.nothing_is_pending().await;
    }

    async fn pause_and_resume(&self, hooks: &Hooks) {
        let of = |hook: &str, what: &str| format!("/v1/webhooks/{hook}/{what}");
        self.insist("POST", &of(&hooks.single, "snapshot"), &json!({}), &[202]).await;
        self.change(&AGENTS[..2], 2).await;
        for hook in [&hooks.single, &hooks.batch] {
            self.insist("POST", &of(hook, "pause"), &json!({}), &[200]).await;
        }
        self.change(&AGENTS[..2], 3).await;
        for hook in [&hooks.single, &hooks.batch] {
            self.insist("POST", &of(hook, "resume"), &json!({}), &[200]).await;
        }
        self.until("snapshot written", "select bool_and(snapshot_next is null) from webhook").await;
        self.nothing_is_pending().await;
    }

    /// A webhook is removed while it has a pending delivery and a POST of it is under way.
    async fn remove(&self, hooks: &Hooks) {
        self.world.crm.always(FAILING, Behaviour::Hang);
        self.change(&AGENTS, 4).await;
        self.insist("DELETE", &format!("/v1/webhooks/{}", hooks.failing), &Value::Null, &[204, 404]).await;
        self.change(&AGENTS[..2], 5).await;
        self.nothing_is_pending().await;
    }

    async fn stop(mut self) -> Seen {
        self.insist("GET", "/readyz", &Value::Null, &[200]).await;
        // What only looks at the end asks once.
        let later = self.relay.disarm();
        verdict::while_it_runs(&self).await;
        later.into_iter().for_each(|fault| self.relay.arm(fault));
        let status = self.world.bridge.terminate().await;
        assert!(status.success(), "the process ended with {status}");
        verdict::after_its_end(&self).await;
        let failed_starts = self.failed_starts;
        Seen { requests: self.relay.requests(), hurt: self.relay.hurt(), failed_starts }
    }

    async fn change(&self, agents: &[&str], round: usize) {
        for agent in agents {
            self.world.genesys.push_presence(agent, STATES[round % STATES.len()]);
            sleep(Duration::from_millis(20)).await;
        }
        let sent = self.world.genesys.changes_after(0).len();
        let text = format!("select count(*) = {sent} from event where kind = 'presence.updated'");
        self.until("every change is recorded", &text).await;
    }

    /// A caller that asks again, with the same key, as long as it is not answered for good.
    async fn insist(&self, method: &str, path: &str, body: &Value, wanted: &[u16]) -> Value {
        let key = Uuid::new_v4().to_string();
        let by = Instant::now() + PATIENCE + Duration::from_secs(15);
        loop {
            let answer = self.world.bridge.try_send(method, path, ("idempotency-key", &key), body).await;
            let answer = answer.unwrap_or_else(|| panic!("no answer to {method} {path}"));
            if wanted.contains(&answer.status) {
                return serde_json::from_slice(&answer.body).unwrap_or_default();
            }
            let again = answer.status == 409 || answer.status >= 500;
            assert!(again && Instant::now() < by, "{method} {path}: {} {}", answer.status, answer.text());
            sleep(Duration::from_millis(200)).await;
        }
    }

    pub async fn read(&self, path: &str) -> Value {
        self.insist("GET", path, &Value::Null, &[200]).await
    }

    async fn nothing_is_pending(&self) {
        self.until("nothing is pending", "select not exists (select from delivery)").await;
    }

    /// Waits until a question to the database is answered with yes.
    async fn until(&self, what: &str, question: &str) {
        let by = Instant::now() + PATIENCE;
        loop {
            let yes: Option<bool> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(question)).fetch_one(&self.pool).await.unwrap();
            if yes == Some(true) {
                return;
            }
            if Instant::now() > by {
                panic!("not in time: {what}\n{}\n{}", verdict::pending(&self.pool).await, self.log_tail());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Warnings and errors of the bridge, the last of them.
    pub fn log_tail(&self) -> String {
        let log = self.world.bridge.log();
        let lines: Vec<_> = log.lines().filter(|line| !line.contains(r#""level":"INFO""#)).collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}
