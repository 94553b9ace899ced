//! `presence-bridge connections …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;
use uuid::Uuid;

use super::Done;
use super::session::{Paging, Session, query};
use crate::cli::terminal::ask;
use crate::cli::terminal::table::{Column, at};
use crate::client::api::Query;

/// For `--help`.
pub const EXAMPLE: &str = "Example:
  presence-bridge connections list --state backing_off";

const COLUMNS: &[Column] = &[
    Column::whole("ID", "/id"),
    Column::at("STATE", "/state"),
    Column::at("AGENTS", "/agents"),
    Column::at("REJECTED", "/rejected_topics"),
    Column::by("LATENCY", latency),
    Column::at("ATTEMPTS", "/attemptCount"),
    Column::at("OPENED", "/opened_at"),
    Column::at("PROVEN", "/proven_at"),
    Column::at("REASON", "/state_reason"),
];

/// What to do with connections.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List them.
    #[command(
        after_help = "Example: presence-bridge connections list --agent a3f1d2c4-5b6e-4f70-8192-a3b4c5d6e7f8"
    )]
    List(List),
    /// Show one.
    #[command(after_help = "Example: presence-bridge connections show 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Show {
        /// Id of the connection.
        id: Uuid,
    },
    /// Close one, if it is open, and open it again.
    #[command(
        after_help = "Example: presence-bridge connections restart 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50"
    )]
    Restart {
        /// Id of the connection.
        id: Uuid,
    },
    /// Close one and keep it closed, which counts as a gap of its agents; asks before.
    #[command(
        after_help = "Example: presence-bridge connections terminate 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --yes"
    )]
    Terminate {
        /// Id of the connection.
        id: Uuid,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// Which ones.
#[derive(Debug, Args)]
pub struct List {
    /// Only of this source.
    #[arg(long, value_name = "ID")]
    source: Option<Uuid>,
    /// Only those that watch this Genesys user.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only in this state: idle, connecting, open, backing_off, refused or terminated.
    #[arg(long)]
    state: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

/// Runs a verb.
pub fn run(verb: Verb, session: &Session) -> Done {
    match verb {
        Verb::List(List { source, agent, state, paging }) => {
            let source = source.map(|id| id.to_string());
            let query = query([("source", source), ("agent", agent), ("state", state)]);
            session.list(&["connections"], query, &paging, COLUMNS)?;
        }
        Verb::Show { id } => {
            session.show(&session.api.get(&["connections", &id.to_string()], &Query::new())?)?;
        }
        Verb::Restart { id } => act(session, id, "restart")?,
        Verb::Terminate { id, yes } => {
            if ask::go_on(&format!("Close connection {id}? Its agents are not seen until a restart."), yes)? {
                act(session, id, "terminate")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn act(session: &Session, id: Uuid, verb: &str) -> anyhow::Result<()> {
    session.show(&session.api.post(&["connections", &id.to_string(), verb], None)?)
}

fn latency(connection: &Value) -> String {
    match (at(connection, "/samples").as_u64(), at(connection, "/averageLatency").as_f64()) {
        (Some(1..), Some(milliseconds)) => format!("{milliseconds:.0} ms"),
        _ => String::new(),
    }
}
