//! Protocol `notifications` at full size: how long until everybody is seen, what it costs to look, and
//! whether a replacement of every channel at once loses anything under load.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use genesys_simulator::cloud::{CloudOptions, Deed, Fate, Reach};
use genesys_simulator::crm::check::Findings;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::harness::bridge::Launch;
use crate::harness::watch::Watch;
use crate::measuring::cpu::Usage;
use crate::measuring::figures::at;

#[derive(Args)]
pub struct Options {
    /// Agents; a channel takes a thousand.
    #[arg(long, default_value_t = 18_000)]
    agents: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 500)]
    changes: u32,
    /// Seconds of each part.
    #[arg(long, default_value_t = 60)]
    part_seconds: u64,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let (watch, subscribed) = Watch::start(launch, options.agents, CloudOptions::default()).await?;
    println!(
        "{} agents on {} channels, everybody subscribed to after {:.1} s",
        options.agents,
        watch.channels,
        subscribed.as_secs_f64()
    );
    let start = Instant::now();
    watch.has_read(watch.channels, Duration::from_secs(600)).await?;
    let read = (subscribed + start.elapsed()).as_secs_f64();
    println!(
        "present states of all read after {read:.1} s (the platform allows 300 calls a minute); memory {:.1} MiB",
        watch.bridge.rss_mib()
    );
    watch.register().await?;
    let part = Duration::from_secs(options.part_seconds);
    let usage = Usage::of(watch.bridge.pid());
    sleep(part).await;
    println!("idle: memory {:.1} MiB; {}", watch.bridge.rss_mib(), usage.until_now().of_a_core(part));
    let first = play(&watch, options, 0, "under load").await?;
    watch.cloud.obey(Deed::Maintenance { reach: Reach::All, grace_ms: 60_000 });
    play(&watch, options, first, "with every channel replaced meanwhile").await?;
    watch
        .cloud
        .wait_until(
            |seen| seen.tally.sockets_opened == u64::try_from(2 * watch.channels).unwrap_or(0),
            Duration::from_secs(120),
        )
        .await
        .map_err(|seen| {
            anyhow::anyhow!("not every channel was replaced: {} sockets", seen.tally.sockets_opened)
        })?;
    let (rotated, gaps) =
        (watch.audit("CHANNEL_ROTATED").await?.len(), watch.bridge.all("/v1/gaps").await?.len());
    println!("{rotated} channels replaced, {gaps} gaps; memory {:.1} MiB", watch.bridge.rss_mib());
    ensure!(gaps == 0, "there must be no gap");
    watch.bridge.stop().await
}

/// Plays for a part and reports; gives the number of changes so far.
async fn play(watch: &Watch, options: &Options, first: usize, what: &str) -> anyhow::Result<usize> {
    let part = Duration::from_secs(options.part_seconds);
    let usage = Usage::of(watch.bridge.pid());
    let mut ticks = interval(Duration::from_secs(1) / options.changes.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (start, mut numbers, mut n) = (Instant::now(), Vec::new(), first);
    while start.elapsed() < part {
        ticks.tick().await;
        numbers.push(watch.change(n));
        n += 1;
    }
    let used = usage.until_now();
    let arrived = watch
        .crm
        .wait_until(
            |posts| posts.iter().filter(|post| post.n().is_some()).count() >= n,
            Duration::from_secs(120),
        )
        .await;
    if arrived.is_err() {
        return Err(missing(watch, n).await?);
    }
    let posts: Vec<_> = watch.crm.posts();
    let findings = Findings::of(&posts, numbers.iter().copied());
    ensure!(findings.is_clean(), "{findings:?}");
    let mut millis = Vec::new();
    for post in
        posts.iter().filter(|post| post.n().is_some_and(|n| numbers.first().is_some_and(|first| n >= *first)))
    {
        if let Some(change) = post.n().and_then(|n| watch.cloud.change(n)) {
            ensure!(change.fate == Fate::Written, "{change:?}");
            millis.push(post.arrived.saturating_duration_since(change.sent).as_secs_f64() * 1e3);
        }
    }
    millis.sort_by(f64::total_cmp);
    println!(
        "{what}, {}/s: {} changes, all delivered once and in order; frame -> POST p50 {:.1} ms p99 {:.1} max {:.1}; memory {:.1} MiB; {}",
        options.changes,
        numbers.len(),
        at(&millis, 0.5),
        at(&millis, 0.99),
        at(&millis, 1.0),
        watch.bridge.rss_mib(),
        used.of_a_core(part),
    );
    Ok(n)
}

/// Says what is known of changes that did not arrive.
async fn missing(watch: &Watch, played: usize) -> anyhow::Result<anyhow::Error> {
    let arrived: HashSet<u64> = watch.crm.posts().iter().filter_map(|post| post.n()).collect();
    let missing: Vec<_> =
        watch.cloud.ledger().into_iter().filter(|change| !arrived.contains(&change.number)).collect();
    let mut why = format!("{} of {played} did not arrive:", missing.len());
    for kind in
        ["STATE_STALE", "STATE_DUPLICATE", "GAP_DETECTED", "BACKPRESSURE", "CHANNEL_ROTATED", "WS_CLOSE"]
    {
        why.push_str(&format!(" {kind} {}", watch.audit(kind).await?.len()));
    }
    why.push_str(&format!("; first {:?}, last {:?}", missing.first(), missing.last()));
    Ok(anyhow::anyhow!(why))
}
