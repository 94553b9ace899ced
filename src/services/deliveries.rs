//! Deliveries, as far as more than a read is to it: one is tried again, or all that match.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::caller::Caller;
use super::{Result, ServiceError};
use crate::clock;
use crate::domain::delivery::outcome::EndState;
use crate::domain::delivery::sent_post::{SentAs, SentPost};
use crate::domain::delivery::settings::Format;
use crate::domain::ids::{DeliveryId, SourceId, WebhookId};
use crate::domain::presence::Event;
use crate::domain::violation::Violation;
use crate::domain::webhook::state::WebhookState;
use crate::store::recovery::ended_deliveries::{COUNT_MAX, EndedFilter, Matching, WEBHOOKS_MAX};
use crate::store::recovery::requests::{Recovery, RecoveryRequest};
use crate::store::views::deliveries::{AttemptRow, DeliveryRow};

/// Ends that may be undone for many deliveries at once. What was delivered is none: a recovery with
/// `only_failed: false` repeats it.
const RETRIED: [EndState; 4] =
    [EndState::Dead, EndState::Expired, EndState::WebhookDisabled, EndState::Superseded];

/// Makes a delivery due now, be it open or ended, and gives it as it is then.
///
/// # Errors
/// If there is none, its webhook takes no part, a later one of its lane is being sent, or the database
/// refuses.
pub async fn retry(caller: &Caller, id: DeliveryId) -> Result<DeliveryRow> {
    caller.store.retry_delivery(id, caller.principal.as_str()).await?;
    Ok(caller.store.delivery(id).await?)
}

/// A delivery from the frame to the last answer.
#[derive(Clone, Debug)]
pub struct Timeline {
    pub row: DeliveryRow,
    /// What it tells; `None` if that is gone.
    pub event: Option<Event>,
    /// Its last attempts, oldest first.
    pub attempts: Vec<AttemptRow>,
    /// What was sent; `None` before the first attempt, and if its event is gone or erased.
    pub request: Option<SentPost>,
    /// The POST of several deliveries in which the last attempt sent it; `None` if that was its own.
    pub batch: Option<String>,
}

/// A delivery with all that is on record of it.
///
/// # Errors
/// If there is none, or the database does not answer.
pub async fn timeline(caller: &Caller, id: DeliveryId) -> Result<Timeline> {
    let row = caller.store.delivery(id).await?;
    let attempts = caller.store.attempts(id).await?;
    let event = match row.event_id {
        Some(event) => caller.store.event_of_delivery(event).await?,
        None => None,
    };
    let sent = attempts.last().and_then(|last| sent_as(id, last));
    let whole = event.as_ref().filter(|event| event.erased_at.is_none());
    let request = whole.zip(sent).map(|(event, sent)| (caller.services.render)(event, &sent));
    let last = attempts.last().and_then(|last| last.data.get("batch")?.as_str());
    Ok(Timeline { batch: last.map(str::to_owned), row, event, request, attempts })
}

/// How an attempt sent its delivery, as its audit entry tells; `None` if it does not.
fn sent_as(delivery: DeliveryId, attempt: &AttemptRow) -> Option<SentAs> {
    let text = |name: &str| attempt.data.get(name).and_then(Value::as_str);
    let superseded = attempt.data.get("superseded").and_then(Value::as_i64).unwrap_or_default();
    Some(SentAs {
        delivery,
        format: text("format").map_or(Some(Format::default()), Format::from_name)?,
        superseded: i32::try_from(superseded).ok()?,
        sent_at: OffsetDateTime::parse(text("sent_at")?, &Rfc3339).ok()?,
    })
}

/// Which deliveries shall be tried again, as given.
#[derive(Clone, Debug, Default)]
pub struct RetryInput {
    /// Only to this webhook.
    pub webhook: Option<WebhookId>,
    /// Only of events of this agent, by Genesys user id or by the CRM's own.
    pub agent: Option<String>,
    /// Only of events of these agents, by Genesys user id; empty: of all.
    pub agents: Vec<String>,
    /// Only of events of agents of this source.
    pub source: Option<SourceId>,
    /// Their last end is one of these; `None`: all ends without success but `superseded`.
    pub states: Option<Vec<String>>,
    /// Only of events that arrived at or after this time; `None`: however old.
    pub since: Option<OffsetDateTime>,
    /// Only of events that arrived before this time; `None`: before now.
    pub until: Option<OffsetDateTime>,
}

