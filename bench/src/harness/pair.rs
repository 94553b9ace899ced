//! Two Postgres servers of the bench's own: a primary and its streaming standby, which is promoted when the
//! primary is killed. The killed one comes back as the standby of the promoted one, by a fresh copy.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::lag::Lag;
use super::sql;

/// Prints where the programs and a new folder are, and as whom servers run (not as root); once its input
/// ends, it ends every server in the folder and removes it.
const GUARD: &str = r#"source scripts/postgres.sh
    postgres_bin || exit 1
    dir=$(mktemp -d "${TMPDIR:-/tmp}/presence-bridge-pair.XXXXXX") || exit 1
    if [ "$(id -u)" = 0 ]; then owner=$(id -un postgres 2>/dev/null || echo nobody) && chown "$owner" "$dir"; fi
    echo "$dir"; id -u $owner; id -g $owner
    cat >/dev/null
    for pid in "$dir"/*/postmaster.pid; do kill -QUIT "$(head -1 "$pid")"; done 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9; do rm -rf "$dir" 2>/dev/null && exit; sleep 0.5; done"#;
/// Shared memory in files goes with the folder: a killed server cannot remove its own.
const SETTINGS: &str = "\nlisten_addresses = '127.0.0.1'\nmax_connections = 60\n\
    wal_retrieve_retry_interval = '100ms'\nwal_receiver_status_interval = '1s'\n\
    dynamic_shared_memory_type = 'mmap'\n";
const PATIENCE: Duration = Duration::from_secs(60);

/// What the standby has of a commit that the primary has confirmed.
#[derive(Clone, Copy)]
pub enum Standby {
    /// Has written it: each commit waits for that.
    Synchronous,
    /// Gets it that much later.
    Behind(Duration),
}

/// Both are gone once this is dropped, or the bench ends.
pub struct Pair {
    kind: Standby,
    pub primary: Node,
    pub standby: Node,
    /// Ends the servers when its input ends.
    guard: Child,
}

impl Pair {
    /// Starts both, with the superuser `postgres` and a database of the same name; the bench must run in the
    /// project's folder.
    pub async fn start(kind: Standby) -> anyhow::Result<Self> {
        let mut guard = Command::new("bash")
            .args(["-c", GUARD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("bash is needed for this")?;
        let mut said = BufReader::new(guard.stdout.take().context("it has no output")?).lines();
        let mut line = async || {
            said.next_line().await?.context("Postgres' server programs are missing: scripts/setup demo")
        };
        let (bin, dir) = (PathBuf::from(line().await?), PathBuf::from(line().await?));
        let owner = (line().await?.parse()?, line().await?.parse()?);
        let programs = Arc::new(Programs { bin, owner });
        let primary = Node::new(&programs, dir.join("first")).await?;
        let standby = Node::new(&programs, dir.join("second")).await?;
        primary.run("initdb", &["-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"]).await?;
        append(&primary.data.join("postgresql.conf"), SETTINGS)?;
        primary.start().await?;
        let pair = Self { kind, primary, standby, guard };
        pair.rejoin().await?;
        Ok(pair)
    }

    /// `DATABASE_URL` that names both.
    pub fn url(&self) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?sslmode=disable&target_session_attrs=read-write",
            self.primary.port, self.standby.port
        )
    }

    /// The standby has been promoted: the killed primary's place is the other one now.
    pub fn change_places(&mut self) {
        std::mem::swap(&mut self.primary, &mut self.standby);
    }

    /// Makes the second server a standby of the primary, whatever it was before, and waits until it has
    /// everything and is what was asked for.
    pub async fn rejoin(&self) -> anyhow::Result<()> {
        let Self { kind, primary, standby, .. } = self;
        primary.lag.set(Duration::ZERO);
        standby.clear()?;
        let from = conninfo(primary.port);
        standby.run("pg_basebackup", &["-d", &from, "-R", "-X", "stream", "-c", "fast", "--no-sync"]).await?;
        if let Standby::Behind(_) = kind {
            // The last setting of a name counts.
            let link = format!("primary_conninfo = '{}'\n", conninfo(primary.lag.port()));
            append(&standby.data.join("postgresql.auto.conf"), &link)?;
        }
        standby.start().await?;
        let written = primary.sql("select pg_current_wal_lsn()").await?.concat().concat();
        primary.until(&format!("state = 'streaming' and replay_lsn >= '{written}'")).await?;
        match kind {
            Standby::Synchronous => {
                primary.sql("alter system set synchronous_standby_names = '*'").await?;
                primary.sql("select pg_reload_conf()").await?;
                primary.until("sync_state = 'sync'").await?;
            }
            Standby::Behind(delay) => primary.lag.set(*delay),
        }
        Ok(())
    }

    /// Stops both, and waits until they are gone.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.guard.stdin.take());
        self.guard.wait().await?;
        Ok(())
    }
}

struct Programs {
    bin: PathBuf,
    /// User and group whom servers run as.
    owner: (u32, u32),
}

/// One server.
pub struct Node {
    programs: Arc<Programs>,
    data: PathBuf,
    port: u16,
    lag: Lag,
}

impl Node {
    async fn new(programs: &Arc<Programs>, data: PathBuf) -> anyhow::Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Self { programs: programs.clone(), data, port, lag: Lag::start(port).await? })
    }

    /// Asks this server, primary or not.
    pub async fn sql(&self, query: &str) -> anyhow::Result<Vec<Vec<String>>> {
        sql::rows(&conninfo(self.port), query).await
    }

    /// A connection that stays open, also over a promotion.
    pub fn session(&self) -> anyhow::Result<sql::Session> {
        sql::Session::open(&conninfo(self.port))
    }

    /// Waits until this holds of its standby.
    async fn until(&self, holds: &str) -> anyhow::Result<()> {
        let (by, query) =
            (Instant::now() + PATIENCE, format!("select 1 from pg_stat_replication where {holds}"));
        while self.sql(&query).await?.is_empty() {
            ensure!(Instant::now() < by, "the standby does not get there: {holds}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Makes a standby a primary, and waits until it is.
    pub async fn promote(&self) -> anyhow::Result<()> {
        let promoted = self.sql("select pg_promote(true, 60)").await?;
        ensure!(promoted.concat().concat() == "t", "the standby was not promoted");
        Ok(())
    }

    async fn start(&self) -> anyhow::Result<()> {
        let (socket, log) = (self.folder()?.display().to_string(), self.data.with_extension("log"));
        let how = format!("-p {} -k '{socket}'", self.port);
        self.run("pg_ctl", &["start", "-w", "-s", "-o", &how, "-l", &log.display().to_string()]).await
    }

    /// Kills every process of the server at once, as a power cut does.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).context("it does not run")?;
        let server = file.lines().next().unwrap_or_default().trim();
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"))?;
        // First the one that would replace those that end. A child that has ended by now is no failure.
        Command::new("kill").args(["-KILL", server]).args(children.split_whitespace()).output().await?;
        let by = Instant::now() + PATIENCE;
        while is_alive(server) {
            ensure!(Instant::now() < by, "the server does not die");
            sleep(Duration::from_millis(1)).await;
        }
        // Until somebody takes notice of its death, a dead server passes for one that lives.
        let lock = self.folder()?.join(format!(".s.PGSQL.{}.lock", self.port));
        for file in [self.data.join("postmaster.pid"), lock] {
            fs::remove_file(file)?;
        }
        Ok(())
    }

    /// Empties its folder. Postgres finds the shared memory of a killed server by the folder's identity.
    fn clear(&self) -> anyhow::Result<()> {
        let Ok(entries) = fs::read_dir(&self.data) else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn folder(&self) -> anyhow::Result<&Path> {
        self.data.parent().context("a node is in a folder")
    }

    /// Runs a program of Postgres' on this node's data, as whom the server runs.
    async fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        let (uid, gid) = self.programs.owner;
        // A server that it starts would keep a pipe open.
        let said = self.data.with_extension("said");
        let file = fs::File::create(&said)?;
        let mut command = Command::new(self.programs.bin.join(program));
        command.arg("-D").arg(&self.data).args(args).current_dir("/").env("LC_ALL", "C").uid(uid).gid(gid);
        let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status().await?;
        if !status.success() {
            let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
            bail!("{program}: {}{}", read(&said), read(&self.data.with_extension("log")));
        }
        Ok(())
    }
}

/// Connection string that leads to one server.
fn conninfo(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=postgres application_name=bench")
}

/// Whether a process runs; one that is dead and was not taken notice of does not.
fn is_alive(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

fn append(file: &Path, text: &str) -> anyhow::Result<()> {
    Ok(fs::OpenOptions::new().append(true).open(file)?.write_all(text.as_bytes())?)
}
