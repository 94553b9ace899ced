//! `genesys-simulator crm`

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use genesys_simulator::crm::{Crm, CrmOptions, Secret};
use tokio::sync::broadcast::error::RecvError;

use super::{interrupted, line, say};

#[derive(Debug, Args)]
pub struct Options {
    /// Address to listen on; every path is served
    #[arg(long, env = "CRM_LISTEN", default_value = "127.0.0.1:9091")]
    listen: SocketAddr,
    /// Secrets (`whsec_…`), separated by commas
    #[arg(long, env = "CRM_SECRET", value_delimiter = ',', hide_env_values = true)]
    secret: Vec<String>,
}

/// Prints arriving POSTs until a signal.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let secrets: Result<Vec<_>, _> = options.secret.iter().map(|secret| Secret::parse(secret)).collect();
    let secrets = secrets.context("CRM_SECRET")?;
    let crm =
        Crm::start(CrmOptions { listen: options.listen, secrets, keep: 1_000, ..CrmOptions::default() });
    let crm = crm.await.with_context(|| format!("cannot listen on {}", options.listen))?;
    say(&format!("demo CRM at {}", crm.url("/")));
    let mut arriving = crm.subscribe();
    let printing = async {
        loop {
            match arriving.recv().await {
                Ok(post) => say(&line::of(&post, line::wall_latency_ms(&post))),
                Err(RecvError::Lagged(missed)) => say(&format!("({missed} more)")),
                Err(RecvError::Closed) => return,
            }
        }
    };
    tokio::select! {
        signal = interrupted() => signal?,
        () = printing => {}
    }
    crm.stop().await;
    Ok(())
}
