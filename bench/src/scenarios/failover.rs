//! A pair of Postgres servers whose primary is killed over and over while agents change, and whose standby is
//! promoted each time: how long the bridge is blind, what is lost, which numbers are given to two events, and
//! how soon after a promotion the bridge writes again. Once with a synchronous standby, which has every commit
//! that was confirmed, and once with an asynchronous one, which lacks those of the last seconds.
//!
//! An agent's sequence may jump from one incarnation of the database to the next, so holes are counted and
//! break no promise. Neither do repeats with the same id and the same bytes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::Args;
use genesys_simulator::crm::CrmOptions;
use genesys_simulator::crm::check::{Findings, repeats};
use genesys_simulator::genesys::Route;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::bridge::Launch;
use crate::harness::machine;
use crate::harness::pair::{Pair, Standby};
use crate::harness::sql::Session;
use crate::harness::world::World;
use crate::measuring::figures::{Times, count};
use crate::measuring::gaps;
use crate::measuring::numbering::{Number, Numbering};

/// Between two looks at a server that is being promoted.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing more comes once nothing waits, and nothing came for this long.
const QUIET: Duration = Duration::from_secs(3);
const SETTLED_WITHIN: Duration = Duration::from_secs(180);
/// Longer than some rounds of the sealer, which has one each 5 s.
const SEALED_WITHIN: Duration = Duration::from_secs(30);
/// Changes go on until the kills are done.
const A_DAY: u64 = 86_400;

#[derive(Args)]
pub struct Options {
    /// How often the primary is killed, with each kind of standby.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Only with a synchronous standby.
    #[arg(long, conflicts_with = "asynchronous")]
    synchronous: bool,
    /// Only with an asynchronous standby.
    #[arg(long)]
    asynchronous: bool,
    /// How far the asynchronous standby is behind.
    #[arg(long, default_value_t = 2_000)]
    behind_ms: u64,
    /// From the kill to the promotion.
    #[arg(long, default_value_t = 1_000)]
    promote_after_ms: u64,
    /// Seconds of changes with a standby before each kill.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value_t = 300)]
    agents: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    #[arg(long, default_value_t = 1)]
    webhooks: usize,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let in_time = options.synchronous || options.behind_ms < options.seconds * 1_000;
    ensure!(in_time, "the standby must be that far behind before the kill: more --seconds");
    let mut broken = Vec::new();
    if !options.asynchronous {
        broken.extend(measure(launch, options, Standby::Synchronous).await?);
    }
    if !options.synchronous {
        let behind = Duration::from_millis(options.behind_ms);
        broken.extend(measure(launch, options, Standby::Behind(behind)).await?);
    }
    ensure!(broken.is_empty(), "promises are broken: {}", broken.join("; "));
    Ok(())
}

/// All kills with one kind of standby; gives what is not as it should be.
async fn measure(launch: &Launch, options: &Options, standby: Standby) -> anyhow::Result<Vec<String>> {
    let mut pair = Pair::start(standby).await?;
    let mut world = World::start(&launch.on(pair.url()), options.agents, CrmOptions::default()).await?;
    machine::print(&world.bridge).await;
    for webhook in 0..options.webhooks {
        world.register(&path(webhook), json!({})).await?;
    }
    let mut changes = 0;
    let failovers = tokio::select! {
        failovers = fail_over_again_and_again(&mut pair, options) => failovers?,
        _ = world.play(options.rate, A_DAY, &mut changes) => bail!("the kills take more than a day"),
    };
    settle(&world).await?;
    let outcome = Outcome::of(&world, options, changes).await?;
    let kind = match standby {
        Standby::Synchronous => "synchronous standby".to_owned(),
        Standby::Behind(by) => format!("asynchronous standby, {:.1} s behind", by.as_secs_f64()),
    };
    println!(
        "{kind}: {} kills of the primary, promotion after {:.1} s; {changes} changes of {} agents at {} a second, \
         webhooks: {}",
        options.kills,
        Duration::from_millis(options.promote_after_ms).as_secs_f64(),
        options.agents,
        options.rate,
        options.webhooks
    );
    Failover::print_all(&failovers);
    outcome.print();
    world.bridge.stop().await?;
    pair.stop().await?;
    Ok(outcome.broken(&kind))
}

fn path(webhook: usize) -> String {
    format!("/w/{webhook}")
}

/// Times of one of them.
struct Failover {
    /// How old the last commit was that the standby had at the kill.
    behind: Duration,
    /// From the kill until the promoted server took a write.
    promoted: Duration,
    /// From there until the bridge had stored an event on it.
    stored: Duration,
}

