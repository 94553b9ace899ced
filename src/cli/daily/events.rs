//! `presence-bridge events …`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use uuid::Uuid;

use super::Done;
use super::session::{Paging, Session, query, time};
use crate::cli::stop::OnStop;
use crate::cli::terminal::print::{Output, json, line, remark};
use crate::cli::terminal::table::{Column, at, in_words};
use crate::client::api::Query;
use crate::client::feed::{Feed, Start, Step};
use crate::clock;

/// For `--help`.
pub const EXAMPLE: &str = "Examples:
  presence-bridge events list --agent 005Ab000001XyZ1 --since 2h
  presence-bridge events tail --output ndjson";

const COLUMNS: &[Column] = &[
    Column::at("RECEIVED", "/received_at"),
    Column::whole("ID", "/event_id"),
    Column::by("AGENT", agent),
    Column::at("SEQUENCE", "/sequence"),
    Column::by("CHANGE", change),
    Column::at("SOURCE", "/source/name"),
];

/// What to do with events.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List stored ones, newest first.
    #[command(
        after_help = "Example: presence-bridge events list --since 1d --order oldest --all --output ndjson"
    )]
    List(List),
    /// Show one.
    #[command(after_help = "Example: presence-bridge events show 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Show {
        /// Id of the event.
        id: Uuid,
    },
    /// Show each one as it is stored, until Ctrl-C.
    #[command(after_help = "Example: presence-bridge events tail --since 10m --agent 005Ab000001XyZ1")]
    Tail(Tail),
}

/// Which events.
#[derive(Clone, Debug, Args)]
pub struct Filter {
    /// Only of this agent, by Genesys id or external id.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only of agents of this source.
    #[arg(long, value_name = "ID")]
    source: Option<Uuid>,
}

impl Filter {
    /// As parameters of a query.
    pub fn query(self) -> Query {
        query([("agent", self.agent), ("source", self.source.map(|id| id.to_string()))])
    }
}

/// Where to begin with the feed.
#[derive(Debug, Args)]
pub struct From {
    /// Begin with changes that were stored at or after this time, or that long ago, such as 10m.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "cursor")]
    since: Option<String>,
    /// Begin behind this cursor.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

impl From {
    /// The place.
    pub fn start(self) -> Start {
        match (self.cursor, self.since) {
            (Some(cursor), _) => Start::Cursor(cursor),
            (None, Some(since)) => Start::Since(since),
            (None, None) => Start::Now,
        }
    }
}

/// Order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    Newest,
    Oldest,
}

/// A list.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    filter: Filter,
    /// Only stored at or after this time, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<String>,
    /// Only stored before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<String>,
    /// Which come first.
    #[arg(long, value_enum, default_value = "newest")]
    order: Order,
    #[command(flatten)]
    paging: Paging,
}

/// The feed.
#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    from: From,
    /// End after that many.
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

/// Runs a verb.
pub fn run(verb: Verb, session: &Session) -> Done {
    match verb {
        Verb::List(wanted) => list(wanted, session)?,
        Verb::Show { id } => session.show(&session.api.get(&["events", &id.to_string()], &Query::new())?)?,
        Verb::Tail(wanted) => tail(wanted, session)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(wanted: List, session: &Session) -> anyhow::Result<()> {
    let is_oldest = wanted.order == Order::Oldest;
    let mut query = wanted.filter.query();
    query.extend(wanted.since.map(|since| ("since", since)));
    // Oldest first the feed has no end; a list of it ends at the present.
    let until = wanted.until.or_else(|| is_oldest.then(|| clock::rfc3339(clock::now())));
    query.extend(until.map(|until| ("until", until)));
    query.push(("order", if is_oldest { "oldest" } else { "newest" }.to_owned()));
    session.list(&["events"], query, &wanted.paging, COLUMNS)
}

fn tail(wanted: Tail, session: &Session) -> anyhow::Result<()> {
    let on_stop = OnStop::watch()?;
    let mut feed = Feed::open(&session.api, wanted.filter.query(), wanted.from.start())?;
    let mut shown = 0;
    while wanted.count.is_none_or(|count| shown < count) {
        match feed.next_step()? {
            Step::Change { cursor, item } => {
                if session.output == Output::Table {
                    line(in_a_line(&serde_json::from_str(&item)?))?;
                } else {
                    json(&item)?;
                }
                shown += 1;
                on_stop.say(format!("Go on with --cursor {cursor}"));
            }
            Step::Lost(reason) => remark(format!("The stream broke off: {reason}; it is opened again.")),
            Step::Back => remark("The stream is open again."),
        }
    }
    Ok(())
}

/// An event as a line of its own.
fn in_a_line(event: &Value) -> String {
    format!("{}  {}  {}", at(event, "/received_at").as_str().unwrap_or_default(), agent(event), change(event))
}

/// Name and id of the agent.
pub fn agent(event: &Value) -> String {
    let agent = at(event, "/agent");
    match at(agent, "/name").as_str() {
        Some(name) => format!("{name} ({})", in_words(at(agent, "/id"))),
        None => in_words(at(agent, "/id")),
    }
}

/// What changed, in a few words.
pub fn change(event: &Value) -> String {
    let changed = at(event, "/changed").as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |part: &str| changed.iter().any(|changed| changed == part);
    let mut parts = Vec::new();
    if has("presence") || changed.is_empty() {
        let presence = in_words(at(event, "/presence/system"));
        parts.push(match at(event, "/previous/system").as_str() {
            Some(previous) => format!("{previous} -> {presence}"),
            None => presence,
        });
    }
    if has("routing_status") {
        parts.push(format!("routing {}", in_words(at(event, "/routing_status/status"))));
    }
    if has("out_of_office") {
        let out = at(event, "/out_of_office") == true;
        parts.push(if out { "out of office" } else { "not out of office" }.to_owned());
    }
    if has("active_queues") {
        let queues = at(event, "/active_queues").as_array().map_or(0, Vec::len);
        parts.push(format!("in {queues} queues"));
    }
    parts.join(", ")
}
