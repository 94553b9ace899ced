//! Measures the bridge as its users run it: a process of its own on its embedded Postgres (fsync on), fed by the
//! simulated Genesys Cloud over real sockets, delivering to a receiver that checks each signature.
//!
//! Everything shares this machine, so receiver and simulator take their part of the cores. Times of sending and
//! arrival are read from one monotonic clock.

mod bridge;
mod cpu;
mod hardship;
mod scale;
mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use genesys_simulator::crm::check::Findings;
use genesys_simulator::crm::{Crm, CrmOptions, Post, Secret};
use genesys_simulator::genesys::{Genesys, GenesysOptions};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use bridge::Bridge;
use cpu::Usage;

const AGENTS_PER_CLIENT: usize = 10;
const STATES: [&str; 5] = ["AVAILABLE", "ON_QUEUE", "BUSY", "AWAY", "MEETING"];

/// Prints latency at a steady rate and throughput when flooded.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// The program to measure; build it with --release.
    #[arg(long, default_value = "target/release/presence-bridge")]
    bridge: PathBuf,
    /// A Postgres to use instead of the embedded one; its CPU is not counted then.
    #[arg(long)]
    database_url: Option<String>,
    /// Agents, ten to an OAuth client and one to a socket.
    #[arg(long, default_value_t = 200)]
    agents: usize,
    /// Changes a second in the latency part.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Seconds of the latency part.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Changes in the flood with one webhook; with ten webhooks it is a fifth of that.
    #[arg(long, default_value_t = 60_000)]
    flood: u64,
    /// Changes that may be on their way during the flood.
    #[arg(long, default_value_t = 4_000)]
    window: u64,
}

/// What to measure instead of deliveries over protocol `realtime`.
#[derive(clap::Subcommand)]
enum Part {
    /// Protocol `notifications` at full size: first subscription, memory, CPU, and rotation under load.
    Scale(scale::Options),
    /// Protocol `notifications` under random hardship, and whether the truth survives it.
    Hardship(hardship::Options),
}

struct World {
    genesys: Genesys,
    crm: Crm,
    bridge: Bridge,
    agents: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match &options.part {
        Some(Part::Scale(scale)) => return scale::run(&options.bridge, scale).await,
        Some(Part::Hardship(hardship)) => return hardship::run(&options.bridge, hardship).await,
        None => {}
    }
    let world = World::start(&options).await?;
    println!(
        "agents {}  sockets {}  idle memory {:.1} MiB",
        options.agents,
        options.agents,
        world.bridge.rss_mib()
    );
    world.register("/one").await?;
    latency(&world, &options).await?;
    flood(&world, &options, 1, options.flood).await?;
    for hook in 1..10 {
        world.register(&format!("/more/{hook}")).await?;
    }
    flood(&world, &options, 10, options.flood / 5).await?;
    println!("memory at the end {:.1} MiB", world.bridge.rss_mib());
    world.bridge.stop().await
}

impl World {
    async fn start(options: &Options) -> anyhow::Result<Self> {
        let agents: Vec<String> = (0..options.agents).map(|n| format!("agent-{n:04}")).collect();
        let clients: Vec<(String, String)> = agents
            .chunks(AGENTS_PER_CLIENT)
            .enumerate()
            .map(|(n, _)| (format!("client-{n}"), format!("secret-{n}")))
            .collect();
        let genesys =
            Genesys::start(GenesysOptions { clients: clients.clone(), ..Default::default() }).await?;
        let crm = Crm::start(CrmOptions::default()).await?;
        let bridge = Bridge::start(&options.bridge, options.database_url.as_deref()).await?;
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
        Ok(Self { genesys, crm, bridge, agents })
    }

    async fn register(&self, path: &str) -> anyhow::Result<()> {
        let webhook = self.bridge.post("/v1/webhooks", &json!({"url": self.crm.url(path)})).await?;
        let secret = webhook.get("secret").and_then(|s| s.as_str()).context("no secret in the answer")?;
        self.crm.set_secrets_of(path, vec![Secret::parse(secret)?]);
        Ok(())
    }