async fn fail_over_again_and_again(pair: &mut Pair, options: &Options) -> anyhow::Result<Vec<Failover>> {
    let mut failovers = Vec::new();
    for kill in 1..=options.kills {
        sleep(Duration::from_secs(options.seconds)).await;
        let failover = Failover::of(pair, Duration::from_millis(options.promote_after_ms)).await?;
        eprintln!(
            "kill {kill} of {}: an event is stored {:?} after the promotion",
            options.kills, failover.stored
        );
        failovers.push(failover);
        pair.change_places();
        pair.rejoin().await?;
    }
    // As before each kill.
    sleep(Duration::from_secs(options.seconds)).await;
    Ok(failovers)
}

impl Failover {
    /// Kills the primary, and promotes the standby.
    async fn of(pair: &Pair, promote_after: Duration) -> anyhow::Result<Self> {
        let mut standby = pair.standby.session()?;
        let behind = "select extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())";
        let behind = Duration::try_from_secs_f64(standby.ask(behind).await?.parse()?)?;
        let killed = Instant::now();
        pair.primary.kill().await?;
        sleep(promote_after.saturating_sub(killed.elapsed())).await;
        let watch = async {
            let promoted = takes_a_write(&mut standby).await?;
            anyhow::Ok((promoted, has_new_event(&mut standby).await?))
        };
        // pg_promote() looks ten times a second whether it is done.
        let (done, watched) = tokio::join!(pair.standby.promote(), watch);
        let (promoted, stored) = done.and(watched)?;
        Ok(Self { behind, promoted: promoted - killed, stored: stored - promoted })
    }

    fn print_all(failovers: &[Self]) {
        let row = |what: &str, time: fn(&Self) -> Duration| {
            let times = Times::of(failovers.iter().map(time));
            println!("  {what:<58} p50 {:.0}, max {:.0} ms", times.at(0.5), times.at(1.0));
        };
        row("last commit that the standby had, before the kill", |failover| failover.behind);
        row("from the kill until the new primary takes a write", |failover| failover.promoted);
        row("from there until the bridge has stored an event", |failover| failover.stored);
    }
}

/// Waits until a standby is a primary that takes writes; gives when it was.
async fn takes_a_write(standby: &mut Session) -> anyhow::Result<Instant> {
    let by = Instant::now() + PATIENCE;
    while standby.ask("select pg_is_in_recovery()").await? == "t" {
        ensure!(Instant::now() < by, "the standby does not become the primary");
        sleep(LOOK_EVERY).await;
    }
    // A commit like any other that leaves no row.
    standby.ask("select pg_logical_emit_message(true, 'bench', '')").await?;
    Ok(Instant::now())
}

/// Waits until there is an event that was not there at the first look; gives when that was.
async fn has_new_event(primary: &mut Session) -> anyhow::Result<Instant> {
    let (by, last) = (Instant::now() + PATIENCE, "select coalesce(max(position), 0) from event");
    let before = primary.ask(last).await?;
    while primary.ask(last).await? == before {
        ensure!(Instant::now() < by, "the bridge stores nothing on the new primary");
        sleep(LOOK_EVERY).await;
    }
    Ok(Instant::now())
}

/// Waits until nothing waits any more, neither to be stored nor to be POSTed, and nothing comes.
async fn settle(world: &World) -> anyhow::Result<()> {
    let (by, mut seen, mut since) = (Instant::now() + SETTLED_WITHIN, 0, Instant::now());
    while since.elapsed() < QUIET {
        sleep(Duration::from_millis(200)).await;
        let now = world.crm.count();
        let waiting = world.bridge.metrics().await?.sum("presence_bridge_changes_waiting");
        let open = world.bridge.sql("select 1 from delivery limit 1").await?;
        if now != seen || waiting > 0.0 || !open.is_empty() {
            (seen, since) = (now, Instant::now());
        }
        if Instant::now() > by {
            // What is missing then is counted as lost.
            eprintln!("it does not settle: {now} POSTs, {waiting:.0} changes wait, {} open", open.len());
            return Ok(());
        }
    }
    Ok(())
}

/// What was seen from outside once all had settled.
struct Outcome {
    gaps: usize,
    blind: Duration,
    reopened: u64,
    /// Changes that no socket took.
    unseen: u64,
    findings: Findings,
    never_posted: usize,
    never_stored: usize,
    doubled: usize,
    repeats: usize,
    /// Events that the bridge says it has stored again, and those that it could not.
    restored: f64,
    not_restorable: f64,
    audit: Value,
}

