//! Why a webhook got an event, or did not: from what is kept to one verdict, a sentence, and the steps that
//! led there.

use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::domain::ids::with_canonical_guids;
use crate::domain::plural::plural;
use crate::domain::presence::EventKind;
use crate::domain::webhook::state::WebhookState;
use crate::domain::webhook::transition::transitions_of;

mod facts;

pub use facts::{EntryFacts, EventFacts, Facts, OpenFacts, Verdict, WebhookFacts};

const ATTEMPT: &str = "DELIVERY_ATTEMPT";
/// Outcome class of an attempt that had no access token to send.
const NO_TOKEN: &str = "token";

/// One step on the way.
#[derive(Clone, Debug)]
pub struct Step {
    /// When; of the last one, it may be still to come.
    pub at: OffsetDateTime,
    /// A stable word.
    pub what: &'static str,
    /// The step as a sentence.
    pub detail: String,
    /// The entry behind it, if it is an attempt or an end.
    pub entry: Option<EntryFacts>,
}

/// One filter of the webhook against the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its name.
    pub filter: &'static str,
    /// Whether it lets the event pass.
    pub matches: bool,
    /// What it lets pass; empty: all.
    pub asked: Vec<String>,
    /// What the event has.
    pub has: Vec<String>,
}

/// The whole answer.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What became of it.
    pub verdict: Verdict,
    /// The same as a sentence.
    pub reason: String,
    /// What happened, oldest first.
    pub steps: Vec<Step>,
    /// Each filter as it is now.
    pub matched: Vec<Match>,
}

/// Explains what became of an event for a webhook. `write` writes a time.
#[must_use]
pub fn explain(facts: &Facts, now: OffsetDateTime, write: fn(OffsetDateTime) -> String) -> Explanation {
    let matched = matches(&facts.event, &facts.webhook);
    let end = facts.of_delivery.iter().rev().find(|entry| entry.end_state.is_some());
    let (verdict, reason) = match (&facts.open, end) {
        (Some(open), _) => {
            let last = facts.of_delivery.iter().rev().find(|entry| entry.kind == ATTEMPT);
            why_open(open, &facts.webhook, last.and_then(EntryFacts::reason), now, write)
        }
        (None, Some(end)) => of_ended(end, write),
        (None, None) => of_nothing(facts, &matched, write),
    };
    Explanation { verdict, reason, steps: steps(facts, now, write), matched }
}

/// Holds each filter against the event. A filter counts where the kind of event has what it asks about:
/// what concerns the state for changes of presence, agents for those and for gaps, sources for all that comes
/// from one.
#[must_use]
pub fn matches(event: &EventFacts, webhook: &WebhookFacts) -> Vec<Match> {
    use EventKind as K;
    let (presence, agent, source) = match event.kind {
        K::PresenceUpdated | K::PresenceSnapshot => (true, true, true),
        K::PresenceGap => (false, true, true),
        K::SourceStale | K::SourceRecovered => (false, false, true),
        K::WebhookTest
        | K::WebhookFailing
        | K::WebhookDisabled
        | K::WebhookRecovered
        | K::DatabaseFailedOver => (false, false, false),
    };
    let of = |filter, counts: bool, asked: Vec<String>, has: Vec<Option<String>>| {
        let has: Vec<String> = has.into_iter().flatten().collect();
        let matches = !counts || asked.is_empty() || {
            let asked = with_canonical_guids(&asked);
            has.iter().any(|has| asked.contains(has))
        };
        Match { filter, matches, asked, has }
    };
    let kind = event.kind.as_str().to_owned();
    let transitions = transitions_of(event.previous.as_deref(), event.presence.as_deref());
    let agent_id = event.agent_id.as_ref().map(|id| id.0.clone());
    let sources = webhook.sources.iter().map(ToString::to_string).collect();
    vec![
        of("events", true, webhook.events.clone(), vec![Some(kind)]),
        of("agents", agent, webhook.agents.clone(), vec![agent_id, event.external_id.clone()]),
        of("topics", presence, webhook.topics.clone(), vec![event.topic.clone()]),
        of("presences", presence, webhook.presences.clone(), vec![event.presence.clone()]),
        of("sources", source, sources, vec![event.source_id.map(|id| id.to_string())]),
        of("queues", presence, webhook.queues.clone(), event.queues.iter().cloned().map(Some).collect()),
        of(
            "routing_statuses",
            presence,
            webhook.routing_statuses.clone(),
            vec![event.routing_status.clone()],
        ),
        of("transitions", presence, webhook.transitions.clone(), transitions.into_iter().map(Some).collect()),
    ]
}

