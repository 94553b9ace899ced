//! The program as a person at a terminal runs it: in a home of its own, with nothing but what it is told.

use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use super::Bridge;
use super::bridge::API_KEY;

/// What a command came to.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(status: ExitStatus, out: &[u8], err: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { code: status.code().unwrap_or(-1), out: text(out), err: text(err) }
    }

    /// Its output, if it went well.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// Its output as JSON, if it went well.
    pub fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}

/// A person's place to work.
pub struct Terminal {
    home: TempDir,
    variables: Vec<(String, String)>,
}

impl Terminal {
    /// One that knows no bridge.
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// One that knows a bridge and a key to it.
    pub fn at(bridge: &Bridge) -> Self {
        let mut terminal = Self::new();
        terminal.set("PRESENCE_BRIDGE_URL", &bridge.url);
        terminal.set("PRESENCE_BRIDGE_API_KEY", API_KEY);
        terminal
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// The home, which is the working folder too.
    pub fn home(&self) -> &std::path::Path {
        self.home.path()
    }

    fn prepare(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command line to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, None).await
    }

    /// The same with something on stdin.
    pub async fn run_with(&self, arguments: &[&str], stdin: Option<&str>) -> Ran {
        let mut command = self.prepare(env!("CARGO_BIN_EXE_presence-bridge"));
        command.args(arguments).stdin(Stdio::piped());
        let stdin = stdin.unwrap_or_default().to_owned();
        tokio::task::spawn_blocking(move || finish(command.spawn().unwrap(), &stdin)).await.unwrap()
    }

    /// The same in a terminal of this many columns, if this machine can make one.
    pub async fn run_in(&self, columns: u16, arguments: &[&str], stdin: &str) -> Option<Ran> {
        let line = arguments.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let program = env!("CARGO_BIN_EXE_presence-bridge");
        let mut command = self.prepare("script");
        let line = format!("stty rows 40 cols {columns} -echo; '{program}' {line}");
        command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).env("TERM", "xterm-256color");
        let child = command.spawn().ok()?;
        let stdin = stdin.to_owned();
        Some(tokio::task::spawn_blocking(move || finish(child, &stdin)).await.unwrap())
    }

    /// Starts a command line that goes on.
    pub fn start(&self, arguments: &[&str]) -> tokio::process::Child {
        let mut command: tokio::process::Command = self.prepare(env!("CARGO_BIN_EXE_presence-bridge")).into();
        command.args(arguments).kill_on_drop(true).spawn().unwrap()
    }
}

fn finish(mut child: Child, stdin: &str) -> Ran {
    // Who has ended already reads nothing.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let ended = child.wait_with_output().unwrap();
    Ran::of(ended.status, &ended.stdout, &ended.stderr)
}

/// Text without what differs from run to run: ids, times and runs of blanks.
pub fn shape(text: &str) -> String {
    text.lines().map(|line| shape_of_line(line).trim_end().to_owned() + "\n").collect()
}

fn shape_of_line(line: &str) -> String {
    let mut shaped = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        if rest.get(..36).is_some_and(|id| id.contains('-') && Uuid::try_parse(id).is_ok()) {
            shaped.push_str("<id>");
            rest = &rest[36..];
        } else if rest.get(..20).is_some_and(is_time) {
            shaped.push_str("<time>");
            rest = &rest[20..];
        } else if rest.starts_with("   ") {
            rest = &rest[1..];
        } else {
            shaped.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    shaped
}

fn is_time(text: &str) -> bool {
    text.starts_with("20") && text.get(10..11) == Some("T") && text.ends_with('Z')
}
