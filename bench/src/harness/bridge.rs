//! The bridge as a child process on an embedded Postgres in a fresh directory, driven over its REST API. It
//! can be killed and started again on the same directory.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use genesys_simulator::http::Api;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::sql;
use crate::measuring::growth::rss_mib;
use crate::measuring::metrics::Metrics;

/// Key of every bridge here.
pub const API_KEY: &str = "bench-key-of-sufficient-length-0123456789";
const MASTER_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// How bridges are started.
#[derive(Clone, clap::Args)]
pub struct Launch {
    /// The program to measure; build it with --release.
    #[arg(long, global = true, default_value = "target/release/presence-bridge")]
    bridge: PathBuf,
    /// A Postgres to use instead of the embedded one; its CPU is not counted then.
    #[arg(long, global = true)]
    database_url: Option<String>,
    /// Count what each SQL statement costs with pg_stat_statements, and print it. Needs `psql`; a Postgres of
    /// your own must have it in shared_preload_libraries. It takes some CPU itself.
    #[arg(long, global = true)]
    pub statements: bool,
    /// Registers webhooks with url and filters alone, for a bridge that knows no other settings.
    #[arg(long, global = true)]
    pub plain: bool,
}

impl Launch {
    /// The same on another database.
    pub fn on(&self, database_url: String) -> Self {
        Self { database_url: Some(database_url), ..self.clone() }
    }
}

/// A running bridge; killed if dropped.
pub struct Bridge {
    program: PathBuf,
    database_url: Option<String>,
    child: Child,
    pub api: Api,
    /// Address that it listens on, such as `127.0.0.1:41234`.
    pub listen: String,
    dir: TempDir,
}

