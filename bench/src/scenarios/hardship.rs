//! Protocol `notifications` under random hardship for as long as one likes. Afterwards the last delivered
//! state of every agent must be the platform's, every change that did not arrive must lie in a gap that the
//! bridge admits to, and no channel may listen that nobody holds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use genesys_simulator::clock::parse_rfc3339;
use genesys_simulator::cloud::{Change, CloudOptions, Deed, Fate, Fault, Manner, Place, Reach};
use genesys_simulator::crm::check::Findings;
use genesys_simulator::shift::Shift;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::harness::bridge::Launch;
use crate::harness::watch::Watch;
use crate::measuring::growth::Growth;

/// Time for the last things to come right.
const PATIENCE: Duration = Duration::from_secs(240);

#[derive(Args)]
pub struct Options {
    /// Agents; a channel takes a thousand.
    #[arg(long, default_value_t = 2_500)]
    agents: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 40)]
    changes: u32,
    /// How long faults are played, in seconds.
    #[arg(long, default_value_t = 600)]
    hardship_seconds: u64,
    /// Webhooks of hostile receivers next to the one that is checked.
    #[arg(long, default_value_t = 0)]
    hostile: usize,
    /// Seed of what happens.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let (watch, subscribed) = Watch::start(launch, options.agents, CloudOptions::default()).await?;
    println!(
        "{} agents on {} channels after {:.1} s",
        options.agents,
        watch.channels,
        subscribed.as_secs_f64()
    );
    watch.register().await?;
    watch.has_read(watch.channels, PATIENCE).await?;
    let hostile = crate::harness::hostile::register(&watch.bridge, &watch.agents, options.hostile).await?;
    let growth = Growth::of(watch.bridge.pid());
    let end = Instant::now() + Duration::from_secs(options.hardship_seconds);
    let playing = async {
        let mut ticks = interval(Duration::from_secs(1) / options.changes.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for step in Shift::new(&watch.agents, options.seed) {
            ticks.tick().await;
            if Instant::now() >= end {
                return;
            }
            watch.cloud.push_presence(&step.agent, step.state);
        }
    };
    let ((), done) = tokio::join!(playing, torment(&watch, options, end));
    for (deed, times) in done {
        println!("  {times:>4} × {deed}");
    }
    watch.cloud.obey(Deed::ClearFaults);
    // The longest that blindness lasts is that of a channel that is silent (35 s), of one that was displaced
    // (60 s), and a wait before the next try (30 s).
    sleep(Duration::from_secs(100)).await;
    watch.sees_all(PATIENCE).await?;
    settle(&watch).await?;
    growth.print();
    println!("  POSTs to hostile receivers                   {}", hostile.count());
    judge(&watch, options).await?;
    watch.bridge.stop().await
}

/// Hurts now and then until the end; gives what it did how often.
async fn torment(watch: &Watch, options: &Options, end: Instant) -> BTreeMap<String, u32> {
    let mut chance = options.seed;
    let mut below = |limit: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % limit
    };
    let mut done = BTreeMap::new();
    loop {
        sleep(Duration::from_millis(8_000 + below(12_000))).await;
        if Instant::now() >= end {
            return done;
        }
        let reach = match below(8) {
            0 => Reach::All,
            _ => Reach::Nth(usize::try_from(below(u64::try_from(watch.channels).unwrap_or(1))).unwrap_or(0)),
        };
        let storm = |place| Deed::Fault { place, fault: Fault::status(429).retry_after("2").times(3) };
        let deed = match below(13) {
            0 => Deed::Drop { reach },
            1 => Deed::Silence { reach },
            2 => Deed::Close { reach, code: 1001, reason: "going away".to_owned() },
            3 => Deed::Close { reach, code: 1011, reason: "internal error".to_owned() },
            4 => Deed::Displace { reach, manner: Manner::Silent },
            5 => Deed::Displace { reach, manner: Manner::Mute },
            6 => Deed::Displace { reach, manner: Manner::Notice },
            7 => Deed::ExpireTokens,
            8 => Deed::RevokeTokens,
            9 => Deed::ExpireChannels { reach },
            10 => Deed::Maintenance { reach, grace_ms: 20_000 },
            11 => {
                for place in [Place::CreateChannel, Place::PutSubscriptions, Place::BulkPresence] {
                    watch.cloud.obey(storm(place));
                }
                storm(Place::Users)
            }
            _ => Deed::Fault { place: Place::Login, fault: Fault::status(503).times(2) },
        };
        let name = format!("{deed:?}");
        let name = name.split([' ', '{']).next().unwrap_or_default().to_owned();
        *done.entry(name).or_default() += 1;
        watch.cloud.obey(deed);
    }
}

/// Waits until nothing new is read and nothing new arrives.
async fn settle(watch: &Watch) -> anyhow::Result<()> {
    let by = Instant::now() + PATIENCE;
    let mut before = (0, 0);
    loop {
        sleep(Duration::from_secs(10)).await;
        let now = (watch.audit("RESYNC_DONE").await?.len(), watch.crm.count());
        let open = watch.bridge.all("/v1/gaps?open=true").await?.len();
        if now == before && open == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < by, "it does not settle: {now:?}, {open} gaps open");
        before = now;
    }
}

