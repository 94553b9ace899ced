//! Which bridge is meant, with which key, and in which form it is shown.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::Url;

use crate::cli::terminal::print::{self, ListWriter, Output, remark};
use crate::cli::terminal::progress;
use crate::cli::terminal::table::Column;
use crate::client::api::{Answer, Api, Query};
use crate::client::pages::Pages;
use crate::client::profiles::{Profile, Profiles};
use crate::client::transport::is_here;
use crate::clock;
use crate::config::{ClientSettings, ConfigError};
use crate::domain::secret::Secret;

/// Between two looks at something that is under way.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Options of every command that speaks to a bridge.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Address of the bridge; PRESENCE_BRIDGE_URL, a profile, or the bridge of this machine if left out.
    #[arg(long, global = true, value_name = "URL", help_heading = "Bridge")]
    url: Option<String>,
    /// File that holds the API key; PRESENCE_BRIDGE_API_KEY or its _FILE, or a profile's, if left out.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Bridge")]
    api_key_file: Option<PathBuf>,
    /// Take address and key from this profile (see `presence-bridge profile`); also PRESENCE_BRIDGE_PROFILE.
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "url", help_heading = "Bridge")]
    profile: Option<String>,
    /// Form of the output.
    #[arg(long, short, global = true, value_enum, default_value_t, hide_possible_values = false)]
    output: Output,
}

/// How much of a list is read.
#[derive(Clone, Debug, Args)]
pub struct Paging {
    /// Most items to show.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// Show all items.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Begin where an earlier list ended.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// A bridge to speak to, and how to show what it says.
pub struct Session {
    /// The bridge.
    pub api: Api,
    /// The form.
    pub output: Output,
}

/// A wrong option, by its name and its rule.
pub fn wrong(option: &str, rule: impl Into<String>) -> anyhow::Error {
    ConfigError { variable: option.to_owned(), rule: rule.into() }.into()
}

impl Session {
    /// Finds address and key: options count before the environment, the environment before the default
    /// profile, and that before the bridge of this machine. A profile's key goes to the profile's address
    /// alone, the local bridge's to this machine.
    ///
    /// # Errors
    /// A [`ConfigError`] inside if there is no key, or something is wrong with what was given.
    pub fn open(target: &Target, settings: &ClientSettings) -> anyhow::Result<Self> {
        let profile = profile(target, settings)?;
        let given = target.url.as_ref().map(|url| ("--url", url));
        let (from, url) = match (&given, &profile, &settings.url) {
            (Some((from, url)), ..) => (*from, (*url).clone()),
            (None, Some(profile), _) => ("url of the profile", profile.url.clone()),
            (None, None, Some(url)) => ("PRESENCE_BRIDGE_URL", url.clone()),
            (None, None, None) => ("BRIDGE_LISTEN", settings.local.url.clone()),
        };
        let url = address(from, &url)?;
        let key = match (&target.api_key_file, profile) {
            (Some(file), _) => read_key(file)?,
            (None, Some(profile)) => profile.api_key,
            (None, None) => match settings.api_key.clone().or_else(|| local_key(&url, settings)) {
                Some(key) => key,
                None => return Err(no_key(&url, settings)),
            },
        };
        if url.scheme() == "http" && !is_here(&url) {
            remark("Warning: the key goes to another machine without TLS.");
        }
        Ok(Self { api: Api::new(url, key), output: target.output })
    }

    /// Reads a list and shows it.
    ///
    /// # Errors
    /// If the bridge refuses, or nobody reads.
    pub fn list(
        &self,
        path: &[&str],
        query: Query,
        paging: &Paging,
        columns: &'static [Column],
    ) -> anyhow::Result<()> {
        let most = if paging.all { usize::MAX } else { paging.limit };
        let mut pages = Pages::new(&self.api, path, query, paging.cursor.clone(), most);
        let mut writer = ListWriter::new(self.output, columns);
        while let Some(items) = pages.next_page()? {
            writer.add(&items)?;
        }
        writer.end()?;
        if let Some(rest) = pages.rest() {
            remark(format!("There may be more: --all, or go on with --cursor {rest}"));
        }
        Ok(())
    }

    /// Shows one thing.
    ///
    /// # Errors
    /// If nobody reads.
    pub fn show(&self, answer: &Answer) -> anyhow::Result<()> {
        Ok(print::thing(self.output, answer.text())?)
    }

    /// Writes a table.
    ///
    /// # Errors
    /// If nobody reads.
    pub fn print(&self, table: &str) -> anyhow::Result<()> {
        Ok(write!(io::stdout(), "{table}")?)
    }

