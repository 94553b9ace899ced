//! A database that is away while agents change, as in a failover: whether anything is lost, whether sockets
//! stay, what the waiting changes cost in memory, and how soon all of them are stored.

use std::time::{Duration, Instant};

use anyhow::ensure;
use genesys_simulator::crm::CrmOptions;
use genesys_simulator::crm::check::Findings;
use genesys_simulator::genesys::Route;
use genesys_simulator::relay::Mode;
use serde_json::json;
use tokio::time::sleep;

use crate::harness::bridge::{Bridge, Launch};
use crate::harness::machine;
use crate::harness::postgres::Postgres;
use crate::harness::world::World;
use crate::measuring::figures::float;
use crate::measuring::growth::rss_mib;

const PATH: &str = "/crm";
/// Seconds of changes before, so that everything has been used.
const WARM_UP: u64 = 5;
/// What the bridge promises: all is stored this soon after the database is back, in this much memory.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);
const MEMORY_MIB_MAX: f64 = 256.0;
const PATIENCE: Duration = Duration::from_secs(600);

/// How long the database is unavailable, and what changes meanwhile.
pub struct Away {
    pub agents: usize,
    pub seconds: u64,
    pub rate: u32,
}

pub async fn run(launch: &Launch, away: &Away) -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let mut world = World::start(&launch.on(postgres.url()), away.agents, CrmOptions::default()).await?;
    machine::print(&world.bridge).await;
    for ask in ["alter system set fsync = on", "select pg_reload_conf()"] {
        world.bridge.sql(ask).await?;
    }
    world.register(PATH, json!({})).await?;
    let broken = play(&world, &postgres, away).await;
    world.bridge.stop().await?;
    postgres.stop().await?;
    let broken = broken?;
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

/// One outage; gives what is not as it should be.
async fn play(world: &World, postgres: &Postgres, away: &Away) -> anyhow::Result<Vec<String>> {
    let mut told = 0;
    world.play(away.rate, WARM_UP, &mut told).await;
    world.arrived(told).await?;
    let (pid, sockets) = (world.bridge.pid(), world.genesys.snapshot().requests(Route::Upgrade));
    let rss_before = rss_mib(pid);
    postgres.relay.set(Mode::Refuse);
    world.play(away.rate, away.seconds, &mut told).await;
    let (waiting, rss_away) = (waiting(&world.bridge).await?, rss_mib(pid));
    postgres.relay.set(Mode::Pass);
    let back = Instant::now();
    // Changes go on as before.
    let drained = tokio::select! {
        drained = drained(&world.bridge, f64::from(away.rate)) => drained?,
        _ = world.play(away.rate, PATIENCE.as_secs(), &mut told) => PATIENCE,
    };
    let rss_drained = rss_mib(pid);
    world.arrived(told).await?;
    let delivered = back.elapsed();
    let gaps = world.bridge.all("/v1/gaps").await?.len();
    let seen = world.genesys.snapshot();
    let opened = seen.requests(Route::Upgrade) - sockets;
    let findings = Findings::of(&world.crm.posts(), 1..=told);
    let memory = rss_away.max(rss_drained);
    println!(
        "{told} changes of {} agents at {} a second; the database is unavailable for {} s",
        away.agents, away.rate, away.seconds
    );
    println!("  changes waiting at the end of it             {waiting:.0}");
    println!(
        "  memory before, at its end, once drained      {rss_before:.0}, {rss_away:.0}, {rss_drained:.0} MiB"
    );
    println!(
        "  memory for each waiting change               {:.2} KiB",
        (rss_away - rss_before) * 1024.0 / waiting
    );
    println!(
        "  drained, while changes go on                 {:.1} s after it is back",
        drained.as_secs_f64()
    );
    println!(
        "  all POSTed                                   {:.1} s after it is back",
        delivered.as_secs_f64()
    );
    println!("  gaps; sockets opened again                   {gaps}; {opened}");
    println!(
        "  lost; inversions; holes; doubled events      {}; {}; {}; {}",
        findings.missing.len(),
        findings.inversions.len(),
        findings.holes.len(),
        findings.doubled_events.len()
    );
    let mut broken = Vec::new();
    let mut hold = |holds: bool, what: String| {
        if !holds {
            broken.push(what);
        }
    };
    hold(findings.is_clean(), format!("{findings:#?}"));
    hold(gaps == 0 && opened == 0, format!("{gaps} gaps, {opened} sockets opened again"));
    hold(memory <= MEMORY_MIB_MAX, format!("{memory:.0} MiB of memory"));
    hold(drained <= DRAINED_WITHIN, format!("drained after {drained:?}"));
    hold(waiting > float(away.seconds) * f64::from(away.rate) * 0.9, format!("only {waiting} waited"));
    Ok(broken)
}

async fn waiting(bridge: &Bridge) -> anyhow::Result<f64> {
    Ok(bridge.metrics().await?.sum("presence_bridge_changes_waiting"))
}

/// Waits until no more wait than come in a second; gives how long that took.
async fn drained(bridge: &Bridge, few: f64) -> anyhow::Result<Duration> {
    let start = Instant::now();
    while waiting(bridge).await? > few {
        ensure!(start.elapsed() < PATIENCE, "the changes that wait do not become fewer");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(start.elapsed())
}
