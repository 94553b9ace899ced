//! A receiver that is away while agents change: with mode `latest` it is told one state an agent when it
//! comes back, with mode `every` all that it missed. With `--database` the database is unavailable instead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use genesys_simulator::crm::{Behaviour, CrmOptions, Post};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::harness::bridge::Launch;
use crate::harness::machine;
use crate::harness::world::{World, state_of};
use crate::measuring::figures::{count, float};
use crate::scenarios::database_away::{self, Away};

const PATH: &str = "/crm";
/// So that the end of the outage is noticed soon, however long it was.
const SCHEDULE: [u32; 30] = {
    let mut waits = [10; 30];
    (waits[0], waits[1], waits[2]) = (1, 2, 5);
    waits
};
/// Nothing more comes once it was quiet for this long: longer than a wait of the schedule.
const QUIET: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Down {
    /// Nobody listens: connections are refused.
    Refused,
    /// Every POST is answered with 503.
    Status503,
}

#[derive(Args)]
pub struct Options {
    #[arg(long, default_value_t = 500)]
    agents: usize,
    /// Changes of each agent during the outage.
    #[arg(long, default_value_t = 30)]
    changes: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 300)]
    rate: u32,
    /// How the receiver is away.
    #[arg(long, value_enum, default_value = "refused")]
    down: Down,
    /// The receiver is there, and the database is unavailable: no connection to it stands or comes about.
    #[arg(long)]
    database: bool,
    /// Seconds that the database is unavailable.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    if options.database {
        let away = Away { agents: options.agents, seconds: options.seconds, rate: options.rate };
        return database_away::run(launch, &away).await;
    }
    let mut broken = Vec::new();
    for mode in ["latest", "every"] {
        let mut world = World::start(launch, options.agents, CrmOptions::default()).await?;
        if mode == "latest" {
            machine::print(&world.bridge).await;
        }
        let settings = json!({"mode": mode, "retry_schedule_seconds": SCHEDULE});
        world.register(PATH, settings).await?;
        broken.extend(play(&mut world, options, mode).await?);
        world.bridge.stop().await?;
    }
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

