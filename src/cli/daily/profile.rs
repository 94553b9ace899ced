//! `presence-bridge profile …`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Done;
use super::session::{address, read_profiles, wrong};
use crate::cli::terminal::ask;
use crate::cli::terminal::print::remark;
use crate::cli::terminal::table::{self, Column};
use crate::client::profiles::{self, Profiles};
use crate::config::ClientSettings;

/// For `--help`.
pub const EXAMPLE: &str = "Examples:
  presence-bridge profile set production --url https://bridge.example.com
  presence-bridge profile set local --url http://127.0.0.1:8080 < data/api.key";

const COLUMNS: &[Column] =
    &[Column::at("NAME", "/name"), Column::at("URL", "/url"), Column::at("DEFAULT", "/default")];

/// Profiles.
#[derive(Debug, Args)]
pub struct Profile {
    /// What to do with them.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do with profiles.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Keep a bridge: reads the key from the terminal without showing it, or from stdin.
    #[command(after_help = EXAMPLE)]
    Set(Set),
    /// List them, without keys.
    #[command(after_help = "Example: presence-bridge profile list")]
    List,
    /// Forget one.
    #[command(after_help = "Example: presence-bridge profile remove local")]
    Remove {
        /// Its name.
        name: String,
    },
}

/// A profile.
#[derive(Debug, Args)]
pub struct Set {
    /// Its name.
    name: String,
    /// Address of the bridge.
    #[arg(long)]
    url: String,
    /// It counts where no profile is named; the first one does anyway.
    #[arg(long)]
    default: bool,
}

/// Runs a verb.
pub fn run(verb: Verb, settings: &ClientSettings) -> Done {
    let mut kept = read_profiles(settings)?;
    match verb {
        Verb::Set(Set { name, url, default }) => {
            address("--url", &url)?;
            let api_key = ask::secret("API key")?;
            if api_key.expose().is_empty() {
                return Err(wrong("stdin", "must be the API key"));
            }
            if default || kept.profiles.is_empty() {
                kept.default = Some(name.clone());
            }
            kept.profiles.insert(name, profiles::Profile { url, api_key });
            write(&kept, settings)?;
        }
        Verb::List => {
            let is_default = |name: &String| if kept.default.as_ref() == Some(name) { "yes" } else { "" };
            let row = |(name, profile): (&String, &profiles::Profile)| json!({"name": name, "url": profile.url, "default": is_default(name)});
            let rows: Vec<_> = kept.profiles.iter().map(row).collect();
            write!(std::io::stdout(), "{}", table::rows(COLUMNS, &rows))?;
        }
        Verb::Remove { name } => {
            if kept.profiles.remove(&name).is_none() {
                return Err(wrong("NAME", "there is no such profile"));
            }
            kept.default = kept.default.filter(|default| *default != name);
            write(&kept, settings)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(profiles: &Profiles, settings: &ClientSettings) -> anyhow::Result<()> {
    let path = settings
        .profiles_file
        .as_ref()
        .ok_or_else(|| wrong("HOME", "must be set, to keep profiles there"))?;
    let shown = path.display();
    profiles.write(path).map_err(|error| wrong(&shown.to_string(), error.to_string()))?;
    remark(format!("Kept in {shown}."));
    Ok(())
}
