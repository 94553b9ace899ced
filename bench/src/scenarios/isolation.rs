//! Ten webhooks that all match every change, one of which hangs: what the other nine notice, against the same
//! ten in good health just before.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use genesys_simulator::crm::{Behaviour, CrmOptions};
use serde_json::json;

use crate::harness::bridge::Launch;
use crate::harness::machine;
use crate::harness::world::World;
use crate::measuring::cpu::Usage;
use crate::measuring::figures::{Times, count};

/// The one that hangs.
const SICK: &str = "/sick";
/// How long POSTs may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    #[arg(long, default_value_t = 200)]
    agents: usize,
    #[arg(long, default_value_t = 10)]
    webhooks: usize,
    /// Changes a second; each goes to every webhook.
    #[arg(long, default_value_t = 60)]
    rate: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds at the same rate before each of them.
    #[arg(long, default_value_t = 20)]
    warm_up: u64,
    /// How long the sick one hangs on each POST; from 15 s on the bridge gives up first.
    #[arg(long, default_value_t = 15_000)]
    hang_ms: u64,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let mut world = World::start(launch, options.agents, CrmOptions::default()).await?;
    machine::print(&world.bridge).await;
    world.register(SICK, json!({})).await?;
    for hook in 1..options.webhooks {
        world.register(&format!("/well/{hook}"), json!({})).await?;
    }
    println!(
        "{} webhooks, {} changes a second to each, {} s after {} s of the same",
        options.webhooks, options.rate, options.seconds, options.warm_up
    );
    let mut n = 0;
    let well = measure(&world, options, &mut n, "all are well").await?;
    world.crm.always(SICK, Behaviour::status(204).after(Duration::from_millis(options.hang_ms)));
    let beside = measure(&world, options, &mut n, "one hangs").await?;
    println!(
        "  the others, with one that hangs / without: p50 {:.2}, p99 {:.2}",
        beside.at(0.5) / well.at(0.5),
        beside.at(0.99) / well.at(0.99)
    );
    world.bridge.stop().await
}

/// Warms up, then plays and gives the times of those that are well.
async fn measure(world: &World, options: &Options, n: &mut u64, what: &str) -> anyhow::Result<Times> {
    world.play(options.rate, options.warm_up, n).await;
    let first = *n;
    let usage = Usage::of(world.bridge.pid());
    let start = Instant::now();
    let changes = world.play(options.rate, options.seconds, n).await;
    let used = usage.until_now();
    let took = start.elapsed();
    let wanted = (*n - first) * count(options.webhooks - 1);
    let times = world.times(&changes, |path| path != SICK, wanted, PATIENCE).await;
    let times = times.with_context(|| what.to_owned())?;
    println!("  {what}: {}; {}", times.describe(), used.of_a_core(took));
    world.crm.forget();
    Ok(times)
}