/// Why a delivery is still open; `reason` says why its last attempt failed. `write` writes a time.
#[must_use]
pub fn why_open(
    open: &OpenFacts,
    webhook: &WebhookFacts,
    reason: Option<&str>,
    now: OffsetDateTime,
    write: fn(OffsetDateTime) -> String,
) -> (Verdict, String) {
    let failed = open.last_outcome.as_deref().map(|outcome| {
        if outcome == NO_TOKEN {
            let why = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            return format!("{} got no access token, so nothing was sent{why}", open.attempt);
        }
        format!("{} failed ({})", open.attempt, in_words(outcome, open.last_status, reason))
    });
    match open.state.as_str() {
        "sending" => (Verdict::Sending, format!("Attempt {} is under way.", open.attempt.max(1))),
        "blocked" => {
            let ahead = open.ahead.map_or_else(String::new, |id| format!(", {id},"));
            (Verdict::Blocked, format!("An older delivery of the same agent{ahead} leaves first."))
        }
        "paused" => (Verdict::Paused, "Its webhook is paused; it leaves after resume.".to_owned()),
        _ if webhook.state == WebhookState::Paused => {
            (Verdict::Paused, "Its webhook is paused; it leaves after resume.".to_owned())
        }
        _ => match (webhook.hold_until.filter(|until| *until > now), open.not_before, failed) {
            (Some(until), _, failed) => {
                let failed =
                    failed.map_or_else(String::new, |failed| format!("; attempt {failed} of this delivery"));
                let why = why_held(webhook);
                (Verdict::Held, format!("{why}: nothing is sent before {}{failed}.", write(until)))
            }
            (None, Some(not_before), _) if not_before > now => (
                Verdict::Waiting,
                format!("The state must last until {} before it is sent.", write(not_before)),
            ),
            (None, _, Some(failed)) => {
                let again = open.due_at.map_or_else(|| "later".to_owned(), |at| format!("at {}", write(at)));
                (Verdict::Waiting, format!("Attempt {failed}; it is tried again {again}."))
            }
            (None, _, None) if webhook.limits => (
                Verdict::Waiting,
                "It leaves as soon as the webhook's rate limit or batch lets it.".to_owned(),
            ),
            (None, _, None) => (Verdict::Waiting, "It is due and leaves at once.".to_owned()),
        },
    }
}

fn why_held(webhook: &WebhookFacts) -> String {
    match (webhook.last_outcome.as_deref(), &webhook.last_reason) {
        (Some(NO_TOKEN), Some(reason)) => format!("Its token server gives no access token ({reason})"),
        (Some(NO_TOKEN), None) => "Its token server gives no access token".to_owned(),
        _ => "Its receiver fails or asked for rest".to_owned(),
    }
}

/// What came of an attempt: its class, status and reason.
fn in_words(outcome: &str, status: Option<i32>, reason: Option<&str>) -> String {
    let status = status.map_or_else(String::new, |status| format!(", status {status}"));
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{outcome}{status}{reason}")
}

