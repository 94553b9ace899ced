//! Reads the frames of protocol `realtime`. Pure.
//!
//! The original specification (docs/realtime.md) names ping and pong and shows no update, so any other JSON
//! object is an update, and its content is read from the field names in use on the platform. No update is
//! dropped for missing fields.

use serde_json::{Map, Value};

use crate::domain::presence::canonical_presence;
use crate::domain::presence::connection::MalformedReason;
use crate::genesys::protocol::{Frame, Update};
use crate::genesys::values::{clean, read_json, read_time};

/// Answer to a ping.
pub const PONG: &str = r#"{"type":"pong"}"#;

/// Objects that may hold the particulars instead of the frame itself.
const INNER: [&str; 6] = ["data", "eventBody", "payload", "body", "update", "event"];
/// Where a presence may stand, in order of trust: text, or an object that holds it in turn.
const PRESENCE: [&str; 8] = [
    "systemPresence",
    "presence",
    "presenceDefinition",
    "system",
    "state",
    "agentState",
    "status",
    "routingStatus",
];
/// Where a time may stand.
const TIMES: [&str; 8] =
    ["timestamp", "occurredAt", "occurred_at", "modifiedDate", "eventTime", "eventDate", "startTime", "time"];
/// Depth of nested objects that are searched; deeper ones hold nothing that we know.
const DEPTH_MAX: usize = 4;
/// Longest topic that is taken from a frame.
const TOPIC_CHARS_MAX: usize = 200;

/// Reads one text message.
#[must_use]
pub fn read(text: &str) -> Frame {
    match read_json(text) {
        Ok(Value::Object(frame)) => match frame.get("type").and_then(Value::as_str) {
            Some("ping") => Frame::Ping { answer: PONG.to_owned() },
            Some("pong") => Frame::Pong,
            _ => Frame::Update(Box::new(update(&frame))),
        },
        Ok(_) => Frame::Malformed { reason: MalformedReason::NotAnObject },
        // Valid JSON that our reader refuses, such as deep nesting, is an update whose particulars stay in
        // its bytes.
        Err(error) if error.is_data() || is_json(text) => Frame::Update(Box::default()),
        Err(_) => Frame::Malformed { reason: MalformedReason::NotJson },
    }
}

/// Whether a text is one JSON object by its grammar, whatever its numbers and depth.
fn is_json(text: &str) -> bool {
    let text = text.trim();
    text.starts_with('{') && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

fn update(frame: &Map<String, Value>) -> Update {
    let inner = INNER.iter().filter_map(|name| frame.get(*name)?.as_object());
    let objects: Vec<&Map<String, Value>> = std::iter::once(frame).chain(inner).collect();
    let topic = ["topic", "topicName"].iter().find_map(|name| frame.get(*name)?.as_str());
    Update {
        agent_id: None,
        state: None,
        unreadable_times: Vec::new(),
        topic: topic.and_then(|topic| clean(topic, TOPIC_CHARS_MAX)),
        presence: objects.iter().find_map(|object| presence(object, DEPTH_MAX)),
        occurred_at: objects
            .iter()
            .find_map(|object| TIMES.iter().find_map(|name| read_time(object.get(*name)?))),
    }
}

fn presence(object: &Map<String, Value>, depth: usize) -> Option<String> {
    PRESENCE.iter().find_map(|name| match object.get(*name)? {
        Value::String(text) => canonical_presence(text),
        Value::Object(inner) if depth > 0 => presence(inner, depth - 1),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn update_of(text: &str) -> Update {
        match read(text) {
            Frame::Update(update) => *update,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn ping_and_pong_are_told_from_updates() {
        assert_eq!(read(r#"{"type":"ping"}"#), Frame::Ping { answer: PONG.to_owned() });
        assert_eq!(read(r#"{ "type" : "pong", "n": 1 }"#), Frame::Pong);
        assert_eq!(read("{}"), Frame::Update(Box::default()));
    }

    #[test]
    fn a_presence_is_found_under_its_usual_names() {
        for text in [
            r#"{"state":"On Queue"}"#,
            r#"{"presence":"OnQueue"}"#,
            r#"{"presence":{"system":"ON_QUEUE"}}"#,
            r#"{"systemPresence":"ON_QUEUE"}"#,
            r#"{"data":{"state":"ON_QUEUE"}}"#,
            r#"{"eventBody":{"presenceDefinition":{"id":"x","systemPresence":"ON_QUEUE"}}}"#,
            r#"{"eventBody":{"presence":{"presenceDefinition":{"systemPresence":"ON_QUEUE"}}}}"#,
            r#"{"routingStatus":{"status":"ON_QUEUE"}}"#,
        ] {
            assert_eq!(update_of(text).presence.as_deref(), Some("ON_QUEUE"), "{text}");
        }
    }

    #[test]
    fn a_time_is_read_from_text_seconds_and_milliseconds() {
        let at = Some(datetime!(2026-11-23 15:00:00 UTC));
        for text in [
            r#"{"timestamp":"2026-11-23T15:00:00Z"}"#,
            r#"{"data":{"modifiedDate":"2026-11-23T17:00:00.000+02:00"}}"#,
            r#"{"eventTime":1795446000}"#,
            r#"{"eventTime":1795446000000}"#,
        ] {
            assert_eq!(update_of(text).occurred_at, at, "{text}");
        }
        for text in
            [r#"{"timestamp":"today"}"#, r#"{"timestamp":9e99}"#, r#"{"timestamp":9223372036854775807}"#]
        {
            assert_eq!(update_of(text).occurred_at, None, "{text}");
        }
    }

    #[test]
    fn an_update_is_never_lost_for_what_it_holds() {
        let deep = format!(r#"{{"deep":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        for text in [r#"{"n":1e400}"#, r#"{"state":"A\u0000B"}"#, r#"{"state":1,"state":2}"#, deep.as_str()] {
            assert!(matches!(read(text), Frame::Update(_)), "{text}");
        }
        assert_eq!(update_of(r#"{"state":"A\u0000B"}"#).presence.as_deref(), Some("AB"));
        let beside = r#"{"note":"\ud83d","n":1e400,"state":"AWAY"}"#;
        assert_eq!(update_of(beside).presence.as_deref(), Some("AWAY"), "other fields cost nothing");
    }

    #[test]
    fn text_other_than_an_object_is_malformed() {
        assert_eq!(read("[]"), Frame::Malformed { reason: MalformedReason::NotAnObject });
        assert_eq!(read("hello"), Frame::Malformed { reason: MalformedReason::NotJson });
        assert_eq!(read(r#"{"state":"#), Frame::Malformed { reason: MalformedReason::NotJson });
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_fail(text in "\\PC{0,200}") {
            let _ = read(&text);
        }
    }
}
