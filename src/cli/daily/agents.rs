//! `presence-bridge agents …`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Done;
use super::body::text_of;
use super::session::{Paging, Session, query, wrong};
use crate::cli::terminal::table::{Column, at, in_words};
use crate::client::api::Content;

/// For `--help`.
pub const EXAMPLE: &str = "Examples:
  presence-bridge agents list --presence ON_QUEUE
  presence-bridge agents map --file users.csv --replace";

const COLUMNS: &[Column] = &[
    Column::whole("ID", "/id"),
    Column::at("NAME", "/name"),
    Column::at("EXTERNAL ID", "/external_id"),
    Column::by("PRESENCE", presence),
    Column::at("ROUTING", "/routing_status/status"),
    Column::at("SINCE", "/since"),
    Column::by("SEEN", seen),
    Column::at("SOURCE", "/source/name"),
];

/// What to do with agents.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List them with their last known state.
    #[command(after_help = "Example: presence-bridge agents list --external-id 005Ab000001XyZ1")]
    List(List),
    /// Show the last known state of one.
    #[command(after_help = "Example: presence-bridge agents show a3f1d2c4-5b6e-4f70-8192-a3b4c5d6e7f8")]
    Show {
        /// Genesys user id.
        id: String,
        /// Which source is meant, if several know it.
        #[arg(long, value_name = "ID")]
        source: Option<Uuid>,
    },
    /// Set the ids that agents have in the CRM: of one, or of many from a file.
    #[command(
        after_help = "Example: presence-bridge agents map a3f1d2c4-5b6e-4f70-8192-a3b4c5d6e7f8 005Ab000001XyZ1"
    )]
    Map(Map),
}

/// Which ones.
#[derive(Debug, Args)]
pub struct List {
    /// Only of this source.
    #[arg(long, value_name = "ID")]
    source: Option<Uuid>,
    /// Only in this system presence.
    #[arg(long)]
    presence: Option<String>,
    /// Only with this id in the CRM.
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

/// Ids in the CRM.
#[derive(Debug, Args)]
pub struct Map {
    /// Genesys user id.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    id: Option<String>,
    /// Its id in the CRM.
    #[arg(required_unless_present_any = ["file", "remove"], conflicts_with_all = ["file", "remove"])]
    external_id: Option<String>,
    /// Take the agent's external id away.
    #[arg(long, conflicts_with = "file")]
    remove: bool,
    /// Many at once: CSV with the head `agent_id,external_id`, or JSON as the API takes it; `-` for stdin.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Agents that are not in the file (CSV) lose their external id.
    #[arg(long, requires = "file")]
    replace: bool,
    /// Source of the agents, if there are several.
    #[arg(long, value_name = "ID")]
    source: Option<Uuid>,
}

/// Runs a verb.
pub fn run(verb: Verb, session: &Session) -> Done {
    match verb {
        Verb::List(List { source, presence, external_id, paging }) => {
            let source = source.map(|id| id.to_string());
            let query = query([("source", source), ("presence", presence), ("external_id", external_id)]);
            session.list(&["agents"], query, &paging, COLUMNS)?;
        }
        Verb::Show { id, source } => {
            let query = query([("source", source.map(|id| id.to_string()))]);
            session.show(&session.api.get(&["agents", &id], &query)?)?;
        }
        Verb::Map(wanted) => map(wanted, session)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn map(wanted: Map, session: &Session) -> anyhow::Result<()> {
    let mut query = query([("source", wanted.source.map(|id| id.to_string()))]);
    if let Some(id) = wanted.id {
        let body = json!({"external_id": wanted.external_id});
        return session.show(&session.api.patch(&["agents", &id], &query, &body)?);
    }
    let file = wanted.file.ok_or_else(|| wrong("--file", "required without an agent"))?;
    let text = text_of("--file", &file)?;
    let mut body: Value = Value::Null;
    let content = if text.trim_start().starts_with(['{', '[']) {
        if wanted.replace {
            return Err(wrong("--replace", "is for CSV; JSON has a field of that name"));
        }
        body.clone_from(&serde_json::from_str(&text).map_err(|error| wrong("--file", error.to_string()))?);
        Content::Json(&body)
    } else {
        query.push(("replace", wanted.replace.to_string()));
        Content::Csv(text)
    };
    session.show(&session.api.put(&["agents", "external-ids"], &query, content)?)
}

fn presence(agent: &Value) -> String {
    let presence = at(agent, "/presence");
    let (system, label) = (in_words(at(presence, "/system")), in_words(at(presence, "/label")));
    if label.is_empty() { system } else { format!("{system} ({label})") }
}

fn seen(agent: &Value) -> String {
    match (at(agent, "/rejected"), at(agent, "/connected").as_bool()) {
        (Value::String(why), _) => format!("no: {why}"),
        (_, Some(true)) => "yes".to_owned(),
        _ => "no".to_owned(),
    }
}
