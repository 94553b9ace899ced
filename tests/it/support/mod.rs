//! What tests are made of: a whole bridge with everything around it, in one call.

pub mod bridge;
pub mod browser;
pub mod canaries;
pub mod chaos;
pub mod client;
pub mod cloud;
pub mod cluster;
pub mod console;
pub mod contract;
pub mod crowd;
pub mod database;
pub mod failover;
pub mod follower;
pub mod late;
pub mod look;
pub mod neighbour;
pub mod pair;
pub mod script;
pub mod shown;
pub mod siem;
pub mod site;
pub mod sweeper;
pub mod terminal;
pub mod verdict;

use std::future::Future;
use std::time::{Duration, Instant};

use genesys_simulator::crm::{Crm, CrmOptions, Secret};
use genesys_simulator::genesys::{Genesys, GenesysOptions};
use serde_json::{Value, json};

pub use bridge::Bridge;

/// Longest wait for anything that should happen at once; only a broken promise takes that long.
pub const SOON: Duration = Duration::from_secs(20);

/// A bridge, the simulated Genesys Cloud that it listens to, and a receiver.
pub struct World {
    pub genesys: Genesys,
    pub crm: Crm,
    pub bridge: Bridge,
}

impl World {
    /// Starts everything with one source from the environment that watches these agents, and waits for its
    /// sockets.
    pub async fn watching(agents: &[&str]) -> Self {
        Self::with_options(agents, GenesysOptions::default(), &[]).await
    }

    /// The same with a simulator of one's own and more variables for the bridge.
    pub async fn with_options(agents: &[&str], options: GenesysOptions, variables: &[(&str, &str)]) -> Self {
        let world = Self::starting(agents, options, variables).await;
        world.sockets_open(agents.len()).await;
        world
    }

    /// The same without waiting for the sockets.
    pub async fn starting(agents: &[&str], options: GenesysOptions, variables: &[(&str, &str)]) -> Self {
        let genesys = Genesys::start(options).await.unwrap();
        let crm = Crm::start(CrmOptions::default()).await.unwrap();
        let api_url = genesys.api_url();
        let agents = agents.join(",");
        let mut all = vec![
            ("GENESYS_PROTOCOL", "realtime"),
            ("GENESYS_API_URL", api_url.as_str()),
            ("GENESYS_CLIENT_ID", "sim-client"),
            ("GENESYS_CLIENT_SECRET", "sim-secret"),
            ("GENESYS_AGENTS", agents.as_str()),
        ];
        all.extend_from_slice(variables);
        let bridge = Bridge::start(&all).await;
        Self { genesys, crm, bridge }
    }

    /// Waits until that many sockets are open upstream and the bridge says so too.
    pub async fn sockets_open(&self, count: usize) {
        self.genesys.wait_until(|seen| seen.connected() == count, SOON).await.unwrap();
        eventually("connections are open", || async {
            let page = self.bridge.get("/v1/connections?limit=200").await.json();
            let open = page["items"].as_array()?.iter().filter(|c| c["state"] == "open").count();
            (open == count).then_some(())
        })
        .await;
    }

    /// Registers a webhook at `path` of the receiver and teaches the receiver its secret; gives its id.
    pub async fn register(&self, path: &str) -> String {
        self.register_with(path, json!({})).await["id"].as_str().unwrap().to_owned()
    }

    /// The same with more fields; gives the whole answer.
    pub async fn register_with(&self, path: &str, mut fields: Value) -> Value {
        fields["url"] = json!(self.crm.url(path));
        let answer = self.bridge.post("/v1/webhooks", &fields).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let webhook = answer.json();
        let secret = Secret::parse(webhook["secret"].as_str().unwrap()).unwrap();
        self.crm.set_secrets_of(path, vec![secret]);
        webhook
    }

    /// Has a webhook get again what it missed, and waits for the end of that.
    pub async fn recover(&self, hook: &str, wanted: &Value) -> Value {
        let asked = self.bridge.post(&format!("/v1/webhooks/{hook}/recover"), wanted).await;
        assert_eq!(asked.status, 202, "{}", asked.text());
        self.recovery_ended(asked.json()["id"].as_str().unwrap()).await
    }

    /// Waits until a recovery has ended; gives it.
    pub async fn recovery_ended(&self, id: &str) -> Value {
        eventually("the recovery has ended", || async {
            let recovery = self.bridge.get(&format!("/v1/recoveries/{id}")).await.json();
            (recovery["state"] != "running").then_some(recovery)
        })
        .await
    }

    /// Audit entries of a kind, newest first.
    pub async fn audit(&self, kind: &str) -> Vec<Value> {
        let page = self.bridge.get(&format!("/v1/audit?limit=200&kind={kind}")).await.json();
        page["items"].as_array().expect("a page of audit entries").clone()
    }

    /// Waits for at least that many audit entries of a kind; gives them newest first.
    pub async fn audit_of(&self, kind: &str, at_least: usize) -> Vec<Value> {
        eventually(kind, || async {
            let entries = self.audit(kind).await;
            (entries.len() >= at_least).then_some(entries)
        })
        .await
    }
}

/// Asks again and again until there is an answer; a wait for a row, with a deadline.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let by = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < by, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