    /// Changes the next agent's presence; gives the change's number.
    fn change(&self, n: u64) -> u64 {
        let pick = |len: usize| usize::try_from(n).unwrap_or_default() % len;
        let agent = self.agents.get(pick(self.agents.len())).map_or("", String::as_str);
        // Each round gives every agent another state than the round before.
        let round = usize::try_from(n).unwrap_or_default() / self.agents.len();
        let state = STATES.get(round % STATES.len()).copied().unwrap_or("IDLE");
        self.genesys.push_presence(agent, state)
    }

    async fn arrived(&self, total: u64) -> anyhow::Result<()> {
        self.crm
            .wait_for(total, Duration::from_secs(300))
            .await
            .map(drop)
            .map_err(|_| anyhow::anyhow!("only {} of {total} arrived", self.crm.count()))
    }
}

async fn latency(world: &World, options: &Options) -> anyhow::Result<()> {
    let before = world.crm.count();
    let changes = u64::from(options.rate) * options.seconds;
    let usage = Usage::of(world.bridge.pid());
    let mut ticks = interval(Duration::from_secs(1) / options.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut numbers = Vec::new();
    for n in 0..changes {
        ticks.tick().await;
        numbers.push(world.change(n));
    }
    world.arrived(before + changes).await?;
    let used = usage.until_now();
    let posts = since(world, before);
    let mut millis: Vec<f64> = posts
        .iter()
        .filter_map(|post| {
            let change = world.genesys.change(post.n()?)?;
            Some(post.arrived.saturating_duration_since(change.sent).as_secs_f64() * 1e3)
        })
        .collect();
    millis.sort_by(f64::total_cmp);
    report_order(&posts, numbers)?;
    println!(
        "at {}/s: frame written -> POST read: p50 {:.2} ms  p90 {:.2}  p99 {:.2}  max {:.2}  (n {}; {})",
        options.rate,
        at(&millis, 0.5),
        at(&millis, 0.9),
        at(&millis, 0.99),
        at(&millis, 1.0),
        millis.len(),
        used.per(changes),
    );
    Ok(())
}

async fn flood(world: &World, options: &Options, fan_out: u64, changes: u64) -> anyhow::Result<()> {
    let before = world.crm.count();
    let usage = Usage::of(world.bridge.pid());
    let start = Instant::now();
    let mut numbers = Vec::new();
    for n in 0..changes {
        numbers.push(world.change(n));
        if n % 64 == 0 {
            // Open loop within a window: sockets and queue are never the limit, the bridge is.
            while n.saturating_sub((world.crm.count() - before) / fan_out) > options.window {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    world.arrived(before + changes * fan_out).await?;
    let seconds = start.elapsed().as_secs_f64();
    let used = usage.until_now();
    let posts = since(world, before);
    for group in by_path(&posts).values() {
        report_order(group, numbers.clone())?;
    }
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a count for people to read")]
    let rate = (changes * fan_out) as f64 / seconds;
    println!(
        "flooded, fan-out {fan_out}: {rate:.0} deliveries/s  ({} in {seconds:.1} s; {})",
        changes * fan_out,
        used.per(changes * fan_out),
    );
    Ok(())
}

/// Fails unless every change arrived, in order, signed.
fn report_order(posts: &[Arc<Post>], numbers: Vec<u64>) -> anyhow::Result<()> {
    let findings = Findings::of(posts, numbers);
    ensure!(findings.is_clean(), "{findings:?}");
    Ok(())
}

fn since(world: &World, before: u64) -> Vec<Arc<Post>> {
    world.crm.posts().into_iter().filter(|post| post.number > before).collect()
}

fn by_path(posts: &[Arc<Post>]) -> HashMap<String, Vec<Arc<Post>>> {
    let mut groups: HashMap<String, Vec<_>> = HashMap::new();
    for post in posts {
        groups.entry(post.path().to_owned()).or_default().push(post.clone());
    }
    groups
}

/// Value at a share of a sorted list, 0 if it is empty.
pub fn at(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index into a list of some thousands"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}
