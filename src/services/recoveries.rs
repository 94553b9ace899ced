//! Requests to deliver again what a webhook missed.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::time::sleep;

use super::Result;
use super::caller::Caller;
use crate::clock;
use crate::domain::ids::{RecoveryId, WebhookId};
use crate::domain::violation::Violation;
use crate::domain::webhook::filters::check_agents;
use crate::store::recovery::requests::{Recovery, RecoveryRequest};
use crate::store::transaction;

/// How long a caller waits for the end of a request, which comes without the caller too.
const ANSWER_AFTER: Duration = Duration::from_secs(4);
/// How often it is looked whether it has ended: soon at first, for most are short.
const LOOK_AFTER_FIRST: Duration = Duration::from_millis(20);
const LOOK_AFTER_LONGEST: Duration = Duration::from_millis(320);

/// Fields of a request, as given.
#[derive(Clone, Debug, Default)]
pub struct RecoveryInput {
    /// Events that arrived at or after this time; must be given.
    pub since: Option<OffsetDateTime>,
    /// Events that arrived before this time; `None`: before now.
    pub until: Option<OffsetDateTime>,
    /// Only what ended without success; `None`: yes.
    pub only_failed: Option<bool>,
    /// Only these agents; `None` or empty: all.
    pub agents: Option<Vec<String>>,
}

/// Holds the fields of a request against the rules.
///
/// # Errors
/// Everything that is wrong.
pub fn check(webhook: WebhookId, input: RecoveryInput) -> Result<RecoveryRequest, Vec<Violation>> {
    let until = input.until.unwrap_or_else(clock::now);
    let mut wrong = Vec::new();
    match input.since {
        None => wrong.push(Violation::new("since", "is missing")),
        Some(since) if since >= until => wrong.push(Violation::new("since", "is not before until")),
        Some(_) => {}
    }
    let agents = check_agents(input.agents.unwrap_or_default(), &mut wrong);
    let only_failed = input.only_failed.unwrap_or(true);
    match input.since {
        Some(since) if wrong.is_empty() => {
            Ok(RecoveryRequest { webhook, since, until, only_failed, states: None, source: None, agents })
        }
        _ => Err(wrong),
    }
}

/// Asks for a recovery and waits a few seconds for its end; gives it as it is then.
///
/// # Errors
/// If there is no such webhook, it takes no part, another request for it runs, or the database refuses.
pub async fn request(caller: &Caller, wanted: &RecoveryRequest) -> Result<Recovery> {
    let mut recovery = caller.store.request_recovery(wanted, caller.principal.as_str()).await?;
    let by = Instant::now() + ANSWER_AFTER;
    let mut look_after = LOOK_AFTER_FIRST;
    while recovery.ended_at.is_none() && Instant::now() < by && !transaction::is_shared() {
        sleep(look_after).await;
        look_after = (look_after * 2).min(LOOK_AFTER_LONGEST);
        // It stands, whether we can see it or not.
        if let Ok(now) = caller.store.recovery(recovery.recovery_id).await {
            recovery = now;
        }
    }
    Ok(recovery)
}

/// Ends a request that runs, and gives it as it is then.
///
/// # Errors
/// If there is none, if it has ended, or the database refuses.
pub async fn cancel(caller: &Caller, id: RecoveryId) -> Result<Recovery> {
    caller.store.cancel_recovery(id, caller.principal.as_str()).await?;
    Ok(caller.store.recovery(id).await?)
}
