//! `presence-bridge deliveries …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::body::{set_lists, set_texts};
use super::session::{Paging, Session, query, time};
use super::{Done, recoveries};
use crate::cli::terminal::ask;
use crate::cli::terminal::print::{Output, line, members, remark};
use crate::cli::terminal::table::{self, Column, at};
use crate::client::api::{Answer, Query};
use crate::domain::plural::plural;

/// For `--help`.
pub const EXAMPLE: &str = "Examples:
  presence-bridge deliveries list --state dead --since 1d
  presence-bridge deliveries retry 019ab2f0-7c11-8b6d-9e21-74a5c6d7e8f9";

const RETRY_EXAMPLE: &str = "Examples:
  presence-bridge deliveries retry 019ab2f0-7c11-8b6d-9e21-74a5c6d7e8f9
  presence-bridge deliveries retry --state dead --state expired --since 2h --wait";

const COLUMNS: &[Column] = &[
    Column::whole("ID", "/id"),
    Column::at("STATE", "/state"),
    Column::at("ATTEMPTS", "/attempts_begun"),
    Column::at("STATUS", "/last_status"),
    Column::at("OUTCOME", "/last_outcome"),
    Column::by("WHEN", when),
    Column::at("AGENT", "/agent_id"),
    Column::whole("WEBHOOK", "/webhook_id"),
];
const ATTEMPTS: &[Column] = &[
    Column::at("ATTEMPT", "/attempt"),
    Column::at("AT", "/at"),
    Column::at("STATUS", "/status"),
    Column::at("OUTCOME", "/outcome"),
    Column::at("MS", "/duration_ms"),
    Column::at("REASON", "/data/reason"),
    Column::at("ANSWER", "/data/answer"),
];

const RETRIED: &[Column] = &[
    Column::whole("WEBHOOK", "/webhook_id"),
    Column::by("DELIVERIES", count),
    Column::whole("RECOVERY", "/recovery/id"),
    Column::at("REFUSED", "/refused"),
];

/// What to do with deliveries.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List them, those of the newest events first.
    #[command(after_help = "Example: presence-bridge deliveries list --agent 005Ab000001XyZ1 --state open")]
    List(List),
    /// Show one with its attempts.
    #[command(after_help = "Example: presence-bridge deliveries show 019ab2f0-7c11-8b6d-9e21-74a5c6d7e8f9")]
    Show {
        /// Id of the delivery.
        id: Uuid,
    },
    /// Try one again now, or all ended ones that match: counts them and asks.
    #[command(after_help = RETRY_EXAMPLE)]
    Retry(Retry),
}

/// Which ones.
#[derive(Debug, Args)]
pub struct List {
    /// Only to this webhook.
    #[arg(long, value_name = "ID")]
    webhook: Option<Uuid>,
    /// Only of changes of this agent, by Genesys id or external id.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only of this event.
    #[arg(long, value_name = "ID")]
    event: Option<Uuid>,
    /// Only in this state, or open or ended for all of a kind.
    #[arg(long)]
    state: Option<String>,
    /// Only of events that arrived at or after this time, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<String>,
    /// Only of events that arrived before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

/// One delivery, or all that match.
#[derive(Debug, Args)]
pub struct Retry {
    /// Id of the delivery.
    #[arg(
        required_unless_present_any = ["webhook", "agent", "source", "states", "since", "until", "all"],
        conflicts_with_all = ["webhook", "agent", "source", "states", "since", "until", "all", "wait"],
    )]
    id: Option<Uuid>,
    /// Only to this webhook.
    #[arg(long, value_name = "ID")]
    webhook: Option<Uuid>,
    /// Only of changes of this agent, by Genesys id or external id.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only of changes of agents of this source.
    #[arg(long, value_name = "ID")]
    source: Option<Uuid>,
    /// How they ended: dead, expired, webhook_disabled or superseded; may be repeated. All but the last if
    /// left out.
    #[arg(long = "state")]
    states: Vec<String>,
    /// Only of events that arrived at or after this time, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<String>,
    /// Only of events that arrived before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<String>,
    /// Whatever they are of.
    #[arg(long)]
    all: bool,
    /// Wait until they are reopened; exit code 1 if some are not.
    #[arg(long)]
    wait: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Runs a verb.
