//! What a receiver gets: the body of an event and the headers of an attempt. Pure.
//!
//! The body depends on the stored event alone, so every attempt, restart and process makes the same bytes.

use bytes::Bytes;
use hyper::http::header::{CONTENT_TYPE, USER_AGENT};
use hyper::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::rfc3339;
use crate::domain::ids::{AgentId, DeliveryId, EventId, SourceId};
use crate::domain::presence::{Event, EventKind};
use crate::domain::signature::{SigningKey, signature_header};

#[derive(Serialize)]
struct Body<'a, D> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: &'a str,
    data: D,
}

#[derive(Serialize)]
struct Data<'a> {
    event_id: EventId,
    sequence: Option<i64>,
    source: Option<Source<'a>>,
    agent: Option<Agent<'a>>,
    topic: Option<&'a str>,
    presence: Option<Presence<'a>>,
    previous: Option<Presence<'a>>,
    occurred_at: Option<&'a str>,
    received_at: &'a str,
    raw: &'a RawValue,
}

#[derive(Serialize)]
struct TestData<'a> {
    event_id: EventId,
    received_at: &'a str,
}

#[derive(Serialize)]
struct Source<'a> {
    id: SourceId,
    name: &'a str,
}

#[derive(Serialize)]
struct Agent<'a> {
    id: &'a AgentId,
}

#[derive(Serialize)]
struct Presence<'a> {
    system: &'a str,
}

/// The body of an event's POST: JSON in UTF-8.
#[must_use]
pub fn body(event: &Event) -> Bytes {
    let received_at = rfc3339(event.received_at);
    let occurred_at = event.occurred_at.map(rfc3339);
    let timestamp = occurred_at.as_deref().unwrap_or(&received_at);
    let kind = event.kind.as_str();
    let written = match event.kind {
        EventKind::WebhookTest => {
            let data = TestData { event_id: event.event_id, received_at: &received_at };
            serde_json::to_vec(&Body { kind, timestamp, data })
        }
        EventKind::PresenceUpdated => {
            let raw = raw_value(&event.raw);
            let data = Data {
                event_id: event.event_id,
                sequence: event.sequence,
                source: event.source.as_ref().map(|(id, name)| Source { id: *id, name }),
                agent: event.agent_id.as_ref().map(|id| Agent { id }),
                topic: event.topic.as_deref(),
                presence: event.presence.as_deref().map(|system| Presence { system }),
                previous: event.previous.as_deref().map(|system| Presence { system }),
                occurred_at: occurred_at.as_deref(),
                received_at: &received_at,
                raw: &raw,
            };
            serde_json::to_vec(&Body { kind, timestamp, data })
        }
    };
    // Writing strings, numbers and checked JSON into memory cannot fail.
    Bytes::from(written.unwrap_or_default())
}

/// The frame as it was if it is JSON, else as a JSON string of its text.
fn raw_value(raw: &[u8]) -> Box<RawValue> {
    // Mended text could be JSON too, but it would not be the frame.
    let frame = std::str::from_utf8(raw).ok().and_then(|text| serde_json::from_str(text).ok());
    frame.unwrap_or_else(|| {
        serde_json::value::to_raw_value(&String::from_utf8_lossy(raw))
            .unwrap_or_else(|_| RawValue::NULL.to_owned())
    })
}

/// The headers of one attempt at `timestamp`, in Unix seconds.
#[must_use]
pub fn headers(delivery_id: DeliveryId, timestamp: i64, keys: &[SigningKey], body: &[u8]) -> HeaderMap {
    let id = delivery_id.to_string();
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
        .insert(USER_AGENT, HeaderValue::from_static(concat!("presence-bridge/", env!("CARGO_PKG_VERSION"))));
    let signature = signature_header(keys, &id, timestamp, body);
    for (name, value) in
        [("webhook-id", id), ("webhook-timestamp", timestamp.to_string()), ("webhook-signature", signature)]
    {
        // Ids, numbers and base64 are always fit for a header.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;

    fn event() -> Event {
        Event {
            event_id: EventId(Uuid::from_u128(1)),
            kind: EventKind::PresenceUpdated,
            position: 42,
            source: Some((SourceId(Uuid::from_u128(2)), "default".to_owned())),
            agent_id: Some(AgentId("ann".to_owned())),
            sequence: Some(7),
            topic: Some("routing:agent:state".to_owned()),
            presence: Some("AVAILABLE".to_owned()),
            previous: Some("AWAY".to_owned()),
            occurred_at: Some(datetime!(2026-11-23 15:00:00.1237 UTC)),
            received_at: datetime!(2026-11-23 15:00:00.25 UTC),
            raw: Bytes::from_static(b"{ \"state\":\"AVAILABLE\", \"n\":1e400 }"),
        }
    }

    #[test]
    fn the_body_has_these_bytes_for_ever() {
        assert_eq!(
            String::from_utf8_lossy(&body(&event())),
            concat!(
                r#"{"type":"presence.updated","timestamp":"2026-11-23T15:00:00.123Z","data":{"#,
                r#""event_id":"00000000-0000-0000-0000-000000000001","sequence":7,"#,
                r#""source":{"id":"00000000-0000-0000-0000-000000000002","name":"default"},"#,
                r#""agent":{"id":"ann"},"topic":"routing:agent:state","presence":{"system":"AVAILABLE"},"#,
                r#""previous":{"system":"AWAY"},"occurred_at":"2026-11-23T15:00:00.123Z","#,
                r#""received_at":"2026-11-23T15:00:00.250Z","raw":{ "state":"AVAILABLE", "n":1e400 }}}"#
            )
        );
    }

    #[test]
    fn what_is_unknown_is_null_and_what_is_no_json_is_a_string() {
        let event = Event {
            presence: None,
            previous: None,
            occurred_at: None,
            raw: Bytes::from_static(b"not \xff json"),
            ..event()
        };
        let text = String::from_utf8_lossy(&body(&event)).into_owned();
        assert!(text.contains(r#""presence":null,"previous":null,"occurred_at":null,"#), "{text}");
        assert!(text.contains(r#""timestamp":"2026-11-23T15:00:00.250Z""#), "{text}");
        assert!(text.ends_with("\"raw\":\"not \u{fffd} json\"}}"), "{text}");
    }

    #[test]
    fn a_frame_that_is_almost_json_is_a_string_too() {
        for (raw, written) in [
            (&b"{\"a\":\"\xff\"}"[..], "\"{\\\"a\\\":\\\"\u{fffd}\\\"}\""),
            (b"{} {}", "\"{} {}\""),
            (b"", "\"\""),
            (b"{\"a\":1,}", "\"{\\\"a\\\":1,}\""),
            (b" {\"a\":1,\"a\":\"\\u0000\"} ", "{\"a\":1,\"a\":\"\\u0000\"}"),
        ] {
            assert_eq!(raw_value(raw).get(), written);
        }
    }

    #[test]
    fn a_test_ping_says_that_it_is_one() {
        let event = Event { kind: EventKind::WebhookTest, occurred_at: None, ..event() };
        assert_eq!(
            String::from_utf8_lossy(&body(&event)),
            concat!(
                r#"{"type":"webhook.test","timestamp":"2026-11-23T15:00:00.250Z","data":{"#,
                r#""event_id":"00000000-0000-0000-0000-000000000001","received_at":"2026-11-23T15:00:00.250Z"}}"#
            )
        );
    }
}
