//! `presence-bridge sources …` and `presence-bridge gaps`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Done;
use super::body::{self, Given, set_lists, set_texts, show_changes};
use super::session::{Paging, Session, query, wrong};
use crate::cli::terminal::ask;
use crate::cli::terminal::print::remark;
use crate::cli::terminal::table::{Column, at, in_words};
use crate::client::api::Query;

/// For `--help`.
pub const EXAMPLE: &str = "Example:
  presence-bridge sources create service-desk --region eu-central-1 --client-id 7d0b5c1e --client-secret-file secret --all-users";
/// For `--help`.
pub const GAPS_EXAMPLE: &str = "Example:
  presence-bridge gaps --open";

const COLUMNS: &[Column] = &[
    Column::whole("ID", "/id"),
    Column::at("NAME", "/name"),
    Column::at("HEALTH", "/health/state"),
    Column::by("SOCKETS", sockets),
    Column::by("AGENTS", agents),
    Column::at("ROSTERS READ", "/health/roster_read_at"),
    Column::at("PROTOCOL", "/protocol"),
    Column::at("ORIGIN", "/origin"),
];
const REJECTED: &[Column] = &[
    Column::whole("AGENT", "/agent_id"),
    Column::at("TOPIC", "/topic"),
    Column::at("REASON", "/reason"),
    Column::at("MISSING PERMISSIONS", "/missing_permissions"),
    Column::at("SINCE", "/rejected_at"),
];
const GAPS: &[Column] = &[
    Column::at("FROM", "/from"),
    Column::at("TO", "/to"),
    Column::at("CAUSE", "/cause"),
    Column::by("AGENTS", agents_of_gap),
    Column::whole("CONNECTION", "/connection_id"),
];
/// Agents of a gap that a cell names.
const NAMED: usize = 3;

