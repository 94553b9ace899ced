//! `presence-bridge webhooks …`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Done;
use super::body::{self, Given, set_lists, set_texts, show_changes};
use super::recoveries;
use super::session::{Paging, Session, time, wrong};
use crate::cli::terminal::ask;
use crate::cli::terminal::print::{Output, line, remark};
use crate::cli::terminal::table::{Column, at, in_words};
use crate::client::api::Query;

/// For `--help`.
pub const EXAMPLE: &str = "Examples:
  presence-bridge webhooks create https://crm.example.com/hooks/presence --presence ON_QUEUE --snapshot
  presence-bridge webhooks edit 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --set timeout_ms=5000
  presence-bridge webhooks recover 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --since 2h --wait";

const COLUMNS: &[Column] = &[
    Column::whole("ID", "/id"),
    Column::at("STATE", "/state"),
    Column::by("HEALTH", health),
    Column::at("URL", "/url"),
    Column::at("DESCRIPTION", "/description"),
];

/// What to do with webhooks.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List them, oldest first.
    #[command(after_help = "Example: presence-bridge webhooks list --all --output ndjson | jq -r .url")]
    List(Paging),
    /// Show one with all its settings.
    #[command(after_help = "Example: presence-bridge webhooks show 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Show(One),
    /// Register one; shows its signing secret, this once.
    #[command(
        after_help = "Example: presence-bridge webhooks create https://crm.example.com/hook --queue 5b6e4f70-8192-4a3b-94c5-d6e7f8a3f1d2"
    )]
    Create(Create),
    /// Change settings: shows what changes and asks.
    #[command(
        after_help = "Example: presence-bridge webhooks edit 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --mode latest --yes"
    )]
    Edit(Edit),
    /// Stop sending to it; what happens meanwhile is kept.
    #[command(after_help = "Example: presence-bridge webhooks pause 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Pause(One),
    /// Send to a paused one again.
    #[command(after_help = "Example: presence-bridge webhooks resume 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Resume(One),
    /// Enable a disabled one, or ask an unverified one again.
    #[command(after_help = "Example: presence-bridge webhooks enable 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Enable(One),
    /// Replace the signing secret; shows the new one, this once.
    #[command(
        after_help = "Example: presence-bridge webhooks rotate-secret 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --overlap-seconds 3600"
    )]
    RotateSecret(RotateSecret),
    /// Send a test ping, and show how the receiver answers; exit code 1 if it does not take it.
    #[command(after_help = "Example: presence-bridge webhooks test 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Test(Test),
    /// Send it the present state of every agent.
    #[command(after_help = "Example: presence-bridge webhooks snapshot 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50")]
    Snapshot(One),
    /// Deliver again what it missed.
    #[command(
        after_help = "Example: presence-bridge webhooks recover 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --since 2026-11-23T09:00:00Z --wait"
    )]
    Recover(Recover),
    /// Remove it; asks before.
    #[command(
        after_help = "Example: presence-bridge webhooks delete 019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50 --yes"
    )]
    Delete(Delete),
}

/// One webhook.
#[derive(Debug, Args)]
pub struct One {
    /// Id of the webhook.
    id: Uuid,
}

/// How changes of one agent are sent.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Every,
    Latest,
}

/// Settings of a webhook.
#[derive(Debug, Args)]
pub struct Settings {
    /// Free text.
    #[arg(long)]
    description: Option<String>,
    /// Only this agent, by Genesys id or by the CRM's own; may be repeated, like the other filters.
    #[arg(long = "agent", value_name = "ID")]
    agents: Vec<String>,
    /// Only this topic.
    #[arg(long = "topic")]
    topics: Vec<String>,
    /// Only changes to this system presence.
    #[arg(long = "presence")]
    presences: Vec<String>,
    /// Only agents of this source.
    #[arg(long = "source", value_name = "ID")]
    sources: Vec<String>,
    /// Only agents in this queue.
    #[arg(long = "queue", value_name = "ID")]
    queues: Vec<String>,
    /// Only states with this routing status.
    #[arg(long = "routing-status", value_name = "STATUS")]
    routing_statuses: Vec<String>,
    /// Only this change of the presence, such as 'AWAY -> ON_QUEUE'.
    #[arg(long = "transition")]
    transitions: Vec<String>,
    /// Kind of event, such as presence.updated.
    #[arg(long = "event", value_name = "TYPE")]
    events: Vec<String>,
    /// Each change, or of each agent the latest.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Form of the POSTs: standard, cloudevents-structured or cloudevents-binary.
    #[arg(long)]
    format: Option<String>,
    #[command(flatten)]
    given: Given,
}

