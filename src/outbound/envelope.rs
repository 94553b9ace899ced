//! What a receiver gets: the body of an event and the headers of an attempt. Pure.
//!
//! The body depends on the stored event alone, so every attempt, restart and process makes the same bytes.

use bytes::Bytes;
use hyper::http::header::{CONTENT_TYPE, USER_AGENT};
use hyper::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::rfc3339;
use crate::domain::event_data::{EventData, SourceName};
use crate::domain::ids::{ConnectionId, DeliveryId, EventId, GapId};
use crate::domain::presence::{Detail, Event, EventKind};
use crate::domain::signature::{SigningKey, signature_header};
use crate::domain::source_notice::NoticedGap;

#[derive(Serialize)]
struct Body<'a, D> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: &'a str,
    data: D,
}

#[derive(Serialize)]
struct NoticeData<'a> {
    event_id: EventId,
    source: Option<SourceName<'a>>,
    since: Option<String>,
    until: Option<String>,
    gap_count: u32,
    gaps: Vec<GapData<'a>>,
    received_at: &'a str,
}

#[derive(Serialize)]
struct GapData<'a> {
    id: GapId,
    connection_id: ConnectionId,
    cause: &'a str,
    from: String,
    to: Option<String>,
    agents: u32,
}

#[derive(Serialize)]
struct TestData<'a> {
    event_id: EventId,
    received_at: &'a str,
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
            let data = EventData::new(event, raw, rfc3339);
            serde_json::to_vec(&Body { kind, timestamp, data })
        }
        EventKind::SourceStale | EventKind::SourceRecovered => {
            let notice = match &event.detail {
                Some(Detail::Source(notice)) => Some(notice),
                _ => None,
            };
            let data = NoticeData {
                event_id: event.event_id,
                source: event.source.as_ref().map(|(id, name)| SourceName { id: *id, name }),
                since: notice.map(|notice| rfc3339(notice.since)),
                until: notice.and_then(|notice| notice.until).map(rfc3339),
                gap_count: notice.map_or(0, |notice| notice.gap_count),
                gaps: notice.map(|notice| notice.gaps.iter().map(gap).collect()).unwrap_or_default(),
                received_at: &received_at,
            };
            serde_json::to_vec(&Body { kind, timestamp, data })
        }
    };
    // Writing strings, numbers and checked JSON into memory cannot fail.
    Bytes::from(written.unwrap_or_default())
}

fn gap(gap: &NoticedGap) -> GapData<'_> {
    GapData {
        id: gap.id,
        connection_id: gap.connection_id,
        cause: &gap.cause,
        from: rfc3339(gap.from),
        to: gap.to.map(rfc3339),
        agents: gap.agents,
    }
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
    use crate::domain::agent_state::{AgentState, EventState, PresencePart, Timed};
    use crate::domain::ids::{AgentId, SourceId};
    use crate::domain::presence::Origin;
    use crate::domain::source_notice::SourceNotice;

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
            origin: Origin::Live,
            detail: None,
            raw: Bytes::from_static(b"{ \"state\":\"AVAILABLE\", \"n\":1e400 }"),
        }
    }

    #[test]
    fn the_body_has_these_bytes_for_ever() {
        assert_eq!(
            String::from_utf8_lossy(&body(&event())),
            concat!(
                r#"{"type":"presence.updated","timestamp":"2026-11-23T15:00:00.123Z","data":{"#,
                r#""event_id":"00000000-0000-0000-0000-000000000001","sequence":7,"origin":"live","#,
                r#""changed":["presence"],"source":{"id":"00000000-0000-0000-0000-000000000002","name":"default"},"#,
                r#""agent":{"id":"ann","name":null,"email":null},"topic":"routing:agent:state","#,
                r#""presence":{"system":"AVAILABLE","definition_id":null,"label":null,"message":null},"#,
                r#""previous":{"system":"AWAY"},"routing_status":null,"out_of_office":null,"#,
                r#""active_queues":null,"can_take_work":null,"occurred_at":"2026-11-23T15:00:00.123Z","#,
                r#""received_at":"2026-11-23T15:00:00.250Z","raw":{ "state":"AVAILABLE", "n":1e400 }}}"#
            )
        );
    }

    #[test]
    fn what_is_known_of_the_agent_is_told() {
        let at = Some(datetime!(2026-11-23 15:00 UTC));
        let presence = PresencePart {
            system: Some("ON_QUEUE".to_owned()),
            definition_id: Some("d-1".to_owned()),
            label: Some("An der Leitung".to_owned()),
            message: Some("back soon".to_owned()),
        };
        let state = AgentState {
            presence: Some(Timed { value: presence, at }),
            routing: Some(Timed { value: "IDLE".to_owned(), at }),
            out_of_office: Some(Timed { value: false, at: None }),
            queues: Some(Timed { value: vec!["q-1".to_owned()], at }),
        };
        let told = EventState {
            state,
            changed: vec!["presence".to_owned(), "routing_status".to_owned()],
            name: Some("Ann".to_owned()),
            email: Some("ann@example.com".to_owned()),
        };
        let detail = Some(Detail::Agent(Box::new(told)));
        let text =
            String::from_utf8_lossy(&body(&Event { detail, origin: Origin::Resync, ..event() })).into_owned();
        for part in [
            r#""origin":"resync","changed":["presence","routing_status"],"#,
            r#""agent":{"id":"ann","name":"Ann","email":"ann@example.com"},"#,
            r#""presence":{"system":"ON_QUEUE","definition_id":"d-1","label":"An der Leitung","message":"back soon"},"#,
            r#""routing_status":{"status":"IDLE","since":"2026-11-23T15:00:00.000Z"},"out_of_office":false,"#,
            r#""active_queues":["q-1"],"can_take_work":true,"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_notice_about_a_source_lists_its_gaps() {
        let at = datetime!(2026-11-23 15:00 UTC);
        let gap = NoticedGap {
            id: GapId(Uuid::from_u128(8)),
            connection_id: ConnectionId(Uuid::from_u128(9)),
            cause: "socket_closed".to_owned(),
            from: at,
            to: None,
            agents: 3,
        };
        let notice = SourceNotice { since: at, until: Some(at), gaps: vec![gap], gap_count: 1 };
        let detail = Some(Detail::Source(Box::new(notice)));
        let kind = EventKind::SourceRecovered;
        assert_eq!(
            String::from_utf8_lossy(&body(&Event { kind, detail, occurred_at: Some(at), ..event() })),
            concat!(
                r#"{"type":"source.recovered","timestamp":"2026-11-23T15:00:00.000Z","data":{"#,
                r#""event_id":"00000000-0000-0000-0000-000000000001","#,
                r#""source":{"id":"00000000-0000-0000-0000-000000000002","name":"default"},"#,
                r#""since":"2026-11-23T15:00:00.000Z","until":"2026-11-23T15:00:00.000Z","gap_count":1,"gaps":[{"#,
                r#""id":"00000000-0000-0000-0000-000000000008","#,
                r#""connection_id":"00000000-0000-0000-0000-000000000009","cause":"socket_closed","#,
                r#""from":"2026-11-23T15:00:00.000Z","to":null,"agents":3}],"#,
                r#""received_at":"2026-11-23T15:00:00.250Z"}}"#
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
        assert!(text.contains(r#""presence":null,"previous":null,"routing_status":null,"#), "{text}");
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
