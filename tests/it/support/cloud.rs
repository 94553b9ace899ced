//! A whole bridge on the simulated public Notifications API, in one call.

use std::time::Duration;

use genesys_simulator::clock::parse_rfc3339;
use genesys_simulator::cloud::{Change, Cloud, CloudOptions, Fate};
use genesys_simulator::crm::{Crm, CrmOptions, Secret};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::look::{all, feed};
use super::{Bridge, SOON, eventually};

/// A bridge, the platform that it listens to, and a receiver.
pub struct CloudWorld {
    pub cloud: Cloud,
    pub crm: Crm,
    pub bridge: Bridge,
}

/// A platform whose sockets say often that they live.
pub fn options(agents: &[&str]) -> CloudOptions {
    CloudOptions {
        agents: agents.iter().map(|agent| (*agent).to_owned()).collect(),
        heartbeat: Duration::from_millis(500),
        rate_limit: None,
        ..CloudOptions::default()
    }
}

impl CloudWorld {
    /// Starts everything with one source from the environment that watches these agents by name, and waits
    /// until it sees them.
    pub async fn watching(agents: &[&str]) -> Self {
        let list = agents.join(",");
        let world = Self::starting(options(agents), &[("GENESYS_AGENTS", list.as_str())]).await;
        world.sees(agents.len()).await;
        world
    }

    /// The same with a platform and variables of one's own, without waiting.
    pub async fn starting(options: CloudOptions, variables: &[(&str, &str)]) -> Self {
        let cloud = Cloud::start(options).await.unwrap();
        let crm = Crm::start(CrmOptions::default()).await.unwrap();
        let api_url = cloud.api_url();
        let mut all = vec![
            ("GENESYS_API_URL", api_url.as_str()),
            ("GENESYS_LOGIN_URL", api_url.as_str()),
            ("GENESYS_CLIENT_ID", "sim-client"),
            ("GENESYS_CLIENT_SECRET", "sim-secret"),
        ];
        all.extend_from_slice(variables);
        let bridge = Bridge::start(&all).await;
        Self { cloud, crm, bridge }
    }

    /// Waits until that many agents are listened to on open sockets, their states are read, and the bridge
    /// says so.
    pub async fn sees(&self, agents: usize) {
        let seen = self.cloud.wait_until(|seen| seen.watched() == agents, SOON).await;
        seen.unwrap_or_else(|seen| {
            panic!("{agents} agents are to be watched: {seen:#?}\n{}", self.bridge.log())
        });
        eventually("connections are open and read", || async {
            let connections = all(&self.bridge, "/v1/connections").await;
            let open = connections.iter().filter(|c| c["state"] == "open" && c["desired"] == "open");
            let watched: u64 = open.map(|c| c["agents"].as_u64().unwrap()).sum();
            let read = self.audit("RESYNC_DONE").await.len();
            (watched == u64::try_from(agents).unwrap() && read >= connections.len()).then_some(())
        })
        .await;
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

    /// Audit entries of a kind, newest first.
    pub async fn audit(&self, kind: &str) -> Vec<Value> {
        all(&self.bridge, &format!("/v1/audit?kind={kind}")).await
    }

    /// Waits for at least that many audit entries of a kind; gives them newest first.
    pub async fn audit_of(&self, kind: &str, at_least: usize) -> Vec<Value> {
        eventually(kind, || async {
            let entries = self.audit(kind).await;
            (entries.len() >= at_least).then_some(entries)
        })
        .await
    }

    /// What the bridge knows of an agent.
    pub async fn agent(&self, id: &str) -> Value {
        self.bridge.get(&format!("/v1/agents/{id}")).await.json()
    }

    /// Waits until the bridge knows an agent to be this.
    pub async fn agent_is(&self, id: &str, presence: &str) -> Value {
        eventually(&format!("{id} is {presence}"), || async {
            let agent = self.agent(id).await;
            (agent["presence"]["system"] == presence).then_some(agent)
        })
        .await
    }

    /// Events of one agent, in the order of the feed.
    pub async fn events_of(&self, agent: &str) -> Vec<Value> {
        let mut events = feed(&self.bridge).await;
        events.retain(|event| event["agent"]["id"] == agent);
        events
    }

    /// Changes that no socket took since a moment and that lie in no gap that the bridge admits to for that
    /// agent.
    pub async fn lost_without_a_word(&self, since: OffsetDateTime) -> Vec<Change> {
        let gaps = all(&self.bridge, "/v1/gaps").await;
        let time = |text: &Value| parse_rfc3339(text.as_str()?);
        let admitted = |change: &Change| {
            gaps.iter().any(|gap| {
                gap["agents"].as_array().unwrap().contains(&json!(change.agent))
                    && time(&gap["from"]).unwrap() <= change.at
                    && time(&gap["to"]).is_none_or(|to| change.at <= to)
            })
        };
        let mut lost = self.cloud.ledger();
        lost.retain(|change| change.at >= since && change.fate != Fate::Written && !admitted(change));
        lost
    }
}
