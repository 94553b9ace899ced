//! The program `presence-bridge`: reads the command line and the configuration, runs a subcommand, and says
//! how that ended by its exit code: 0 all is well, 1 it failed, 2 wrong configuration or command line.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use presence_bridge::cli::{
    audit, check_config, daily, doctor, healthcheck, manual, migrate, rotate_master_key, serve,
};
use presence_bridge::config::{self, ClientSettings, Config, ConfigError, VARIABLES, Variables};
use presence_bridge::telemetry;

/// The C library's own keeps most of what a burst has used: 300 MiB after a backlog where this one keeps 67
/// (ADR 0018).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bridges Genesys Cloud agent presence to signed webhooks.
#[derive(Parser)]
#[command(version, about, after_help = variables_help(), disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Here(Here),
    #[command(flatten)]
    Daily(Box<daily::Daily>),
    /// Print what completes this command line in a shell.
    #[command(after_help = manual::COMPLETIONS_EXAMPLE)]
    Completions(manual::Completions),
    /// Write manual pages.
    #[command(after_help = manual::MAN_EXAMPLE)]
    Man(manual::Man),
}

/// The commands that run with the bridge's own configuration.
#[derive(Subcommand)]
enum Here {
    /// Hold the sockets, deliver the webhooks, serve the REST API (the default).
    Serve,
    /// Bring the database schema up to date and end.
    Migrate {
        /// The data directory is a copy that was restored: no number that was given out since is given out again.
        #[arg(long)]
        restored: bool,
    },
    /// Check the configuration and show what it comes to.
    CheckConfig,
    /// Go the way of the configured source step by step and say what is wrong and what to do about it.
    Doctor,
    /// Seal everything that is sealed in the database under another master key.
    RotateMasterKey,
    /// Prove that the audit log was not edited, or hand it on.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Ask a running bridge on this machine whether it is ready; for container health checks.
    Healthcheck,
}

fn variables_help() -> String {
    let mut text = "Configuration, by environment or a .env file:\n".to_owned();
    for variable in VARIABLES {
        text.push_str(&format!("  {:<30} {} [{}]\n", variable.name, variable.help, variable.default));
    }
    text.push_str("A secret NAME may be given as NAME_FILE, the path of a file that holds it.");
    text
}

/// Why there is nothing to show for a command.
enum Failure {
    WrongConfiguration(Vec<ConfigError>),
    Other(anyhow::Error),
}

impl From<Vec<ConfigError>> for Failure {
    fn from(errors: Vec<ConfigError>) -> Self {
        Self::WrongConfiguration(errors)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::WrongConfiguration(vec![error])
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast_ref::<ConfigError>() {
            Some(wrong) => wrong.clone().into(),
            None => Self::Other(error),
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command.unwrap_or(Command::Here(Here::Serve))) {
        Ok(code) => code,
        Err(Failure::WrongConfiguration(errors)) => {
            for error in errors {
                eprintln!("presence-bridge: {error}");
            }
            ExitCode::from(2)
        }
        Err(Failure::Other(error)) => {
            eprintln!("presence-bridge: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Daily(command) => {
            let settings = ClientSettings::from_variables(&Variables::read_as_set()?)?;
            Ok(daily::run(*command, &settings)?)
        }
        Command::Completions(wanted) => Ok(manual::completions(wanted, Cli::command())?),
        Command::Man(wanted) => Ok(manual::man(wanted, Cli::command())?),
        Command::Here(command) => run_here(command, &Variables::read()?),
    }
}

fn run_here(command: Here, variables: &Variables) -> Result<ExitCode, Failure> {
    match command {
        Here::Serve => in_runtime(serve::run(configure(variables)?)),
        Here::Migrate { restored } => in_runtime(migrate::run(configure(variables)?, restored)),
        Here::CheckConfig => Ok(check_config::run(variables)?),
        Here::Doctor => in_runtime(doctor::run(configure(variables)?)),
        Here::RotateMasterKey => in_runtime(rotate_master_key::run(configure(variables)?)),
        Here::Audit(command) => in_runtime(audit::run(command, configure(variables)?)),
        Here::Healthcheck => Ok(healthcheck::run(config::listen_address(variables)?)?),
    }
}

/// Reads the whole configuration and starts the log.
fn configure(variables: &Variables) -> Result<Config, Failure> {
    let config = Config::from_variables(variables)?;
    telemetry::start(&config.log).map_err(anyhow::Error::msg)?;
    Ok(config)
}

/// Actors live on this thread; sqlx and outbound POSTs on the runtime's own threads.
fn in_runtime(command: impl Future<Output = anyhow::Result<ExitCode>>) -> Result<ExitCode, Failure> {
    let system = actix::System::with_tokio_rt(|| {
        #[expect(
            clippy::expect_used,
            reason = "without a runtime nothing can run, and nothing has started yet"
        )]
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("the operating system gives threads")
    });
    Ok(system.block_on(command)?)
}

/// An error and its causes, each once: many errors repeat their cause themselves.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text
}
