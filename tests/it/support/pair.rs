//! Two real Postgres servers on the loopback, the second a streaming standby of the first, and what can happen
//! to them: promotion, a stop, a crash, a freeze, a disk that only reads.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Postgres};

use super::eventually;
use super::sweeper::afterwards;

/// What both servers are run with. Killing a process loses nothing that was written, synchronised or not.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'\nfsync = off\nfull_page_writes = off\n\
    wal_level = logical\nmax_connections = 60\nshared_buffers = '32MB'\nhot_standby = on\n\
    wal_retrieve_retry_interval = '100ms'\nwal_receiver_status_interval = '1s'\n";
/// Ends whatever runs on the folders below `$1`, and removes them.
const CLEAN_UP: &str = r#"for pid in "$1"/*/postmaster.pid; do kill -QUIT "$(head -1 "$pid")"; done
    for _ in 1 2 3 4 5 6 7 8 9; do rm -rf "$1" && exit; sleep 0.5; done"#;

/// A server that belongs to a [`Pair`].
pub struct Node {
    data: PathBuf,
    port: u16,
    bin: PathBuf,
}

/// A primary and its standby; both are gone once this is dropped, or the test process ends. The standby is
/// asynchronous until [`commits_wait_for_standby`](Self::commits_wait_for_standby).
pub struct Pair {
    /// Primary at first.
    pub first: Node,
    /// Its standby at first.
    pub second: Node,
    sweeper: Child,
}

impl Pair {
    /// Starts both, with the superuser `postgres` and a database of the same name, and no schema.
    pub async fn start() -> Self {
        let (first, sweeper) = Node::prepare("pb-pair-");
        tokio::task::block_in_place(|| {
            first.run("initdb", &["-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"]);
            let file = first.data.join("postgresql.conf");
            fs::write(&file, fs::read_to_string(&file).unwrap() + SETTINGS).unwrap();
        });
        first.start();
        let second = first.neighbour("second");
        second.follow(&first);
        let pair = Self { first, second, sweeper };
        pair.caught_up().await;
        pair
    }

    /// `DATABASE_URL` that names both, the first one first.
    pub fn url(&self) -> String {
        let (first, second) = (self.first.port, self.second.port);
        format!(
            "postgres://postgres@127.0.0.1:{first},127.0.0.1:{second}/postgres?sslmode=disable\
             &target_session_attrs=read-write"
        )
    }

    /// Every commit of the first waits for the second from now on, or no longer.
    pub async fn commits_wait_for_standby(&self, wait: bool) {
        self.first.set("synchronous_standby_names", if wait { "*" } else { "" }).await;
        if wait {
            eventually("the standby is synchronous", || async {
                let wanted = "select count(*) from pg_stat_replication where sync_state = 'sync'";
                (self.first.ask::<i64>(wanted).await == 1).then_some(())
            })
            .await;
        }
    }

    /// Waits until the second has applied everything that the first has written so far.
    pub async fn caught_up(&self) {
        self.second.caught_up_with(&self.first).await;
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for node in [&self.first, &self.second] {
            node.signal(Signal::SIGCONT);
            node.signal(Signal::SIGKILL);
        }
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
    }
}

impl Node {
    /// A node whose data will lie in a new folder, and what removes that folder.
    fn prepare(prefix: &str) -> (Self, Child) {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir().unwrap().keep();
        let sweeper = afterwards(CLEAN_UP, &[dir.as_os_str()]);
        if let Some(owner) = owner() {
            chown(&dir, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).unwrap();
        }
        let script = "source scripts/postgres.sh && postgres_bin";
        let found = Command::new("bash").args(["-c", script]).output().unwrap();
        let bin = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
        (Self { data: dir.join("first"), port: free_port(), bin }, sweeper)
    }

    fn neighbour(&self, name: &str) -> Self {
        Self { data: self.data.with_file_name(name), port: free_port(), bin: self.bin.clone() }
    }

    /// TCP port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Folder of its data.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// `DATABASE_URL` that leads here alone.
    pub fn url(&self) -> String {
        self.url_of("postgres", "postgres")
    }

    /// The same for another user and database.
    pub fn url_of(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// One connection, to look and to meddle; it may write even while the server is read-only by default.
    pub async fn pool(&self) -> PgPool {
        let url = format!("{}&options=-c%20default_transaction_read_only%3Doff", self.url());
        PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap()
    }

    /// Runs statements, each in a transaction of its own.
    pub async fn say(&self, statements: &[&str]) {
        let pool = self.pool().await;
        for statement in statements {
            sqlx::query(AssertSqlSafe(*statement)).execute(&pool).await.unwrap();
        }
        pool.close().await;
    }

    /// The one value that a query gives.
    pub async fn ask<T>(&self, query: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        let pool = self.pool().await;
        let value = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&pool).await.unwrap();
        pool.close().await;
        value
    }