/// One outage; gives what is not as it should be.
async fn play(world: &mut World, options: &Options, mode: &str) -> anyhow::Result<Vec<String>> {
    let told = count(options.agents * options.changes);
    match options.down {
        Down::Refused => world.crm.stop().await,
        Down::Status503 => world.crm.always(PATH, Behaviour::status(503)),
    }
    let before = world.bridge.metrics().await?;
    let mut ticks = interval(Duration::from_secs(1) / options.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for round in 0..options.changes {
        for agent in 0..options.agents {
            ticks.tick().await;
            world.change_of(agent, round);
        }
    }
    stored(world, before.sum("presence_bridge_events_received_total"), told).await?;
    let during = world.bridge.metrics().await?;
    let refused = during.gained(&before, "presence_bridge_delivery_attempts_total");
    match options.down {
        Down::Refused => world.receiver_back().await?,
        Down::Status503 => {
            world.crm.forget();
            world.crm.always(PATH, Behaviour::default());
        }
    }
    let back = Instant::now();
    let last = quiet(world).await?;
    let posts: Vec<Arc<Post>> = world.crm.posts().into_iter().filter(|post| post.accepted()).collect();
    let seen = Seen::of(&posts);
    let tried: f64 = refused.iter().map(|(_, times)| times).sum();
    println!(
        "mode {mode}: {told} changes of {} agents while the receiver is away ({:?})",
        options.agents, options.down
    );
    println!("  POSTs tried in vain meanwhile           {tried:.0} {refused:?}");
    println!("  POSTs accepted afterwards               {}", posts.len());
    println!(
        "  of these {} different ids; superseded, all in all {}; sum {}",
        seen.ids,
        seen.superseded,
        seen.ids + seen.superseded
    );
    println!("  agents whose last state is right        {}", seen.right(world, options.changes));
    // Until the first one the bridge leaves the receiver alone: its circuit is open, and closes with the next
    // try.
    let first = posts.iter().map(|post| post.arrived).min().unwrap_or(back);
    let waited = first.saturating_duration_since(back).as_secs_f64();
    let took = last.saturating_duration_since(first).as_secs_f64();
    println!(
        "  first POST after {waited:.1} s, last one {took:.1} s later: {:.0} a second",
        float(count(posts.len())) / took.max(0.001)
    );
    Ok(seen.broken(world, options, mode, count(posts.len())))
}

/// Waits until the bridge has stored all changes.
async fn stored(world: &World, before: f64, told: u64) -> anyhow::Result<()> {
    let by = Instant::now() + PATIENCE;
    loop {
        let stored = world.bridge.metrics().await?.sum("presence_bridge_events_received_total") - before;
        if stored >= float(told) {
            return Ok(());
        }
        ensure!(Instant::now() < by, "only {stored} of {told} changes are stored");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until POSTs came and no more come; gives when the last one came.
async fn quiet(world: &World) -> anyhow::Result<Instant> {
    let (by, mut seen, mut since) = (Instant::now() + PATIENCE, 0, None);
    loop {
        sleep(Duration::from_millis(100)).await;
        let now = count(world.crm.posts().iter().filter(|post| post.accepted()).count());
        if now != seen {
            (seen, since) = (now, Some(Instant::now()));
        }
        if let Some(since) = since.filter(|since| since.elapsed() > QUIET) {
            return Ok(since);
        }
        ensure!(Instant::now() < by, "the receiver is back, and it does not get quiet: {seen} POSTs");
    }
}

/// State of the receiver in the end.
struct Seen {
    ids: u64,
    superseded: u64,
    /// Sequence and state of each agent's newest change.
    newest: HashMap<String, (u64, String)>,
    inversions: u64,
    distrusted: u64,
}

impl Seen {
    fn of(posts: &[Arc<Post>]) -> Self {
        let mut seen = Self { ids: 0, superseded: 0, newest: HashMap::new(), inversions: 0, distrusted: 0 };
        let mut ids = std::collections::HashSet::new();
        for post in posts {
            seen.distrusted += u64::from(!post.verified());
            let (Ok(event), true) = (&*post.event, ids.insert(post.webhook_id())) else { continue };
            let body: Value = serde_json::from_slice(&post.body).unwrap_or_default();
            seen.superseded += body.pointer("/data/superseded").and_then(Value::as_u64).unwrap_or(0);
            let newest = seen.newest.entry(event.agent().to_owned()).or_default();
            seen.inversions += u64::from(event.sequence() <= newest.0);
            *newest = (event.sequence(), event.state().to_owned());
        }
        seen.ids = count(ids.len());
        seen
    }

    fn right(&self, world: &World, changes: usize) -> u64 {
        let state = state_of(changes.saturating_sub(1));
        let right = |agent: &&String| self.newest.get(*agent).is_some_and(|(_, told)| told == state);
        count(world.agents.iter().filter(right).count())
    }

    fn broken(&self, world: &World, options: &Options, mode: &str, accepted: u64) -> Vec<String> {
        let (agents, told) = (world.size(), count(options.agents * options.changes));
        let expected = if mode == "latest" { agents } else { told };
        let right = self.right(world, options.changes);
        let mut broken = Vec::new();
        let mut hold = |holds: bool, what: String| {
            if !holds {
                broken.push(format!("mode {mode}: {what}"));
            }
        };
        hold(accepted == expected, format!("{accepted} POSTs instead of {expected}"));
        hold(self.ids + self.superseded == told, format!("{} are accounted for", self.ids + self.superseded));
        hold(right == agents, format!("only {right} last states are right"));
        hold(self.inversions + self.distrusted == 0, "order or signature is wrong".to_owned());
        broken
    }
}