impl Outcome {
    async fn of(world: &World, options: &Options, changes: u64) -> anyhow::Result<Self> {
        let seen = world.genesys.snapshot();
        let (mut findings, mut lost, mut numbering) =
            (Findings::default(), BTreeSet::new(), Numbering::default());
        let mut repeated = 0;
        for webhook in 0..options.webhooks {
            let posts = world.crm.received(&path(webhook));
            let of = Findings::of(&posts, 1..=changes);
            lost.extend(of.missing);
            findings.inversions.extend(of.inversions);
            findings.holes.extend(of.holes);
            findings.altered_repeats.extend(of.altered_repeats);
            findings.doubled_events.extend(of.doubled_events);
            findings.distrusted.extend(of.distrusted);
            repeated += repeats(&posts);
            for event in posts.iter().filter_map(|post| post.event.as_ref().ok()) {
                let data = &event.data;
                let number = (data.source.id.clone(), data.agent.id.clone(), data.sequence);
                numbering.saw(number, &data.event_id);
            }
        }
        let mut never_stored: BTreeSet<u64> = (1..=changes).collect();
        let sees = |event: &Value| {
            if let Some((number, event_id)) = read(event) {
                numbering.saw(number, event_id);
            }
            if let Some(change) = change_of(event) {
                never_stored.remove(&change);
            }
        };
        world.bridge.each("/v1/events", sees).await?;
        let gaps = world.bridge.all("/v1/gaps").await?;
        let metrics = world.bridge.metrics().await?;
        Ok(Self {
            gaps: gaps.len(),
            blind: gaps::total(&gaps),
            reopened: seen.requests(Route::Upgrade).saturating_sub(world.size()),
            unseen: seen.changes - seen.written,
            findings,
            never_posted: lost.len(),
            never_stored: never_stored.len(),
            doubled: numbering.doubled(),
            repeats: repeated,
            restored: metrics.sum("presence_bridge_events_restored_total"),
            not_restorable: metrics.sum("presence_bridge_events_not_restorable_total"),
            audit: audit(world).await?,
        })
    }

    fn print(&self) {
        let Findings { inversions, altered_repeats, doubled_events, distrusted, .. } = &self.findings;
        let row = |what: &str, value: String| println!("  {what:<58} {value}");
        row(
            "blind: gaps; seconds; sockets opened again; changes unseen",
            format!("{}; {:.1}; {}; {}", self.gaps, self.blind.as_secs_f64(), self.reopened, self.unseen),
        );
        row("lost: never POSTed; not in the feed", format!("{}; {}", self.never_posted, self.never_stored));
        row("doubled: numbers of two events; events under two ids", {
            format!("{}; {}", self.doubled, doubled_events.len())
        });
        row("inversions; altered repeats; wrong signatures or bodies", {
            format!("{}; {}; {}", inversions.len(), altered_repeats.len(), distrusted.len())
        });
        row("the bridge says: stored again; not restorable", {
            format!("{}; {}", self.restored, self.not_restorable)
        });
        row("repeats with the same id; holes in an agent's sequence", {
            format!("{}; {}", self.repeats, self.findings.holes.len())
        });
        let audit = |name: &str| self.audit.get(name).map(Value::to_string).unwrap_or_default();
        row("audit log: verifies; fault; not sealed; heads lost", {
            format!("{}; {}; {}; {}", audit("ok"), audit("fault"), audit("unsealed"), audit("heads_lost"))
        });
        for example in
            [inversions, altered_repeats, doubled_events, distrusted].iter().filter_map(|of| of.first())
        {
            println!("    {example}");
        }
    }

    /// Promises that do not hold.
    fn broken(&self, kind: &str) -> Vec<String> {
        let Findings { inversions, altered_repeats, doubled_events, distrusted, .. } = &self.findings;
        let unsealed = self.audit.get("unsealed").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let verifies = self.audit.get("ok") == Some(&Value::Bool(true)) && unsealed == 0;
        [
            ("gaps", count(self.gaps)),
            ("sockets opened again", self.reopened),
            ("changes unseen", self.unseen),
            ("changes never POSTed", count(self.never_posted)),
            ("changes not in the feed", count(self.never_stored)),
            ("numbers of two events", count(self.doubled)),
            ("events under two ids", count(doubled_events.len())),
            ("inversions", count(inversions.len())),
            ("altered repeats", count(altered_repeats.len())),
            ("wrong signatures or bodies", count(distrusted.len())),
            ("audit logs that do not verify or are not sealed to the end", u64::from(!verifies)),
        ]
        .into_iter()
        .filter(|(_, found)| *found > 0)
        .map(|(what, found)| format!("{kind}: {found} {what}"))
        .collect()
    }
}

/// Number and id of an event of the feed.
fn read(event: &Value) -> Option<(Number, &str)> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str);
    let (source, agent) = (text("/source/id")?.to_owned(), text("/agent/id")?.to_owned());
    Some(((source, agent, event.get("sequence")?.as_u64()?), text("/event_id")?))
}

/// Number that the simulator gave the change in it.
fn change_of(event: &Value) -> Option<u64> {
    event.pointer("/raw/n").or_else(|| event.pointer("/raw/metadata/n"))?.as_u64()
}

/// What the check of the audit log says once all of it is sealed, or does not get sealed.
async fn audit(world: &World) -> anyhow::Result<Value> {
    let by = Instant::now() + SEALED_WITHIN;
    loop {
        let verdict = world.bridge.verify_audit().await?;
        if verdict.get("unsealed") == Some(&json!(0)) || Instant::now() > by {
            return Ok(verdict);
        }
        sleep(Duration::from_secs(1)).await;
    }
}