    /// Changes a setting of the whole server for good.
    pub async fn set(&self, setting: &str, value: &str) {
        let change = format!("alter system set {setting} = '{value}'");
        self.say(&[&change, "select pg_reload_conf()"]).await;
    }

    /// Transactions write nothing any more, as where a disk is full, or they do again.
    pub async fn read_only(&self, yes: bool) {
        self.set("default_transaction_read_only", if yes { "on" } else { "off" }).await;
    }

    /// Connections that bridges have to this server.
    pub async fn bridges(&self) -> i64 {
        self.ask("select count(*) from pg_stat_activity where application_name like 'presence-bridge%'").await
    }

    /// Makes a standby a primary, and waits until it writes.
    pub async fn promote(&self) {
        assert!(self.ask::<bool>("select pg_promote(true, 20)").await, "it is promoted");
    }

    /// Makes this node a standby of another by a fresh copy, whatever it was before, and starts it.
    pub fn follow(&self, primary: &Self) {
        tokio::task::block_in_place(|| {
            let _ = fs::remove_dir_all(&self.data);
            let from = primary.conninfo();
            self.run("pg_basebackup", &["-d", &from, "-R", "-X", "stream", "-c", "fast", "--no-sync"]);
        });
        self.start();
    }

    /// Starts a stopped or former primary as a standby of another on its own data: only after an orderly stop,
    /// for its history must not have gone on.
    #[allow(dead_code, reason = "for tests of switchovers")]
    pub fn start_as_standby_of(&self, primary: &Self) {
        let file = self.data.join("postgresql.auto.conf");
        let text = fs::read_to_string(&file).unwrap();
        let link =
            format!("primary_conninfo = '{}'\nrecovery_target_timeline = 'latest'\n", primary.conninfo());
        fs::write(&file, text + &link).unwrap();
        fs::write(self.data.join("standby.signal"), "").unwrap();
        self.start();
    }

    /// Waits until a standby has applied everything that its primary has written so far.
    pub async fn caught_up_with(&self, primary: &Self) {
        let written: String = primary.ask("select pg_current_wal_lsn()::text").await;
        let applied = format!("select coalesce(pg_last_wal_replay_lsn() >= '{written}', false)");
        eventually("the standby has caught up", || async { self.ask::<bool>(&applied).await.then_some(()) })
            .await;
    }

    /// A standby gets nothing from its primary from now on: what is committed there meanwhile is lost with it.
    pub async fn is_cut_off(&self) {
        self.set("primary_conninfo", "").await;
        eventually("nothing is received", || async {
            (self.ask::<i64>("select count(*) from pg_stat_wal_receiver").await == 0).then_some(())
        })
        .await;
    }

    /// Starts the server, and waits until it accepts connections.
    pub fn start(&self) {
        let socket = self.data.parent().unwrap().display().to_string();
        let how = format!("-p {} -k {socket}", self.port);
        let log = self.data.with_extension("log").display().to_string();
        tokio::task::block_in_place(|| self.run("pg_ctl", &["start", "-w", "-s", "-o", &how, "-l", &log]));
    }

    /// Stops the server in order: its sessions end, and a standby gets everything first.
    pub fn stop(&self) {
        tokio::task::block_in_place(|| self.run("pg_ctl", &["stop", "-w", "-s", "-m", "fast"]));
    }

    /// Kills every process of the server at once, as a power cut does.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        // Until somebody takes note of its death, a dead server passes for one that lives.
        let lock = self.data.with_file_name(format!(".s.PGSQL.{}.lock", self.port));
        for file in [self.data.join("postmaster.pid"), lock] {
            let _ = fs::remove_file(file);
        }
    }

    /// Everything stands still, and connections stay open, as on a machine that hangs.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres application_name=standby", self.port)
    }

    /// Sends this to the server and to each of its processes.
    fn signal(&self, signal: Signal) {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let Some(server) = file.lines().next().and_then(|pid| pid.trim().parse::<i32>().ok()) else { return };
        let children =
            fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
        // First the one that would replace those that end.
        let _ = kill(Pid::from_raw(server), signal);
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(child), signal);
        }
    }

    /// Runs a program of Postgres' on this node's data, as whom the server runs.
    fn run(&self, program: &str, args: &[&str]) {
        let mut command = Command::new(self.bin.join(program));
        command.arg("-D").arg(&self.data).args(args).current_dir("/").env("LC_ALL", "C");
        if let Some(owner) = owner() {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
        }
        // A server that it starts would keep a pipe open.
        let said = self.data.with_extension("said");
        let file = fs::File::create(&said).unwrap();
        let status = command.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let log = self.data.with_extension("log");
        assert!(status.success(), "{program}: {}{}", read(&said), read(&log));
    }
}

/// Postgres refuses root.
fn owner() -> Option<User> {
    geteuid().is_root().then(|| User::from_name("postgres").unwrap().expect("user postgres is there"))
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
