//! `presence-bridge recoveries …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::Done;
use super::session::{Paging, Session, query};
use crate::cli::terminal::table::{Column, at};
use crate::client::api::{Answer, Query};

/// For `--help`.
pub const EXAMPLE: &str = "Example:
  presence-bridge recoveries list --state running";

const COLUMNS: &[Column] = &[
    Column::whole("ID", "/id"),
    Column::whole("WEBHOOK", "/webhook_id"),
    Column::at("STATE", "/state"),
    Column::at("SINCE", "/since"),
    Column::at("UNTIL", "/until"),
    Column::at("RECOVERED", "/recovered"),
    Column::at("SKIPPED", "/skipped"),
    Column::at("REASON", "/reason"),
];

/// What to do with recoveries.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List them, newest first.
    #[command(after_help = "Example: presence-bridge recoveries list --state failed")]
    List(List),
    /// Show one with its progress.
    #[command(
        after_help = "Example: presence-bridge recoveries show 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --wait"
    )]
    Show(Show),
    /// Cancel a running one; what it has reopened stays open.
    #[command(after_help = "Example: presence-bridge recoveries cancel 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Cancel {
        /// Id of the recovery.
        id: Uuid,
    },
}

/// Which ones.
#[derive(Debug, Args)]
pub struct List {
    /// Only of this webhook.
    #[arg(long, value_name = "ID")]
    webhook: Option<Uuid>,
    /// Only in this state: running, done or failed.
    #[arg(long)]
    state: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

/// One of them.
#[derive(Debug, Args)]
pub struct Show {
    /// Id of the recovery.
    id: Uuid,
    /// Wait for its end; exit code 1 if it fails.
    #[arg(long)]
    wait: bool,
}

/// Runs a verb.
pub fn run(verb: Verb, session: &Session) -> Done {
    match verb {
        Verb::List(wanted) => {
            let query =
                query([("webhook", wanted.webhook.map(|id| id.to_string())), ("state", wanted.state)]);
            session.list(&["recoveries"], query, &wanted.paging, COLUMNS)?;
        }
        Verb::Show(Show { id, wait: true }) => return wait(session, &id.to_string()),
        Verb::Show(Show { id, .. }) => {
            session.show(&session.api.get(&["recoveries", &id.to_string()], &Query::new())?)?;
        }
        Verb::Cancel { id } => {
            session.show(&session.api.post(&["recoveries", &id.to_string(), "cancel"], None)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for the end of a recovery and shows it.
pub fn wait(session: &Session, id: &str) -> Done {
    let ended = ended(session, id)?;
    session.show(&ended)?;
    let is_done = at(&ended.value(), "/state") == "done";
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for the end of a recovery.
pub fn ended(session: &Session, id: &str) -> anyhow::Result<Answer> {
    session.wait_for(
        "deliveries reopened:",
        &["recoveries", id],
        |recovery| at(recovery, "/state") != "running",
        |recovery| at(recovery, "/recovered").as_u64().unwrap_or(0),
    )
}
