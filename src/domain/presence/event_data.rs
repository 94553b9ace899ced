//! Fields of a presence change, in one shape for the POST to a webhook and for the feed.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::domain::ids::{AgentId, EventId, SourceId};
use crate::domain::presence::agent_state::{AgentState, EventState};
use crate::domain::presence::{Detail, Event};

/// Levels of nesting of a frame that is shown as JSON. Parsers of receivers refuse a body that is nested more
/// deeply than they like, the smallest of the usual limits being 64, and no frame of the platform comes near.
const FRAME_LEVELS_MAX: usize = 32;

/// An upstream frame as it is shown: its JSON byte for byte, or its text as a JSON string.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ShownFrame<'a> {
    /// It is JSON.
    Json(&'a RawValue),
    /// It is none, or is nested too deeply.
    Text(Cow<'a, str>),
}

impl<'a> ShownFrame<'a> {
    /// A frame that is JSON; `None` if it is not.
    #[must_use]
    pub fn of_json(frame: &'a [u8]) -> Option<Self> {
        let json = serde_json::from_slice::<&RawValue>(frame).ok()?;
        Some(if levels(json.get()) > FRAME_LEVELS_MAX {
            Self::Text(Cow::Borrowed(json.get()))
        } else {
            Self::Json(json)
        })
    }

    /// Any frame. Mended text could be JSON too, but it would not be the frame.
    #[must_use]
    pub fn of(frame: &'a [u8]) -> Self {
        Self::of_json(frame).unwrap_or_else(|| Self::Text(String::from_utf8_lossy(frame)))
    }
}

/// How many levels of objects and arrays a JSON text has.
fn levels(json: &str) -> usize {
    let (mut level, mut most, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => {
                level += 1;
                most = most.max(level);
            }
            b'}' | b']' => level = level.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// The fields of a presence change, in this order for ever. `R` is the upstream frame.
#[derive(Serialize)]
pub struct EventData<'a, R> {
    event_id: EventId,
    sequence: Option<i64>,
    origin: &'static str,
    changed: Vec<&'a str>,
    source: Option<SourceName<'a>>,
    agent: Option<Agent<'a>>,
    topic: Option<&'a str>,
    presence: Option<Presence<'a>>,
    previous: Option<Previous<'a>>,
    #[serde(flatten)]
    state: StateData<'a>,
    occurred_at: Option<String>,
    received_at: String,
    committed_at: Option<String>,
    raw: R,
}

/// A source by id and name.
#[derive(Serialize)]
pub struct SourceName<'a> {
    /// Its id.
    pub id: SourceId,
    /// Its name at that time.
    pub name: &'a str,
}

/// An agent by its ids, with name and e-mail address as far as they are known.
#[derive(Serialize)]
pub struct Agent<'a> {
    id: &'a AgentId,
    name: Option<&'a str>,
    email: Option<&'a str>,
    external_id: Option<&'a str>,
}

impl<'a> Agent<'a> {
    /// The agent of an event.
    #[must_use]
    pub fn of(event: &'a Event) -> Option<Self> {
        let content = match &event.detail {
            Some(Detail::Agent(content)) => Some(content),
            _ => None,
        };
        Some(Self {
            id: event.agent_id.as_ref()?,
            name: content.and_then(|content| content.name.as_deref()),
            email: content.and_then(|content| content.email.as_deref()),
            external_id: event.external_id.as_deref(),
        })
    }
}

/// System presence and custom presence.
#[derive(Serialize)]
pub struct Presence<'a> {
    system: Option<&'a str>,
    definition_id: Option<&'a str>,
    label: Option<&'a str>,
    message: Option<&'a str>,
}

#[derive(Serialize)]
struct Previous<'a> {
    system: &'a str,
}

