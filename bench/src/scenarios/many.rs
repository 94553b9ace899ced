//! Ten thousand webhooks that each watch one agent: what it costs those that live when thirty more are dead
//! and have three hundred thousand deliveries open.
//!
//! The dead are filled through the bridge itself, not by SQL: ten thousand changes, each planned for all of
//! them, become what a real outage leaves, whatever the tables look like. Then they are made to match nobody,
//! so that what is open stays what it is while it is measured. Protocol `notifications`, because a socket an
//! agent would be ten thousand.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use genesys_simulator::cloud::CloudOptions;
use genesys_simulator::crm::Secret;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::harness::bridge::{Launch, post};
use crate::harness::machine;
use crate::harness::statements;
use crate::harness::watch::Watch;
use crate::harness::world::state_of;
use crate::measuring::cpu::Usage;
use crate::measuring::figures::{Times, count};

/// Nobody listens on tcpmux.
const DEAD: &str = "http://127.0.0.1:1/dead";
const CLAIM: &str = "presence_bridge_claim_seconds";
const REGISTRATIONS_AT_ONCE: usize = 8;
/// How long nothing may come while something is missing.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    /// Agents, and webhooks that watch one of them each.
    #[arg(long, default_value_t = 10_000)]
    agents: usize,
    /// Webhooks whose receivers are gone; each of them gets a delivery of each change of the filling.
    #[arg(long, default_value_t = 30)]
    dead: usize,
    /// Changes a second while it is measured.
    #[arg(long, default_value_t = 60)]
    rate: u32,
    /// Changes a second of the filling.
    #[arg(long, default_value_t = 100)]
    fill_rate: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds at the same rate before each of them.
    #[arg(long, default_value_t = 20)]
    warm_up: u64,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let (watch, _) = Watch::start(launch, options.agents, CloudOptions::default()).await?;
    machine::print(&watch.bridge).await;
    watch.has_read(watch.channels, Duration::from_secs(900)).await?;
    let start = Instant::now();
    register_all(&watch, options).await?;
    println!(
        "{} webhooks registered in {:.1} s; memory {:.1} MiB",
        options.agents,
        start.elapsed().as_secs_f64(),
        watch.bridge.rss_mib()
    );
    let mut part = Part { watch: &watch, launch, options, n: 0 };
    let (alone, alone_claim) = part.measure("nobody is dead").await?;
    part.fill().await?;
    let (beside, beside_claim) = part.measure("with the dead").await?;
    println!(
        "with the dead / without: deliveries p50 {:.2}, p99 {:.2}",
        beside.at(0.5) / alone.at(0.5),
        beside.at(0.99) / alone.at(0.99)
    );
    if let (Some(alone), Some(beside)) = (alone_claim, beside_claim) {
        println!(
            "                         claims     p50 {:.2}, p99 {:.2}",
            beside.0 / alone.0,
            beside.1 / alone.1
        );
    }
    println!("open at the end: {}", watch.bridge.open().await?);
    watch.bridge.stop().await
}

async fn register_all(watch: &Watch, options: &Options) -> anyhow::Result<()> {
    let mut calls = JoinSet::new();
    for (n, agent) in watch.agents.iter().enumerate().take(options.agents) {
        let (api, crm, path) = (watch.bridge.api.clone(), watch.crm.clone(), format!("/own/{n}"));
        let wanted = json!({"url": crm.url(&path), "agents": [agent]});
        calls.spawn(async move {
            let webhook = post(&api, "/v1/webhooks", &wanted).await?;
            let secret = webhook.get("secret").and_then(Value::as_str).context("no secret in the answer")?;
            crm.set_secrets_of(&path, vec![Secret::parse(secret)?]);
            anyhow::Ok(())
        });
        if calls.len() >= REGISTRATIONS_AT_ONCE {
            calls.join_next().await.transpose()?.transpose()?;
        }
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    Ok(())
}

struct Part<'a> {
    watch: &'a Watch,
    launch: &'a Launch,
    options: &'a Options,
    /// Changes so far.
    n: usize,
}