fn of_ended(end: &EntryFacts, write: fn(OffsetDateTime) -> String) -> (Verdict, String) {
    let verdict = Verdict::of_end(end.end_state.as_deref().unwrap_or_default());
    let at = write(end.at);
    let status = end.status.map_or_else(String::new, |status| format!(", status {status}"));
    let outcome = end.outcome.as_deref().unwrap_or("no answer");
    let reason = match verdict {
        Verdict::Delivered => {
            format!("The receiver took it at {at}, with attempt {}{status}.", end.attempt.unwrap_or(1))
        }
        Verdict::Dead => {
            let attempts = plural(end.attempt.unwrap_or_default(), "attempt", "attempts");
            let last = in_words(outcome, end.status, end.reason());
            format!("It was given up at {at} after {attempts}; the last one: {last}.")
        }
        Verdict::Superseded => {
            let newer = end.data.get("superseded_by").and_then(Value::as_str);
            let newer = newer.map_or_else(String::new, |id| format!(", delivery {id}"));
            format!("At {at} it was superseded by a newer state of the same agent{newer}.")
        }
        Verdict::Expired => {
            format!("At {at} it was older than max_age_seconds lets it be, and was not sent.")
        }
        Verdict::WebhookGone => format!("Its webhook was removed at {at}, before it could be delivered."),
        Verdict::WebhookDisabled => {
            format!("Its webhook was disabled at {at}, before it could be delivered.")
        }
        Verdict::Erased => {
            format!(
                "The person that it is about was erased, and it ended at {at} without having been delivered."
            )
        }
        _ => format!("It ended at {at} in a way that this version does not know."),
    };
    (verdict, reason)
}

/// There is no delivery, and no trace that there ever was one.
fn of_nothing(facts: &Facts, matched: &[Match], write: fn(OffsetDateTime) -> String) -> (Verdict, String) {
    let (event, webhook) = (&facts.event, &facts.webhook);
    let stored_at = event.committed_at.unwrap_or(event.received_at);
    if webhook.created_at > stored_at {
        let at = write(webhook.created_at);
        return (
            Verdict::NotRegisteredThen,
            format!("The webhook was registered at {at}, after the event was stored."),
        );
    }
    if let Some(deleted_at) = webhook.deleted_at.filter(|at| *at <= stored_at) {
        return (
            Verdict::WebhookGone,
            format!("The webhook was removed at {}, before the event was stored.", write(deleted_at)),
        );
    }
    if let Some(at) = event.erased_at {
        let at = write(at);
        return (
            Verdict::Erased,
            format!("The person that it is about was erased at {at}; what the filters ask about is gone."),
        );
    }
    if [EventKind::WebhookTest, EventKind::PresenceSnapshot].contains(&event.kind) {
        return (
            Verdict::NotMatched,
            "An event of this kind is made for one webhook alone, and this is another.".to_owned(),
        );
    }
    let changed_at = facts.of_webhook.iter().rev().find(|entry| changes_filters(entry));
    let changed_at = changed_at.map(|entry| entry.at).filter(|at| *at > stored_at);
    let failing: Vec<&str> = matched.iter().filter(|m| !m.matches).map(|m| m.filter).collect();
    if !failing.is_empty() {
        let since = changed_at.map_or_else(String::new, |at| {
            format!(
                " The filters were changed at {}, after the event; these are the present ones.",
                write(at)
            )
        });
        return (Verdict::NotMatched, format!("The event does not pass {}.{since}", failing.join(", ")));
    }
    if took_no_part(facts, stored_at) {
        return (
            Verdict::WebhookDisabled,
            "The webhook was disabled or unverified when the event was stored, so it got no delivery."
                .to_owned(),
        );
    }
    if let Some(at) = changed_at {
        let at = write(at);
        return (
            Verdict::NotMatched,
            format!(
                "It passes the present filters, but they were changed at {at}, after the event; those of then did not let it pass."
            ),
        );
    }
    (
        Verdict::Unknown,
        "The event passes the filters, and nothing is kept of its delivery: audit entries of that time may be gone.".to_owned(),
    )
}

/// Whether the webhook was disabled or unverified at that time, as far as its entries tell.
fn took_no_part(facts: &Facts, at: OffsetDateTime) -> bool {
    let turn = |entry: &EntryFacts| match entry.kind.as_str() {
        "WEBHOOK_DISABLED" => Some(true),
        "WEBHOOK_ENABLED" | "WEBHOOK_RECOVERED" => Some(false),
        _ => None,
    };
    let mut before = facts.of_webhook.iter().rev().filter(|entry| entry.at <= at);
    match before.find_map(turn) {
        Some(out) => out,
        // Nothing turned before. If the first turn afterwards brought it in, it was out until then.
        None => match facts.of_webhook.iter().filter(|entry| entry.at > at).find_map(turn) {
            Some(out) => !out,
            None => !facts.webhook.state.takes_part(),
        },
    }
}