    /// Reads one thing again and again until it is ready, and says meanwhile how far it is.
    ///
    /// # Errors
    /// If the bridge refuses.
    pub fn wait_for(
        &self,
        what: &'static str,
        path: &[&str],
        is_ready: impl Fn(&Value) -> bool,
        position: impl Fn(&Value) -> u64,
    ) -> anyhow::Result<Answer> {
        let bar = progress::bar(what, None);
        loop {
            let answer = self.api.get(path, &Query::new())?;
            let value = answer.value();
            bar.set_position(position(&value));
            if is_ready(&value) {
                bar.finish_and_clear();
                return Ok(answer);
            }
            sleep(LOOK_EVERY);
        }
    }
}

fn profile(target: &Target, settings: &ClientSettings) -> anyhow::Result<Option<Profile>> {
    let by_environment = settings.profile.as_ref().map(|name| ("PRESENCE_BRIDGE_PROFILE", name));
    let named = match (&target.profile, &target.url, &settings.url) {
        (Some(name), ..) => Some(("--profile", name)),
        (None, Some(_), _) => return Ok(None),
        (None, None, url) => match by_environment {
            Some(_) if url.is_some() => {
                return Err(wrong("PRESENCE_BRIDGE_PROFILE", "goes without PRESENCE_BRIDGE_URL"));
            }
            None if url.is_some() => return Ok(None),
            by_environment => by_environment,
        },
    };
    let profiles = read_profiles(settings)?;
    match named {
        Some((from, name)) => match profiles.profiles.get(name) {
            Some(profile) => Ok(Some(profile.clone())),
            None => Err(wrong(from, "there is no such profile; `presence-bridge profile list` lists them")),
        },
        None => Ok(profiles.default.and_then(|name| profiles.profiles.get(&name).cloned())),
    }
}

/// The file of profiles, or none for a user without a home.
///
/// # Errors
/// A [`ConfigError`] inside if it cannot be used.
pub fn read_profiles(settings: &ClientSettings) -> anyhow::Result<Profiles> {
    match &settings.profiles_file {
        Some(path) => {
            Profiles::read(path).map_err(|error| wrong(&path.display().to_string(), error.to_string()))
        }
        None => Ok(Profiles::default()),
    }
}

/// Reads the address of a bridge.
///
/// # Errors
/// A [`ConfigError`] inside if it is none.
pub fn address(from: &str, text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    url.ok_or_else(|| wrong(from, "must be an address such as https://bridge.example.com"))
}

fn read_key(file: &Path) -> anyhow::Result<Secret> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| wrong("--api-key-file", format!("{} cannot be read: {error}", file.display())))?;
    Ok(Secret::new(text.trim()))
}

/// The key of the bridge that runs in this folder; it goes to this machine alone.
fn local_key(url: &Url, settings: &ClientSettings) -> Option<Secret> {
    let chosen = settings.local.api_key.clone();
    let made = || Some(Secret::new(std::fs::read_to_string(&settings.local.key_file).ok()?.trim()));
    is_here(url).then(|| chosen.or_else(made)).flatten()
}

fn no_key(url: &Url, settings: &ClientSettings) -> anyhow::Error {
    let mut rule =
        "required: a file that holds the API key; or set PRESENCE_BRIDGE_API_KEY, or keep one with \
                    `presence-bridge profile set`"
            .to_owned();
    if is_here(url) {
        let file = settings.local.key_file.display();
        rule.push_str(&format!(" (a local bridge keeps its own in {file}, which is not there or not yours)"));
    }
    wrong("--api-key-file", rule)
}

/// The parameters that are set.
pub fn query<const N: usize>(parameters: [(&'static str, Option<String>); N]) -> Query {
    parameters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A time as RFC 3339; also how long ago, as `90s`, `30m`, `2h` or `7d`.
///
/// # Errors
/// If it is neither.
pub fn time(text: &str) -> Result<String, String> {
    if OffsetDateTime::parse(text, &Rfc3339).is_ok() {
        return Ok(text.to_owned());
    }
    let ago = || {
        let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let ago = count.parse::<u32>().ok()?;
        clock::now().checked_sub(time::Duration::seconds(i64::from(ago) * seconds))
    };
    ago()
        .map(clock::rfc3339)
        .ok_or_else(|| "no time such as 2026-01-31T09:30:00Z, or 2h for two hours ago".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_time_is_a_time_or_how_long_ago() {
        assert_eq!(time("2026-11-23T09:30:00Z").unwrap(), "2026-11-23T09:30:00Z");
        let ago = OffsetDateTime::parse(&time("2h").unwrap(), &Rfc3339).unwrap();
        let exact = clock::now() - time::Duration::hours(2);
        assert!((exact - ago).abs() < time::Duration::minutes(1));
        for none in ["", "h", "2", "2w", "-2h", "2 h", "yesterday", "ä"] {
            assert!(time(none).is_err(), "{none}");
        }
    }
}
