//! Bodies of writes from the command line, and what they would change.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use super::session::wrong;
use crate::cli::terminal::print::remark;
use crate::cli::terminal::table::in_words;
use crate::cli::terminal::text::plain;

/// Fields by name, for all that has no option of its own.
#[derive(Clone, Debug, Args)]
pub struct Given {
    /// A JSON object of fields as the API takes them, `-` for stdin; the place for credentials.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// One field: its value as JSON, or as text.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    set: Vec<String>,
}

impl Given {
    /// Reads them; `--set` counts before the file.
    ///
    /// # Errors
    /// A `ConfigError` inside if one of them is malformed.
    pub fn read(self) -> anyhow::Result<Map<String, Value>> {
        let mut fields = match &self.from {
            Some(path) => object("--from", &text_of("--from", path)?)?,
            None => Map::new(),
        };
        for field in &self.set {
            let (name, value) = field
                .split_once('=')
                .ok_or_else(|| wrong("--set", "must be FIELD=VALUE, such as timeout_ms=5000"))?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            fields.insert(name.to_owned(), value);
        }
        Ok(fields)
    }
}

/// The text of a file, or of stdin for `-`.
///
/// # Errors
/// A `ConfigError` inside if it cannot be read.
pub fn text_of(option: &str, path: &Path) -> anyhow::Result<String> {
    let text =
        if path == Path::new("-") { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(path) };
    text.map_err(|error| wrong(option, format!("{} cannot be read: {error}", path.display())))
}

fn object(option: &str, text: &str) -> anyhow::Result<Map<String, Value>> {
    // The library's own message would not quote, but say where.
    serde_json::from_str(text)
        .map_err(|error| wrong(option, format!("must be a JSON object of fields: {error}")))
}

/// Sets fields that were given as options; what was not given stays out.
pub fn set_texts<const N: usize>(body: &mut Map<String, Value>, fields: [(&str, Option<String>); N]) {
    for (name, value) in fields {
        if let Some(value) = value {
            body.insert(name.to_owned(), Value::from(value));
        }
    }
}

/// The same for lists; an empty one was not given.
pub fn set_lists<const N: usize>(body: &mut Map<String, Value>, fields: [(&str, Vec<String>); N]) {
    for (name, values) in fields {
        if !values.is_empty() {
            body.insert(name.to_owned(), Value::from(values));
        }
    }
}

/// Says what a change comes to, a field a pair of lines; false if it comes to nothing. A field that is not
/// shown (a credential) counts as changed.
pub fn show_changes(now: &Value, wanted: &Map<String, Value>) -> bool {
    let mut differs = false;
    for (name, new) in wanted {
        let before = match now.get(name) {
            Some(before) if before == new => continue,
            Some(before) if !is_secret(name) => Some(in_words(before)),
            _ => None,
        };
        differs = true;
        if let Some(before) = &before {
            removed(name, before);
        }
        added(name, &if before.is_some() { in_words(new) } else { "(as given)".to_owned() });
    }
    differs
}

/// Fields that answers show in part, by another value than they are set by.
fn is_secret(name: &str) -> bool {
    ["auth", "client_certificate"].contains(&name)
}

fn removed(name: &str, value: &str) {
    eprintln!(
        "{}",
        console_terminal::style(format!("- {}: {}", plain(name), plain(value))).red().for_stderr()
    );
}

fn added(name: &str, value: &str) {
    eprintln!(
        "{}",
        console_terminal::style(format!("+ {}: {}", plain(name), plain(value))).green().for_stderr()
    );
}

/// Says that a change comes to nothing.
pub fn nothing_to_change() {
    remark("Nothing to change: it is so already.");
}
