//! The program under test, as a process of its own, configured by environment as its users run it.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::client::{Answer, Client};
use super::{SOON, contract, database, eventually};

/// Key that every test bridge accepts.
pub const API_KEY: &str = "test-key-of-sufficient-length-0123456789";
/// Master key of every test bridge.
pub const MASTER_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// Value of a variable that a test takes away.
pub const UNSET: &str = "-unset-";

/// A running bridge; dropping it kills the process.
pub struct Bridge {
    child: Child,
    client: Client,
    variables: Vec<(String, String)>,
    log: Arc<Mutex<String>>,
    output: Arc<Mutex<String>>,
    /// URL of its database.
    pub database_url: String,
    /// Address of its API, such as `http://127.0.0.1:41234`.
    pub url: String,
}

impl Bridge {
    /// Starts a bridge on a database of its own and waits until its API answers.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        let database_url = database::create().await;
        Self::start_on(&database_url, variables).await
    }

    /// Starts a bridge on this database.
    pub async fn start_on(database_url: &str, variables: &[(&str, &str)]) -> Self {
        let started = Self::try_start_on(database_url, variables).await;
        started.unwrap_or_else(|log| panic!("the bridge did not start; log:\n{log}"))
    }

    /// Starts a bridge on this database; gives its log if it does not listen.
    pub async fn try_start_on(database_url: &str, variables: &[(&str, &str)]) -> Result<Self, String> {
        let mut all: Vec<(String, String)> = [
            ("DATABASE_URL", database_url),
            ("BRIDGE_LISTEN", "127.0.0.1:0"),
            ("BRIDGE_API_KEY", API_KEY),
            ("BRIDGE_MASTER_KEY", MASTER_KEY),
            ("BRIDGE_ALLOW_TARGETS", "127.0.0.0/8"),
            ("BRIDGE_LOG", "info,presence_bridge=trace"),
        ]
        .iter()
        .chain(variables)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
        all.reverse(); // the last one given counts
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.dedup_by(|a, b| a.0 == b.0);
        all.retain(|(_, value)| value != UNSET);
        let log = Arc::new(Mutex::new(String::new()));
        let output = Arc::new(Mutex::new(String::new()));
        let (child, url) = try_spawn(&all, &log, &output).await?;
        let bridge = Self {
            child,
            client: Client::new(url.clone()),
            variables: all,
            log,
            output,
            database_url: database_url.to_owned(),
            url,
        };
        bridge.answers().await;
        Ok(bridge)
    }

    async fn answers(&self) {
        eventually("the API answers", || async {
            self.client.try_send("GET", "/healthz", &[], None).await.filter(|answer| answer.status == 200)
        })
        .await;
    }

    /// Kills the process as a power cut would, and starts it again on the same database.
    pub async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.restart().await;
    }

    /// Kills the process with SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts the process again with the same configuration.
    pub async fn restart(&mut self) {
        let (child, url) = spawn(&self.variables, &self.log, &self.output).await;
        self.child = child;
        self.client = Client::new(url.clone());
        self.url = url;
        self.answers().await;
    }

    /// Sets a variable for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Asks the process to stop and waits for its end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        tokio::time::timeout(SOON, self.child.wait()).await.expect("it stops in time").unwrap()
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// MiB that it holds in memory, and that it has held at most.
    pub fn memory_mib(&self) -> (f64, f64) {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("it runs"))).unwrap();
        let mib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
        };
        (mib("VmRSS:"), mib("VmHWM:"))
    }

    /// Everything it has logged so far, over restarts.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Everything it has said on standard output.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    /// Sends a request with the key; a body goes as JSON.
    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.send_as(API_KEY, method, path, body).await
    }

    /// Sends a request with another key.
    pub async fn send_as(&self, key: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let key = format!("Bearer {key}");
        let mut headers = vec![("authorization", key.as_str())];
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        self.send_raw(method, path, &headers, body.map(|body| body.to_string().into_bytes())).await
    }

    /// Memory that the process holds, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("it runs")));
        let status = status.unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends exactly this; the answer must be one that openapi.yaml promises.
    pub async fn send_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Answer {
        let answer = self.client.try_send(method, path, headers, body).await;
        let answer = answer.unwrap_or_else(|| panic!("no answer to {method} {path}; log:\n{}", self.log()));
        contract::check(method, path, &answer);
        answer
    }

    /// Sends a request with the key and another header; `None` if there was no answer.
    pub async fn try_send(
        &self,
        method: &str,
        path: &str,
        header: (&str, &str),
        body: &Value,
    ) -> Option<Answer> {
        let key = format!("Bearer {API_KEY}");
        let headers = [("authorization", key.as_str()), ("content-type", "application/json"), header];
        let answer =
            self.client.try_send(method, path, &headers, Some(body.to_string().into_bytes())).await?;
        contract::check(method, path, &answer);
        Some(answer)
    }

    /// Value of a metric line that begins with `name` (labels included), 0 if there is none.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.send_raw("GET", "/metrics", &[], None).await.text();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
    }
}

async fn spawn(
    variables: &[(String, String)],
    log: &Arc<Mutex<String>>,
    output: &Arc<Mutex<String>>,
) -> (Child, String) {
    let started = try_spawn(variables, log, output).await;
    started.unwrap_or_else(|log| panic!("the bridge did not start; log:\n{log}"))
}

/// Starts the process and waits for the address that it logs; gives the log if it does not.
async fn try_spawn(
    variables: &[(String, String)],
    log: &Arc<Mutex<String>>,
    output: &Arc<Mutex<String>>,
) -> Result<(Child, String), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_presence-bridge"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let (found, mut address) = watch::channel(None);
    let log = log.clone();
    let (written, output) = (log.clone(), output.clone());
    tokio::spawn(async move {
        while let Ok(Some(line)) = told.next_line().await {
            output.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(at) =
                serde_json::from_str::<Value>(&line).ok().filter(|l| l["message"] == "listening")
            {
                found.send_replace(at["address"].as_str().map(str::to_owned));
            }
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    let waited = tokio::time::timeout(Duration::from_secs(30), address.wait_for(Option::is_some)).await;
    let Ok(Ok(address)) = waited.map(|found| found.map(|a| a.clone())) else {
        return Err(written.lock().unwrap().clone());
    };
    Ok((child, format!("http://{}", address.unwrap())))
}

/// `migrate` on this database: its exit code, and what it said to stderr.
pub fn migrate(url: &str) -> (Option<i32>, String) {
    migrate_with(url, &[])
}

/// The same with more arguments.
pub fn migrate_with(url: &str, args: &[&str]) -> (Option<i32>, String) {
    let output = command_on(url).args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The first line with this text that `migrate` says on a database that it cannot use; it is ended then.
pub fn complaint(url: &str, text: &str) -> String {
    let mut child = command_on(url).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let line = lines.map_while(Result::ok).find(|line| line.contains(text));
    child.kill().unwrap();
    child.wait().unwrap();
    line.unwrap_or_else(|| panic!("it ended without {text:?}"))
}

fn command_on(url: &str) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_presence-bridge"));
    command.arg("migrate").env_clear().current_dir(std::env::temp_dir()).stderr(Stdio::piped()).envs([
        ("DATABASE_URL", url),
        ("BRIDGE_MASTER_KEY", MASTER_KEY),
        ("BRIDGE_LOG", "warn"),
    ]);
    command
}
