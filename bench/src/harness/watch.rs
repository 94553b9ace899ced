//! A bridge on the simulated public Notifications API, watching every user of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use genesys_simulator::cloud::{Cloud, CloudOptions};
use genesys_simulator::crm::{Crm, CrmOptions, Secret};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::bridge::{Bridge, Launch};
use crate::harness::world::state_of;
use crate::measuring::figures::Times;

/// How long POSTs may take to arrive.
const POSTS_WITHIN: Duration = Duration::from_secs(120);

/// A bridge, its upstream and its receiver.
pub struct Watch {
    pub cloud: Cloud,
    pub crm: Crm,
    pub bridge: Bridge,
    pub agents: Vec<String>,
    /// Channels that the agents need.
    pub channels: usize,
}

impl Watch {
    /// Starts everything, adds the source, and says how long it took until everybody was subscribed to.
    pub async fn start(
        launch: &Launch,
        agents: usize,
        options: CloudOptions,
    ) -> anyhow::Result<(Self, Duration)> {
        let names: Vec<String> = (0..agents).map(|n| format!("agent-{n:05}")).collect();
        let cloud = Cloud::start(CloudOptions { agents: names.clone(), ..options }).await?;
        let crm = Crm::start(CrmOptions::default()).await?;
        let bridge = Bridge::start(launch).await?;
        let watch = Self { cloud, crm, bridge, agents: names, channels: agents.div_ceil(1_000) };
        let source = json!({
            "name": "cloud", "api_url": watch.cloud.api_url(), "login_url": watch.cloud.api_url(),
            "client_id": "sim-client", "client_secret": "sim-secret", "all_users": true,
        });
        let start = Instant::now();
        watch.bridge.post("/v1/sources", &source).await?;
        watch.sees_all(Duration::from_secs(300)).await?;
        Ok((watch, start.elapsed()))
    }

    /// Waits until every agent is on an open socket.
    pub async fn sees_all(&self, within: Duration) -> anyhow::Result<()> {
        let seen = self.cloud.wait_until(|seen| seen.watched() == self.agents.len(), within).await;
        seen.map(drop).map_err(|seen| {
            anyhow::anyhow!("not everybody is watched: {} of {}", seen.watched(), self.agents.len())
        })
    }

    /// Waits until this many readings of present states are done.
    pub async fn has_read(&self, readings: usize, within: Duration) -> anyhow::Result<()> {
        let by = Instant::now() + within;
        loop {
            let done = self.audit("RESYNC_DONE").await?.len();
            if done >= readings {
                return Ok(());
            }
            ensure!(Instant::now() < by, "{done} of {readings} readings of present states are done");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    pub async fn audit(&self, kind: &str) -> anyhow::Result<Vec<Value>> {
        self.bridge.all(&format!("/v1/audit?kind={kind}")).await
    }

    pub async fn register(&self) -> anyhow::Result<()> {
        let webhook = self.bridge.post("/v1/webhooks", &json!({"url": self.crm.url("/crm")})).await?;
        let secret = webhook.get("secret").and_then(|s| s.as_str()).context("no secret in the answer")?;
        self.crm.set_secrets_of("/crm", vec![Secret::parse(secret)?]);
        Ok(())
    }

    /// Changes the next agent's presence; gives the change's number. Each round gives every agent another
    /// state than the round before.
    pub fn change(&self, n: usize) -> u64 {
        let agent = self.agents.get(n % self.agents.len()).map_or("", String::as_str);
        self.cloud.push_presence(agent, state_of(n / self.agents.len()))
    }

    /// Changes at a rate for a while, from the `n`th change on, and waits until each has arrived; gives the
    /// times from frame to POST.
    pub async fn flow(&self, rate: u32, time: Duration, n: &mut usize) -> anyhow::Result<Times> {
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (start, mut first, mut last) = (Instant::now(), None, 0);
        while start.elapsed() < time {
            ticks.tick().await;
            last = self.change(*n);
            first = first.or(Some(last));
            *n += 1;
        }
        let changes = first.unwrap_or(last + 1)..=last;
        let by = Instant::now() + POSTS_WITHIN;
        loop {
            let posts = self.crm.posts();
            let ours: Vec<_> = posts
                .iter()
                .filter_map(|post| {
                    let n = post.n().filter(|n| changes.contains(n))?;
                    Some(post.arrived.saturating_duration_since(self.cloud.change(n)?.sent))
                })
                .collect();
            if ours.len() >= changes.clone().count() {
                self.crm.forget();
                return Ok(Times::of(ours.into_iter()));
            }
            ensure!(Instant::now() < by, "only {} of {} changes arrived", ours.len(), changes.count());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
