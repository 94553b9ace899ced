//! A million deliveries to receivers that fail and dawdle, with the bridge killed and asked to stop again and
//! again, and commits that answer late: whether each agent's changes arrive in order at each webhook, whether
//! none is lost, whether repeats are what they repeat, and whether a stop repeats nothing that was answered.
//!
//! Expected deliveries are read from the bridge's own feed: a change that came from upstream while the bridge
//! was dead is not there, and no delivery. Changes come over protocol `realtime`, because there a restart
//! costs no reading of present states.
//!
//! An agent's sequence rises, without holes within one incarnation of the database. A Postgres that was killed
//! and comes back with its own data is the same incarnation, so here no hole is allowed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use genesys_simulator::chance::Chance;
use genesys_simulator::crm::{CrmOptions, Mix};
use genesys_simulator::genesys::Target;
use serde_json::json;
use tokio::time::sleep;

use crate::harness::bridge::Launch;
use crate::harness::feed::Feed;
use crate::harness::machine;
use crate::harness::world::World;
use crate::measuring::figures::{count, float};
use crate::measuring::growth::rss_mib;
use crate::measuring::ledger::{Ended, Ledger, Tally};

/// Errors are to cost little time.
const SCHEDULE: [u32; 10] = [1, 1, 2, 2, 5, 5, 10, 10, 20, 20];
const TICK: Duration = Duration::from_millis(50);
/// Deliveries that a tick may add: more than any bridge can send meanwhile.
const PER_TICK: u64 = 1_500;
/// How long nothing may come before it counts as lost: longer than the rest of the schedule and a restart.
const PATIENCE: Duration = Duration::from_secs(180);
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long commits do not answer: longer than the bridge waits for them.
const STALL: Duration = Duration::from_millis(7_500);
/// Until the receiver has read all that a killed process had sent.
const AFTERMATH: Duration = Duration::from_millis(100);

#[derive(Args)]
pub struct Options {
    /// Deliveries that are expected in the end, at least.
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
    /// How often it is asked to stop (SIGTERM) in the middle of the stream, and started again.
    #[arg(long, default_value_t = 40)]
    stops: u64,
    /// How often the database does not answer commits for 7.5 s. Needs `psql`, and the embedded Postgres or a
    /// superuser.
    #[arg(long, default_value_t = 10)]
    stalls: u64,
    /// Open deliveries at most.
    #[arg(long, default_value_t = 20_000)]
    window: u64,
    /// One of this many POSTs has its signature checked and its JSON read; order and body are looked at in
    /// each.
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
    machine::print(&world.bridge).await;
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

/// Harm done to the bridge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blow {
    Kill,
    Stop,
    Stall,
}

struct Play<'a> {
    options: &'a Options,
    world: World,
    ledger: Arc<Ledger>,
    feed: Feed,
    chance: Chance,
    /// Counts of accepted deliveries, and the harm done at each.
    blows: VecDeque<(u64, Blow)>,
    killed: u64,
    stopped: u64,
    stalled: u64,
    /// State of each agent, as the round it stands for.
    rounds: Vec<usize>,
    /// Longest time from a start to being ready again.
    slowest_start: Duration,
}

impl<'a> Play<'a> {
    fn new(options: &'a Options, world: World, ledger: Arc<Ledger>) -> Self {
        let mut chance = Chance::new(options.seed);
        let mut blows = Vec::new();
        for (blow, times) in
            [(Blow::Kill, options.kills), (Blow::Stop, options.stops), (Blow::Stall, options.stalls)]
        {
            // One in each stretch of the way, so that all of them happen.
            let stretch = options.deliveries / (times + 1);
            blows.extend((0..times).map(|time| (stretch * time + chance.below(stretch), blow)));
        }
        blows.sort_by_key(|(at, _)| *at);
        let (blows, feed, rounds) = (blows.into(), Feed::of(options.agents), vec![0; options.agents]);
        let (killed, stopped, stalled, slowest_start) = (0, 0, 0, Duration::ZERO);
        Self { options, world, ledger, feed, chance, blows, killed, stopped, stalled, rounds, slowest_start }
    }

