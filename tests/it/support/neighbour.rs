//! The real programs that run next to a bridge at a site (docs/neighbours.md), started by the test that needs them.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::eventually;

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// Runs one of the scripts that install what tests need below `target/`.
pub fn install(script: &str) {
    let ran = Command::new(Path::new(PACKAGE).join("scripts").join(script)).output().expect("bash is there");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// A command for `program` of Debian, with its libraries; `None`, and a word why, where it cannot be had.
pub fn neighbour(program: &str) -> Option<Command> {
    static UNPACKED: OnceLock<PathBuf> = OnceLock::new();
    let root = UNPACKED.get_or_init(|| {
        install("install-neighbours");
        std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(PACKAGE).join("target"), PathBuf::from)
            .join("neighbours/root")
    });
    let found = ["usr/sbin", "usr/bin"]
        .map(|folder| root.join(folder).join(program))
        .into_iter()
        .find(|p| p.exists());
    let Some(path) = found else {
        eprintln!("skipped: {program} cannot be had here");
        return None;
    };
    let of_machine = format!("{}-linux-gnu", std::env::consts::ARCH);
    let libraries = ["lib", "usr/lib"].map(|folder| root.join(folder).join(&of_machine));
    let mut command = Command::new(path);
    let own = root.join("usr/lib/syslog-ng");
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries.iter().chain([&own])).expect("no colon"));
    Some(command)
}

/// A program that listens, with a folder of its own; dropping it ends it.
pub struct Neighbour {
    process: Child,
    /// Port of 127.0.0.1 that it was told to listen on.
    pub port: u16,
    /// Its folder, which everybody may read.
    pub dir: TempDir,
}

impl Neighbour {
    /// Starts a program of Debian, and waits until it listens; `None` where it cannot be had. `set_up` writes
    /// its settings into the folder, for this port, and adds its arguments.
    pub async fn start(program: &str, set_up: impl FnOnce(&mut Command, &Path, u16)) -> Option<Self> {
        let mut command = neighbour(program)?;
        let dir = tempfile::Builder::new().prefix("pb-neighbour-").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        set_up(&mut command, dir.path(), port);
        let output = File::create(dir.path().join("output")).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let process = command.spawn().unwrap();
        let neighbour = Self { process, port, dir };
        listens(port).await;
        Some(neighbour)
    }

    /// Text of a file of its folder, such as `output`; empty if there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sets nginx up with these servers, and its defaults otherwise.
pub fn set_up_nginx(command: &mut Command, dir: &Path, servers: &str) {
    let text = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; \
         uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n{servers}}}\n"
    );
    fs::write(dir.join("nginx.conf"), text).unwrap();
    command.arg("-p").arg(dir).args(["-e", "stderr", "-c", "nginx.conf"]).current_dir(dir);
}

/// A port of 127.0.0.1 that nobody listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until somebody listens on this port.
pub async fn listens(port: u16) {
    eventually("it listens", || async { TcpStream::connect(("127.0.0.1", port)).await.ok() }).await;
}
