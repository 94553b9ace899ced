//! `genesys-simulator register`: gives a composed bridge its first webhook and source.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use genesys_simulator::http::Api;
use serde_json::{Value, json};

use super::demo::{add_source, pages};
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
    /// REST address of a simulated Genesys Cloud (protocol notifications), to be added as source `demo`;
    /// without one no source is added
    #[arg(long, env = "SOURCE_API_URL", requires_all = ["source_client", "source_agents"])]
    source_api_url: Option<String>,
    /// OAuth client of that source, as id:secret
    #[arg(long, env = "SOURCE_CLIENT", hide_env_values = true, value_parser = super::genesys::client)]
    source_client: Option<(String, String)>,
    /// Agents of that source, separated by commas
    #[arg(long, env = "SOURCE_AGENTS", value_delimiter = ',')]
    source_agents: Vec<String>,
    /// Seconds to wait until the bridge is ready
    #[arg(long, default_value_t = 120)]
    patience: u64,
}

const SOURCE_NAME: &str = "demo";

/// Registers once; a second run finds webhook and source and leaves them alone.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let api = Api::new(&options.bridge_url).with_bearer(&options.api_key);
    wait::for_ready(&api, Duration::from_secs(options.patience)).await?;
    register_webhook(&api, &options).await?;
    register_source(&api, &options).await
}

async fn register_source(api: &Api, options: &Options) -> anyhow::Result<()> {
    let (Some(api_url), Some((client_id, client_secret))) = (&options.source_api_url, &options.source_client)
    else {
        return Ok(());
    };
    let known = pages(api, "/v1/sources").await?;
    if known.iter().any(|source| source.get("name").and_then(Value::as_str) == Some(SOURCE_NAME)) {
        say(&format!("source {SOURCE_NAME} is there already"));
        return Ok(());
    }
    let source = json!({
        "name": SOURCE_NAME,
        "protocol": "notifications",
        "api_url": api_url,
        "login_url": api_url,
        "client_id": client_id,
        "client_secret": client_secret,
        "agents": options.source_agents,
    });
    add_source(api, &source).await?;
    say(&format!("source {SOURCE_NAME} at {api_url} is added"));
    Ok(())
}

async fn register_webhook(api: &Api, options: &Options) -> anyhow::Result<()> {
    let known = pages(api, "/v1/webhooks").await?;
    if known.iter().any(|webhook| webhook.get("url").is_some_and(|url| *url == options.target_url)) {
        say(&format!("{} is registered already", options.target_url));
        return Ok(());
    }
    let mut webhook = json!({"url": options.target_url, "description": "demo CRM"});
    if let (Some(secret), Some(webhook)) = (&options.secret, webhook.as_object_mut()) {
        webhook.insert("secret".into(), secret.as_str().into());
    }
    let reply = api.post("/v1/webhooks", &webhook).await?;
    ensure!(reply.status == 201, "the bridge refused the webhook: {} {}", reply.status, reply.excerpt());
    let id =
        reply.json().get("id").and_then(|id| id.as_str()).map(str::to_owned).context("no id came back")?;
    say(&format!("{} is registered as {id}", options.target_url));
    Ok(())
}
