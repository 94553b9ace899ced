//! The real programs that run next to a bridge at a site (docs/neighbours.md), started by the test that needs them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A command for `program` of Debian, with its libraries; `None`, and a word why, where it cannot be had.
pub fn neighbour(program: &str) -> Option<Command> {
    static UNPACKED: OnceLock<PathBuf> = OnceLock::new();
    let root = UNPACKED.get_or_init(|| {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let ran = Command::new(package.join("scripts/install-neighbours")).output().expect("bash is there");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| package.join("target"), PathBuf::from)
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
