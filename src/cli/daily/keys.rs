//! `presence-bridge keys …` and `presence-bridge console`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Done;
use super::body::{set_lists, set_texts};
use super::session::{Paging, Session, query, time};
use crate::cli::terminal::ask;
use crate::cli::terminal::print::{Output, line, remark};
use crate::cli::terminal::table::{Column, at, in_words};
use crate::client::api::Query;

/// For `--help`.
pub const EXAMPLE: &str = "Example:
  presence-bridge keys create crm --scope read --scope webhooks";
/// For `--help`.
pub const CONSOLE_EXAMPLE: &str = "Example:
  presence-bridge console --profile production";

const COLUMNS: &[Column] = &[
    Column::whole("ID", "/id"),
    Column::at("NAME", "/name"),
    Column::at("STATE", "/state"),
    Column::at("SCOPES", "/scopes"),
    Column::at("EXPIRES", "/expires_at"),
    Column::at("USED", "/last_used_at"),
];

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List them, oldest first.
    #[command(after_help = "Example: presence-bridge keys list --output json")]
    List {
        /// Of this tenant; for the operator.
        #[arg(long, value_name = "ID")]
        tenant: Option<Uuid>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Make one; shows the key, this once.
    #[command(
        after_help = "Example: presence-bridge keys create auditor --scope audit --expires-at 2027-03-31T22:00:00Z"
    )]
    Create(Create),
    /// Revoke one, for good; asks before.
    #[command(after_help = "Example: presence-bridge keys revoke 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --yes")]
    Revoke {
        /// Id of the key.
        id: Uuid,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// A new key.
#[derive(Debug, Args)]
pub struct Create {
    /// Its name.
    name: String,
    /// What it may do: read, webhooks, sources, audit or admin; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    scopes: Vec<String>,
    /// When it ends (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires_at: Option<String>,
    /// Tenant of the key; for the operator.
    #[arg(long, value_name = "ID")]
    tenant: Option<Uuid>,
}

/// Nothing but the bridge.
#[derive(Debug, Args)]
pub struct Console {}

/// Runs a verb.
pub fn run(verb: Verb, session: &Session) -> Done {
    match verb {
        Verb::List { tenant, paging } => {
            let query = query([("tenant", tenant.map(|id| id.to_string()))]);
            session.list(&["api-keys"], query, &paging, COLUMNS)?;
        }
        Verb::Create(wanted) => {
            let mut body = Map::new();
            let tenant = wanted.tenant.map(|id| id.to_string());
            let texts =
                [("name", Some(wanted.name)), ("expires_at", wanted.expires_at), ("tenant_id", tenant)];
            set_texts(&mut body, texts);
            set_lists(&mut body, [("scopes", wanted.scopes)]);
            session.show(&session.api.post(&["api-keys"], Some(&body.into()))?)?;
            remark("Keep the key: it is not shown again.");
        }
        Verb::Revoke { id, yes } => {
            let path = ["api-keys", &id.to_string()];
            let name = in_words(at(&session.api.get(&path, &Query::new())?.value(), "/name"));
            if ask::go_on(&format!("Revoke key {id} ({name}) for good?"), yes)? {
                session.show(&session.api.post(&["api-keys", &id.to_string(), "revoke"], None)?)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a link that logs in once.
pub fn console(_: Console, session: &Session) -> Done {
    let made = session.api.post(&["console", "login-links"], None)?;
    let value: Value = made.value();
    if session.output == Output::Table {
        // It comes relative to the address of the bridge.
        let url = session.api.base().join(at(&value, "/url").as_str().unwrap_or_default())?;
        line(url)?;
        remark(format!("It works once, until {}.", in_words(at(&value, "/expires_at"))));
    } else {
        session.show(&made)?;
    }
    Ok(ExitCode::SUCCESS)
}
