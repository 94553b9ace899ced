//! Measures the bridge as its users run it: a process of its own on its embedded Postgres (fsync on), fed by
//! the simulated Genesys Cloud over real sockets, delivering to a receiver that checks what it gets.
//!
//! Everything shares this machine, so receiver and simulator take their part of the cores: their CPU is
//! printed next to the bridge's. Times of sending and arrival are read from one monotonic clock.
//! docs/benchmarks.md says what each part is for.

mod harness;
mod measuring;
mod scenarios;

use clap::Parser;

use harness::bridge::Launch;
use scenarios::{
    console, deliver, ends, failover, filters, hanging, hardship, isolation, many, order, outage, removal,
    scale,
};

/// Prints latency at a steady rate and throughput when flooded; or what a part measures.
#[derive(Parser)]
struct CommandLine {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    launch: Launch,
    #[command(flatten)]
    deliver: deliver::Options,
}

/// What to measure instead of latency and throughput over protocol `realtime`.
#[derive(clap::Subcommand)]
enum Part {
    /// Protocol `notifications` at full size: first subscription, memory, CPU, and rotation under load.
    Scale(scale::Options),
    /// Protocol `notifications` under random hardship, and whether the truth survives it.
    Hardship(hardship::Options),
    /// A million deliveries to receivers that fail and dawdle, the bridge killed and stopped over and over,
    /// commits that answer late: whether order holds, nothing is lost, and a stop repeats nothing.
    Order(order::Options),
    /// A receiver that is away while agents change: what it is told when it comes back, in either mode. Or a
    /// database that is away: what is lost, what it costs to wait for it, and how soon all is stored.
    Outage(outage::Options),
    /// The primary of a pair of Postgres servers is killed over and over, and its standby promoted: how long the
    /// bridge is blind, what is lost, which numbers are given twice, and how soon it writes again.
    Failover(failover::Options),
    /// One receiver of ten hangs: what the other nine notice.
    Isolation(isolation::Options),
    /// Half of a thousand receivers hang: what those in good health notice.
    Hanging(hanging::Options),
    /// Ten thousand webhooks, some of them dead with much open: what it costs those that live.
    Many(many::Options),
    /// A webhook with millions of open deliveries is removed, disabled, resumed: what the others notice.
    Removal(removal::Options),
    /// Ten thousand webhooks with long filters, one of which is changed each second: what another one
    /// notices.
    Filters(filters::Options),
    /// Pages of the console on much data while changes flow, and what ten open consoles cost the flow.
    Console(console::Options),
    /// How many changes the simulated upstream can send, and how many POSTs the receiver can take, without
    /// any bridge.
    Ends(ends::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let CommandLine { part, launch, deliver } = CommandLine::parse();
    match &part {
        None => deliver::run(&launch, &deliver).await,
        Some(Part::Scale(options)) => scale::run(&launch, options).await,
        Some(Part::Hardship(options)) => hardship::run(&launch, options).await,
        Some(Part::Order(options)) => order::run(&launch, options).await,
        Some(Part::Outage(options)) => outage::run(&launch, options).await,
        Some(Part::Failover(options)) => failover::run(&launch, options).await,
        Some(Part::Isolation(options)) => isolation::run(&launch, options).await,
        Some(Part::Hanging(options)) => hanging::run(&launch, options).await,
        Some(Part::Many(options)) => many::run(&launch, options).await,
        Some(Part::Removal(options)) => removal::run(&launch, options).await,
        Some(Part::Filters(options)) => filters::run(&launch, options).await,
        Some(Part::Console(options)) => console::run(&launch, options).await,
        Some(Part::Ends(options)) => ends::run(options).await,
    }
}