/// The state of an agent besides the presence.
#[derive(Serialize)]
pub struct StateData<'a> {
    routing_status: Option<RoutingStatus<'a>>,
    out_of_office: Option<bool>,
    active_queues: Option<&'a [String]>,
    can_take_work: Option<bool>,
}

#[derive(Serialize)]
struct RoutingStatus<'a> {
    status: &'a str,
    since: Option<String>,
}

impl<'a> Presence<'a> {
    /// The presence of a state, or of the column where there is no state.
    #[must_use]
    pub fn of(state: Option<&'a AgentState>, system: Option<&'a str>) -> Option<Self> {
        match state.and_then(|state| state.presence.as_ref()) {
            Some(content) => Some(Self {
                system: content.value.system.as_deref(),
                definition_id: content.value.definition_id.as_deref(),
                label: content.value.label.as_deref(),
                message: content.value.message.as_deref(),
            }),
            None => Some(Self { system: Some(system?), definition_id: None, label: None, message: None }),
        }
    }
}

impl<'a> StateData<'a> {
    /// The parts of a state; all unknown without one.
    #[must_use]
    pub fn of(state: Option<&'a AgentState>, write: impl Fn(OffsetDateTime) -> String) -> Self {
        Self {
            routing_status: state
                .and_then(|state| state.routing.as_ref())
                .map(|routing| RoutingStatus { status: &routing.value, since: routing.at.map(write) }),
            out_of_office: state.and_then(|state| state.out_of_office.as_ref()).map(|out| out.value),
            active_queues: state
                .and_then(|state| state.queues.as_ref())
                .map(|queues| queues.value.as_slice()),
            can_take_work: state.and_then(AgentState::can_take_work),
        }
    }
}

impl<'a, R: Serialize> EventData<'a, R> {
    /// Fields of an event. `write` formats a time.
    #[must_use]
    pub fn new(event: &'a Event, raw: R, write: impl Fn(OffsetDateTime) -> String) -> Self {
        let content: Option<&EventState> = match &event.detail {
            Some(Detail::Agent(content)) => Some(content),
            _ => None,
        };
        let state = content.map(|content| &content.state);
        Self {
            event_id: event.event_id,
            sequence: event.sequence,
            origin: event.origin.as_str(),
            changed: content.map_or_else(
                || vec!["presence"],
                |content| content.changed.iter().map(String::as_str).collect(),
            ),
            source: event.source.as_ref().map(|(id, name)| SourceName { id: *id, name }),
            agent: Agent::of(event),
            topic: event.topic.as_deref(),
            presence: Presence::of(state, event.presence.as_deref()),
            previous: event.previous.as_deref().map(|system| Previous { system }),
            state: StateData::of(state, &write),
            occurred_at: event.occurred_at.map(&write),
            received_at: write(event.received_at),
            committed_at: event.committed_at.map(&write),
            raw,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(frame: &str) -> String {
        serde_json::to_string(&ShownFrame::of(frame.as_bytes())).unwrap()
    }

    #[test]
    fn a_frame_of_more_than_32_levels_is_shown_as_text() {
        let nested = |levels: usize| format!("{}{}", r#"{"a":"#.repeat(levels) + "1", "}".repeat(levels));
        assert_eq!(shown(&nested(32)), nested(32));
        for levels in [33, 3000, 100_000] {
            let text: String = serde_json::from_str(&shown(&nested(levels))).unwrap();
            assert_eq!(text, nested(levels));
        }
        assert_eq!(shown(&"[".repeat(40)), serde_json::to_string(&"[".repeat(40)).unwrap(), "no JSON");
    }

    #[test]
    fn only_levels_count_and_not_what_stands_in_texts_or_side_by_side() {
        let flat = format!(r#"{{"a":[{}],"b":"\\\"{}"}}"#, vec!["{}"; 50].join(","), "[{".repeat(50));
        assert_eq!(shown(&flat), flat);
        assert_eq!(levels(&flat), 3);
        assert_eq!(levels("1"), 0);
    }
}
