//! What a webhook registration must be like. The API asks before it stores one.

use url::Url;

use super::ids::SourceId;
use super::presence::canonical_presence;
use super::target::TargetPolicy;
use super::violation::{Violation, check_texts, without_repeats};

/// How long a replaced secret signs beside the new one: a receiver has a day to change over.
pub const FORMER_SECRET_SIGNS_ON: time::Duration = time::Duration::hours(24);
/// Secrets that sign at once, the present one included. Each adds 48 bytes to a header of every POST.
pub const SIGNING_SECRETS_MAX: i64 = 5;

/// Kinds of event that a webhook may ask for.
pub const EVENTS: [&str; 3] = ["presence.updated", "source.stale", "source.recovered"];

const URL_CHARS_MAX: usize = 2048;
const DESCRIPTION_CHARS_MAX: usize = 500;
const AGENTS_MAX: usize = 1000;
const LIST_MAX: usize = 100;
const ID_CHARS_MAX: usize = 200;
const PRESENCE_CHARS_MAX: usize = 100;

/// Fields of a registration or of a change to one, as given; `None` is what was not mentioned.
#[derive(Clone, Debug, Default)]
pub struct WebhookInput {
    /// Where POSTs shall go.
    pub url: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// Only these Genesys user ids; empty: all.
    pub agents: Option<Vec<String>>,
    /// Only these topics; empty: all.
    pub topics: Option<Vec<String>>,
    /// Only changes to these system presences, in any spelling; empty: all.
    pub presences: Option<Vec<String>>,
    /// Only these sources; empty: all.
    pub sources: Option<Vec<SourceId>>,
    /// Kinds of event it is sent.
    pub events: Option<Vec<String>>,
}

/// The same fields, found to be good: the address parsed, presences in our spelling, lists without repeats.
#[derive(Clone, Debug, Default)]
pub struct WebhookChanges {
    /// Where POSTs go.
    pub url: Option<Url>,
    /// Free text.
    pub description: Option<String>,
    /// Only these Genesys user ids; empty: all.
    pub agents: Option<Vec<String>>,
    /// Only these topics; empty: all.
    pub topics: Option<Vec<String>>,
    /// Only changes to these system presences; empty: all.
    pub presences: Option<Vec<String>>,
    /// Only these sources; empty: all.
    pub sources: Option<Vec<SourceId>>,
    /// Kinds of event it is sent.
    pub events: Option<Vec<String>>,
}

impl WebhookInput {
    /// Holds every given field against the rules. Whether the sources exist is for the store to say.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(self, targets: &TargetPolicy) -> Result<WebhookChanges, Vec<Violation>> {
        let mut found = Vec::new();
        let url = self.url.and_then(|text| check_url(&text, targets, &mut found));
        if let Some(text) = &self.description {
            check_description(text, &mut found);
        }
        let mut list = |name, texts: Option<Vec<String>>, items_max, chars_max| {
            texts.map(|texts| check_texts(name, texts, items_max, chars_max, &mut found))
        };
        let agents = list("agents", self.agents, AGENTS_MAX, ID_CHARS_MAX);
        let topics = list("topics", self.topics, LIST_MAX, ID_CHARS_MAX);
        let presences = list("presences", self.presences, LIST_MAX, PRESENCE_CHARS_MAX)
            .map(|texts| without_repeats(texts.iter().filter_map(|text| canonical_presence(text)).collect()));
        let sources = self.sources.map(without_repeats);
        if sources.as_ref().is_some_and(|sources| sources.len() > LIST_MAX) {
            found.push(Violation::new("sources", format!("has more than {LIST_MAX} items")));
        }
        let events = self.events.map(without_repeats);
        if let Some(events) = &events {
            check_events(events, &mut found);
        }
        if !found.is_empty() {
            return Err(found);
        }
        Ok(WebhookChanges { url, description: self.description, agents, topics, presences, sources, events })
    }
}

fn check_url(text: &str, targets: &TargetPolicy, found: &mut Vec<Violation>) -> Option<Url> {
    if text.chars().count() > URL_CHARS_MAX {
        found.push(Violation::new("url", format!("is longer than {URL_CHARS_MAX} characters")));
        return None;
    }
    targets.check_url(text).map_err(|error| found.push(Violation::new("url", error.to_string()))).ok()
}

fn check_events(events: &[String], found: &mut Vec<Violation>) {
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

/// Line breaks are fine in a description, other control characters are not.
fn check_description(text: &str, found: &mut Vec<Violation>) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn fields(violations: &[Violation]) -> Vec<&str> {
        violations.iter().map(|v| v.field.as_str()).collect()
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let wrong = WebhookInput {
            url: Some("http://127.0.0.1/".into()),
            description: Some("x".repeat(501)),
            agents: Some(vec!["a".into(), " ".into(), "b\r\nx: y".into()]),
            topics: Some(vec!["t".into(); 101]),
            ..WebhookInput::default()
        };
        let found = wrong.check(&TargetPolicy::new(Vec::new())).unwrap_err();
        assert_eq!(fields(&found), ["url", "description", "agents/1", "agents/2", "topics"]);
    }

    #[test]
    fn kinds_of_event_are_known_ones_once_each_and_one_at_least() {
        let check = |events: &[&str]| {
            let events = Some(events.iter().map(|&event| event.to_owned()).collect());
            WebhookInput { events, ..WebhookInput::default() }.check(&TargetPolicy::new(Vec::new()))
        };
        let kept = check(&["source.stale", "presence.updated", "source.stale"]).unwrap().events.unwrap();
        assert_eq!(kept, ["source.stale", "presence.updated"]);
        assert_eq!(fields(&check(&[]).unwrap_err()), ["events"]);
        let wrong = check(&["presence.updated", "webhook.test", "source.gone"]).unwrap_err();
        assert_eq!(fields(&wrong), ["events/1", "events/2"]);
        let unsaid = WebhookInput::default().check(&TargetPolicy::new(Vec::new())).unwrap();
        assert!(unsaid.events.is_none(), "what is not said stays as it is");
    }

    #[test]
    fn presences_are_kept_in_one_spelling_and_lists_without_repeats() {
        let good = WebhookInput {
            url: Some("https://crm.example.com/hooks?sig=1".into()),
            presences: Some(vec!["On Queue".into(), "ON_QUEUE".into(), "Coffee".into()]),
            agents: Some(vec!["b".into(), "a".into(), "b".into()]),
            ..WebhookInput::default()
        };
        let changes = good.check(&TargetPolicy::new(Vec::new())).unwrap();
        assert_eq!(changes.presences.unwrap(), ["ON_QUEUE", "Coffee"]);
        assert_eq!(changes.agents.unwrap(), ["b", "a"]);
        assert_eq!(changes.url.unwrap().as_str(), "https://crm.example.com/hooks?sig=1");
        assert!(changes.topics.is_none());
    }
}
