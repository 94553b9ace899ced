//! `genesys-simulator register`: gives a composed bridge its first webhook.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use genesys_simulator::http::Api;
use serde_json::json;

use super::demo::pages;
use super::{say, wait};

#[derive(Debug, Args)]
pub struct Options {
    /// Base URL of the bridge
    #[arg(long, env = "BRIDGE_URL", default_value = "http://127.0.0.1:8080")]
    bridge_url: String,
    /// API key of the bridge
    #[arg(long, env = "BRIDGE_API_KEY", hide_env_values = true)]
    api_key: String,
    /// URL the webhook points to
    #[arg(long, env = "TARGET_URL")]
    target_url: String,
    /// Secret the webhook signs with (`whsec_…`); without one the bridge makes one
    #[arg(long, env = "SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Seconds to wait until the bridge is ready
    #[arg(long, default_value_t = 120)]
    patience: u64,
}

/// Registers once; a second run finds the webhook and leaves it alone.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let api = Api::new(&options.bridge_url).with_bearer(&options.api_key);
    wait::for_ready(&api, Duration::from_secs(options.patience)).await?;
    let known = pages(&api, "/v1/webhooks").await?;
    if known
        .iter()
        .any(|webhook| webhook.get("url").is_some_and(|url| *url == options.target_url))
    {
        say(&format!("{} is registered already", options.target_url));
        return Ok(());
    }
    let mut wish = json!({"url": options.target_url, "description": "demo CRM"});
    if let (Some(secret), Some(wish)) = (options.secret, wish.as_object_mut()) {
        wish.insert("secret".into(), secret.into());
    }
    let reply = api.post("/v1/webhooks", &wish).await?;
    ensure!(
        reply.status == 201,
        "the bridge refused the webhook: {} {}",
        reply.status,
        reply.excerpt()
    );
    let id = reply
        .json()
        .get("id")
        .and_then(|id| id.as_str())
        .map(str::to_owned)
        .context("no id came back")?;
    say(&format!("{} is registered as {id}", options.target_url));
    Ok(())
}
