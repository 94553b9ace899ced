//! Simulated platform as the program plays it, in one protocol or the other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use genesys_simulator::cloud::{self, Cloud, CloudOptions};
use genesys_simulator::genesys::{Change, Fate, Genesys, GenesysOptions};

/// Agents that one OAuth client of protocol `realtime` can watch: ten connections, an agent on each.
const AGENTS_PER_REALTIME_CLIENT: usize = 10;

/// Upstream protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Genesys Cloud's public Notifications API.
    Notifications,
    /// The original specification's (docs/realtime.md): one connection an agent.
    Realtime,
}

impl Protocol {
    /// As the bridge's settings name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notifications => "notifications",
            Self::Realtime => "realtime",
        }
    }

    /// Agents that one OAuth client can watch.
    pub const fn agents_per_client(self) -> usize {
        match self {
            Self::Notifications => 18_000,
            Self::Realtime => AGENTS_PER_REALTIME_CLIENT,
        }
    }
}

/// One change that was played, and whether a socket took it.
#[derive(Debug, Clone)]
pub struct Played {
    pub number: u64,
    pub agent: String,
    /// When its frame was made.
    pub sent: Instant,
    pub written: bool,
}

impl From<&Change> for Played {
    fn from(change: &Change) -> Self {
        Self {
            number: change.number,
            agent: change.agent.clone(),
            sent: change.sent,
            written: change.fate == Fate::Written,
        }
    }
}

/// Settings of the platform, for either protocol.
pub struct UpstreamOptions {
    pub listen: SocketAddr,
    pub public_url: Option<String>,
    pub clients: Vec<(String, String)>,
    pub agents: Vec<String>,
    /// How often its sockets say that they live (protocol `notifications`; in `realtime` the client says).
    pub heartbeat: Duration,
    pub ledger_capacity: usize,
}

#[derive(Clone)]
pub enum Upstream {
    Notifications(Cloud),
    Realtime(Genesys),
}

impl Upstream {
    pub async fn start(protocol: Protocol, options: UpstreamOptions) -> anyhow::Result<Self> {
        let UpstreamOptions { listen, public_url, clients, agents, heartbeat, ledger_capacity } = options;
        let started = match protocol {
            Protocol::Notifications => {
                let options = CloudOptions {
                    listen,
                    public_url,
                    clients,
                    agents,
                    heartbeat,
                    ledger_capacity,
                    ..CloudOptions::default()
                };
                Cloud::start(options).await.map(Self::Notifications)
            }
            Protocol::Realtime => {
                let options = GenesysOptions {
                    listen,
                    public_url,
                    clients,
                    agents,
                    ledger_capacity,
                    ..GenesysOptions::default()
                };
                Genesys::start(options).await.map(Self::Realtime)
            }
        };
        started.with_context(|| format!("the simulated Genesys Cloud cannot listen on {listen}"))
    }

    pub fn api_url(&self) -> String {
        match self {
            Self::Notifications(cloud) => cloud.api_url(),
            Self::Realtime(genesys) => genesys.api_url(),
        }
    }

    pub fn push_presence(&self, agent: &str, state: &str) {
        match self {
            Self::Notifications(cloud) => cloud.push_presence(agent, state),
            Self::Realtime(genesys) => genesys.push_presence(agent, state),
        };
    }

    /// When the frame of a change was made.
    pub fn sent(&self, number: u64) -> Option<Instant> {
        match self {
            Self::Notifications(cloud) => Some(cloud.change(number)?.sent),
            Self::Realtime(genesys) => Some(genesys.change(number)?.sent),
        }
    }

    /// Everything that was played, oldest first.
    pub fn played(&self) -> Vec<Played> {
        match self {
            Self::Notifications(cloud) => cloud
                .ledger()
                .into_iter()
                .map(|change| Played {
                    number: change.number,
                    agent: change.agent,
                    sent: change.sent,
                    written: change.fate == cloud::Fate::Written,
                })
                .collect(),
            Self::Realtime(genesys) => genesys.changes_after(0).iter().map(Played::from).collect(),
        }
    }

    /// Waits until every agent is on an open socket.
    pub async fn all_watched(&self, agents: &[String], patience: Duration) -> anyhow::Result<()> {
        let watched = match self {
            Self::Notifications(cloud) => {
                cloud.wait_until(|seen| seen.watched() >= agents.len(), patience).await.is_ok()
            }
            Self::Realtime(genesys) => genesys
                .wait_until(|seen| agents.iter().all(|agent| seen.watches(agent)), patience)
                .await
                .is_ok(),
        };
        anyhow::ensure!(watched, "the bridge did not come back to every agent");
        Ok(())
    }

    /// First socket of each agent after a moment.
    pub fn reopened(&self, after: Instant) -> BTreeMap<String, Instant> {
        let mut reopened = BTreeMap::new();
        match self {
            Self::Notifications(cloud) => {
                for (at, agents) in cloud.opens().into_iter().filter(|(at, _)| *at > after) {
                    for agent in agents {
                        reopened.entry(agent).or_insert(at);
                    }
                }
            }
            Self::Realtime(genesys) => {
                for open in genesys.snapshot().tally.opens.into_iter().filter(|open| open.at > after) {
                    reopened.entry(open.user_id).or_insert(open.at);
                }
            }
        }
        reopened
    }

    pub async fn stop(&self) {
        match self {
            Self::Notifications(cloud) => cloud.stop().await,
            Self::Realtime(genesys) => genesys.stop().await,
        }
    }

    /// A command line that hurts the first agent's socket.
    pub fn example_verb(&self) -> &'static str {
        match self {
            Self::Notifications(_) => r#"{"verb":"drop","reach":{"agent":"agent-01"}}"#,
            Self::Realtime(_) => r#"{"verb":"drop","target":{"agent":"agent-01"}}"#,
        }
    }
}