/// A new webhook.
#[derive(Debug, Args)]
pub struct Create {
    /// Target of the POSTs.
    target: String,
    #[command(flatten)]
    settings: Settings,
    /// Send the present state of every matching agent at once.
    #[arg(long)]
    snapshot: bool,
}

/// A changed webhook.
#[derive(Debug, Args)]
pub struct Edit {
    /// Id of the webhook.
    id: Uuid,
    /// Target of the POSTs.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    #[command(flatten)]
    settings: Settings,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// A new secret.
#[derive(Debug, Args)]
pub struct RotateSecret {
    /// Id of the webhook.
    id: Uuid,
    /// How long the former secret keeps signing; a day if left out.
    #[arg(long, value_name = "SECONDS")]
    overlap_seconds: Option<u32>,
    /// File with a secret of your own, `-` for stdin.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<std::path::PathBuf>,
}

/// A test ping.
#[derive(Debug, Args)]
pub struct Test {
    /// Id of the webhook.
    id: Uuid,
    /// Do not wait for the receiver's answer.
    #[arg(long)]
    no_wait: bool,
}

/// What to deliver again.
#[derive(Debug, Args)]
pub struct Recover {
    /// Id of the webhook.
    id: Uuid,
    /// Changes that arrived at or after this time, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: String,
    /// And before this time; now if left out.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<String>,
    /// Also what was delivered, or had no delivery; otherwise only what failed.
    #[arg(long)]
    all_changes: bool,
    /// Only of this agent; may be repeated.
    #[arg(long = "agent", value_name = "ID")]
    agents: Vec<String>,
    /// Wait for its end; exit code 1 if it fails.
    #[arg(long)]
    wait: bool,
}

/// A webhook to remove.
#[derive(Debug, Args)]
pub struct Delete {
    /// Id of the webhook.
    id: Uuid,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Runs a verb.
pub fn run(verb: Verb, session: &Session) -> Done {
    match verb {
        Verb::List(paging) => session.list(&["webhooks"], Query::new(), &paging, COLUMNS)?,
        Verb::Show(One { id }) => {
            session.show(&session.api.get(&["webhooks", &id.to_string()], &Query::new())?)?
        }
        Verb::Create(wanted) => create(wanted, session)?,
        Verb::Edit(wanted) => edit(wanted, session)?,
        Verb::Pause(One { id }) => act(session, id, "pause")?,
        Verb::Resume(One { id }) => act(session, id, "resume")?,
        Verb::Enable(One { id }) => act(session, id, "enable")?,
        Verb::Snapshot(One { id }) => act(session, id, "snapshot")?,
        Verb::RotateSecret(wanted) => rotate_secret(wanted, session)?,
        Verb::Test(wanted) => return test(&wanted, session),
        Verb::Recover(wanted) => return recover(wanted, session),
        Verb::Delete(wanted) => delete(&wanted, session)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn health(webhook: &Value) -> String {
    let health = at(webhook, "/health");
    match at(health, "/failures").as_u64() {
        Some(0) => "ok".to_owned(),
        Some(failures) => {
            let since = in_words(at(health, "/failing_since"));
            format!("{failures} failures since {since}: {}", in_words(at(health, "/last_outcome")))
        }
        None => String::new(),
    }
}

fn body_of(settings: Settings, target: Option<String>) -> anyhow::Result<Map<String, Value>> {
    let mut body = settings.given.read()?;
    let mode = settings.mode.and_then(|mode| Some(mode.to_possible_value()?.get_name().to_owned()));
    set_texts(
        &mut body,
        [("url", target), ("description", settings.description), ("mode", mode), ("format", settings.format)],
    );
    set_lists(
        &mut body,
        [
            ("agents", settings.agents),
            ("topics", settings.topics),
            ("presences", settings.presences),
            ("sources", settings.sources),
            ("queues", settings.queues),
            ("routing_statuses", settings.routing_statuses),
            ("transitions", settings.transitions),
            ("events", settings.events),
        ],
    );
    Ok(body)
}

/// What the bridge notes about filters that cannot match.
fn tell_warnings(webhook: &Value) {
    for warning in at(webhook, "/warnings").as_array().into_iter().flatten() {
        remark(format!(
            "Warning: {}: {}",
            in_words(at(warning, "/pointer")),
            in_words(at(warning, "/detail"))
        ));
    }
}

fn create(wanted: Create, session: &Session) -> anyhow::Result<()> {
    let mut body = body_of(wanted.settings, Some(wanted.target))?;
    if wanted.snapshot {
        body.insert("snapshot".to_owned(), true.into());
    }
    let made = session.api.post(&["webhooks"], Some(&body.into()))?;
    session.show(&made)?;
    tell_warnings(&made.value());
    remark("Keep the secret: it is not shown again.");
    Ok(())
}

fn edit(wanted: Edit, session: &Session) -> anyhow::Result<()> {
    let id = wanted.id.to_string();
    let body = body_of(wanted.settings, wanted.target)?;
    if body.is_empty() {
        return Err(wrong("edit", "needs something to change, such as --set timeout_ms=5000"));
    }
    let now = session.api.get(&["webhooks", &id], &Query::new())?;
    if !show_changes(&now.value(), &body) {
        body::nothing_to_change();
        return session.show(&now);
    }
    if ask::go_on(&format!("Change webhook {id}?"), wanted.yes)? {
        let changed = session.api.patch(&["webhooks", &id], &Query::new(), &body.into())?;
        session.show(&changed)?;
        tell_warnings(&changed.value());
    }
    Ok(())
}

fn act(session: &Session, id: Uuid, verb: &str) -> anyhow::Result<()> {
    session.show(&session.api.post(&["webhooks", &id.to_string(), verb], None)?)
}

fn rotate_secret(wanted: RotateSecret, session: &Session) -> anyhow::Result<()> {
    let mut body = Map::new();
    if let Some(file) = &wanted.secret_file {
        body.insert("secret".to_owned(), body::text_of("--secret-file", file)?.trim().into());
    }
    if let Some(seconds) = wanted.overlap_seconds {
        body.insert("overlap_seconds".to_owned(), seconds.into());
    }
    let path = ["webhooks", &wanted.id.to_string(), "rotate-secret"];
    session.show(&session.api.post(&path, Some(&body.into()))?)?;
    remark("Keep the secret: it is not shown again.");
    Ok(())
}

fn test(wanted: &Test, session: &Session) -> Done {
    let sent = session.api.post(&["webhooks", &wanted.id.to_string(), "test"], None)?;
    if wanted.no_wait {
        session.show(&sent)?;
        return Ok(ExitCode::SUCCESS);
    }
    let delivery = in_words(at(&sent.value(), "/delivery_id"));
    // The first answer counts, though a failed ping is tried again.
    let is_answered =
        |delivery: &Value| !at(delivery, "/ended_at").is_null() || !at(delivery, "/last_outcome").is_null();
    let answered =
        session.wait_for("waiting for the receiver", &["deliveries", &delivery], is_answered, |_| 0)?;
    let value = answered.value();
    let is_delivered = at(&value, "/state") == "delivered";
    if session.output == Output::Table {
        let attempts = at(&value, "/attempts").as_array();
        let last = attempts.and_then(|attempts| attempts.last()).unwrap_or(&Value::Null);
        let outcome = in_words(at(&value, "/last_outcome"));
        let status = in_words(at(last, "/status"));
        let reason = in_words(at(last, "/data/reason"));
        line(format!(
            "{} {status} {outcome} {} ms {reason}",
            in_words(at(&value, "/state")),
            in_words(at(last, "/duration_ms"))
        ))?;
    } else {
        session.show(&answered)?;
    }
    Ok(if is_delivered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn recover(wanted: Recover, session: &Session) -> Done {
    let mut body = Map::new();
    set_texts(&mut body, [("since", Some(wanted.since)), ("until", wanted.until)]);
    set_lists(&mut body, [("agents", wanted.agents)]);
    body.insert("only_failed".to_owned(), json!(!wanted.all_changes));
    let path = ["webhooks", &wanted.id.to_string(), "recover"];
    let begun = session.api.post(&path, Some(&body.into()))?;
    if wanted.wait {
        return recoveries::wait(session, &in_words(at(&begun.value(), "/id")));
    }
    session.show(&begun)?;
    Ok(ExitCode::SUCCESS)
}

fn delete(wanted: &Delete, session: &Session) -> anyhow::Result<()> {
    let id = wanted.id.to_string();
    let webhook = session.api.get(&["webhooks", &id], &Query::new())?.value();
    let question =
        format!("Remove webhook {id} ({}) and its open deliveries?", in_words(at(&webhook, "/url")));
    if ask::go_on(&question, wanted.yes)? {
        session.api.delete(&["webhooks", &id])?;
        remark("Removed.");
    }
    Ok(())
}
