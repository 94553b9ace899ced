//! A Postgres of our own, from the installed binaries, when no `DATABASE_URL` is given.
//!
//! Durable (fsync stays on unless a test asks otherwise), reachable over a Unix socket only, in a directory
//! that only its owner may enter, so that trusting every local caller is safe. Postgres refuses root: a
//! bridge that runs as root starts it as user `postgres`, else `nobody`. The server gets a fast-shutdown
//! signal when the thread that started it dies, so a killed bridge leaves none behind: start it from a thread
//! that lives as long as the process.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use sqlx::postgres::PgConnectOptions;

/// How long the server may take to accept connections (crash recovery included) and to stop.
const START_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(8);
/// A server of a bridge that was killed just now needs a moment to stop; retries end after this.
const PREDECESSOR_GONE_WITHIN: Duration = Duration::from_secs(30);
/// Deaths without a minute's life in between after which a server is given up.
const DEATHS_MAX: u32 = 30;
/// Longest wait before it is started again; what the former one leaves behind needs a moment to go.
const REVIVE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often a file is looked at while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest socket directory: the kernel's limit for the whole path is 107 bytes.
const SOCKET_DIR_BYTES_MAX: usize = 90;
/// Name of the socket is made from it; there is no TCP.
const PORT: u16 = 5432;

/// Why the embedded server does not run. Texts tell what to do.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No server binaries on this machine.
    #[error(
        "no PostgreSQL server programs found (looked for initdb in {looked}); \
         install the package `postgresql`, or set DATABASE_URL"
    )]
    NotInstalled {
        /// Where we looked.
        looked: String,
    },
    /// The directory cannot be used.
    #[error("{path}: {what}")]
    Directory {
        /// Its path.
        path: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// A server program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// The end of what it said.
        output: String,
    },
    /// The server ended, or did not become ready in time.
    #[error("embedded PostgreSQL did not start: {0}; its log is {1}")]
    NotReady(String, String),
}

/// How to run the server. All for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Gives up durability for speed.
    pub fsync_off: bool,
    /// Folder of the server's programs, instead of looking for it.
    pub bin: Option<&'static Path>,
    /// Further settings, as `name=value`.
    pub settings: &'static [&'static str],
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Embedded {
    child: Child,
    socket_dir: PathBuf,
    log: PathBuf,
    how: How,
    started: Instant,
    /// How often it died without having lived for [`START_WITHIN`] before.
    deaths: u32,
    /// When it may be started again, once its death was noticed.
    revive_at: Option<Instant>,
}

/// How a server is started.
#[derive(Clone, Debug)]
struct How {
    bin: PathBuf,
    data: PathBuf,
    options: Options,
    owner: Option<User>,
}

