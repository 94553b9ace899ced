//! Where a webhook's POSTs go and what it is told of.

use url::Url;

use super::{EVENTS, WebhookSettings};
use crate::domain::ids::{SourceId, canonical_guid};
use crate::domain::presence::{ROUTING_STATUSES, SYSTEM_PRESENCES, canonical_presence};
use crate::domain::violation::{Violation, check_texts, without_repeats};
use crate::domain::webhook::target::TargetPolicy;
use crate::domain::webhook::transition::{canonical_transition, sides};

const URL_CHARS_MAX: usize = 2048;
const DESCRIPTION_CHARS_MAX: usize = 500;
const AGENTS_MAX: usize = 1000;
const LIST_MAX: usize = 100;
const ID_CHARS_MAX: usize = 200;
const PRESENCE_CHARS_MAX: usize = 100;

/// Judges an address that something of ours will be sent to.
pub(super) fn check_url(
    field: &str,
    text: &str,
    targets: &TargetPolicy,
    found: &mut Vec<Violation>,
) -> Option<Url> {
    if text.chars().count() > URL_CHARS_MAX {
        found.push(Violation::new(field, format!("is longer than {URL_CHARS_MAX} characters")));
        return None;
    }
    targets.check_url(text).map_err(|error| found.push(Violation::new(field, error.to_string()))).ok()
}

/// Line breaks are fine in a description, other control characters are not.
pub(super) fn check_description(text: &str, found: &mut Vec<Violation>) {
    if text.chars().count() > DESCRIPTION_CHARS_MAX {
        found.push(Violation::new(
            "description",
            format!("is longer than {DESCRIPTION_CHARS_MAX} characters"),
        ));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        found.push(Violation::new("description", "has control characters"));
    }
}

/// Agents by Genesys user id or external id.
pub(crate) fn check_agents(texts: Vec<String>, found: &mut Vec<Violation>) -> Vec<String> {
    check_texts("agents", texts, AGENTS_MAX, ID_CHARS_MAX, found)
}

pub(super) fn check_topics(texts: Vec<String>, found: &mut Vec<Violation>) -> Vec<String> {
    check_texts("topics", texts, LIST_MAX, ID_CHARS_MAX, found)
}

/// In our spelling, each once.
pub(super) fn check_presences(texts: Vec<String>, found: &mut Vec<Violation>) -> Vec<String> {
    let texts = check_texts("presences", texts, LIST_MAX, PRESENCE_CHARS_MAX, found);
    without_repeats(texts.iter().filter_map(|text| canonical_presence(text)).collect())
}

pub(super) fn check_sources(sources: Vec<SourceId>, found: &mut Vec<Violation>) -> Vec<SourceId> {
    let sources = without_repeats(sources);
    if sources.len() > LIST_MAX {
        found.push(Violation::new("sources", format!("has more than {LIST_MAX} items")));
    }
    sources
}

/// Queue ids in upstream's spelling.
pub(super) fn check_queues(texts: Vec<String>, found: &mut Vec<Violation>) -> Vec<String> {
    let texts = check_texts("queues", texts, LIST_MAX, ID_CHARS_MAX, found);
    without_repeats(texts.into_iter().map(canonical_guid).collect())
}

/// In upstream's spelling, each once.
pub(super) fn check_routing_statuses(texts: Vec<String>, found: &mut Vec<Violation>) -> Vec<String> {
    let texts = check_texts("routing_statuses", texts, LIST_MAX, PRESENCE_CHARS_MAX, found);
    without_repeats(texts.iter().map(|text| text.trim().replace(' ', "_").to_ascii_uppercase()).collect())
}

/// In our spelling, each once.
pub(super) fn check_transitions(texts: &[String], found: &mut Vec<Violation>) -> Vec<String> {
    if texts.len() > LIST_MAX {
        found.push(Violation::new("transitions", format!("has more than {LIST_MAX} items")));
        return Vec::new();
    }
    let mut transitions = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match canonical_transition(text).filter(|_| text.chars().count() <= ID_CHARS_MAX) {
            Some(transition) => transitions.push(transition),
            None => found.push(Violation::new(format!("transitions/{i}"), "is not like AWAY -> ON_QUEUE")),
        }
    }
    without_repeats(transitions)
}

/// What can never match, as far as the names themselves tell it.
#[must_use]
pub fn never_matching(settings: &WebhookSettings) -> Vec<Violation> {
    let unknown_presence = |presence: &str| !SYSTEM_PRESENCES.contains(&presence);
    let mut found = Vec::new();
    for (i, presence) in settings.presences.iter().enumerate() {
        if unknown_presence(presence) {
            found.push(Violation::new(format!("presences/{i}"), no_presence()));
        }
    }
    for (i, status) in settings.routing_statuses.iter().enumerate() {
        if !ROUTING_STATUSES.contains(&status.as_str()) {
            let what = format!("is no routing status; there are {}", ROUTING_STATUSES.join(", "));
            found.push(Violation::new(format!("routing_statuses/{i}"), what));
        }
    }
    for (i, transition) in settings.transitions.iter().enumerate() {
        let sides = sides(transition);
        if sides.into_iter().flatten().any(unknown_presence) {
            found.push(Violation::new(format!("transitions/{i}"), no_presence()));
        } else if let [Some(from), Some(to)] = sides
            && from == to
        {
            found
                .push(Violation::new(format!("transitions/{i}"), "names no change: both sides are the same"));
        }
    }
    found
}

fn no_presence() -> String {
    format!("is no system presence of Genesys Cloud; there are {}", SYSTEM_PRESENCES.join(", "))
}

pub(super) fn check_events(events: &[String], found: &mut Vec<Violation>) {
    if events.is_empty() {
        found.push(Violation::new("events", "is empty"));
    }
    for (i, event) in events.iter().enumerate() {
        if !EVENTS.contains(&event.as_str()) {
            let what = format!("is no kind of event; there are {}", EVENTS.join(", "));
            found.push(Violation::new(format!("events/{i}"), what));
        }
    }
}
