//! `presence-bridge migrate`: the database schema alone.

use std::process::ExitCode;

use crate::app;
use crate::config::Config;

/// Brings the schema up to date.
///
/// # Errors
/// If that fails: a [`ConfigError`](crate::config::ConfigError) inside if the configuration is wrong.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let (store, embedded) = app::open_store(&config).await?;
    store.close().await;
    if let Some(server) = embedded {
        server.stop();
    }
    Ok(ExitCode::SUCCESS)
}