impl Embedded {
    /// Starts the server with its data under `dir`, making both if need be. Blocks until it accepts
    /// connections: seconds at the first start, well under one later.
    ///
    /// # Errors
    /// [`EmbeddedError`]; nothing is left running.
    pub fn start(dir: &Path, options: Options) -> Result<Self, EmbeddedError> {
        let bin = options.bin.map_or_else(find_binaries, |bin| Ok(bin.to_owned()))?;
        let dir = make_dir(dir)?;
        let owner = server_user();
        let (data, socket_dir, log) = (dir.join("postgres"), dir.join("run"), dir.join("postgres.log"));
        if socket_dir.as_os_str().len() > SOCKET_DIR_BYTES_MAX {
            return Err(directory(
                &dir,
                format!("path too long for a Unix socket (over {SOCKET_DIR_BYTES_MAX} bytes)"),
            ));
        }
        for path in [&data, &socket_dir] {
            own(path, owner.as_ref()).map_err(|error| directory(path, error.to_string()))?;
        }
        if !data.join("PG_VERSION").exists() {
            init(&bin, &dir, &data, owner.as_ref())?;
        }
        check_version(&bin, &data)?;
        let predecessor_gone_by = Instant::now() + PREDECESSOR_GONE_WITHIN;
        loop {
            // The lock may go between our server's look at it and ours.
            let contended = locked_by_another(&data);
            let mut server = Self {
                child: spawn(&bin, &data, &socket_dir, &log, options, owner.as_ref())?,
                socket_dir: socket_dir.clone(),
                log: log.clone(),
                how: How { bin: bin.clone(), data: data.clone(), options, owner: owner.clone() },
                started: Instant::now(),
                deaths: 0,
                revive_at: None,
            };
            match server.wait_until_ready(&data) {
                Ok(()) => return Ok(server),
                Err(_) if (contended || locked_by_another(&data)) && Instant::now() < predecessor_gone_by => {
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(_) if locked_by_another(&data) => {
                    return Err(directory(
                        &dir,
                        "another bridge is using it; give each a directory of its own".to_owned(),
                    ));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How to connect to its database `postgres` as its superuser.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        connect_options(&self.socket_dir)
    }

    /// The same of a server that another process runs with its data under `dir`; `None` if none runs.
    #[must_use]
    pub fn running(dir: &Path) -> Option<PgConnectOptions> {
        let dir = fs::canonicalize(dir).ok()?;
        locked_by_another(&dir.join("postgres")).then(|| connect_options(&dir.join("run")))
    }

    /// The same as a `DATABASE_URL`, for another program.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let dir: String =
            url::form_urlencoded::byte_serialize(self.socket_dir.as_os_str().as_encoded_bytes()).collect();
        format!("postgres://postgres@localhost:{PORT}/{database}?host={dir}")
    }

    /// Looks whether the server is alive, and starts it again if it died, with a growing wait; how it died,
    /// if it was started just now. Does not block: the server repairs its files by itself and accepts
    /// connections when it has. Call it about once a second, from the thread that started the server.
    ///
    /// # Errors
    /// If it cannot be started, or dies whenever it is: nothing here helps any more.
    pub fn revive(&mut self) -> Result<Option<ExitStatus>, EmbeddedError> {
        let Ok(Some(status)) = self.child.try_wait() else { return Ok(None) };
        let now = Instant::now();
        match self.revive_at {
            None => {
                let lived = self.started.elapsed() > START_WITHIN;
                self.deaths = u32::from(!lived) * self.deaths + 1;
                if self.deaths > DEATHS_MAX {
                    let said = format!("it ended with {status}, again and again");
                    return Err(EmbeddedError::NotReady(said, self.log.display().to_string()));
                }
                let wait = Duration::from_secs((self.deaths - 1).into()).min(REVIVE_WAIT_MAX);
                tracing::error!(%status, ?wait, "the embedded PostgreSQL died; restarting it after wait");
                self.revive_at = Some(now + wait);
                Ok(None)
            }
            Some(at) if now < at => Ok(None),
            Some(_) => {
                let How { bin, data, options, owner } = &self.how;
                self.child = spawn(bin, data, &self.socket_dir, &self.log, *options, owner.as_ref())?;
                (self.started, self.revive_at) = (now, None);
                Ok(Some(status))
            }
        }
    }

    /// Stops the server (fast shutdown: sessions end, a checkpoint is written).
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.signal(Signal::SIGINT);
        let by = Instant::now() + STOP_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > by {
                // Immediate shutdown: the log repairs it at the next start.
                self.signal(Signal::SIGQUIT);
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Ready is what postmaster.pid says, and only if its first line is our child: another server on the same
    /// directory writes the same file.
    fn wait_until_ready(&mut self, data: &Path) -> Result<(), EmbeddedError> {
        let not_ready = |what: String| EmbeddedError::NotReady(what, self.log.display().to_string());
        let own_pid = self.child.id().to_string();
        let by = Instant::now() + START_WITHIN;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(not_ready(format!("it ended with {status}")));
            }
            let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let mut lines = text.lines().map(str::trim);
            if lines.next() == Some(own_pid.as_str()) && lines.next_back() == Some("ready") {
                return Ok(());
            }
            if Instant::now() > by {
                return Err(not_ready("not ready in time".to_owned()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn connect_options(socket_dir: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(PORT)
        .username("postgres")
        .database("postgres")
}

/// Whether a living process other than ours holds the lock file.
fn locked_by_another(data: &Path) -> bool {
    fs::read_to_string(data.join("postmaster.pid"))
        .ok()
        .and_then(|text| text.lines().next()?.trim().parse().ok())
        .is_some_and(|pid| kill(Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH))
}

/// Directory of initdb and postgres: Debian's and RPM's versioned ones (highest version first), Homebrew's,
/// PATH.
fn find_binaries() -> Result<PathBuf, EmbeddedError> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let version = entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            let bin = entry.path().join("bin");
            if let Some(version) = version.filter(|_| bin.join("initdb").exists()) {
                found.push((version, bin));
            }
        }
    }
    if let Some((_, bin)) = found.into_iter().max() {
        return Ok(bin);
    }
    let on_path = Command::new("sh").args(["-c", "command -v initdb"]).output().ok().and_then(|output| {
        let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        Some(fs::canonicalize(path).ok()?.parent()?.to_path_buf())
    });
    on_path.ok_or_else(|| EmbeddedError::NotInstalled {
        looked: "/usr/lib/postgresql/*/bin, /usr/pgsql-*/bin, Homebrew, PATH".to_owned(),
    })
}

/// Whom to run the server as: nobody else if we are not root.
fn server_user() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten())
}

fn make_dir(dir: &Path) -> Result<PathBuf, EmbeddedError> {
    fs::create_dir_all(dir)
        .and_then(|()| fs::canonicalize(dir))
        .map_err(|error| directory(dir, error.to_string()))
}

/// Makes a directory that only the server's user may enter.
fn own(path: &Path, owner: Option<&User>) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if let Some(user) = owner {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

fn init(bin: &Path, dir: &Path, data: &Path, owner: Option<&User>) -> Result<(), EmbeddedError> {
    let output = command(bin, "initdb", owner)
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--data-checksums"])
        .arg("--pgdata")
        .arg(data)
        .output()
        .map_err(|error| EmbeddedError::Program { program: "initdb", output: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let said = end_of(&output);
    if said.contains("Permission denied") {
        let user = owner.map_or("this user", |user| user.name.as_str());
        return Err(directory(
            dir,
            format!(
                "{user} may not enter it; choose a directory that it can reach, such as /var/lib/presence-bridge"
            ),
        ));
    }
    Err(EmbeddedError::Program { program: "initdb", output: said })
}

fn check_version(bin: &Path, data: &Path) -> Result<(), EmbeddedError> {
    let of_data = fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default();
    let said = Command::new(bin.join("postgres")).arg("--version").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let of_binaries = said
        .split_whitespace()
        .find_map(|word| word.split('.').next()?.parse::<u32>().ok())
        .unwrap_or_default();
    if of_data.trim() == of_binaries.to_string() {
        return Ok(());
    }
    Err(directory(data, format!("made by PostgreSQL {}, but {of_binaries} is installed", of_data.trim())))
}

fn spawn(
    bin: &Path,
    data: &Path,
    socket_dir: &Path,
    log: &Path,
    options: Options,
    owner: Option<&User>,
) -> Result<Child, EmbeddedError> {
    let failed = |error: io::Error| EmbeddedError::Program { program: "postgres", output: error.to_string() };
    let log: File = OpenOptions::new().create(true).append(true).open(log).map_err(failed)?;
    let mut command = command(bin, "postgres", owner);
    command.arg("-D").arg(data).arg("-k").arg(socket_dir);
    for setting in [
        "listen_addresses=",
        "unix_socket_permissions=0700",
        "wal_level=minimal",
        "max_wal_senders=0",
        "shared_buffers=128MB",
        "max_wal_size=2GB",
        "log_min_messages=warning",
    ] {
        command.args(["-c", setting]);
    }
    if options.fsync_off {
        command.args(["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]);
    }
    for setting in options.settings {
        command.args(["-c", setting]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
    // A group of its own: Ctrl-C in the terminal is for the bridge, which stops the server last.
    command.process_group(0);
    stop_with_parent(&mut command);
    command.spawn().map_err(failed)
}

/// Asks the kernel to send the child a fast-shutdown signal when the thread that starts it dies.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "prctl in the child before exec is async-signal-safe and allocates nothing")]
fn stop_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGINT).map_err(io::Error::from));
    }
}

/// Other kernels have no such signal: there a killed bridge leaves its server running, and the next start
/// says so.
#[cfg(not(target_os = "linux"))]
fn stop_with_parent(_command: &mut Command) {}

/// A server program, run as its user from a directory that the user can enter.
fn command(bin: &Path, program: &str, owner: Option<&User>) -> Command {
    let mut command = Command::new(bin.join(program));
    command.current_dir("/").env_remove("PGDATA").env("LC_ALL", "C");
    if let Some(user) = owner {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn directory(path: &Path, what: String) -> EmbeddedError {
    EmbeddedError::Directory { path: path.display().to_string(), what }
}

fn end_of(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("; ")
}
