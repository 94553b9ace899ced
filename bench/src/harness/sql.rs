//! Questions to a database, through `psql`.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Follows each answer of a [`Session`].
const END: &str = "-- end of answer --";

/// Rows of columns as text. `database` is a connection string or a URL.
pub async fn rows(database: &str, query: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let mut command = psql(database);
    let output = command.args(["--field-separator", "\t", "--command", query]).output().await;
    let output = output.context("psql is needed for this")?;
    ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| !line.is_empty());
    Ok(lines.map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

fn psql(database: &str) -> Command {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--dbname", database]).kill_on_drop(true);
    command
}

/// A connection that stays open, so that a question takes a fraction of a millisecond.
pub struct Session {
    _psql: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Session {
    pub fn open(database: &str) -> anyhow::Result<Self> {
        let mut command = psql(database);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut psql = command.spawn().context("psql is needed for this")?;
        let questions = psql.stdin.take().context("psql has no input")?;
        let answers = BufReader::new(psql.stdout.take().context("psql has no output")?).lines();
        Ok(Self { _psql: psql, questions, answers })
    }

    /// The one value that a query gives.
    pub async fn ask(&mut self, query: &str) -> anyhow::Result<String> {
        self.questions.write_all(format!("{query};\n\\echo {END}\n").as_bytes()).await?;
        let mut value = None;
        loop {
            let line = self.answers.next_line().await?.context("psql has lost its connection")?;
            if line == END {
                return value.with_context(|| format!("no answer to: {query}"));
            }
            value = value.or(Some(line));
        }
    }
}
