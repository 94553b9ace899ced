//! `genesys-simulator genesys`

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use genesys_simulator::shift::Shift;
use tokio::time::{MissedTickBehavior, interval};

use super::upstream::{Protocol, Upstream, UpstreamOptions};
use super::{interrupted, say};

#[derive(Debug, Args)]
pub struct Options {
    /// Address to listen on
    #[arg(long, env = "SIM_LISTEN", default_value = "127.0.0.1:9090")]
    listen: SocketAddr,
    /// Origin under which clients reach us, for `wsUrl` (http://genesys:9090)
    #[arg(long, env = "SIM_PUBLIC_URL")]
    public_url: Option<String>,
    /// OAuth clients as id:secret, separated by commas
    #[arg(long, env = "SIM_CLIENTS", value_delimiter = ',', default_value = "sim-client:sim-secret", value_parser = client)]
    clients: Vec<(String, String)>,
    /// Protocol to play
    #[arg(long, env = "SIM_PROTOCOL", value_enum, default_value_t = Protocol::Notifications)]
    protocol: Protocol,
    /// Agents that exist, separated by commas; none (protocol realtime): every id does
    #[arg(long, env = "SIM_AGENTS", value_delimiter = ',')]
    agents: Vec<String>,
    /// Play an endless shift of the agents
    #[arg(long, env = "SIM_PLAY")]
    play: bool,
    /// Changes per second while playing
    #[arg(long, env = "SIM_RATE", default_value_t = 1.0)]
    rate: f64,
}

/// Reads an OAuth client given as id:secret.
pub fn client(text: &str) -> Result<(String, String), String> {
    let (id, secret) = text.split_once(':').ok_or("a client is id:secret")?;
    Ok((id.to_owned(), secret.to_owned()))
}

/// Time between two changes.
pub fn pace(rate: f64) -> anyhow::Result<Duration> {
    ensure!(rate.is_finite() && rate > 0.0, "the rate must be above zero");
    Duration::try_from_secs_f64(1.0 / rate).context("the rate is out of range")
}

/// Serves until a signal.
pub async fn run(options: Options) -> anyhow::Result<()> {
    ensure!(!options.play || !options.agents.is_empty(), "--play needs --agents");
    let pace = pace(options.rate)?;
    let agents = options.agents.clone();
    let upstream = UpstreamOptions {
        listen: options.listen,
        public_url: options.public_url,
        clients: options.clients,
        agents: options.agents,
        heartbeat: Duration::from_secs(30),
        // It may run for months, and nobody asks for old changes.
        ledger_capacity: 10_000,
    };
    let genesys = Upstream::start(options.protocol, upstream).await?;
    say(&format!("simulated Genesys Cloud at {}", genesys.api_url()));
    let playing = async {
        let mut ticks = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for step in Shift::new(&agents, 1) {
            ticks.tick().await;
            genesys.push_presence(&step.agent, step.state);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        signal = interrupted() => signal?,
        () = playing, if options.play => {}
    }
    genesys.stop().await;
    Ok(())
}