    async fn run_to_the_end(&mut self) -> anyhow::Result<()> {
        let webhooks = count(self.options.webhooks).max(1);
        let (mut accepted, mut moved, mut told) = (0, Instant::now(), Instant::now());
        loop {
            sleep(TICK).await;
            // A bridge that is starting answers nothing; it is asked again.
            let read = self.feed.read(&self.world.bridge.api).await;
            let (tally, expected) = (self.ledger.tally(), self.feed.events * webhooks);
            if tally.accepted != accepted {
                (accepted, moved) = (tally.accepted, Instant::now());
            }
            if let Some((_, blow)) = self.blows.pop_front_if(|(at, _)| accepted >= *at) {
                match blow {
                    Blow::Kill => self.kill().await?,
                    Blow::Stop => self.stop().await?,
                    Blow::Stall => self.stall().await?,
                }
                moved = Instant::now();
            } else if expected < self.options.deliveries {
                let open = expected.saturating_sub(accepted);
                let room = self.options.window.saturating_sub(open).min(PER_TICK);
                // At least one a tick as long as there is room at all, or few would never come with many
                // webhooks.
                for _ in 0..room.div_ceil(webhooks) {
                    self.change();
                }
            } else if accepted >= expected && read.is_ok_and(|new| new == 0) {
                return Ok(());
            }
            if moved.elapsed() > PATIENCE {
                eprintln!("nothing is accepted any more: {accepted} of {expected}");
                return Ok(());
            }
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                let (killed, stopped, stalled) = (self.killed, self.stopped, self.stalled);
                let blows = format!("{killed} kills, {stopped} stops, {stalled} stalls");
                eprintln!("{accepted} of {expected} accepted, {blows}, {} posts", tally.posts);
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
            // A bridge that is killed while it asks for a connection leaves one that nobody can tell to be
            // its own; ten of them use a client up, and this is about deliveries.
            self.world.genesys.forget_connections(Target::All);
            self.killed += 1;
            sleep(AFTERMATH + Duration::from_millis(self.chance.below(400))).await;
            self.ledger.life_ended(Ended::Killed);
            self.change(); // nobody sees this one
            let started = Instant::now();
            self.world.bridge.start_again()?;
            if self.chance.below(4) == 0 && self.blows.pop_front_if(|(_, blow)| *blow == Blow::Kill).is_some()
            {
                sleep(Duration::from_millis(self.chance.below(3_000))).await;
                continue;
            }
            return self.ready(started).await;
        }
    }

    /// Asks it to stop while changes come, and starts it again.
    async fn stop(&mut self) -> anyhow::Result<()> {
        for _ in 0..5 {
            self.change();
        }
        self.world.bridge.terminate().await?;
        self.stopped += 1;
        sleep(AFTERMATH).await;
        self.ledger.life_ended(Ended::Stopped);
        let started = Instant::now();
        self.world.bridge.start_again()?;
        self.ready(started).await
    }

    async fn ready(&mut self, started: Instant) -> anyhow::Result<()> {
        self.world.bridge.ready(READY_WITHIN).await?;
        self.slowest_start = self.slowest_start.max(started.elapsed());
        Ok(())
    }

    /// Lets commits wait for a standby that there is not, while changes come.
    async fn stall(&mut self) -> anyhow::Result<()> {
        self.world.bridge.sql("alter system set synchronous_standby_names = 'ghost'").await?;
        self.world.bridge.sql("select pg_reload_conf()").await?;
        let until = Instant::now() + STALL;
        while Instant::now() < until {
            self.change();
            sleep(TICK).await;
        }
        self.world.bridge.sql("alter system reset synchronous_standby_names").await?;
        self.world.bridge.sql("select pg_reload_conf()").await?;
        self.stalled += 1;
        Ok(())
    }

    async fn report(&self, took: Duration) -> anyhow::Result<()> {
        let Options { webhooks, agents, errors, delay_ms, .. } = self.options;
        let (tally, (lost, surplus)) = (self.ledger.tally(), self.ledger.compare(&self.feed.last));
        let expected = self.feed.events * count(*webhooks);
        let Tally {
            posts,
            accepted,
            duplicates,
            repeated_by_stops,
            repeated_within,
            inversions,
            altered,
            doubled,
            distrusted,
            unreadable,
            checked,
        } = tally;
        println!(
            "{webhooks} webhooks, {agents} agents, {errors} % errors, answers after up to {delay_ms} ms; {} kills, {} stops, \
             {} stalls",
            self.killed, self.stopped, self.stalled
        );
        println!("  changes in the feed / deliveries        {} / {expected}", self.feed.events);
        println!("  POSTs / deliveries accepted             {posts} / {accepted}");
        println!(
            "  duplicates (accepted before)            {duplicates}, {:.1} a kill",
            float(duplicates) / float(self.killed.max(1))
        );
        println!("    answered before a stop, sent again    {repeated_by_stops}");
        println!("    sent again by one and the same life   {repeated_within}");
        println!("  inversions                              {inversions}");
        println!("  lost / surplus                          {lost} / {surplus}");
        println!("  holes in an agent's sequence            {}", self.feed.holes);
        println!("  altered repeats / doubled changes       {altered} / {doubled}");
        println!("  distrusted of {checked} checked / unreadable  {distrusted} / {unreadable}");
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
            + tally.repeated_by_stops
            + lost
            + surplus
            + self.feed.holes;
        ensure!(broken == 0, "promises are broken");
        Ok(())
    }
}
