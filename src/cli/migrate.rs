//! `presence-bridge migrate`: the database schema alone.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::app;
use crate::config::Config;

/// Brings the schema up to date. `restored`: the data directory is a copy that was restored, which nothing in it
/// tells; numbers that the original has given out since are not given out again.
///
/// # Errors
/// If that fails: a [`ConfigError`](crate::config::ConfigError) inside if the configuration is wrong.
pub async fn run(config: Config, restored: bool) -> anyhow::Result<ExitCode> {
    let (store, embedded) = app::open_store(&config).await?;
    if restored {
        store.count_as_restored().await.context("the database cannot be marked as restored")?;
    }
    store.close().await;
    if let Some(server) = embedded {
        server.stop();
    }
    Ok(ExitCode::SUCCESS)
}
