//! A million deliveries to receivers that fail and dawdle, with the bridge killed again and again: whether each agent's
//! changes arrive in order at each webhook, whether none is lost, and whether repeats are what they repeat.
//!
//! What is owed is read from the bridge's own feed: a change that came from upstream while the bridge was dead is not
//! there, and no delivery. Changes come over protocol `realtime`, because there a restart costs no reading of present
//! states.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use genesys_simulator::chance::Chance;
use genesys_simulator::crm::{CrmOptions, Mix};
use genesys_simulator::genesys::Target;
use genesys_simulator::http::Api;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::bridge::{Launch, rss_mib};
use crate::figures::{count, float, print_machine};
use crate::ledger::{Ledger, Tally, agent_number};
use crate::world::World;

/// Errors are to cost little time.
const SCHEDULE: [u32; 10] = [1, 1, 2, 2, 5, 5, 10, 10, 20, 20];
const TICK: Duration = Duration::from_millis(50);
/// Deliveries that a tick may add: more than any bridge can send meanwhile.
const PER_TICK: u64 = 1_500;
/// How long nothing may come before it counts as lost: longer than the rest of the schedule and a restart.
const PATIENCE: Duration = Duration::from_secs(180);
const READY_WITHIN: Duration = Duration::from_secs(120);

#[derive(Args)]
pub struct Options {
    /// Deliveries that are owed in the end, at least.
    #[arg(long, default_value_t = 1_000_000)]
    deliveries: u64,
    #[arg(long, default_value_t = 200)]
    webhooks: usize,
    #[arg(long, default_value_t = 100)]
    agents: usize,
    /// POSTs of a hundred that fail: 500, 503, closed, reset.
    #[arg(long, default_value_t = 10)]
    errors: u64,
    /// Longest wait before an answer; each is random.
    #[arg(long, default_value_t = 50)]
    delay_ms: u64,
    /// How often the bridge is killed (kill -9), at random moments.
    #[arg(long, default_value_t = 40)]
    kills: u64,
    /// Open deliveries at most.
    #[arg(long, default_value_t = 20_000)]
    window: u64,
    /// Of so many POSTs one has its signature checked and its JSON read; order and body are looked at in each.
    #[arg(long, default_value_t = 20)]
    judge_every: u64,
    /// Seed of what happens.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let ledger = Arc::new(Ledger::new(options.webhooks, options.agents, options.judge_every));
    let crm = CrmOptions { keep: 0, observer: Some(ledger.clone()), ..CrmOptions::default() };
    let mut world = World::start(launch, options.agents, crm).await?;
    print_machine(&world.bridge).await;
    let mix = Mix::new(options.seed).errors(options.errors);
    world.crm.always_everywhere(mix.delays(Duration::ZERO..=Duration::from_millis(options.delay_ms)));
    for webhook in 0..options.webhooks {
        let settings = json!({"retry_schedule_seconds": SCHEDULE});
        world.register(&format!("/w/{webhook}"), settings).await?;
    }
    let start = Instant::now();
    let mut play = Play::new(options, world, ledger);
    play.run_to_the_end().await?;
    play.report(start.elapsed()).await?;
    let verdict = play.verdict();
    play.world.bridge.stop().await?;
    verdict
}

struct Play<'a> {
    options: &'a Options,
    world: World,
    ledger: Arc<Ledger>,
    feed: Feed,
    chance: Chance,
    /// Counts of accepted deliveries at which the bridge is killed.
    kills: VecDeque<u64>,
    killed: u64,
    /// State of each agent, as the round it stands for.
    rounds: Vec<usize>,
    /// Longest time from a start to being ready again.
    slowest_start: Duration,
}

impl<'a> Play<'a> {
    fn new(options: &'a Options, world: World, ledger: Arc<Ledger>) -> Self {
        let mut chance = Chance::new(options.seed);
        // One in each stretch of the way, so that all of them happen.
        let stretch = options.deliveries / (options.kills + 1);
        let kills = (0..options.kills).map(|kill| stretch * kill + chance.below(stretch)).collect();
        let feed = Feed { cursor: None, last: vec![0; options.agents], events: 0, holes: 0 };
        let rounds = vec![0; options.agents];
        Self { options, world, ledger, feed, chance, kills, killed: 0, rounds, slowest_start: Duration::ZERO }
    }

