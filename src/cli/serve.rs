//! `presence-bridge serve`: the service itself.

use std::process::ExitCode;

use crate::config::Config;
use crate::lifecycle::{self, Ending};

/// Runs the bridge until a signal or a failure ends it.
///
/// # Errors
/// If it cannot start: a [`ConfigError`](crate::config::ConfigError) inside if the configuration is wrong.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    Ok(match lifecycle::run(config).await? {
        Ending::Graceful => ExitCode::SUCCESS,
        Ending::Forced | Ending::Failed => ExitCode::FAILURE,
    })
}
