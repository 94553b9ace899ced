//! `presence-bridge explain`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Done;
use super::session::{Session, query};
use crate::cli::terminal::print::{Output, line};
use crate::cli::terminal::table::{self, Column, at};

/// For `--help`.
pub const EXAMPLE: &str = "Examples:
  presence-bridge explain --webhook 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --agent 005Ab000001XyZ1
  presence-bridge explain --webhook 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --event 019ab2f0-8d22-7a3e-8f55-0b1c2d3e4f50";

const STEPS: &[Column] =
    &[Column::at("AT", "/at"), Column::at("WHAT", "/what"), Column::at("DETAIL", "/detail")];
const FILTERS: &[Column] = &[
    Column::at("FILTER", "/filter"),
    Column::at("MATCHES", "/matches"),
    Column::at("ASKED", "/asked"),
    Column::at("HAS", "/has"),
];

/// Which event and which webhook.
#[derive(Debug, Args)]
pub struct Question {
    /// The webhook.
    #[arg(long, value_name = "ID")]
    webhook: Uuid,
    /// The event; or name an agent.
    #[arg(long, value_name = "ID", required_unless_present = "agent")]
    event: Option<Uuid>,
    /// The last change of this agent, by Genesys id or external id.
    #[arg(long, value_name = "ID", conflicts_with = "event")]
    agent: Option<String>,
    /// The agent's last change that had arrived by this time (RFC 3339).
    #[arg(long, value_name = "TIME", requires = "agent")]
    at: Option<String>,
}

/// Asks and shows the answer.
pub fn run(wanted: Question, session: &Session) -> Done {
    let query = query([
        ("webhook", Some(wanted.webhook.to_string())),
        ("event", wanted.event.map(|id| id.to_string())),
        ("agent", wanted.agent),
        ("at", wanted.at),
    ]);
    let answer = session.api.get(&["explain"], &query)?;
    if session.output != Output::Table {
        session.show(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let value = answer.value();
    line(format!("{}: {}", table::in_words(at(&value, "/verdict")), table::in_words(at(&value, "/reason"))))?;
    for id in ["event_id", "delivery_id"] {
        line(format!("{id} {}", table::in_words(at(&value, &format!("/{id}")))))?;
    }
    let steps = at(&value, "/steps").as_array().cloned().unwrap_or_default();
    let matched = at(&value, "/matched").as_object().cloned().unwrap_or_default();
    let filters: Vec<Value> = matched.iter().map(|(name, found)| filter(name, found)).collect();
    for (columns, rows) in [(STEPS, steps), (FILTERS, filters)] {
        if !rows.is_empty() {
            line("")?;
            session.print(&table::rows(columns, &rows))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn filter(name: &str, found: &Value) -> Value {
    let matches = if at(found, "/matches") == true { "yes" } else { "no" };
    json!({"filter": name, "matches": matches, "asked": at(found, "/asked"), "has": at(found, "/has")})
}