fn changes_filters(entry: &EntryFacts) -> bool {
    let fields = entry.data.get("fields").and_then(Value::as_array);
    let filters =
        ["events", "agents", "topics", "presences", "sources", "queues", "routing_statuses", "transitions"];
    entry.kind == "WEBHOOK_UPDATED"
        && fields.is_some_and(|fields| fields.iter().filter_map(Value::as_str).any(|f| filters.contains(&f)))
}

fn steps(facts: &Facts, now: OffsetDateTime, write: fn(OffsetDateTime) -> String) -> Vec<Step> {
    let step = |at, what, detail: String| Step { at, what, detail, entry: None };
    let event = &facts.event;
    let mut steps = vec![step(event.received_at, "received", "The event arrived.".to_owned())];
    if let Some(at) = event.committed_at {
        steps.push(step(at, "stored", "It was stored.".to_owned()));
    }
    if let Some(at) = event.erased_at {
        steps.push(step(at, "erased", "The person that it is about was erased.".to_owned()));
    }
    steps.extend(facts.of_delivery.iter().filter_map(of_entry));
    // What happened to the webhook while it mattered: from the event on until the delivery ended.
    let ended_at =
        facts.of_delivery.iter().filter(|entry| entry.end_state.is_some()).map(|e| e.at).next_back();
    let until = if facts.open.is_some() { None } else { ended_at };
    let mattered =
        |entry: &&EntryFacts| entry.at >= event.received_at && until.is_none_or(|until| entry.at <= until);
    steps.extend(facts.of_webhook.iter().filter(mattered).map(|entry| {
        let by = entry.principal.as_ref().map_or_else(String::new, |who| format!(", by {who}"));
        Step {
            at: entry.at,
            what: "webhook",
            detail: format!("{}{by}.", entry.kind),
            entry: Some(entry.clone()),
        }
    }));
    if let Some(open) = &facts.open {
        let later = |at: &OffsetDateTime| *at > now;
        let hold = facts.webhook.hold_until.filter(later);
        let at = [hold, open.not_before.filter(later), open.due_at.filter(later)].into_iter().flatten().max();
        if let Some(at) = at {
            steps.push(step(at, "waits", format!("It leaves at {} at the earliest.", write(at))));
        }
    }
    steps.sort_by_key(|step| step.at);
    steps
}

fn of_entry(entry: &EntryFacts) -> Option<Step> {
    let outcome = entry.outcome.as_deref().unwrap_or_default();
    let (what, detail) = match entry.kind.as_str() {
        ATTEMPT => {
            let attempt = entry.attempt.unwrap_or_default();
            let came_of_it = in_words(outcome, entry.status, entry.reason());
            let again =
                if entry.is_remade() { " It was made again at once: a kept connection broke." } else { "" };
            ("attempt", format!("Attempt {attempt}: {came_of_it}.{again}"))
        }
        "DELIVERY_RETRIED" => {
            let by = entry.principal.as_deref().unwrap_or("an operator");
            ("retried", format!("{by} asked for another try."))
        }
        "WEBHOOK_TESTED" => ("tested", "A test ping was asked for.".to_owned()),
        _ => match entry.end_state.as_deref() {
            Some(end) => ("ended", format!("It ended: {end}.")),
            None => return None,
        },
    };
    Some(Step { at: entry.at, what, detail, entry: Some(entry.clone()) })
}

impl Step {
    /// What the entry behind the step adds to it, by name.
    #[must_use]
    pub fn particulars(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let Some(entry) = &self.entry else {
            return fields;
        };
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("attempt", entry.attempt.map(Value::from));
        put("status", entry.status.map(Value::from));
        put("outcome", entry.outcome.clone().map(Value::from));
        put("duration_ms", entry.duration_ms.map(Value::from));
        put("end_state", entry.end_state.clone().map(Value::from));
        if entry.data.as_object().is_some_and(|data| !data.is_empty()) {
            put("data", Some(entry.data.clone()));
        }
        fields
    }
}

#[cfg(test)]
mod tests;
