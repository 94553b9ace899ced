//! Writing to stdout: a table for people, the API's JSON for scripts.

use std::fmt;
use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::Value;
use serde_json::value::RawValue;

use super::table::{self, Column};
use super::text::{plain, plain_json};

/// Fields that are shown before the others.
const FIRST: [&str; 7] = ["id", "event_id", "name", "url", "state", "secret", "key"];

/// Forms of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// The API's JSON; a list as one array.
    Json,
    /// The API's JSON; a list with an item a line.
    Ndjson,
}

/// Writes a line that is harmless for terminals.
///
/// # Errors
/// If stdout takes nothing.
pub fn line(text: impl fmt::Display) -> io::Result<()> {
    writeln!(io::stdout(), "{}", plain(&text.to_string()))
}

/// Writes a remark to stderr: what a person should know and a script does not read.
pub fn remark(text: impl fmt::Display) {
    // Who has closed stderr wants no remarks.
    let _ = writeln!(io::stderr(), "{}", plain(&text.to_string()));
}

/// Writes JSON as it came.
///
/// # Errors
/// If stdout takes nothing.
pub fn json(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{}", plain_json(text))
}

/// Writes one thing.
///
/// # Errors
/// If stdout takes nothing.
pub fn thing(output: Output, text: &str) -> io::Result<()> {
    if output != Output::Table {
        return json(text);
    }
    let value = serde_json::from_str(text).unwrap_or_default();
    write!(io::stdout(), "{}", table::fields(&members(&value)))
}

/// Members of an object in the order in which they are shown: first what tells it from others.
#[must_use]
pub fn members(value: &Value) -> Vec<(String, Value)> {
    let mut members: Vec<_> =
        value.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    members.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    members
}

/// Writes a list page by page: JSON at once, a table at the end, when all widths are known.
pub struct ListWriter {
    output: Output,
    columns: &'static [Column],
    rows: Vec<Value>,
    written: usize,
}

impl ListWriter {
    /// Begins a list.
    #[must_use]
    pub fn new(output: Output, columns: &'static [Column]) -> Self {
        Self { output, columns, rows: Vec::new(), written: 0 }
    }

    /// Adds a page.
    ///
    /// # Errors
    /// If stdout takes nothing.
    pub fn add(&mut self, items: &[Box<RawValue>]) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for item in items {
            let first = self.written == 0;
            self.written += 1;
            match self.output {
                // Items of a page that was read are JSON.
                Output::Table => self.rows.push(serde_json::from_str(item.get()).unwrap_or_default()),
                Output::Json => {
                    write!(out, "{}{}", if first { "[" } else { ",\n" }, plain_json(item.get()))?;
                }
                Output::Ndjson => writeln!(out, "{}", plain_json(item.get()))?,
            }
        }
        out.flush()
    }

    /// Ends the list.
    ///
    /// # Errors
    /// If stdout takes nothing.
    pub fn end(self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self.output {
            Output::Table if self.rows.is_empty() => remark("Nothing."),
            Output::Table => write!(out, "{}", table::rows(self.columns, &self.rows))?,
            Output::Json => writeln!(out, "{}]", if self.written == 0 { "[" } else { "" })?,
            Output::Ndjson => {}
        }
        out.flush()
    }
}
