//! Scene of the demo: simulator, CRM and bridge, connected and ready.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use genesys_simulator::crm::{Crm, CrmOptions, Secret};
use genesys_simulator::http::Api;
use serde_json::json;
use uuid::Uuid;

use super::child::Child;
use super::{Options, bridge_api};
use crate::program::upstream::{Upstream, UpstreamOptions};
use crate::program::{say, wait};

/// Time for embedded Postgres to be created and for the bridge to come up.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Everything that is on stage.
pub struct Stage {
    pub genesys: Upstream,
    pub crm: Crm,
    pub child: Child,
    pub api: Api,
    pub agents: Vec<String>,
    /// OAuth clients, in the order of the agents they watch.
    clients: Vec<(String, String)>,
    bridge_url: String,
    api_key: String,
    heartbeat_ms: u64,
    /// Directory to remove at the end.
    temporary: Option<PathBuf>,
}

impl Stage {
    /// Starts simulator and CRM and prepares the bridge, without starting it.
    pub async fn build(options: &Options) -> anyhow::Result<Self> {
        let bridge = fs::canonicalize(&options.bridge)
            .with_context(|| format!("no bridge at {}", options.bridge.display()))?;
        let agents: Vec<String> = (1..=options.agents).map(|number| format!("agent-{number:02}")).collect();
        let clients: Vec<(String, String)> =
            (1..=agents.len().div_ceil(options.protocol.agents_per_client()))
                .map(|number| (format!("demo-client-{number}"), Uuid::new_v4().to_string()))
                .collect();
        let upstream = UpstreamOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            public_url: None,
            clients: clients.clone(),
            agents: agents.clone(),
            heartbeat: Duration::from_millis(options.heartbeat_ms),
            ledger_capacity: 1_000_000,
        };
        let genesys = Upstream::start(options.protocol, upstream).await?;
        let crm = Crm::start(CrmOptions::default()).await.context("cannot start the CRM")?;

