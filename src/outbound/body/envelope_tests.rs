//! The bytes that receivers rely on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::Value;
use time::macros::datetime;
use uuid::Uuid;

use crate::domain::delivery::signature::{SigningKey, SigningPair};
use crate::domain::ids::{AgentId, ConnectionId, EventId, GapId, SourceId, WebhookId};
use crate::domain::presence::Origin;
use crate::domain::presence::agent_state::{AgentState, EventState, PresencePart, Timed};
use crate::domain::presence::notices::{GapNotice, NoticedGap, SourceNotice, WebhookNotice};
use crate::outbound::body::envelope::*;

const AT: OffsetDateTime = datetime!(2026-11-23 15:00 UTC);

fn event() -> Event {
    Event {
        event_id: EventId(Uuid::from_u128(1)),
        kind: EventKind::PresenceUpdated,
        position: 42,
        source: Some((SourceId(Uuid::from_u128(2)), "default".to_owned())),
        agent_id: Some(AgentId("ann".to_owned())),
        sequence: Some(7),
        topic: Some("routing:agent:state".to_owned()),
        external_id: Some("crm-1".to_owned()),
        presence: Some("AVAILABLE".to_owned()),
        previous: Some("AWAY".to_owned()),
        occurred_at: Some(datetime!(2026-11-23 15:00:00.1237 UTC)),
        received_at: datetime!(2026-11-23 15:00:00.25 UTC),
        committed_at: Some(datetime!(2026-11-23 15:00:00.275 UTC)),
        origin: Origin::Live,
        detail: None,
        raw: Bytes::from_static(b"{ \"state\":\"AVAILABLE\", \"n\":1e400 }"),
        erased_at: None,
    }
}

fn item(event: &RenderedEvent) -> Item<'_> {
    Item {
        event,
        delivery_id: DeliveryId(Uuid::from_u128(9)),
        superseded: 3,
        sent_at: datetime!(2026-11-23 15:00:00.3 UTC),
    }
}

fn text(rendered: &Rendered) -> String {
    String::from_utf8(rendered.body.to_vec()).unwrap()
}

fn body(event: &Event) -> String {
    text(&render(&item(&RenderedEvent::of(event)), Format::Standard))
}

/// `data` of [`event`].
const DATA: &str = concat!(
    r#"{"event_id":"00000000-0000-0000-0000-000000000001","sequence":7,"origin":"live","#,
    r#""changed":["presence"],"source":{"id":"00000000-0000-0000-0000-000000000002","name":"default"},"#,
    r#""agent":{"id":"ann","name":null,"email":null,"external_id":"crm-1"},"topic":"routing:agent:state","#,
    r#""presence":{"system":"AVAILABLE","definition_id":null,"label":null,"message":null},"#,
    r#""previous":{"system":"AWAY"},"routing_status":null,"out_of_office":null,"#,
    r#""active_queues":null,"can_take_work":null,"occurred_at":"2026-11-23T15:00:00.123Z","#,
    r#""received_at":"2026-11-23T15:00:00.250Z","committed_at":"2026-11-23T15:00:00.275Z","#,
    r#""raw":{ "state":"AVAILABLE", "n":1e400 },"superseded":3,"sent_at":"2026-11-23T15:00:00.300Z"}"#
);

/// CloudEvents' attributes of [`event`], without the closing brace.
const ATTRIBUTES: &str = concat!(
    r#"{"specversion":"1.0","id":"00000000-0000-0000-0000-000000000009","#,
    r#""source":"/sources/00000000-0000-0000-0000-000000000002","type":"presence.updated","#,
    r#""time":"2026-11-23T15:00:00.123Z","subject":"ann","datacontenttype":"application/json","#,
    r#""sequence":"00000000000000000007","partitionkey":"ann","recordedtime":"2026-11-23T15:00:00.275Z""#
);

#[test]
fn the_body_has_these_bytes_for_ever() {
    let head = r#"{"type":"presence.updated","timestamp":"2026-11-23T15:00:00.123Z","data":"#;
    assert_eq!(body(&event()), format!("{head}{DATA}}}"));
    let snapshot = body(&Event { kind: EventKind::PresenceSnapshot, ..event() });
    assert_eq!(snapshot, format!("{}{DATA}}}", head.replace("updated", "snapshot")));
}

