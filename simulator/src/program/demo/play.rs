//! Shift, kill, and the wait until everything has arrived.

use std::collections::BTreeSet;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use genesys_simulator::crm::{Crm, Post, check};
use genesys_simulator::shift::Shift;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::stage::Stage;

use super::verdict::{Blind, Evidence, Feed};
use super::{Options, bridge_api, unless_interrupted};
use crate::program::upstream::Upstream;
use crate::program::{genesys::pace, interrupted, line, say, wait};

/// Time for the last deliveries to arrive after the play.
const ARRIVAL: Duration = Duration::from_secs(60);

/// Plays, waits, judges; whether the bridge kept its promises, `None` if nobody waited for the verdict.
pub async fn run(stage: &mut Stage, options: &Options) -> anyhow::Result<Option<bool>> {
    let printer = tokio::spawn(print(stage.crm.clone(), stage.genesys.clone()));
    let killed = play(stage, options).await?;
    let evidence = unless_interrupted(arrive(stage, killed)).await;
    printer.abort();
    let Some(evidence) = evidence? else {
        return Ok(None);
    };
    let verdict = evidence.judge();
    for line in &verdict.lines {
        say(line);
    }
    Ok(Some(verdict.kept))
}

/// Prints each POST as it arrives, with the latency by one monotonic clock: frame's first byte out to body
/// read.
async fn print(crm: Crm, genesys: Upstream) {
    let mut arriving = crm.subscribe();
    loop {
        match arriving.recv().await {
            Ok(post) => {
                say(&line::of(&post, latency(&genesys, &post).map(|latency| latency.as_secs_f64() * 1e3)))
            }
            Err(RecvError::Lagged(missed)) => say(&format!("({missed} more)")),
            Err(RecvError::Closed) => return,
        }
    }
}

fn latency(genesys: &Upstream, post: &Post) -> Option<Duration> {
    Some(post.arrived.saturating_duration_since(genesys.sent(post.n()?)?))
}

/// Plays until the time is over or Ctrl-C comes; the moment of the kill, if there was one.
async fn play(stage: &mut Stage, options: &Options) -> anyhow::Result<Option<std::time::Instant>> {
    let start = Instant::now();
    let end = options.seconds.map(|seconds| start + Duration::from_secs(seconds));
    let mut kill_at = options.kill_at.map(|second| start + Duration::from_secs(second));
    let mut killed = None;
    let mut ticks = interval(pace(options.rate)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut shift = Shift::new(&stage.agents, options.seed);
    let mut interrupt = pin!(interrupted());
    loop {
        // Hears: the end of the play, Ctrl-C, the moment of the kill, the bridge's own end, the next change.
        tokio::select! {
            () = until(end) => return Ok(killed),
            signal = &mut interrupt => {
                signal?;
                say("the play is over; waiting for what is on its way (Ctrl-C again: without a verdict) …");
                return Ok(killed);
            }
            () = until(kill_at) => {
                kill_at = None;
                say("kill -9");
                killed = Some(std::time::Instant::now());
                stage.child.kill().await?;
                stage.child.start()?;
                say(&format!("bridge started again, pid {}", stage.child.pid()));
            }
            status = stage.child.ended() => bail!("the bridge ended by itself: {status}"),
            _ = ticks.tick() => {
                if let Some(step) = shift.next() {
                    stage.genesys.push_presence(&step.agent, step.state);
                }
            }
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// Waits until all has arrived, or long enough; then gathers the evidence.
async fn arrive(stage: &mut Stage, killed: Option<std::time::Instant>) -> anyhow::Result<Evidence> {
    stage.ready().await?;
    // A bridge that gave up its sockets has nothing undelivered, and would be praised for it.
    stage.all_watched().await?;
    let Some(killed) = killed else {
        let played = stage.genesys.played();
        let expected: Vec<u64> =
            played.iter().filter(|change| change.written).map(|change| change.number).collect();
        let arrived =
            stage.crm.wait_until(|posts| check::missing(posts, expected.iter().copied()).is_empty(), ARRIVAL);
        // What is still missing after the wait is the verdict's business.
        let _ = arrived.await;
        return Ok(Evidence { changes: stage.genesys.played(), posts: stage.crm.posts(), after_kill: None });
    };
    let reopened = stage.genesys.reopened(killed);
    let blind = Blind { killed, reopened };
    let (api, crm, genesys) = (&stage.api, &stage.crm, &stage.genesys);
    let complete = wait::until("the events of the feed at the CRM", ARRIVAL, async || {
        let feed = bridge_api::feed(api).await?;
        let arrived: BTreeSet<_> =
            crm.posts().iter().filter(|post| post.accepted()).filter_map(|post| post.event_id()).collect();
        let recorded: BTreeSet<u64> = feed.values().copied().flatten().collect();
        let recorded_all = genesys
            .played()
            .iter()
            .filter(|change| change.written)
            .all(|change| blind.excuses(change) || recorded.contains(&change.number));
        Ok((recorded_all && feed.keys().all(|id| arrived.contains(id))).then_some(()))
    });
    // What is still missing after the wait is the verdict's business.
    let _ = complete.await;
    let feed: Feed = bridge_api::feed(api).await?;
    let after_kill = Some((blind, feed));
    Ok(Evidence { changes: genesys.played(), posts: crm.posts(), after_kill })
}