        let (folder, temporary) = match &options.data_dir {
            Some(folder) => (std::path::absolute(folder)?, None),
            None => {
                let folder =
                    std::env::temp_dir().join(format!("presence-bridge-demo-{}", Uuid::new_v4().simple()));
                (folder.clone(), Some(folder))
            }
        };
        let data_dir = folder.join("data");
        fs::create_dir_all(&data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
        // The bridge's Postgres runs as another user when we are root: it must be able to pass through.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;

        let listen = free_port()?;
        let api_key = format!("demo-{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let (client_id, client_secret) = clients.first().cloned().unwrap_or_default();
        let first = agents.chunks(options.protocol.agents_per_client()).next().unwrap_or_default();
        let environment = vec![
            ("BRIDGE_DATA_DIR", data_dir.display().to_string()),
            ("BRIDGE_LISTEN", listen.to_string()),
            ("BRIDGE_API_KEY", api_key.clone()),
            ("BRIDGE_ALLOW_TARGETS", "127.0.0.0/8".to_owned()),
            ("GENESYS_PROTOCOL", options.protocol.name().to_owned()),
            ("GENESYS_API_URL", genesys.api_url()),
            ("GENESYS_LOGIN_URL", genesys.api_url()),
            ("GENESYS_CLIENT_ID", client_id),
            ("GENESYS_CLIENT_SECRET", client_secret),
            ("GENESYS_AGENTS", first.join(",")),
            ("GENESYS_HEARTBEAT_INTERVAL_MS", options.heartbeat_ms.to_string()),
        ];
        let child = Child::new(bridge, environment, data_dir, folder.join("bridge.log"));
        let bridge_url = format!("http://{listen}");
        let api = Api::new(&bridge_url).with_bearer(&api_key);
        let heartbeat_ms = options.heartbeat_ms;
        Ok(Self { genesys, crm, child, api, agents, clients, bridge_url, api_key, heartbeat_ms, temporary })
    }

    /// Starts the bridge, registers the other sources and the webhook, and waits until every agent is
    /// watched.
    pub async fn open(&mut self, options: &Options) -> anyhow::Result<()> {
        self.child.start()?;
        say(&format!("bridge starting, pid {}, log {}", self.child.pid(), self.child.log.display()));
        self.ready().await?;
        for (number, (agents, (id, secret))) in
            self.agents.chunks(options.protocol.agents_per_client()).zip(&self.clients).enumerate().skip(1)
        {
            let source = json!({
                "name": format!("demo-{}", number + 1),
                "protocol": "realtime",
                "api_url": self.genesys.api_url(),
                "client_id": id,
                "client_secret": secret,
                "agents": agents,
                "topic_matrix": {"state": ["routing:agent:state"]},
                "heartbeat_interval_ms": self.heartbeat_ms,
            });
            bridge_api::add_source(&self.api, &source).await?;
        }
        let secret = bridge_api::add_webhook(&self.api, &self.crm.url("/hooks/presence")).await?;
        self.crm.set_secrets(vec![Secret::parse(&secret).context("secret of the webhook")?]);
        let wanted = self.agents.len();
        let what = format!("{wanted} agents on open connections");
        let api = self.api.clone();
        wait::until(&what, PATIENCE, async || {
            Ok((bridge_api::watched_agents(&api, options.protocol).await? >= wanted).then_some(()))
        })
        .await?;
        let link = bridge_api::login_link(&self.api, &self.bridge_url).await?;
        self.print_guide(options, &link);
        Ok(())
    }

    /// Waits until the bridge is ready, or fails as soon as its process ends.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            ready = wait::for_ready(&self.api, PATIENCE) => ready,
            status = self.child.ended() => anyhow::bail!("the bridge ended while starting: {status}"),
        }
    }

    /// Waits until the simulator sees a socket for every agent.
    pub async fn all_watched(&self) -> anyhow::Result<()> {
        self.genesys.all_watched(&self.agents, PATIENCE).await
    }

    /// Takes everything down; leaves nothing running and, without `--data-dir`, nothing on disk.
    pub async fn clear(&mut self) {
        self.child.stop().await;
        self.genesys.stop().await;
        self.crm.stop().await;
        if let Some(folder) = self.temporary.take()
            && let Err(error) = fs::remove_dir_all(&folder)
        {
            say(&format!("cannot remove {}: {error}", folder.display()));
        }
    }

    /// Tells what there is to look at while it plays.
    fn print_guide(&self, options: &Options, link: &str) {
        let Self { bridge_url: url, api_key: key, .. } = self;
        say("");
        say("  Open the console in a browser; this link logs it in once, within ten minutes:");
        say(&format!("  {link}"));
        say("");
        say(&format!(
            "  {} agents on {} OAuth clients, protocol {}, all connections open",
            self.agents.len(),
            self.clients.len(),
            options.protocol.name()
        ));
        say(&format!("  bridge     pid {}, log {}", self.child.pid(), self.child.log.display()));
        say(&format!("  docs       {url}/docs"));
        say(&format!("  metrics    {url}/metrics"));
        say(&format!("  API key    {key}"));
        say(&format!("  genesys    {}/_sim/snapshot", self.genesys.api_url()));
        say(&format!("  curl -sH 'Authorization: Bearer {key}' {url}/v1/events"));
        let genesys = self.genesys.api_url();
        say(&format!("  curl -s {genesys}/_sim/verbs -d '{}'", self.genesys.example_verb()));
        say("");
        say("  In another terminal, the command line, and each change posted to a receiver of yours:");
        say(&format!("  export PRESENCE_BRIDGE_URL={url} PRESENCE_BRIDGE_API_KEY={key}"));
        let bridge = options.bridge.canonicalize().unwrap_or_else(|_| options.bridge.clone());
        say(&format!("  {} webhooks list", bridge.display()));
        say(&format!("  {} listen --forward-to http://127.0.0.1:3000/hooks/presence", bridge.display()));
        say("");
        say(&match options.seconds {
            Some(seconds) => format!("  playing for {seconds} s, {} changes/s", options.rate),
            None => format!("  playing {} changes/s until Ctrl-C", options.rate),
        });
        say("");
    }
}

/// Port that is free now. Somebody may take it before the bridge does; then the bridge says so and the demo
/// fails.
fn free_port() -> anyhow::Result<SocketAddr> {
    let probe = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(probe.local_addr()?)
}