/// What to do with sources.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List them with their health, oldest first.
    #[command(after_help = "Example: presence-bridge sources list")]
    List(Paging),
    /// Show one with all its settings.
    #[command(after_help = "Example: presence-bridge sources show 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Show(One),
    /// Add one.
    #[command(after_help = EXAMPLE)]
    Create(Create),
    /// Change settings: shows what changes and asks.
    #[command(
        after_help = "Example: presence-bridge sources edit 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --set language=de_DE"
    )]
    Edit(Edit),
    /// Read its users, queues and groups at once.
    #[command(after_help = "Example: presence-bridge sources refresh 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Refresh(One),
    /// List agents that Genesys does not let the bridge watch, and why.
    #[command(
        after_help = "Example: presence-bridge sources rejected --source 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50"
    )]
    Rejected {
        /// Only of this source.
        #[arg(long, value_name = "ID")]
        source: Option<Uuid>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Remove it; asks before.
    #[command(
        after_help = "Example: presence-bridge sources delete 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --yes"
    )]
    Delete {
        /// Id of the source.
        id: Uuid,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// One source.
#[derive(Debug, Args)]
pub struct One {
    /// Id of the source.
    id: Uuid,
}

/// Settings of a source.
#[derive(Debug, Args)]
pub struct Settings {
    /// Region, such as eu-central-1 or mypurecloud.de.
    #[arg(long)]
    region: Option<String>,
    /// OAuth client id.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// File with the OAuth client secret, `-` for stdin.
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// Watch this agent; may be repeated.
    #[arg(long = "agent", value_name = "ID")]
    agents: Vec<String>,
    /// Watch the members of this queue; may be repeated.
    #[arg(long = "queue", value_name = "ID")]
    queues: Vec<String>,
    /// Watch the members of this group; may be repeated.
    #[arg(long = "group", value_name = "ID")]
    groups: Vec<String>,
    /// Watch every active user.
    #[arg(long)]
    all_users: bool,
    #[command(flatten)]
    given: Given,
}

/// A new source.
#[derive(Debug, Args)]
pub struct Create {
    /// Its name.
    name: String,
    #[command(flatten)]
    settings: Settings,
}

/// A changed source.
#[derive(Debug, Args)]
pub struct Edit {
    /// Id of the source.
    id: Uuid,
    /// Its name.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    settings: Settings,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Which gaps.
#[derive(Debug, Args)]
pub struct Gaps {
    /// Only of this source.
    #[arg(long, value_name = "ID")]
    source: Option<Uuid>,
    /// Only of this connection.
    #[arg(long, value_name = "ID")]
    connection: Option<Uuid>,
    /// Only of this Genesys user.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only those that last.
    #[arg(long)]
    open: bool,
    /// Only those that are over.
    #[arg(long, conflicts_with = "open")]
    over: bool,
    #[command(flatten)]
    paging: Paging,
}

/// Runs a verb.
pub fn run(verb: Verb, session: &Session) -> Done {
    match verb {
        Verb::List(paging) => session.list(&["sources"], Query::new(), &paging, COLUMNS)?,
        Verb::Show(One { id }) => {
            session.show(&session.api.get(&["sources", &id.to_string()], &Query::new())?)?
        }
        Verb::Create(wanted) => {
            let body = body_of(wanted.settings, Some(wanted.name))?;
            session.show(&session.api.post(&["sources"], Some(&body.into()))?)?;
        }
        Verb::Edit(wanted) => edit(wanted, session)?,
        Verb::Refresh(One { id }) => {
            session.show(&session.api.post(&["sources", &id.to_string(), "refresh"], None)?)?;
        }
        Verb::Rejected { source, paging } => {
            let query = query([("source", source.map(|id| id.to_string()))]);
            session.list(&["rejected-topics"], query, &paging, REJECTED)?;
        }
        Verb::Delete { id, yes } => {
            let path = ["sources", &id.to_string()];
            let name = in_words(at(&session.api.get(&path, &Query::new())?.value(), "/name"));
            if ask::go_on(&format!("Remove source {id} ({name})? Its agents are not seen any more."), yes)? {
                session.api.delete(&path)?;
                remark("Removed.");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists gaps.
pub fn gaps(wanted: Gaps, session: &Session) -> Done {
    let open = (wanted.open || wanted.over).then(|| wanted.open.to_string());
    let query = query([
        ("source", wanted.source.map(|id| id.to_string())),
        ("connection", wanted.connection.map(|id| id.to_string())),
        ("agent", wanted.agent),
        ("open", open),
    ]);
    session.list(&["gaps"], query, &wanted.paging, GAPS)?;
    Ok(ExitCode::SUCCESS)
}

fn body_of(settings: Settings, name: Option<String>) -> anyhow::Result<Map<String, Value>> {
    let mut body = settings.given.read()?;
    let secret = match &settings.client_secret_file {
        Some(file) => Some(body::text_of("--client-secret-file", file)?.trim().to_owned()),
        None => None,
    };
    let texts = [
        ("name", name),
        ("region", settings.region),
        ("client_id", settings.client_id),
        ("client_secret", secret),
    ];
    set_texts(&mut body, texts);
    let lists = [("agents", settings.agents), ("queues", settings.queues), ("groups", settings.groups)];
    set_lists(&mut body, lists);
    if settings.all_users {
        body.insert("all_users".to_owned(), true.into());
    }
    Ok(body)
}

fn edit(wanted: Edit, session: &Session) -> anyhow::Result<()> {
    let id = wanted.id.to_string();
    let body = body_of(wanted.settings, wanted.name)?;
    if body.is_empty() {
        return Err(wrong("edit", "needs something to change, such as --set language=de_DE"));
    }
    let now = session.api.get(&["sources", &id], &Query::new())?;
    if !show_changes(&now.value(), &body) {
        body::nothing_to_change();
        return session.show(&now);
    }
    if ask::go_on(&format!("Change source {id}? Its connections are rebuilt."), wanted.yes)? {
        session.show(&session.api.patch(&["sources", &id], &Query::new(), &body.into())?)?;
    }
    Ok(())
}

fn sockets(source: &Value) -> String {
    let health = at(source, "/health");
    format!("{}/{}", in_words(at(health, "/connections_open")), in_words(at(health, "/connections")))
}

fn agents(source: &Value) -> String {
    let health = at(source, "/health");
    let mut text = in_words(at(health, "/agents_wanted"));
    for (field, what) in [("agents_over_limit", "over limit"), ("agents_rejected", "rejected")] {
        if at(health, &format!("/{field}")).as_u64().is_some_and(|count| count > 0) {
            text.push_str(&format!(", {} {what}", in_words(at(health, &format!("/{field}")))));
        }
    }
    text
}

/// How many agents, and the first of them: a gap of a full source would fill the screen.
fn agents_of_gap(gap: &Value) -> String {
    let agents = at(gap, "/agents").as_array().map(Vec::as_slice).unwrap_or_default();
    let named: Vec<_> = agents.iter().take(NAMED).map(in_words).collect();
    let more = if agents.len() > NAMED { ", …" } else { "" };
    format!("{}: {}{more}", agents.len(), named.join(", "))
}
