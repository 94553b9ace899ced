//! A Postgres of the bench's own behind a relay, so that it can be away and come back with what it had.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context as _;
use genesys_simulator::relay::{Relay, Server};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

const PLAY: &str = "source scripts/postgres.sh && throwaway_start && echo \"$throwaway_dir\" && cat >/dev/null; throwaway_stop";

/// A server that lives as long as this.
pub struct Postgres {
    pub relay: Relay,
    /// Ends the server when its input ends.
    server: Child,
}

impl Postgres {
    /// Starts it; the bench must run in the project's folder.
    pub async fn start() -> anyhow::Result<Self> {
        let mut server = Command::new("bash")
            .args(["-c", PLAY])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("bash is needed for this")?;
        let said = server.stdout.take().context("it has no output")?;
        let mut lines = BufReader::new(said).lines();
        let dir = lines.next_line().await?.context("Postgres did not start")?;
        let relay = Relay::start(Server::Unix(PathBuf::from(dir).join(".s.PGSQL.5432"))).await?;
        Ok(Self { relay, server })
    }

    /// `DATABASE_URL` that leads through the relay.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.relay.port())
    }

    /// Stops it, and waits until it is gone.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.server.stdin.take());
        self.server.wait().await?;
        Ok(())
    }
}
