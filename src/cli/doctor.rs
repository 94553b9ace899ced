//! Floor 4: `presence-bridge doctor`, which examines the source of the configuration on standard output. It
//! needs no database.

use std::io::Write;
use std::process::ExitCode;

use crate::config::{Config, ConfigError, EgressProxy};
use crate::domain::presence::examination::{Finding, Step};
use crate::domain::presence::source::SourceSettings;
use crate::genesys::examination;

/// Examines the source of the configuration on standard output.
///
/// # Errors
/// A [`ConfigError`] inside if there is none; if TLS cannot be set up, or nothing can be written.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let source = config.source.ok_or_else(|| ConfigError {
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
    let works = examine(&source, config.genesys_proxy, out).await?;
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
