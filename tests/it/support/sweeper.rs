//! What is to be done once this process has ended, however it does: nothing is dropped then.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// Has a shell run this, with these as `$1` and so on, when its standard input ends: with this process, or
/// when the pipe is dropped.
pub fn afterwards(script: &str, args: &[&OsStr]) -> Child {
    Command::new("sh")
        .args(["-c", &format!("cat; {script}"), "sh"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh is there")
}