/// What was found for one webhook.
#[derive(Clone, Debug)]
pub struct Retried {
    pub webhook_id: WebhookId,
    /// Deliveries that match.
    pub deliveries: i64,
    /// There are more than that.
    pub at_least: bool,
    /// The request that opens them again; `None` if nothing was asked for, or was refused.
    pub recovery: Option<Recovery>,
    /// Why nothing is, or would be, opened.
    pub refused: Option<String>,
}

/// Holds the fields of a request against the rules.
///
/// # Errors
/// Everything that is wrong.
pub fn check_retry(input: RetryInput) -> Result<RetryInput, Vec<Violation>> {
    let mut wrong = Vec::new();
    let is_known = |state: &String| RETRIED.iter().any(|known| known.as_str() == state);
    if let Some(states) = &input.states
        && (states.is_empty() || !states.iter().all(is_known))
    {
        let known = RETRIED.map(EndState::as_str).join(", ");
        wrong.push(Violation::new("states", format!("is not a list of {known}")));
    }
    if let (Some(since), until) = (input.since, input.until.unwrap_or_else(clock::now))
        && since >= until
    {
        wrong.push(Violation::new("since", "is not before until"));
    }
    if input.agent.as_ref().is_some_and(String::is_empty) {
        wrong.push(Violation::new("agent", "is empty"));
    }
    if wrong.is_empty() { Ok(input) } else { Err(wrong) }
}

/// Opens all deliveries again that match, by a recovery for each webhook that has any; `dry_run` only counts.
///
/// # Errors
/// If they are of too many webhooks, or the database does not answer in time.
pub async fn retry_matching(caller: &Caller, input: RetryInput, dry_run: bool) -> Result<Vec<Retried>> {
    let filter = filter_of(caller, input).await?;
    let found = caller.store.ended_deliveries(&filter).await?;
    if i64::try_from(found.len()).is_ok_and(|webhooks| webhooks > WEBHOOKS_MAX) {
        let many = format!(
            "must be given, or another filter: more than {WEBHOOKS_MAX} webhooks have such deliveries"
        );
        return Err(ServiceError::Invalid(vec![Violation::new("webhook", many)]));
    }
    let mut all: Vec<Retried> = found.iter().map(counted).collect();
    if dry_run {
        return Ok(all);
    }
    let requests: Vec<_> = found.iter().map(|of| request_of(&filter, of.webhook_id)).collect();
    let asked = caller.store.request_recoveries(&requests, caller.principal.as_str()).await?;
    for (retried, asked) in all.iter_mut().zip(asked) {
        (retried.recovery, retried.refused) = match asked {
            Ok(recovery) => (Some(recovery), None),
            Err(why) => (None, Some(why)),
        };
    }
    Ok(all)
}

async fn filter_of(caller: &Caller, input: RetryInput) -> Result<EndedFilter> {
    let failed = || RETRIED.into_iter().filter(|end| *end != EndState::Superseded);
    let states = input.states.unwrap_or_else(|| failed().map(|end| end.as_str().to_owned()).collect());
    let agents = match &input.agent {
        Some(agent) => caller.store.agent_ids_of(agent).await?,
        None => input.agents,
    };
    Ok(EndedFilter {
        webhook: input.webhook,
        agents,
        source: input.source,
        states,
        since: input.since.unwrap_or(OffsetDateTime::UNIX_EPOCH),
        until: input.until.unwrap_or_else(clock::now),
    })
}

fn counted(of: &Matching) -> Retried {
    let refused = match (of.state, of.running) {
        (WebhookState::Disabled, _) => Some("it is disabled; enable it".to_owned()),
        (WebhookState::Unverified, _) => {
            Some("its receiver has not shown yet that it wants the POSTs".to_owned())
        }
        (_, Some(running)) => Some(format!("its recovery {running} is running; wait for it or cancel it")),
        (_, None) => None,
    };
    Retried {
        webhook_id: of.webhook_id,
        deliveries: of.deliveries.min(COUNT_MAX),
        at_least: of.deliveries > COUNT_MAX,
        recovery: None,
        refused,
    }
}

fn request_of(filter: &EndedFilter, webhook: WebhookId) -> RecoveryRequest {
    let EndedFilter { agents, source, states, since, until, .. } = filter.clone();
    RecoveryRequest { webhook, since, until, only_failed: true, states: Some(states), source, agents }
}