impl Bridge {
    /// Starts the program and waits until it is ready.
    pub async fn start(launch: &Launch) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("pb-bench-").tempdir()?;
        // Postgres runs as a user of its own and must be able to pass through.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let listen = format!("127.0.0.1:{port}");
        let program = fs::canonicalize(&launch.bridge)
            .with_context(|| format!("{} is not there", launch.bridge.display()))?;
        let child = spawn(&program, &launch.database_url, &listen, &dir)?;
        let api = Api::new(&format!("http://{listen}")).with_bearer(API_KEY);
        let database_url = launch.database_url.clone();
        let mut bridge = Self { program, database_url, child, api, listen, dir };
        bridge.ready(Duration::from_secs(60)).await?;
        if launch.statements {
            bridge.load_statements().await?;
        }
        Ok(bridge)
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&mut self, within: Duration) -> anyhow::Result<()> {
        let by = Instant::now() + within;
        while !matches!(self.api.get("/readyz").await, Ok(reply) if reply.status == 200) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the bridge ended with {status}: {}", self.log_tail());
            }
            ensure!(Instant::now() < by, "the bridge did not get ready: {}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Kills it as a power cut would; its Postgres ends with it.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Starts it again on the same data, and does not wait.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.program, &self.database_url, &self.listen, &self.dir)?;
        Ok(())
    }

    /// Posts JSON; fails unless it is answered with success.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        post(&self.api, path, body).await
    }

    /// Reads all items of a list.
    pub async fn all(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        self.each(path, |item| items.push(item.clone())).await?;
        Ok(items)
    }

    /// Reads all items of a list, and keeps none.
    pub async fn each(&self, path: &str, mut sees: impl FnMut(&Value)) -> anyhow::Result<()> {
        let glue = if path.contains('?') { '&' } else { '?' };
        let first = format!("{path}{glue}limit=200");
        let mut next = Some(first.clone());
        while let Some(path) = next {
            let reply = self.api.get(&path).await?;
            ensure!(reply.status == 200, "{path} answered {}: {}", reply.status, reply.excerpt());
            let page = reply.json();
            let found = page.get("items").and_then(Value::as_array).context("no items")?;
            let cursor = page.get("next_cursor").and_then(Value::as_str).filter(|_| !found.is_empty());
            found.iter().for_each(&mut sees);
            next = cursor.map(|cursor| format!("{first}&cursor={cursor}"));
        }
        Ok(())
    }

    /// Its figures at this moment.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        let reply = self.api.get("/metrics").await?;
        ensure!(reply.status == 200, "/metrics answered {}", reply.status);
        Ok(Metrics::read(&String::from_utf8_lossy(&reply.body)))
    }

    /// Asks its database through `psql`: rows of columns as text.
    pub async fn sql(&self, query: &str) -> anyhow::Result<Vec<Vec<String>>> {
        let database = self.database_url.clone().unwrap_or_else(|| {
            format!("host='{}' user=postgres dbname=postgres", self.dir.path().join("run").display())
        });
        sql::rows(&database, query).await
    }

    /// What `presence-bridge audit verify` says of its audit log.
    pub async fn verify_audit(&self) -> anyhow::Result<Value> {
        let mut command = command(&self.program, &self.database_url, &self.listen, &self.dir);
        let output = command.args(["audit", "verify", "--json"]).stderr(Stdio::piped()).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).with_context(|| format!("audit verify: {}", said.trim()))
    }

    /// Open deliveries, counted by the database if we can ask it.
    pub async fn open(&self) -> anyhow::Result<String> {
        if let Ok(rows) = self.sql("select count(*) from delivery").await {
            return Ok(rows.into_iter().flatten().next().unwrap_or_default());
        }
        let gauge = self.metrics().await?.sum("presence_bridge_backlog_deliveries");
        Ok(format!("{gauge:.0} (when they were counted last)"))
    }

    /// Makes Postgres count statements: our own is told so in its configuration file and started again.
    async fn load_statements(&mut self) -> anyhow::Result<()> {
        if self.database_url.is_none() {
            self.terminate().await?;
            let file = self.dir.path().join("postgres/postgresql.conf");
            let mut text = fs::read_to_string(&file)?;
            text.push_str("\nshared_preload_libraries = 'pg_stat_statements'\n");
            fs::write(&file, text)?;
            self.start_again()?;
            self.ready(Duration::from_secs(60)).await?;
        }
        self.sql("create extension if not exists pg_stat_statements").await?;
        self.sql("select count(*) from pg_stat_statements").await.map(drop)
    }

    /// Its process id, 0 if it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Its resident memory without Postgres, in MiB.
    pub fn rss_mib(&self) -> f64 {
        rss_mib(self.pid())
    }

    /// Asks it to stop and waits.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.terminate().await
    }

    /// Asks it to stop and waits; it may be started again.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().await?;
        ensure!(asked.success(), "the bridge could not be asked to stop");
        let ended = tokio::time::timeout(Duration::from_secs(25), self.child.wait()).await??;
        ensure!(ended.success(), "the bridge ended with {ended}");
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("bridge.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(5)).copied().collect::<Vec<_>>().join("\n")
    }
}

/// Posts JSON; fails unless it is answered with success.
pub async fn post(api: &Api, path: &str, body: &Value) -> anyhow::Result<Value> {
    let reply = api.post(path, body).await?;
    ensure!((200..300).contains(&reply.status), "{path} answered {}: {}", reply.status, reply.excerpt());
    Ok(reply.json())
}

fn spawn(
    program: &PathBuf,
    database_url: &Option<String>,
    listen: &str,
    dir: &TempDir,
) -> anyhow::Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.path().join("bridge.log"))?;
    let mut command = command(program, database_url, listen, dir);
    command.stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("{} cannot be run", program.display()))
}

/// The program with its settings.
fn command(program: &PathBuf, database_url: &Option<String>, listen: &str, dir: &TempDir) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    if let Some(url) = database_url {
        command.env("DATABASE_URL", url).env("BRIDGE_MASTER_KEY", MASTER_KEY);
    }
    command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("BRIDGE_DATA_DIR", dir.path())
        .env("BRIDGE_LISTEN", listen)
        .env("BRIDGE_API_KEY", API_KEY)
        .env("BRIDGE_ALLOW_TARGETS", "127.0.0.0/8")
        .env("BRIDGE_API_RATE", "off")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}
