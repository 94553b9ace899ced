//! Floor 4: `presence-bridge doctor`, which examines the database and the source of the configuration on standard
//! output. It needs no database: without `DATABASE_URL` there is nothing to examine of one.

use std::io::Write;
use std::process::ExitCode;

use crate::app;
use crate::config::{Config, ConfigError, EgressProxy};
use crate::domain::presence::examination::{Finding, Step};
use crate::domain::presence::source::SourceSettings;
use crate::genesys::examination;
use crate::store::StoreError;
use crate::store::server::{Commits, Standing};

/// Examines the source of the configuration on standard output.
///
/// # Errors
/// A [`ConfigError`] inside if there is none; if TLS cannot be set up, or nothing can be written.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let source = config.source.clone().ok_or_else(|| ConfigError {
        variable: "GENESYS_REGION".to_owned(),
        rule: "there is no source in the configuration: set region, client id and secret, and whom to watch"
            .to_owned(),
    })?;
    let mut out = std::io::stdout();
    for variable in &config.ignored_proxies {
        writeln!(out, "{:<8} {:<12} {variable} is set and not read", "warning", "proxy")?;
        let remedy = "if the way to Genesys leads through a proxy, name it in BRIDGE_GENESYS_PROXY";
        writeln!(out, "{:<8} {:<12} what to do: {remedy}", "", "")?;
    }
    let keeps = match app::server(&config)? {
        Some(server) => write_servers(&mut out, server.survey().await)?,
        None => true,
    };
    let works = examine(&source, config.genesys_proxy, out).await? && keeps;
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Examines a source and writes a line for each step; true if all of them work.
///
/// # Errors
/// If TLS cannot be set up, or nothing can be written.
pub async fn examine(
    settings: &SourceSettings,
    proxy: Option<EgressProxy>,
    mut out: impl Write,
) -> anyhow::Result<bool> {
    let (mut works, mut written) = (true, Ok(()));
    // Whoever configures this process may lead it anywhere.
    examination::examine(settings, None, proxy, |step| {
        works &= !matches!(step.finding, Finding::Bad(_));
        if written.is_ok() {
            written = write_step(&mut out, &step);
        }
    })
    .await?;
    written?;
    Ok(works)
}

/// Writes a line for each server of the database; true if one of them is the primary.
fn write_servers(
    out: &mut impl Write,
    servers: Vec<(String, Result<Standing, StoreError>)>,
) -> std::io::Result<bool> {
    let has_primary = servers.iter().any(|(_, standing)| standing.is_ok());
    for (name, standing) in servers {
        let (word, what) = match standing {
            Ok(Standing { timeline, commits, .. }) => {
                let history = timeline.map_or_else(String::new, |timeline| format!(", timeline {timeline}"));
                ("ok", format!("{name} is the primary{history}; {}", of_commits(commits)))
            }
            Err(error) if has_primary => ("ok", format!("{name}: {error}")),
            Err(error) => ("FAILED", format!("{name}: {error}")),
        };
        writeln!(out, "{word:<8} {:<12} {what}", "database")?;
    }
    if !has_primary {
        let remedy = "DATABASE_URL must name a server that is the primary, takes writes and lets us in";
        writeln!(out, "{:<8} {:<12} what to do: {remedy}", "", "")?;
    }
    Ok(has_primary)
}

fn of_commits(commits: Commits) -> &'static str {
    match commits {
        Commits::Local => "commits wait for no standby: a failover may lose the last of them",
        Commits::Standby => "commits wait for a standby",
        Commits::StandbyAbsent => "commits wait for a standby that is not connected",
    }
}

fn write_step(out: &mut impl Write, step: &Step) -> std::io::Result<()> {
    let (word, what, remedy) = match &step.finding {
        Finding::Good(what) => ("ok", what, None),
        Finding::Warning(trouble) => ("warning", &trouble.what, Some(trouble.remedy)),
        Finding::Bad(trouble) => ("FAILED", &trouble.what, Some(trouble.remedy)),
    };
    writeln!(out, "{word:<8} {:<12} {what}", step.name)?;
    if let Some(remedy) = remedy {
        writeln!(out, "{:<8} {:<12} what to do: {remedy}", "", "")?;
    }
    Ok(())
}
