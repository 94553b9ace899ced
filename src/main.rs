//! The program `presence-bridge`: reads the command line and the configuration, and says how it ended by its exit
//! code: 0 as wished, 1 failed, 2 wrong configuration or command line.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use presence_bridge::cli::{audit, doctor, rotate_master_key};
use presence_bridge::config::{self, Config, ConfigError, VARIABLES, Variables};
use presence_bridge::lifecycle::{self, Ending};
use presence_bridge::{app, telemetry};

/// The C library's own keeps most of what a burst has used: 300 MiB after a backlog where this one keeps 67 (ADR 0018).
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
    /// Hold the sockets, deliver the webhooks, serve the REST API (the default).
    Serve,
    /// Bring the database schema up to date and end.
    Migrate,
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

fn main() -> ExitCode {
    let command = Cli::parse().command.unwrap_or(Command::Serve);
    let variables = match Variables::read() {
        Ok(variables) => variables,
        Err(error) => return wrong_configuration(&[error]),
    };
    if let Command::Healthcheck = command {
        return match config::listen_address(&variables) {
            Ok(address) => healthcheck(address),
            Err(error) => wrong_configuration(&[error]),
        };
    }
    let config = match Config::from_variables(&variables) {
        Ok(config) => config,
        Err(errors) => return wrong_configuration(&errors),
    };
    match command {
        Command::CheckConfig => {
            for line in variables.describe() {
                println!("{line}");
            }
            return ExitCode::SUCCESS;
        }
        Command::Doctor if config.source.is_none() => {
            return wrong_configuration(&[no_source()]);
        }
        _ => {}
    }
    if let Err(error) = telemetry::start(&config.log) {
        eprintln!("presence-bridge: {error}");
        return ExitCode::FAILURE;
    }
    match run(command, config) {
        Ok(Ending::Graceful) => ExitCode::SUCCESS,
        Ok(Ending::Forced | Ending::Failed) => ExitCode::FAILURE,
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(wrong) => wrong_configuration(std::slice::from_ref(wrong)),
            None => {
                eprintln!("presence-bridge: {}", chain(&error));
                ExitCode::FAILURE
            }
        },
    }
}

/// An error and what led to it; many of them tell what led to them themselves.
fn chain(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.contains(&cause) {
            told.push_str(if told.is_empty() { "" } else { ": " });
            told.push_str(&cause);
        }
    }
    told
}

fn wrong_configuration(errors: &[ConfigError]) -> ExitCode {
    for error in errors {
        eprintln!("presence-bridge: {error}");
    }
    ExitCode::from(2)
}

fn no_source() -> ConfigError {
    let rule = "there is no source in the configuration: set region, client id and secret, and whom to watch";
    ConfigError { variable: "GENESYS_REGION".to_owned(), rule: rule.to_owned() }
}

/// Actors live on this thread; sqlx and outbound POSTs on the runtime's own threads.
fn run(command: Command, config: Config) -> anyhow::Result<Ending> {
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
    system.block_on(async move {
        if let Command::Migrate = command {
            let (store, embedded) = app::open_store(&config).await?;
            store.close().await;
            if let Some(server) = embedded {
                server.stop();
            }
            return Ok(Ending::Graceful);
        }
        if let Command::RotateMasterKey = command {
            rotate_master_key::run(&config).await?;
            return Ok(Ending::Graceful);
        }
        if let Command::Audit(command) = command {
            let well = audit::run(command, &config).await?;
            return Ok(if well { Ending::Graceful } else { Ending::Failed });
        }
        if let (Command::Doctor, Some(source)) = (command, &config.source) {
            let well = doctor::examine(source, std::io::stdout()).await?;
            return Ok(if well { Ending::Graceful } else { Ending::Failed });
        }
        lifecycle::run(config).await
    })
}

/// Asks `/readyz` over plain HTTP; needs no client library and no shell in the image.
fn healthcheck(listen: SocketAddr) -> ExitCode {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let ask = || -> std::io::Result<String> {
        let limit = Duration::from_secs(3);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, listen.port()), limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
        Ok(answer) => {
            eprintln!("presence-bridge: not ready: {}", answer.lines().last().unwrap_or_default());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("presence-bridge: no answer: {error}");
            ExitCode::FAILURE
        }
    }
}