    async fn run_to_the_end(&mut self) -> anyhow::Result<()> {
        let webhooks = count(self.options.webhooks).max(1);
        let (mut accepted, mut moved, mut told) = (0, Instant::now(), Instant::now());
        loop {
            sleep(TICK).await;
            // A bridge that is starting answers nothing; it is asked again.
            let read = self.feed.read(&self.world.bridge.api).await;
            let (tally, owed) = (self.ledger.tally(), self.feed.events * webhooks);
            if tally.accepted != accepted {
                (accepted, moved) = (tally.accepted, Instant::now());
            }
            if self.kills.front().is_some_and(|at| accepted >= *at) {
                self.kills.pop_front();
                self.kill().await?;
                moved = Instant::now();
            } else if owed < self.options.deliveries {
                let open = owed.saturating_sub(accepted);
                let room = self.options.window.saturating_sub(open).min(PER_TICK);
                // At least one a tick as long as there is room at all, or few would never come with many webhooks.
                for _ in 0..room.div_ceil(webhooks) {
                    self.change();
                }
            } else if accepted >= owed && read.is_ok_and(|new| new == 0) {
                return Ok(());
            }
            if moved.elapsed() > PATIENCE {
                eprintln!("nothing is accepted any more: {accepted} of {owed}");
                return Ok(());
            }
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                eprintln!("{accepted} of {owed} accepted, {} kills, {} posts", self.killed, tally.posts);
            }
        }
    }

    fn change(&mut self) {
        let agent = self.chance.below(count(self.options.agents));
        let agent = usize::try_from(agent).unwrap_or_default();
        if let Some(round) = self.rounds.get_mut(agent) {
            *round += 1;
            self.world.change_of(agent, *round);
        }
    }

    /// Kills it, and starts it again after a moment; now and then kills it once more before it is ready.
    async fn kill(&mut self) -> anyhow::Result<()> {
        loop {
            self.world.bridge.kill().await?;
            // A bridge that is killed while it asks for a connection leaves one that nobody can tell to be its own; ten
            // of them use a client up, and this is about deliveries.
            self.world.genesys.forget_connections(Target::All);
            self.killed += 1;
            sleep(Duration::from_millis(self.chance.below(500))).await;
            self.change(); // nobody sees this one
            let started = Instant::now();
            self.world.bridge.start_again()?;
            if self.chance.below(4) == 0 && self.kills.pop_front().is_some() {
                sleep(Duration::from_millis(self.chance.below(3_000))).await;
                continue;
            }
            self.world.bridge.ready(READY_WITHIN).await?;
            self.slowest_start = self.slowest_start.max(started.elapsed());
            return Ok(());
        }
    }

    async fn report(&self, took: Duration) -> anyhow::Result<()> {
        let Options { webhooks, agents, errors, delay_ms, .. } = self.options;
        let (tally, (lost, surplus)) = (self.ledger.tally(), self.ledger.compare(&self.feed.last));
        let owed = self.feed.events * count(*webhooks);
        let Tally {
            posts,
            accepted,
            duplicates,
            inversions,
            altered,
            doubled,
            distrusted,
            unreadable,
            judged,
        } = tally;
        println!(
            "{webhooks} webhooks, {agents} agents, {errors} % errors, answers after up to {delay_ms} ms, {} kills",
            self.killed
        );
        println!("  changes in the feed / deliveries owed   {} / {owed}", self.feed.events);
        println!("  POSTs / deliveries accepted             {posts} / {accepted}");
        println!(
            "  duplicates (accepted before)            {duplicates}, {:.1} a kill",
            float(duplicates) / float(self.killed.max(1))
        );
        println!("  inversions                              {inversions}");
        println!("  lost / surplus / holes in the feed      {lost} / {surplus} / {}", self.feed.holes);
        println!("  altered repeats / doubled changes       {altered} / {doubled}");
        println!("  distrusted of {judged} judged / unreadable   {distrusted} / {unreadable}");
        println!(
            "  took {:.0} s: {:.0} deliveries/s; slowest start {:.1} s; memory {:.1} MiB, bench {:.1} MiB",
            took.as_secs_f64(),
            float(accepted) / took.as_secs_f64(),
            self.slowest_start.as_secs_f64(),
            self.world.bridge.rss_mib(),
            rss_mib(std::process::id())
        );
        for example in self.ledger.examples() {
            println!("    {example}");
        }
        if lost > 0 {
            println!("    the bridge has {} open", self.world.bridge.open().await?);
        }
        Ok(())
    }

    fn verdict(&self) -> anyhow::Result<()> {
        let (tally, (lost, surplus)) = (self.ledger.tally(), self.ledger.compare(&self.feed.last));
        let broken = tally.inversions
            + tally.altered
            + tally.doubled
            + tally.distrusted
            + tally.unreadable
            + lost
            + surplus
            + self.feed.holes;
        ensure!(broken == 0, "promises are broken");
        Ok(())
    }
}

/// The bridge's feed as far as it was read.
struct Feed {
    cursor: Option<String>,
    /// Last sequence of each agent.
    last: Vec<u64>,
    events: u64,
    holes: u64,
}

impl Feed {
    /// Reads on; gives how many events were new.
    async fn read(&mut self, api: &Api) -> anyhow::Result<u64> {
        let mut new = 0;
        loop {
            let cursor = self.cursor.as_ref().map(|cursor| format!("&cursor={cursor}"));
            let reply = api.get(&format!("/v1/events?limit=200{}", cursor.unwrap_or_default())).await?;
            ensure!(reply.status == 200, "the feed answered {}", reply.status);
            let page = reply.json();
            let items = page.get("items").and_then(Value::as_array).context("no items")?;
            for item in items {
                self.take(item).with_context(|| format!("no presence change: {item}"))?;
            }
            new += count(items.len());
            self.cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if items.len() < 200 {
                return Ok(new);
            }
        }
    }

    fn take(&mut self, item: &Value) -> Option<()> {
        let sequence = item.get("sequence")?.as_u64()?;
        let agent = agent_number(item.pointer("/agent/id")?.as_str()?)?;
        let last = self.last.get_mut(agent)?;
        self.holes += u64::from(sequence != *last + 1);
        *last = sequence;
        self.events += 1;
        Some(())
    }
}
