//! Subcommands of the program; each is a thin use of the library.

mod crm;
mod demo;
mod genesys;
mod line;
mod register;
mod upstream;
mod wait;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Plays Genesys Cloud, a CRM, or the whole scene around the bridge.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Simulated Genesys Cloud; verbs at POST /_sim/verbs
    Genesys(genesys::Options),
    /// Webhook receiver that prints each arriving POST
    Crm(crm::Options),
    /// Registers a webhook at the bridge unless it is there already
    Register(register::Options),
    /// The whole scene: Genesys, bridge and CRM, playing a shift
    Demo(demo::Options),
}

/// Runs the chosen subcommand to its end.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Genesys(options) => genesys::run(options).await.map(|()| ExitCode::SUCCESS),
        Command::Crm(options) => crm::run(options).await.map(|()| ExitCode::SUCCESS),
        Command::Register(options) => register::run(options).await.map(|()| ExitCode::SUCCESS),
        Command::Demo(options) => demo::run(options).await,
    }
}

/// Prints a line; a reader that went away (`| head`) is no reason to panic.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