pub fn run(verb: Verb, session: &Session) -> Done {
    match verb {
        Verb::List(wanted) => {
            let query = query([
                ("webhook", wanted.webhook.map(|id| id.to_string())),
                ("agent", wanted.agent),
                ("event", wanted.event.map(|id| id.to_string())),
                ("state", wanted.state),
                ("since", wanted.since),
                ("until", wanted.until),
            ]);
            session.list(&["deliveries"], query, &wanted.paging, COLUMNS)?;
        }
        Verb::Show { id } => show(id, session)?,
        Verb::Retry(Retry { id: Some(id), .. }) => {
            session.show(&session.api.post(&["deliveries", &id.to_string(), "retry"], None)?)?;
        }
        Verb::Retry(wanted) => return retry_all(wanted, session),
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts before it asks, and does nothing without a yes.
fn retry_all(wanted: Retry, session: &Session) -> Done {
    let mut body = Map::new();
    let id = |id: Option<Uuid>| id.map(|id| id.to_string());
    set_texts(
        &mut body,
        [
            ("webhook", id(wanted.webhook)),
            ("agent", wanted.agent),
            ("source", id(wanted.source)),
            ("since", wanted.since),
            ("until", wanted.until),
        ],
    );
    set_lists(&mut body, [("states", wanted.states)]);
    let path = ["deliveries", "retry"];
    let mut dry = body.clone();
    dry.insert("dry_run".to_owned(), true.into());
    let counted = session.api.post(&path, Some(&dry.into()))?;
    let found = counted.value();
    if at(&found, "/deliveries") == 0 {
        remark("No delivery matches.");
        show_retried(&counted, session)?;
        return Ok(ExitCode::SUCCESS);
    }
    let webhooks = at(&found, "/webhooks").as_array().map_or(0, Vec::len);
    let least = if at(&found, "/at_least") == true { "at least " } else { "" };
    let deliveries = plural(at(&found, "/deliveries").as_u64().unwrap_or(0), "delivery", "deliveries");
    let question = format!("Try {least}{deliveries} to {} again?", plural(webhooks, "webhook", "webhooks"));
    if !ask::go_on(&question, wanted.yes)? {
        return Ok(ExitCode::SUCCESS);
    }
    let begun = session.api.post(&path, Some(&body.into()))?;
    show_retried(&begun, session)?;
    let mut is_done = true;
    for webhook in at(&begun.value(), "/webhooks").as_array().into_iter().flatten().filter(|_| wanted.wait) {
        let recovery = table::in_words(at(webhook, "/recovery/id"));
        is_done &=
            !recovery.is_empty() && at(&recoveries::ended(session, &recovery)?.value(), "/state") == "done";
    }
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show_retried(answer: &Answer, session: &Session) -> anyhow::Result<()> {
    if session.output != Output::Table {
        return session.show(answer);
    }
    match at(&answer.value(), "/webhooks").as_array().filter(|webhooks| !webhooks.is_empty()) {
        Some(webhooks) => session.print(&table::rows(RETRIED, webhooks)),
        None => Ok(()),
    }
}

/// How many, as far as they were counted.
fn count(of: &Value) -> String {
    let more = if at(of, "/at_least") == true { "+" } else { "" };
    format!("{}{more}", table::in_words(at(of, "/deliveries")))
}

fn show(id: Uuid, session: &Session) -> anyhow::Result<()> {
    let answer = session.api.get(&["deliveries", &id.to_string()], &Query::new())?;
    if session.output != Output::Table {
        return session.show(&answer);
    }
    let value = answer.value();
    let fields: Vec<_> = members(&value).into_iter().filter(|(name, _)| name != "attempts").collect();
    session.print(&table::fields(&fields))?;
    let attempts = at(&value, "/attempts").as_array().cloned().unwrap_or_default();
    if !attempts.is_empty() {
        line("")?;
        session.print(&table::rows(ATTEMPTS, &attempts))?;
    }
    Ok(())
}

fn when(delivery: &Value) -> String {
    let time = |name: &str| table::in_words(at(delivery, &format!("/{name}")));
    match (at(delivery, "/ended_at").is_null(), at(delivery, "/due_at").is_null()) {
        (false, _) => time("ended_at"),
        (true, false) => format!("due {}", time("due_at")),
        (true, true) => time("created_at"),
    }
}
