//! Many webhooks, of which a good part hangs on every POST: what those in good health notice, against the
//! same webhooks with all of them in good health. Each measurement has a bridge of its own; pairs take turns.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use genesys_simulator::crm::{Behaviour, Crm, CrmOptions};
use serde_json::json;

use crate::harness::bridge::Launch;
use crate::harness::machine;
use crate::harness::world::World;
use crate::measuring::figures::{Times, at};

/// How long POSTs may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args)]
pub struct Options {
    #[arg(long, default_value_t = 200)]
    agents: usize,
    #[arg(long, default_value_t = 1_000)]
    webhooks: usize,
    /// How many of them hang, all at a receiver of their own.
    #[arg(long, default_value_t = 500)]
    hanging: usize,
    /// Agents that each webhook wants; 0: all.
    #[arg(long, default_value_t = 4)]
    agents_each: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 40)]
    rate: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// Seconds at the same rate before each of them.
    #[arg(long, default_value_t = 20)]
    warm_up: u64,
    #[arg(long, default_value_t = 30_000)]
    timeout_ms: u64,
    /// Those that hang have accepted POSTs before, during the warm-up.
    #[arg(long)]
    proven: bool,
    #[arg(long, default_value_t = 5)]
    pairs: usize,
}

impl Options {
    /// Spread evenly among those that are well.
    const fn hangs(&self, hook: usize) -> bool {
        (hook + 1) * self.hanging / self.webhooks > hook * self.hanging / self.webhooks
    }
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    ensure!(options.hanging < options.webhooks, "somebody must be well");
    let mut ratios = Vec::new();
    for pair in 0..options.pairs {
        // Whoever comes first has the machine as the pair before left it: they take turns.
        let (well, beside) = if pair % 2 == 0 {
            let well = measure(launch, options, false, pair == 0).await?;
            (well, measure(launch, options, true, false).await?)
        } else {
            let beside = measure(launch, options, true, false).await?;
            (measure(launch, options, false, false).await?, beside)
        };
        let ratio = |share| beside.at(share) / well.at(share);
        println!(
            "  those that are well, with {} that hang / without: p50 {:.2}, p99 {:.2}",
            options.hanging,
            ratio(0.5),
            ratio(0.99)
        );
        ratios.push((ratio(0.5), ratio(0.99)));
    }
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut sorted: Vec<f64> = ratios.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        at(&sorted, 0.5)
    };
    println!(
        "medians of {} pairs: p50 {:.2}, p99 {:.2}",
        options.pairs,
        median(|(p50, _)| *p50),
        median(|(_, p99)| *p99)
    );
    Ok(())
}

/// Starts a bridge, warms it up, plays, and gives the times of those that are well.
async fn measure(launch: &Launch, options: &Options, hang: bool, first: bool) -> anyhow::Result<Times> {
    let sick = Crm::start(CrmOptions { keep: 0, ..CrmOptions::default() }).await?;
    let mut world = World::start(launch, options.agents, CrmOptions::default()).await?;
    if first {
        machine::print(&world.bridge).await;
    }
    let wanted_by = |hook: usize| -> Vec<usize> {
        let each = if options.agents_each == 0 { options.agents } else { options.agents_each };
        (0..each).map(|n| (hook * each + n) % options.agents).collect()
    };
    let mut listeners = vec![0; options.agents];
    for hook in 0..options.webhooks {
        let wanted = wanted_by(hook);
        let names: Vec<_> = wanted.iter().filter_map(|agent| world.agents.get(*agent).cloned()).collect();
        let settings = json!({"agents": names, "timeout_ms": options.timeout_ms});
        let path = format!("/{hook}");
        if options.hangs(hook) {
            sick.always(
                &path,
                if hang && !options.proven { Behaviour::Hang } else { Behaviour::status(204) },
            );
            let mut body = settings;
            if let Some(fields) = body.as_object_mut() {
                fields.insert("url".to_owned(), sick.url(&path).into());
            }
            world.bridge.post("/v1/webhooks", &body).await?;
        } else {
            world.register(&path, settings).await?;
            for agent in wanted {
                if let Some(listeners) = listeners.get_mut(agent) {
                    *listeners += 1;
                }
            }
        }
    }
    let mut n = 0;
    world.play(options.rate, options.warm_up, &mut n).await;
    if hang {
        for hook in (0..options.webhooks).filter(|hook| options.hangs(*hook)) {
            sick.always(&format!("/{hook}"), Behaviour::Hang);
        }
    }
    let before = n;
    let changes = world.play(options.rate, options.seconds, &mut n).await;
    let wanted: u64 = (before..n)
        .filter_map(|n| listeners.get(usize::try_from(n).unwrap_or_default() % options.agents))
        .sum();
    let times = world.times(&changes, |_| true, wanted, PATIENCE).await?;
    println!("  {}: {}", if hang { "some hang" } else { "all are well" }, times.describe());
    world.bridge.stop().await?;
    Ok(times)
}
