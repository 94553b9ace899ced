//! A bridge between the simulated Genesys Cloud over protocol `realtime`, one socket an agent, and a
//! receiver.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use genesys_simulator::crm::{Crm, CrmOptions, Secret};
use genesys_simulator::genesys::{Genesys, GenesysOptions};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::bridge::{Bridge, Launch};
use crate::measuring::figures::{Times, count};

/// Connections that an OAuth client may hold.
const AGENTS_PER_CLIENT: usize = 10;
const STATES: [&str; 5] = ["AVAILABLE", "ON_QUEUE", "BUSY", "AWAY", "MEETING"];

pub struct World {
    pub genesys: Genesys,
    pub crm: Crm,
    pub bridge: Bridge,
    pub agents: Vec<String>,
    plain: bool,
    /// Secrets by path, for a receiver that comes back.
    secrets: Vec<(String, Secret)>,
}

impl World {
    /// Starts everything and waits until every agent is seen.
    pub async fn start(launch: &Launch, agents: usize, crm: CrmOptions) -> anyhow::Result<Self> {
        let agents: Vec<String> = (0..agents).map(|n| format!("agent-{n:05}")).collect();
        let clients: Vec<(String, String)> = agents
            .chunks(AGENTS_PER_CLIENT)
            .enumerate()
            .map(|(n, _)| (format!("client-{n}"), format!("secret-{n}")))
            .collect();
        let genesys =
            Genesys::start(GenesysOptions { clients: clients.clone(), ..Default::default() }).await?;
        let crm = Crm::start(crm).await?;
        let bridge = Bridge::start(launch).await?;
        for (watched, (client, secret)) in agents.chunks(AGENTS_PER_CLIENT).zip(&clients) {
            let source = json!({
                "name": client, "protocol": "realtime", "api_url": genesys.api_url(), "client_id": client,
                "client_secret": secret, "agents": watched,
                "topic_matrix": {"state": ["routing:agent:state"]}, "heartbeat_interval_ms": 15_000,
            });
            bridge.post("/v1/sources", &source).await?;
        }
        genesys
            .wait_until(|seen| seen.connected() == agents.len(), Duration::from_secs(120))
            .await
            .map_err(|_| anyhow::anyhow!("the sockets did not open"))?;
        Ok(Self { genesys, crm, bridge, agents, plain: launch.plain, secrets: Vec::new() })
    }

    /// Registers a webhook for a path with settings besides its address; gives its id.
    pub async fn register(&mut self, path: &str, settings: Value) -> anyhow::Result<String> {
        let mut body = if self.plain { json!({}) } else { settings };
        if let Some(fields) = body.as_object_mut() {
            fields.insert("url".to_owned(), self.crm.url(path).into());
        }
        let webhook = self.bridge.post("/v1/webhooks", &body).await?;
        let text =
            |name: &str| webhook.get(name).and_then(Value::as_str).context("no such text in the answer");
        let secret = Secret::parse(text("secret")?)?;
        self.crm.set_secrets_of(path, vec![secret.clone()]);
        self.secrets.push((path.to_owned(), secret));
        Ok(text("id")?.to_owned())
    }

    /// Starts a receiver again that was stopped, at the same address.
    pub async fn receiver_back(&mut self) -> anyhow::Result<()> {
        self.crm = Crm::start(CrmOptions { listen: self.crm.address(), ..CrmOptions::default() }).await?;
        for (path, secret) in &self.secrets {
            self.crm.set_secrets_of(path, vec![secret.clone()]);
        }
        Ok(())
    }

    /// Changes the next agent's presence; gives the change's number.
    pub fn change(&self, n: u64) -> u64 {
        let (n, all) = (usize::try_from(n).unwrap_or_default(), self.agents.len().max(1));
        // Each round gives every agent another state than the round before.
        self.change_of(n % all, n / all)
    }

    /// Changes an agent's presence to that of a round; gives the change's number.
    pub fn change_of(&self, agent: usize, round: usize) -> u64 {
        let agent = self.agents.get(agent).map_or("", String::as_str);
        self.genesys.push_presence(agent, state_of(round))
    }

    /// Changes at a rate for a while, from the `n`th change on; gives the numbers of all of them.
    pub async fn play(&self, rate: u32, seconds: u64, n: &mut u64) -> RangeInclusive<u64> {
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut first, mut last) = (None, 0);
        for _ in 0..u64::from(rate) * seconds {
            ticks.tick().await;
            last = self.change(*n);
            first = first.or(Some(last));
            *n += 1;
        }
        first.unwrap_or(last + 1)..=last
    }

    /// Waits until this many POSTs of these changes came to paths that count; gives their times from frame to
    /// POST.
    pub async fn times(
        &self,
        changes: &RangeInclusive<u64>,
        counts: impl Fn(&str) -> bool,
        wanted: u64,
        patience: Duration,
    ) -> anyhow::Result<Times> {
        let by = Instant::now() + patience;
        loop {
            let posts = self.crm.posts();
            let times: Vec<_> = posts
                .iter()
                .filter(|post| counts(post.path()))
                .filter_map(|post| {
                    let n = post.n().filter(|n| changes.contains(n))?;
                    Some(post.arrived.saturating_duration_since(self.genesys.change(n)?.sent))
                })
                .collect();
            if count(times.len()) >= wanted {
                return Ok(Times::of(times.into_iter()));
            }
            ensure!(Instant::now() < by, "only {} of {wanted} arrived", times.len());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until this many POSTs came, as long as more keep coming.
    pub async fn arrived(&self, total: u64) -> anyhow::Result<()> {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let now = self.crm.count();
            if now >= total {
                return Ok(());
            }
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            ensure!(since.elapsed() < Duration::from_secs(60), "only {now} of {total} arrived");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub fn size(&self) -> u64 {
        count(self.agents.len())
    }
}

/// State of a round.
pub fn state_of(round: usize) -> &'static str {
    STATES.get(round % STATES.len()).copied().unwrap_or("IDLE")
}
