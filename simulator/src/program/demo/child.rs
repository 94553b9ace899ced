//! Bridge's process: started from a clean environment, killed and restarted on purpose, never left behind.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::program::say;

/// Time the bridge has to drain; it promises ten seconds.
const DRAIN: Duration = Duration::from_secs(12);

/// Folders below the data directory in which the bridge's Postgres may live.
const POSTGRES_DEPTH: u8 = 4;

/// Lines of the log shown after a failure.
const TAIL_LINES: usize = 40;

/// A bridge that can be started more than once with the same environment.
pub struct Child {
    executable: PathBuf,
    environment: Vec<(&'static str, String)>,
    /// Directory of the bridge's data; its Postgres lives somewhere inside.
    data_dir: PathBuf,
    pub log: PathBuf,
    process: Option<tokio::process::Child>,
    /// Pid of the running process, 0 when there is none; shared with the signal handler.
    pid: Arc<AtomicI32>,
}

impl Child {
    pub fn new(
        executable: PathBuf,
        environment: Vec<(&'static str, String)>,
        data_dir: PathBuf,
        log: PathBuf,
    ) -> Self {
        Self { executable, environment, data_dir, log, process: None, pid: Arc::default() }
    }

    /// Starts the process; its output is appended to the log.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log =
            OpenOptions::new().create(true).append(true).open(&self.log).context("cannot open the log")?;
        let mut command = command(&self.executable);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            // The parent's own configuration must not leak into a scene that is meant to be repeatable.
            if text.starts_with("GENESYS_") || text.starts_with("BRIDGE_") || text == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // dotenv files are read from the working directory: not from ours.
            .current_dir(&self.data_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C on the terminal must reach the bridge through us, once, as SIGTERM.
            .process_group(0)
            .kill_on_drop(true);
        let shown = self.executable.display();
        let process = command.spawn().with_context(|| format!("cannot start {shown}"))?;
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        self.pid.store(pid, Ordering::Relaxed);
        self.process = Some(process);
        Ok(())
    }

    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Ends it at once, when Ctrl-C comes a second time.
    pub fn emergency(&self) -> Emergency {
        Emergency { pid: self.pid.clone(), data_dir: self.data_dir.clone() }
    }

    /// Waits until the process ends by itself; for ever when there is none.
    pub async fn ended(&mut self) -> String {
        let Some(process) = &mut self.process else {
            return std::future::pending().await;
        };
        let status = process.wait().await;
        // Its number may be somebody else's soon.
        self.pid.store(0, Ordering::Relaxed);
        match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// SIGKILL, and the wait until the process is really gone.
    pub async fn kill(&mut self) -> io::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        self.pid.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Stops the process for good: politely, then not; and with it a Postgres that it may have left behind.
    pub async fn stop(&mut self) {
        send(&self.pid, Signal::TERM);
        if let Some(process) = &mut self.process
            && timeout(DRAIN, process.wait()).await.is_err()
        {
            say("the bridge did not stop within 12 s: killed");
        }
        if let Err(error) = self.kill().await {
            say(&format!("cannot kill the bridge: {error}"));
        }
        self.stop_left_over_postgres().await;
    }

    /// A bridge that was killed cannot stop its Postgres; nothing of the demo may stay behind.
    async fn stop_left_over_postgres(&self) {
        let Some(pid) =
            postmaster(&self.data_dir, POSTGRES_DEPTH).filter(|pid| test_kill_process(*pid).is_ok())
        else {
            return;
        };
        // SIGINT is Postgres' fast shutdown.
        let _ = kill_process(pid, Signal::INT);
        let deadline = Instant::now() + DRAIN;
        while test_kill_process(pid).is_ok() && Instant::now() < deadline {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Prints the last lines of the log.
    pub fn print_log_tail(&self) {
        let Ok(log) = fs::read(&self.log) else { return };
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        say(&format!("── last lines of {} ──", self.log.display()));
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)) {
            say(line);
        }
    }
}

/// Way to end the process without waiting for anything.
pub struct Emergency {
    pid: Arc<AtomicI32>,
    data_dir: PathBuf,
}

impl Emergency {
    /// SIGKILL to the bridge, which had its SIGTERM before, and a fast shutdown to the Postgres it leaves
    /// behind.
    pub fn pull(&self) {
        send(&self.pid, Signal::KILL);
        if let Some(pid) = postmaster(&self.data_dir, POSTGRES_DEPTH) {
            let _ = kill_process(pid, Signal::INT);
        }
    }
}

/// Sends a signal to whatever process the cell names; it may be gone already.
fn send(cell: &AtomicI32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(cell.load(Ordering::Relaxed)) {
        let _ = kill_process(pid, signal);
    }
}

/// Command that ends with us even when we are killed, where the system offers it without unsafe code.
fn command(executable: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let setpriv =
        std::env::split_paths(&path).map(|folder| folder.join("setpriv")).find(|file| file.is_file());
    match setpriv {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(executable);
            command
        }
        None => Command::new(executable),
    }
}

/// Pid of a running Postgres whose data directory lies below a folder.
fn postmaster(folder: &Path, depth: u8) -> Option<Pid> {
    if let Ok(file) = File::open(folder.join("postmaster.pid")) {
        let text = io::read_to_string(file).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
        // The file outlives a crash of the machine, and its number may be somebody else's now.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        return name.starts_with("postgres").then_some(pid);
    }
    let depth = depth.checked_sub(1)?;
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).find_map(|path| postmaster(&path, depth))
}
