//! `genesys-simulator demo`: Genesys, the bridge and a CRM on one machine, and a verdict at the end.
//!
//! `stage` builds the scene, `child` owns the bridge's process, `bridge_api` speaks the bridge's REST, `play`
//! plays the shift and survives the kill, `verdict` decides by pure rules whether the bridge kept its
//! promises.
//!
//! Whatever happens, the bridge is stopped before this process ends: SIGTERM first, SIGKILL after twelve
//! seconds, and its embedded Postgres too should it be left over. Only our own `kill -9` cannot be helped
//! from inside; where `setpriv` exists (util-linux), the kernel then sends SIGTERM to the bridge for us.

mod bridge_api;
mod child;
mod play;
mod stage;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

pub use bridge_api::{add_source, pages};

use super::upstream::Protocol;
use super::{interrupted, say};

#[derive(Debug, Args)]
pub struct Options {
    /// Bridge's executable
    #[arg(long)]
    bridge: PathBuf,
    /// Play for this many seconds, then give a verdict; Ctrl-C ends the play too, a second one ends without a
    /// verdict
    #[arg(long)]
    seconds: Option<u64>,
    /// Upstream protocol to play
    #[arg(long, value_enum, default_value_t = Protocol::Notifications)]
    protocol: Protocol,
    /// Agents; protocol realtime takes ten to an OAuth client
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=500))]
    agents: u16,
    /// Presence changes per second, over all agents
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Kill the bridge with SIGKILL at this second of play, and start it again
    #[arg(long)]
    kill_at: Option<u64>,
    /// Directory for the bridge's data and log, kept afterwards; by default a temporary one
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Heartbeat interval of the upstream sockets
    #[arg(long, default_value_t = 5_000)]
    heartbeat_ms: u64,
    /// Seed of the shift
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Exit code of a process that a signal ended, as shells count it.
const INTERRUPTED: u8 = 130;

/// Builds the scene, plays, judges, and clears the stage again.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut stage = stage::Stage::build(&options).await?;
    let emergency = stage.child.emergency();
    let outcome = act(&mut stage, &options).await;
    if let Err(error) = &outcome {
        say(&format!("error: {error:#}"));
        stage.child.print_log_tail();
    }
    let second = tokio::spawn(async move {
        let Ok(mut interrupts) = signal(SignalKind::interrupt()) else {
            return;
        };
        interrupts.recv().await;
        emergency.pull();
        std::process::exit(i32::from(INTERRUPTED));
    });
    say("stopping the bridge …");
    stage.clear().await;
    second.abort();
    Ok(match outcome {
        Ok(Some(true)) => ExitCode::SUCCESS,
        Ok(Some(false)) | Err(_) => ExitCode::FAILURE,
        Ok(None) => ExitCode::from(INTERRUPTED),
    })
}

/// Opens the stage, plays and judges; whether the bridge kept its promises, `None` if nobody waited for the
/// verdict.
async fn act(stage: &mut stage::Stage, options: &Options) -> anyhow::Result<Option<bool>> {
    match unless_interrupted(stage.open(options)).await? {
        Some(()) => play::run(stage, options).await,
        None => Ok(None),
    }
}

/// Lets it go on until Ctrl-C or SIGTERM.
async fn unless_interrupted<T>(acting: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Option<T>> {
    tokio::select! {
        done = acting => done.map(Some),
        signal = interrupted() => {
            signal?;
            Ok(None)
        }
    }
}
