//! `presence-bridge listen`: the feed as POSTs to the developer's own machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Done;
use super::events::{self, Filter, From};
use super::session::{Session, address, wrong};
use crate::cli::daily::body::text_of;
use crate::cli::stop::OnStop;
use crate::cli::terminal::print::{Output, json as print_json, line, remark};
use crate::cli::terminal::table::at;
use crate::client::api::shown;
use crate::client::feed::{Feed, Step};
use crate::client::receiver::{Message, Outcome, Receiver};
use crate::clock::{now, rfc3339};
use crate::config::ClientSettings;
use crate::domain::delivery::signature::{Signer, SigningKey};
use crate::domain::plural::plural;
use crate::domain::presence::canonical_presence;
use crate::random;

/// For `--help`.
pub const EXAMPLE: &str = "Examples:
  presence-bridge listen --forward-to http://127.0.0.1:3000/hooks/presence
  presence-bridge listen --forward-to http://127.0.0.1:3000/hook --since 1h --agent 005Ab000001XyZ1 --retry";

/// Bytes of a secret that is made here.
const SECRET_BYTES: usize = 32;
/// Waits between two attempts of one change; they double.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What to forward, and where to.
#[derive(Debug, Args)]
pub struct Listen {
    /// Address that gets a POST for each change.
    #[arg(long, value_name = "URL")]
    forward_to: String,
    /// Signing secret (whsec_…), which others on this machine can see; PRESENCE_BRIDGE_SIGNING_SECRET if left
    /// out, and without that one is made and printed.
    #[arg(long, value_name = "SECRET", conflicts_with = "secret_file")]
    secret: Option<String>,
    /// File that holds the signing secret.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
    /// Only changes to this system presence; may be repeated.
    #[arg(long = "presence")]
    presences: Vec<String>,
    #[command(flatten)]
    from: From,
    /// Post a change that the receiver does not take again until it does; otherwise go on with the next.
    #[arg(long)]
    retry: bool,
    /// End after that many changes.
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

/// Forwards until Ctrl-C, which is no failure.
pub fn run(wanted: Listen, session: &Session, settings: &ClientSettings) -> Done {
    let url = address("--forward-to", &wanted.forward_to)?;
    let (key, is_new) = signing_key(&wanted, settings)?;
    let presences: Vec<_> = wanted.presences.iter().filter_map(|text| canonical_presence(text)).collect();
    let on_stop = OnStop::watch()?;
    let mut feed = Feed::open(&session.api, wanted.filter.query(), wanted.from.start())?;
    remark(format!(
        "Forwarding changes from {} to {}; Ctrl-C ends it.",
        shown(session.api.base()),
        shown(&url)
    ));
    if is_new {
        remark(format!("Signing secret: {}", key.to_text()));
    }
    let forwarder = Forwarder {
        receiver: Receiver::new(url, Signer::Hmac(key)),
        output: session.output,
        retry: wanted.retry,
    };
    let (mut forwarded, mut last) = (0, String::new());
    while wanted.count.is_none_or(|count| forwarded < count) {
        match feed.next_step()? {
            Step::Change { cursor, item } => {
                let event: Value = serde_json::from_str(&item)?;
                let presence = at(&event, "/presence/system").as_str().unwrap_or_default();
                if presences.is_empty() || presences.iter().any(|wanted| wanted == presence) {
                    forwarded += u64::from(forwarder.forward(&item, &event)?);
                }
                let posted = plural(forwarded, "change was", "changes were");
                last = format!("{posted} posted. Go on with --cursor {cursor}");
                on_stop.say(last.clone());
            }
            Step::Lost(reason) => remark(format!("The stream broke off: {reason}; it is opened again.")),
            Step::Back => remark("The stream is open again."),
        }
    }
    remark(last);
    Ok(ExitCode::SUCCESS)
}

/// The secret to sign with, and whether it was made just now.
fn signing_key(wanted: &Listen, settings: &ClientSettings) -> anyhow::Result<(SigningKey, bool)> {
    let (from, text) = match (&wanted.secret, &wanted.secret_file, &settings.signing_secret) {
        (Some(text), ..) => ("--secret", text.clone()),
        (None, Some(file), _) => ("--secret-file", text_of("--secret-file", file)?),
        (None, None, Some(secret)) => ("PRESENCE_BRIDGE_SIGNING_SECRET", secret.expose().to_owned()),
        (None, None, None) => {
            let key = SigningKey::from_bytes(&random::bytes::<SECRET_BYTES>());
            return Ok((key.map_err(|error| wrong("secret", error.to_string()))?, true));
        }
    };
    let key = SigningKey::parse(text.trim()).map_err(|error| wrong(from, error.to_string()))?;
    Ok((key, false))
}

/// Posts and tells how it went.
struct Forwarder {
    receiver: Receiver,
    output: Output,
    retry: bool,
}

impl Forwarder {
    /// Posts one change; false if no webhook would get it.
    fn forward(&self, item: &str, event: &Value) -> anyhow::Result<bool> {
        let Some(message) = Message::of_item(item, now())? else {
            return Ok(false);
        };
        let mut attempt = 1;
        loop {
            let outcome = self.receiver.post(&message, attempt);
            self.tell(event, &message, attempt, &outcome)?;
            if outcome.is_success() || !self.retry {
                return Ok(true);
            }
            sleep((WAIT_MIN * 2_u32.saturating_pow(attempt - 1)).min(WAIT_MAX));
            attempt = attempt.saturating_add(1);
        }
    }

    fn tell(&self, event: &Value, message: &Message, attempt: u32, outcome: &Outcome) -> anyhow::Result<()> {
        let Outcome { status, reason, took } = outcome;
        let (at, milliseconds) = (rfc3339(now()), took.as_millis());
        if self.output != Output::Table {
            let told = json!({
                "at": at, "event_id": message.event_id, "webhook_id": message.id.to_string(), "attempt": attempt,
                "status": status, "reason": reason, "milliseconds": u64::try_from(milliseconds).ok(),
            });
            return Ok(print_json(&told.to_string())?);
        }
        let answer = match (status, reason) {
            (Some(status), _) => status.to_string(),
            (None, reason) => format!("no answer ({})", reason.as_deref().unwrap_or_default()),
        };
        let what = format!("{} {}", events::agent(event), events::change(event));
        Ok(line(format!("{at}  {}  {what}  -> {answer} in {milliseconds} ms", message.event_id))?)
    }
}
