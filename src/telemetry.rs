//! Floor 1: where log lines go.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error: readable on a terminal, JSON lines elsewhere.
///
/// `filter` is a directive list such as `info,presence_bridge=debug`; sqlx's own statement log is kept out,
/// because it shows values.
///
/// # Errors
/// If `filter` cannot be read; the text says where.
pub fn start(filter: &str) -> Result<(), String> {
    let filter = parse_filter(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        builder.compact().try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    started.map_err(|error| error.to_string())
}

/// Reads a directive list; used by the configuration check too.
///
/// # Errors
/// If it cannot be read.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    // A directive that is more particular than ours would win over it.
    if filter.split(',').any(|directive| directive.trim().starts_with("sqlx")) {
        return Err("sqlx's own log shows values and stays closed".to_owned());
    }
    let mut read = EnvFilter::builder().parse(filter).map_err(|error| error.to_string())?;
    // A pool would tell of each connection that is refused because its server is not the primary.
    for quiet in ["sqlx=error", "sqlx_core::pool=off"] {
        read = read.add_directive(quiet.parse().map_err(|_| "built-in directive".to_owned())?);
    }
    Ok(read)
}
