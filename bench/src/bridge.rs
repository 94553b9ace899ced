//! The bridge as a child process on an embedded Postgres in a fresh directory, driven over its REST API.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

const API_KEY: &str = "bench-key-of-sufficient-length-0123456789";
const MASTER_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A running bridge; killed if dropped.
pub struct Bridge {
    child: Child,
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    _dir: TempDir,
}

impl Bridge {
    /// Starts the program and waits until it is ready.
    pub async fn start(program: &Path, database_url: Option<&str>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("pb-bench-").tempdir()?;
        // Postgres runs as a user of its own and must be able to pass through.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = fs::File::create(dir.path().join("bridge.log"))?;
        let program =
            fs::canonicalize(program).with_context(|| format!("{} is not there", program.display()))?;
        let mut command = Command::new(&program);
        command.env_clear();
        if let Some(url) = database_url {
            command.env("DATABASE_URL", url).env("BRIDGE_MASTER_KEY", MASTER_KEY);
        }
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("BRIDGE_DATA_DIR", dir.path())
            .env("BRIDGE_LISTEN", format!("127.0.0.1:{port}"))
            .env("BRIDGE_API_KEY", API_KEY)
            .env("BRIDGE_ALLOW_TARGETS", "127.0.0.0/8")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{} cannot be run", program.display()))?;
        let bridge = Self {
            child,
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: format!("http://127.0.0.1:{port}"),
            _dir: dir,
        };
        let by = Instant::now() + Duration::from_secs(60);
        while !matches!(bridge.send("GET", "/readyz", None).await, Ok((200, _))) {
            ensure!(Instant::now() < by, "the bridge did not get ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(bridge)
    }

    /// Posts JSON; fails unless it is answered with success.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.send("POST", path, Some(body)).await?;
        if !(200..300).contains(&status) {
            bail!("{path} answered {status}: {answer}");
        }
        Ok(answer)
    }

    /// Reads all items of a list.
    pub async fn all(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let glue = if path.contains('?') { '&' } else { '?' };
        let first = format!("{path}{glue}limit=200");
        let (mut items, mut next) = (Vec::new(), Some(first.clone()));
        while let Some(path) = next {
            let (status, page) = self.send("GET", &path, None).await?;
            ensure!(status == 200, "{path} answered {status}: {page}");
            let found = page.get("items").and_then(Value::as_array).context("no items")?;
            let cursor = page.get("next_cursor").and_then(Value::as_str).filter(|_| !found.is_empty());
            items.extend(found.iter().cloned());
            next = cursor.map(|cursor| format!("{first}&cursor={cursor}"));
        }
        Ok(items)
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Value)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {API_KEY}"))
            .header("content-type", "application/json")
            .body(Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default()))?;
        let answer = self.client.request(request).await?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// Its process id, 0 if it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Its resident memory without Postgres, in MiB.
    pub fn rss_mib(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or_default() / 1024.0
    }

    /// Asks it to stop and waits.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().await?;
        ensure!(asked.success(), "the bridge could not be asked to stop");
        let ended = tokio::time::timeout(Duration::from_secs(15), self.child.wait()).await??;
        ensure!(ended.success(), "the bridge ended with {ended}");
        Ok(())
    }
}