async fn judge(watch: &Watch, options: &Options) -> anyhow::Result<()> {
    let posts = watch.crm.posts();
    let findings = Findings::of(&posts, []);
    let mut last: HashMap<String, (u64, Value)> = HashMap::new();
    let mut told = HashSet::new();
    // States that were read and told before, or in the place of, what a socket brought.
    let mut read: HashMap<String, Vec<time::OffsetDateTime>> = HashMap::new();
    for post in &posts {
        let Ok(event) = &*post.event else { continue };
        told.extend(post.n());
        if event.data.origin == "resync" {
            let at = event.data.occurred_at.as_deref().and_then(parse_rfc3339);
            read.entry(event.agent().to_owned()).or_default().extend(at);
        }
        let body: Value = serde_json::from_slice(&post.body)?;
        let newest = last.entry(event.agent().to_owned()).or_default();
        if event.sequence() > newest.0 {
            *newest = (event.sequence(), body);
        }
    }
    let mut wrong = Vec::new();
    for person in watch.cloud.people() {
        let delivered = last.get(&person.id).map(|(_, body)| {
            let text =
                |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            (text("/data/presence/system"), text("/data/routing_status/status"))
        });
        // Nobody was told of those who were read before the webhook was registered and have not changed
        // since.
        if delivered
            .as_ref()
            .is_some_and(|delivered| *delivered != (person.presence.clone(), person.routing.clone()))
        {
            wrong.push(format!(
                "{} {:?} instead of {} {}",
                person.id, delivered, person.presence, person.routing
            ));
        }
    }
    let gaps = watch.bridge.all("/v1/gaps").await?;
    let blind = Blind::read(&gaps);
    let ledger = watch.cloud.ledger();
    let unseen: Vec<&Change> = ledger.iter().filter(|change| change.fate != Fate::Written).collect();
    let silent: Vec<&&Change> = unseen.iter().filter(|change| !blind.covers(change)).collect();
    // Away and back while nobody saw: what came back is what was told last, and is dropped as known.
    let mut known: HashMap<String, Vec<time::OffsetDateTime>> = HashMap::new();
    for entry in watch.audit("STATE_DUPLICATE").await? {
        let agent = entry.get("agent_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let at = entry.pointer("/data/state/presence/at").and_then(Value::as_str).and_then(parse_rfc3339);
        known.entry(agent).or_default().extend(at);
    }
    let as_before = |change: &Change| {
        let same = |at: &time::OffsetDateTime| (*at - change.at).abs() < time::Duration::milliseconds(5);
        known.get(&change.agent).is_some_and(|known| known.iter().any(same))
    };
    let superseded = |change: &Change| {
        read.get(&change.agent).is_some_and(|read| read.iter().any(|at| overtakes(*at, change)))
    };
    let unheard: Vec<&Change> = ledger
        .iter()
        .filter(|change| change.fate == Fate::Written && !told.contains(&change.number))
        .filter(|change| !blind.covers(change) && !superseded(change) && !as_before(change))
        .collect();
    let seen = watch.cloud.snapshot();
    let listening = seen.channels.iter().filter(|channel| channel.topics > 0).count();
    println!(
        "after {} s: {} changes, {} not written to a socket, {} gaps",
        options.hardship_seconds,
        ledger.len(),
        unseen.len(),
        gaps.len()
    );
    println!("  last delivered state not the platform's      {}", wrong.len());
    println!("  changes unseen outside of any gap            {}", silent.len());
    println!("  changes written, not told, outside any gap   {}", unheard.len());
    println!(
        "  inversions, holes, altered repeats, distrust {} {} {} {}",
        findings.inversions.len(),
        findings.holes.len(),
        findings.altered_repeats.len(),
        findings.distrusted.len()
    );
    println!("  channels that listen / are needed            {listening} / {}", watch.channels);
    println!(
        "  channels made, evicted, sockets opened       {} {} {}",
        seen.tally.channels_made, seen.tally.evictions, seen.tally.sockets_opened
    );
    for example in wrong.iter().take(5) {
        println!("    wrong: {example}");
    }
    for example in silent.iter().map(|told| **told).chain(unheard.iter().copied()).take(8) {
        println!("    unexplained: {example:?}");
    }
    ensure!(
        findings.is_clean() && wrong.is_empty() && silent.is_empty() && unheard.is_empty(),
        "promises are broken"
    );
    ensure!(listening == watch.channels && seen.connected() == watch.channels, "channels are left over");
    Ok(())
}

/// Whether a state that was read is this change, or a newer one that came before its frame.
fn overtakes(read: time::OffsetDateTime, change: &Change) -> bool {
    let ahead = read - change.at;
    (time::Duration::milliseconds(-5)..time::Duration::seconds(60)).contains(&ahead)
}

/// The times in which the bridge says that it could not see an agent.
struct Blind<'a> {
    by_agent: HashMap<&'a str, Vec<(time::OffsetDateTime, Option<time::OffsetDateTime>)>>,
}

impl<'a> Blind<'a> {
    fn read(gaps: &'a [Value]) -> Self {
        let mut by_agent: HashMap<&str, Vec<_>> = HashMap::new();
        for gap in gaps {
            let time = |name: &str| parse_rfc3339(gap.get(name)?.as_str()?);
            let Some(from) = time("from") else { continue };
            let agents = gap.get("agents").and_then(Value::as_array);
            for agent in agents.into_iter().flatten().filter_map(Value::as_str) {
                by_agent.entry(agent).or_default().push((from, time("to")));
            }
        }
        Self { by_agent }
    }

    fn covers(&self, change: &Change) -> bool {
        let gaps = self.by_agent.get(change.agent.as_str());
        gaps.is_some_and(|gaps| {
            gaps.iter().any(|(from, to)| *from <= change.at && to.is_none_or(|to| change.at <= to))
        })
    }
}
