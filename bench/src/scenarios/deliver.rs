//! The usual run: latency at a steady rate, deliveries a second when flooded with one webhook and with ten,
//! and latency at half of what the flood reached.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use genesys_simulator::crm::check::Findings;
use genesys_simulator::crm::{CrmOptions, Post};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::bridge::Launch;
use crate::harness::machine;
use crate::harness::statements;
use crate::harness::world::World;
use crate::measuring::cpu::Usage;
use crate::measuring::figures::{Times, float};

#[derive(Args)]
pub struct Options {
    /// Agents, ten to an OAuth client and one to a socket.
    #[arg(long, default_value_t = 200)]
    agents: usize,
    /// Changes a second in the latency part.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Seconds of each latency part.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Changes in the flood with one webhook; with ten webhooks it is a fifth of that.
    #[arg(long, default_value_t = 60_000)]
    flood: u64,
    /// Changes that may be on their way during the flood.
    #[arg(long, default_value_t = 4_000)]
    window: u64,
    /// Floods of each kind; all are printed, and the best counts.
    #[arg(long, default_value_t = 1)]
    best_of: u32,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let mut world = World::start(launch, options.agents, CrmOptions::default()).await?;
    machine::print(&world.bridge).await;
    println!(
        "agents {}  sockets {}  idle memory {:.1} MiB",
        options.agents,
        options.agents,
        world.bridge.rss_mib()
    );
    world.register("/one", json!({})).await?;
    latency(&world, options.rate, options.seconds).await?;
    let best = floods(&world, launch, options, 1, options.flood).await?;
    latency(&world, half(best), options.seconds).await?;
    for hook in 1..10 {
        world.register(&format!("/more/{hook}"), json!({})).await?;
    }
    floods(&world, launch, options, 10, options.flood / 5).await?;
    println!("memory at the end {:.1} MiB", world.bridge.rss_mib());
    world.bridge.stop().await
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate that was just measured"
)]
const fn half(rate: f64) -> u32 {
    (rate / 2.0) as u32
}

async fn latency(world: &World, rate: u32, seconds: u64) -> anyhow::Result<()> {
    world.crm.forget();
    let before = world.crm.count();
    let changes = u64::from(rate) * seconds;
    let usage = Usage::of(world.bridge.pid());
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut numbers = Vec::new();
    for n in 0..changes {
        ticks.tick().await;
        numbers.push(world.change(n));
    }
    world.arrived(before + changes).await?;
    let used = usage.until_now();
    let posts = world.crm.posts();
    let times = Times::of(posts.iter().filter_map(|post| {
        let change = world.genesys.change(post.n()?)?;
        Some(post.arrived.saturating_duration_since(change.sent))
    }));
    report_order(&posts, numbers)?;
    println!("at {rate}/s: frame written -> POST read: {}; {}", times.describe(), used.per(changes));
    Ok(())
}

/// Floods several times; gives the best rate.
async fn floods(
    world: &World,
    launch: &Launch,
    options: &Options,
    fan_out: u64,
    changes: u64,
) -> anyhow::Result<f64> {
    let mut best: f64 = 0.0;
    for _ in 0..options.best_of.max(1) {
        if launch.statements {
            statements::reset(&world.bridge).await?;
        }
        best = best.max(flood(world, options.window, fan_out, changes).await?);
        if launch.statements {
            statements::print(&world.bridge, changes * fan_out).await?;
        }
    }
    if options.best_of > 1 {
        println!("fan-out {fan_out}, best of {}: {best:.0} deliveries/s", options.best_of);
    }
    Ok(best)
}

async fn flood(world: &World, window: u64, fan_out: u64, changes: u64) -> anyhow::Result<f64> {
    world.crm.forget();
    let before = world.crm.count();
    let usage = Usage::of(world.bridge.pid());
    let start = Instant::now();
    let mut numbers = Vec::new();
    for n in 0..changes {
        numbers.push(world.change(n));
        if n % 64 == 0 {
            // Open loop within a window: sockets and queue are never the limit, the bridge is.
            while n.saturating_sub((world.crm.count() - before) / fan_out) > window {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    world.arrived(before + changes * fan_out).await?;
    let seconds = start.elapsed().as_secs_f64();
    let used = usage.until_now();
    for group in by_path(&world.crm.posts()).values() {
        report_order(group, numbers.clone())?;
    }
    let rate = float(changes * fan_out) / seconds;
    println!(
        "flooded, fan-out {fan_out}: {rate:.0} deliveries/s  ({} in {seconds:.1} s; {})",
        changes * fan_out,
        used.per(changes * fan_out),
    );
    Ok(rate)
}

/// Fails unless every change arrived, in order, signed.
fn report_order(posts: &[Arc<Post>], numbers: Vec<u64>) -> anyhow::Result<()> {
    let findings = Findings::of(posts, numbers);
    ensure!(findings.is_clean(), "{findings:?}");
    Ok(())
}

fn by_path(posts: &[Arc<Post>]) -> HashMap<String, Vec<Arc<Post>>> {
    let mut groups: HashMap<String, Vec<_>> = HashMap::new();
    for post in posts {
        groups.entry(post.path().to_owned()).or_default().push(post.clone());
    }
    groups
}