#[test]
fn one_event_is_written_once_for_all_its_webhooks() {
    let prepared = RenderedEvent::of(&event());
    let first = item(&prepared);
    let second = Item { superseded: 0, sent_at: AT, ..first };
    assert_eq!(render(&first, Format::Standard).body, render(&first, Format::Standard).body);
    let text = text(&render(&second, Format::Standard));
    assert!(text.ends_with(r#","superseded":0,"sent_at":"2026-11-23T15:00:00.000Z"}}"#), "{text}");
}

#[test]
fn what_is_known_of_the_agent_is_told() {
    let at = Some(AT);
    let presence = PresencePart {
        system: Some("ON_QUEUE".to_owned()),
        definition_id: Some("d-1".to_owned()),
        label: Some("An der Leitung".to_owned()),
        message: Some("back soon".to_owned()),
    };
    let state = AgentState {
        presence: Some(Timed::new(presence, at)),
        routing: Some(Timed::new("IDLE".to_owned(), at)),
        out_of_office: Some(Timed::new(false, None)),
        queues: Some(Timed::new(vec!["q-1".to_owned()], at)),
    };
    let told = EventState {
        state,
        changed: vec!["presence".to_owned(), "routing_status".to_owned()],
        left_queues: vec!["q-2".to_owned()],
        name: Some("Ann".to_owned()),
        email: Some("ann@example.com".to_owned()),
    };
    let detail = Some(Detail::Agent(Box::new(told)));
    let text = body(&Event { detail, external_id: None, origin: Origin::Resync, ..event() });
    for part in [
        r#""origin":"resync","changed":["presence","routing_status"],"#,
        r#""agent":{"id":"ann","name":"Ann","email":"ann@example.com","external_id":null},"#,
        r#""presence":{"system":"ON_QUEUE","definition_id":"d-1","label":"An der Leitung","message":"back soon"},"#,
        r#""routing_status":{"status":"IDLE","since":"2026-11-23T15:00:00.000Z"},"out_of_office":false,"#,
        r#""active_queues":["q-1"],"can_take_work":true,"#,
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_notice_about_a_source_lists_its_gaps() {
    let gap = NoticedGap {
        id: GapId(Uuid::from_u128(8)),
        connection_id: ConnectionId(Uuid::from_u128(9)),
        cause: "socket_closed".to_owned(),
        from: AT,
        to: None,
        agents: 3,
    };
    let notice = SourceNotice { since: AT, until: Some(AT), gaps: vec![gap], gap_count: 1 };
    let detail = Some(Detail::Source(Box::new(notice)));
    let kind = EventKind::SourceRecovered;
    assert_eq!(
        body(&Event { kind, detail, occurred_at: Some(AT), ..event() }),
        concat!(
            r#"{"type":"source.recovered","timestamp":"2026-11-23T15:00:00.000Z","data":{"#,
            r#""event_id":"00000000-0000-0000-0000-000000000001","#,
            r#""source":{"id":"00000000-0000-0000-0000-000000000002","name":"default"},"#,
            r#""since":"2026-11-23T15:00:00.000Z","until":"2026-11-23T15:00:00.000Z","gap_count":1,"gaps":[{"#,
            r#""id":"00000000-0000-0000-0000-000000000008","#,
            r#""connection_id":"00000000-0000-0000-0000-000000000009","cause":"socket_closed","#,
            r#""from":"2026-11-23T15:00:00.000Z","to":null,"agents":3}],"#,
            r#""received_at":"2026-11-23T15:00:00.250Z","committed_at":"2026-11-23T15:00:00.275Z","#,
            r#""superseded":3,"sent_at":"2026-11-23T15:00:00.300Z"}}"#
        )
    );
}

#[test]
fn a_gap_names_the_agent_who_could_not_be_seen() {
    let notice = GapNotice {
        id: GapId(Uuid::from_u128(8)),
        connection_id: ConnectionId(Uuid::from_u128(7)),
        cause: "restart".to_owned(),
        from: AT,
        to: AT,
    };
    let detail = Some(Detail::Gap(Box::new(notice)));
    let event =
        Event { kind: EventKind::PresenceGap, detail, sequence: None, occurred_at: Some(AT), ..event() };
    assert_eq!(
        body(&event),
        concat!(
            r#"{"type":"presence.gap","timestamp":"2026-11-23T15:00:00.000Z","data":{"#,
            r#""event_id":"00000000-0000-0000-0000-000000000001","#,
            r#""source":{"id":"00000000-0000-0000-0000-000000000002","name":"default"},"#,
            r#""agent":{"id":"ann","name":null,"email":null,"external_id":"crm-1"},"#,
            r#""gap":{"id":"00000000-0000-0000-0000-000000000008","#,
            r#""connection_id":"00000000-0000-0000-0000-000000000007","cause":"restart","#,
            r#""from":"2026-11-23T15:00:00.000Z","to":"2026-11-23T15:00:00.000Z"},"#,
            r#""received_at":"2026-11-23T15:00:00.250Z","committed_at":"2026-11-23T15:00:00.275Z","#,
            r#""superseded":3,"sent_at":"2026-11-23T15:00:00.300Z"}}"#
        )
    );
}

fn about_a_webhook() -> Event {
    let notice = WebhookNotice {
        id: WebhookId(Uuid::from_u128(6)),
        description: "the \"old\" CRM".to_owned(),
        reason: Some("failing".to_owned()),
        detail: None,
        failing_since: Some(AT),
        failures: 12,
    };
    Event {
        kind: EventKind::WebhookDisabled,
        detail: Some(Detail::Webhook(Box::new(notice))),
        source: None,
        agent_id: None,
        external_id: None,
        sequence: None,
        occurred_at: Some(AT),
        ..event()
    }
}

#[test]
fn a_notice_about_a_webhook_says_why() {
    assert_eq!(
        body(&about_a_webhook()),
        concat!(
            r#"{"type":"webhook.disabled","timestamp":"2026-11-23T15:00:00.000Z","data":{"#,
            r#""event_id":"00000000-0000-0000-0000-000000000001","#,
            r#""webhook":{"id":"00000000-0000-0000-0000-000000000006","description":"the \"old\" CRM"},"#,
            r#""reason":"failing","failing_since":"2026-11-23T15:00:00.000Z","failures":12,"#,
            r#""received_at":"2026-11-23T15:00:00.250Z","committed_at":"2026-11-23T15:00:00.275Z","#,
            r#""superseded":3,"sent_at":"2026-11-23T15:00:00.300Z"}}"#
        )
    );
}

#[test]
fn a_notice_of_failing_says_in_words_why_where_there_are_any() {
    let mut event = about_a_webhook();
    if let Some(Detail::Webhook(notice)) = &mut event.detail {
        (notice.reason, notice.detail) =
            (Some("tls".to_owned()), Some("its certificate has expired".to_owned()));
    }
    let told = r#""reason":"tls","detail":"its certificate has expired","failing_since""#;
    assert!(body(&event).contains(told), "{}", body(&event));
}

#[test]
fn what_is_unknown_is_null_and_what_is_no_json_is_a_string() {
    let event = Event {
        presence: None,
        previous: None,
        occurred_at: None,
        committed_at: None,
        raw: Bytes::from_static(b"not \xff json"),
        ..event()
    };
    let text = body(&event);
    for part in [
        r#""timestamp":"2026-11-23T15:00:00.250Z""#,
        r#""presence":null"#,
        r#""previous":null"#,
        r#""occurred_at":null"#,
        r#""committed_at":null"#,
        "\"raw\":\"not \u{FFFD} json\"",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_test_ping_says_that_it_is_one() {
    let event = Event { kind: EventKind::WebhookTest, occurred_at: None, committed_at: None, ..event() };
    assert_eq!(
        body(&event),
        concat!(
            r#"{"type":"webhook.test","timestamp":"2026-11-23T15:00:00.250Z","data":{"#,
            r#""event_id":"00000000-0000-0000-0000-000000000001","received_at":"2026-11-23T15:00:00.250Z","#,
            r#""committed_at":null,"superseded":3,"sent_at":"2026-11-23T15:00:00.300Z"}}"#
        )
    );
}

#[test]
fn a_batch_holds_its_items_in_order_with_their_ids() {
    let older = RenderedEvent::of(&event());
    let newer =
        RenderedEvent::of(&Event { occurred_at: Some(datetime!(2026-11-23 15:00:01 UTC)), ..event() });
    let items =
        [item(&newer), Item { delivery_id: DeliveryId(Uuid::from_u128(10)), ..item(&older) }, item(&newer)];
    let rendered = render_batch(&items, Format::Standard);
    let text = text(&rendered);
    let start = concat!(
        r#"{"type":"presence.batch","timestamp":"2026-11-23T15:00:01.000Z","data":["#,
        r#"{"id":"00000000-0000-0000-0000-000000000009","type":"presence.updated","#,
        r#""timestamp":"2026-11-23T15:00:01.000Z","data":{"event_id":"#
    );
    assert!(text.starts_with(start), "{text}");
    let middle = concat!(
        r#"},{"id":"00000000-0000-0000-0000-00000000000a","type":"presence.updated","#,
        r#""timestamp":"2026-11-23T15:00:00.123Z","data":"#
    );
    assert!(text.contains(&format!("{middle}{DATA}}},")), "{text}");
    // No number type holds the frame's 1e400, so it is read as text here.
    let value: Value = serde_json::from_str(&text.replace("1e400", "1")).unwrap();
    assert_eq!(value["data"].as_array().unwrap().len(), 3);
    assert_eq!(rendered.headers["content-type"], "application/json");
}

#[test]
fn cloudevents_have_their_attributes_in_the_body() {
    let prepared = RenderedEvent::of(&event());
    let rendered = render(&item(&prepared), Format::CloudEventsStructured);
    assert_eq!(text(&rendered), format!("{ATTRIBUTES},\"data\":{DATA}}}"));
    assert_eq!(rendered.headers["content-type"], "application/cloudevents+json");

    let one = format!("{ATTRIBUTES},\"data\":{DATA}}}");
    for format in [Format::CloudEventsStructured, Format::CloudEventsBinary] {
        let rendered = render_batch(&[item(&prepared), item(&prepared)], format);
        assert_eq!(text(&rendered), format!("[{one},{one}]"));
        assert_eq!(rendered.headers["content-type"], "application/cloudevents-batch+json");
    }
}

#[test]
fn cloudevents_have_their_attributes_in_headers() {
    let event = Event { agent_id: Some(AgentId("Zoë \"100%\"".to_owned())), ..event() };
    let prepared = RenderedEvent::of(&event);
    let rendered = render(&item(&prepared), Format::CloudEventsBinary);
    assert_eq!(text(&rendered), DATA.replace("ann", "Zoë \\\"100%\\\""));
    let expected = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "00000000-0000-0000-0000-000000000009"),
        ("ce-source", "/sources/00000000-0000-0000-0000-000000000002"),
        ("ce-type", "presence.updated"),
        ("ce-time", "2026-11-23T15:00:00.123Z"),
        ("ce-subject", "Zo%C3%AB%20%22100%25%22"),
        ("ce-sequence", "00000000000000000007"),
        ("ce-partitionkey", "Zo%C3%AB%20%22100%25%22"),
        ("ce-recordedtime", "2026-11-23T15:00:00.275Z"),
    ];
    for (name, value) in expected {
        assert_eq!(rendered.headers[name], value, "{name}");
    }
    assert_eq!(rendered.headers.len(), expected.len());
}

#[test]
fn cloudevents_say_where_they_come_from_and_nothing_that_is_not_known() {
    let prepared = RenderedEvent::of(&about_a_webhook());
    let text = text(&render(&item(&prepared), Format::CloudEventsStructured));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["source"], "/webhooks/00000000-0000-0000-0000-000000000006");
    for absent in ["subject", "sequence", "partitionkey"] {
        assert!(value.get(absent).is_none(), "{absent}");
    }
    let ping = Event { kind: EventKind::WebhookTest, source: None, committed_at: None, ..event() };
    let rendered = render(&item(&RenderedEvent::of(&ping)), Format::CloudEventsBinary);
    assert_eq!(rendered.headers["ce-source"], "/presence-bridge");
    assert!(!rendered.headers.contains_key("ce-recordedtime"));
}

#[test]
fn an_attempt_has_the_headers_of_the_standard() {
    let prepared = RenderedEvent::of(&event());
    let rendered = render(&item(&prepared), Format::Standard);
    let signers = [
        Signer::Hmac(SigningKey::from_bytes(&[1; 32]).unwrap()),
        Signer::Ed25519(SigningPair::from_seed(&[2; 32]).unwrap()),
    ];
    let headers = headers("id-1", 3, 1_700_000_000, &signers, &rendered);
    for (name, value) in [
        ("content-type", "application/json"),
        ("webhook-id", "id-1"),
        ("webhook-timestamp", "1700000000"),
        ("presence-bridge-attempt", "3"),
        ("user-agent", concat!("presence-bridge/", env!("CARGO_PKG_VERSION"))),
        ("webhook-signature", &signature_header(&signers, "id-1", 1_700_000_000, &rendered.body)),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(headers.len(), 6);
}