impl Part<'_> {
    /// Changes agents in turn at a rate, each to another state than before; gives the numbers of first and
    /// last.
    async fn play(&mut self, rate: u32, changes: u64) -> (u64, u64) {
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (agents, mut first, mut last) = (&self.watch.agents, None, 0);
        for _ in 0..changes {
            ticks.tick().await;
            let agent = agents.get(self.n % agents.len()).map_or("", String::as_str);
            last = self.watch.cloud.push_presence(agent, state_of(self.n / agents.len()));
            first = first.or(Some(last));
            self.n += 1;
        }
        (first.unwrap_or(last + 1), last)
    }

    /// Waits until every change of these numbers has come to the webhook that watches its agent.
    async fn arrived(&self, (first, last): (u64, u64)) -> anyhow::Result<Times> {
        let wanted = (last + 1).saturating_sub(first);
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let posts = self.watch.crm.posts();
            let ours = posts.iter().filter_map(|post| {
                let n = post.n().filter(|n| (first..=last).contains(n))?;
                Some(post.arrived.saturating_duration_since(self.watch.cloud.change(n)?.sent))
            });
            let ours: Vec<Duration> = ours.collect();
            if count(ours.len()) >= wanted {
                return Ok(Times::of(ours.into_iter()));
            }
            if ours.len() != seen {
                (seen, since) = (ours.len(), Instant::now());
            }
            ensure!(since.elapsed() < PATIENCE, "only {seen} of {wanted} arrived");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Times of deliveries, and of claims (p50, p99) if the bridge measures them.
    async fn measure(&mut self, what: &str) -> anyhow::Result<(Times, Option<(f64, f64)>)> {
        let Options { rate, seconds, warm_up, .. } = *self.options;
        let warm = self.play(rate, u64::from(rate) * warm_up).await;
        self.arrived(warm).await?;
        self.watch.crm.forget();
        if self.launch.statements {
            statements::reset(&self.watch.bridge).await?;
        }
        let before = self.watch.bridge.metrics().await?;
        let (usage, start) = (Usage::of(self.watch.bridge.pid()), Instant::now());
        let played = self.play(rate, u64::from(rate) * seconds).await;
        let (used, took) = (usage.until_now(), start.elapsed());
        let times = self.arrived(played).await?;
        let after = self.watch.bridge.metrics().await?;
        let open = self.watch.bridge.open().await?;
        println!(
            "{what}: {open} open; memory {:.1} MiB; {}",
            self.watch.bridge.rss_mib(),
            used.of_a_core(took)
        );
        println!("  frame -> POST  {}", times.describe());
        let claim = after.histogram_since(&before, CLAIM);
        match &claim {
            Some(claim) => println!("  claim          {}", claim.describe()),
            None => println!("  claim          not measured by this bridge; see --statements"),
        }
        if self.launch.statements {
            statements::print(&self.watch.bridge, u64::from(rate) * seconds).await?;
        }
        Ok((times, claim.map(|claim| (claim.at(0.5), claim.at(0.99)))))
    }

    /// Registers the dead, plans a delivery of every agent to each of them, and makes them match nobody;
    /// gives their ids.
    async fn fill(&mut self) -> anyhow::Result<()> {
        let (bridge, start) = (&self.watch.bridge, Instant::now());
        let mut dead = Vec::new();
        for n in 0..self.options.dead {
            let webhook = bridge.post("/v1/webhooks", &json!({"url": format!("{DEAD}/{n}")})).await?;
            dead.push(webhook.get("id").and_then(Value::as_str).context("no id in the answer")?.to_owned());
        }
        let filled = self.play(self.options.fill_rate, count(self.options.agents)).await;
        self.arrived(filled).await?;
        for id in &dead {
            let nobody = json!({"agents": ["nobody"]});
            let reply = bridge.api.patch(&format!("/v1/webhooks/{id}"), &nobody).await?;
            ensure!(reply.status == 200, "PATCH answered {}: {}", reply.status, reply.excerpt());
        }
        println!(
            "{} dead webhooks, {} open after {:.1} s",
            dead.len(),
            self.watch.bridge.open().await?,
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
