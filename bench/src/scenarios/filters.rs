//! Cost of changes of webhooks to everybody else, when there are many webhooks with long filters: deliveries
//! of one webhook, in turn without any change and with a PATCH of one of the others' filters at an interval;
//! and the memory of all of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use genesys_simulator::crm::CrmOptions;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::harness::bridge::{Launch, post};
use crate::harness::machine;
use crate::harness::world::World;
use crate::measuring::figures::Times;

/// The webhook whose deliveries are timed.
const WELL: &str = "/b";
const REGISTRATIONS_AT_ONCE: usize = 8;
/// How long POSTs may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    /// Webhooks next to the one that is timed. None of the agents that they ask for is there.
    #[arg(long, default_value_t = 10_000)]
    webhooks: usize,
    /// Agents in the filter of each.
    #[arg(long, default_value_t = 100)]
    items: usize,
    /// Agents whose presence changes.
    #[arg(long, default_value_t = 50)]
    agents: usize,
    /// Changes a second, each to the webhook that is timed.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Milliseconds from one PATCH to the next.
    #[arg(long, default_value_t = 1_000)]
    patch_ms: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Measurements without and with, one after the other.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let mut world = World::start(launch, options.agents, CrmOptions::default()).await?;
    machine::print(&world.bridge).await;
    world.register(WELL, json!({})).await?;
    let mut part = Part { world, options, n: 0, patched: 0 };
    part.measure("alone", &[]).await?;
    let start = Instant::now();
    let others = part.register_others().await?;
    println!(
        "{} webhooks of {} items registered in {:.1} s",
        others.len(),
        options.items,
        start.elapsed().as_secs_f64()
    );
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        without.push(part.measure("next to them", &[]).await?);
        with.push(part.measure("and a PATCH now and then", &others).await?);
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let of = |all: &[Times]| all.iter().map(|times| times.at(share)).fold(f64::INFINITY, f64::min);
        let (without, with) = (of(&without), of(&with));
        println!("best {name}: without {without:.2} ms, with {with:.2} ms, ratio {:.2}", with / without);
    }
    part.world.bridge.stop().await
}

struct Part<'a> {
    world: World,
    options: &'a Options,
    /// Changes so far.
    n: u64,
    /// Changes of webhooks so far.
    patched: usize,
}

/// The filter of one webhook, another one at each version.
fn filter(webhook: usize, items: usize, version: usize) -> Vec<String> {
    (0..items).map(|item| format!("{webhook:08x}-{item:04x}-{version:04x}-8192-a3b4c5d6e7f8")).collect()
}

impl Part<'_> {
    async fn register_others(&self) -> anyhow::Result<Vec<String>> {
        let (mut calls, mut ids) = (JoinSet::new(), Vec::new());
        for n in 0..self.options.webhooks {
            let (api, url) = (self.world.bridge.api.clone(), self.world.crm.url("/other"));
            let wanted = json!({"url": url, "agents": filter(n, self.options.items, 0)});
            calls.spawn(async move { post(&api, "/v1/webhooks", &wanted).await });
            if calls.len() >= REGISTRATIONS_AT_ONCE {
                ids.extend(calls.join_next().await.transpose()?.transpose()?);
            }
        }
        while let Some(answer) = calls.join_next().await {
            ids.push(answer??);
        }
        let id = |webhook: &Value| Some(webhook.get("id")?.as_str()?.to_owned());
        ids.iter().map(|webhook| id(webhook).context("no id in the answer")).collect()
    }

    /// Changes at the rate for the measurement's time; meanwhile one of these webhooks after the other is
    /// changed.
    async fn measure(&mut self, what: &str, patched: &[String]) -> anyhow::Result<Times> {
        let (world, options) = (&self.world, self.options);
        let mut n = self.n;
        let play = world.play(options.rate, options.seconds, &mut n);
        let so_far = self.patched;
        let patch = async {
            let mut answered = Vec::new();
            let mut ticks = interval(Duration::from_millis(options.patch_ms));
            for (n, id) in (so_far..).zip(patched.iter().cycle().skip(so_far)) {
                ticks.tick().await;
                if answered.len() >= usize::try_from(options.seconds * 1000 / options.patch_ms.max(1))? {
                    break;
                }
                let asked = Instant::now();
                let wanted = json!({"agents": filter(n, options.items, n + 1)});
                let reply = world.bridge.api.patch(&format!("/v1/webhooks/{id}"), &wanted).await?;
                ensure!(reply.status == 200, "PATCH answered {}: {}", reply.status, reply.excerpt());
                answered.push(asked.elapsed());
            }
            anyhow::Ok(answered)
        };
        let (changes, answered) = tokio::join!(play, patch);
        let answered = answered?;
        let wanted = n - self.n;
        self.n = n;
        self.patched += answered.len();
        let times = world.times(&changes, |path| path == WELL, wanted, PATIENCE).await;
        let times = times.with_context(|| what.to_owned())?;
        world.crm.forget();
        println!("  {what}: {}; memory {:.1} MiB", times.describe(), world.bridge.rss_mib());
        if !answered.is_empty() {
            println!("    PATCH: {}", Times::of(answered.into_iter()).describe());
        }
        Ok(times)
    }
}
