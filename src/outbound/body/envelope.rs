//! What a receiver gets: the body of a POST and the headers of an attempt. Pure.
//!
//! The body depends on the stored event, on what the delivery stores (how many it supersedes, when its first
//! attempt began) and on the format alone, so every attempt, restart and process makes the same bytes. The
//! event's part is written once ([`RenderedEvent`]), however many webhooks it goes to.

use std::io::Write as _;

use bytes::Bytes;
use hyper::http::header::{CONTENT_TYPE, USER_AGENT};
use hyper::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use time::OffsetDateTime;

use crate::clock::rfc3339;
use crate::domain::delivery::sent_post::{SentAs, SentPost};
use crate::domain::delivery::settings::Format;
use crate::domain::delivery::signature::{Signer, signature_header};
use crate::domain::delivery::standard_body;
use crate::domain::ids::DeliveryId;
use crate::domain::presence::{Detail, Event, EventKind};
use crate::outbound::body::data;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLOUDEVENT: HeaderValue = HeaderValue::from_static("application/cloudevents+json");
const CLOUDEVENTS: HeaderValue = HeaderValue::from_static("application/cloudevents-batch+json");
const SENDER: HeaderValue = HeaderValue::from_static(concat!("presence-bridge/", env!("CARGO_PKG_VERSION")));

/// What a batch calls itself.
const BATCH: &str = "presence.batch";
/// Room in a body besides the event's part.
const ROOM: usize = 640;

/// What every POST of an event has in common.
#[derive(Debug)]
pub struct RenderedEvent {
    kind: EventKind,
    timestamp: String,
    /// `data` without its closing brace.
    open_data: Vec<u8>,
    /// CloudEvents' `source`.
    source: String,
    agent: Option<String>,
    sequence: Option<String>,
    committed_at: Option<String>,
}

impl RenderedEvent {
    /// Writes the event's part.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let source = match (&event.detail, &event.source) {
            (Some(Detail::Webhook(notice)), _) => format!("/webhooks/{}", notice.id),
            (_, Some((source, _))) => format!("/sources/{source}"),
            _ => "/presence-bridge".to_owned(),
        };
        Self {
            kind: event.kind,
            timestamp: rfc3339(event.occurred_at.unwrap_or(event.received_at)),
            open_data: data::open_data(event),
            source,
            agent: event.agent_id.as_ref().map(|agent| agent.0.clone()),
            // Padded, so that the order of the texts is that of the numbers, as the extension asks.
            sequence: event.sequence.map(|sequence| format!("{sequence:020}")),
            committed_at: event.committed_at.map(rfc3339),
        }
    }
}

/// One delivery.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// What happened.
    pub event: &'a RenderedEvent,
    /// Its delivery to this webhook.
    pub delivery_id: DeliveryId,
    /// Older states that it supersedes.
    pub superseded: i32,
    /// When its first POST began.
    pub sent_at: OffsetDateTime,
}

/// A body, and the headers that belong to it: `content-type`, and `ce-` ones.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// What is signed and sent.
    pub body: Bytes,
    /// What says how to read it.
    pub headers: HeaderMap,
}

/// CloudEvents' attributes, in the order in which they are written.
#[derive(Serialize)]
struct Attributes<'a> {
    specversion: &'static str,
    id: DeliveryId,
    source: &'a str,
    r#type: &'static str,
    time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitionkey: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recordedtime: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    fn of(item: &Item<'a>) -> Self {
        let event = item.event;
        Self {
            specversion: "1.0",
            id: item.delivery_id,
            source: &event.source,
            r#type: event.kind.as_str(),
            time: &event.timestamp,
            subject: event.agent.as_deref(),
            datacontenttype: "application/json",
            sequence: event.sequence.as_deref(),
            partitionkey: event.agent.as_deref(),
            recordedtime: event.committed_at.as_deref(),
        }
    }
}

/// The POST of one delivery.
#[must_use]
pub fn render(item: &Item<'_>, format: Format) -> Rendered {
    let mut body = Vec::with_capacity(item.event.open_data.len() + ROOM);
    let mut headers = HeaderMap::with_capacity(16);
    match format {
        Format::Standard => {
            headers.insert(CONTENT_TYPE, JSON);
            body.push(b'{');
            write_standard(&mut body, item);
        }
        Format::CloudEventsStructured => {
            headers.insert(CONTENT_TYPE, CLOUDEVENT);
            write_cloudevent(&mut body, item);
        }
        Format::CloudEventsBinary => {
            headers.insert(CONTENT_TYPE, JSON);
            add_attributes(&mut headers, &Attributes::of(item));
            write_data(&mut body, item);
        }
    }
    Rendered { body: body.into(), headers }
}

/// Most bytes of a batch's body besides its items.
pub const BATCH_FRAME: usize = 80;

/// Bytes that a delivery takes in the body of a batch, with the comma behind it.
#[must_use]
pub fn len_in_batch(item: &Item<'_>, format: Format) -> usize {
    let mut written = Vec::with_capacity(item.event.open_data.len() + ROOM);
    write_in_batch(&mut written, item, format);
    written.len() + 1
}

/// The POST of several deliveries, oldest first. There is no binary form of it; that format is sent
/// structured.
#[must_use]
pub fn render_batch(items: &[Item<'_>], format: Format) -> Rendered {
    let room: usize = items.iter().map(|item| item.event.open_data.len() + ROOM).sum();
    let mut body = Vec::with_capacity(room + ROOM);
    let standard = format == Format::Standard;
    if standard {
        // All of one length and in UTC: the greatest text is the newest time.
        let newest = items.iter().map(|item| item.event.timestamp.as_str()).max().unwrap_or_default();
        let _ = write!(body, r#"{{"type":"{BATCH}","timestamp":"{newest}","data":"#);
    }
    body.push(b'[');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        write_in_batch(&mut body, item, format);
    }
    body.push(b']');
    if standard {
        body.push(b'}');
    }
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, if standard { JSON } else { CLOUDEVENTS });
    Rendered { body: body.into(), headers }
}

fn write_in_batch(body: &mut Vec<u8>, item: &Item<'_>, format: Format) {
    if format == Format::Standard {
        let _ = write!(body, r#"{{"id":"{}","#, item.delivery_id);
        write_standard(body, item);
    } else {
        write_cloudevent(body, item);
    }
}

/// From behind the opening brace to the closing one.
fn write_standard(body: &mut Vec<u8>, item: &Item<'_>) {
    let (kind, timestamp) = (item.event.kind.as_str(), &item.event.timestamp);
    standard_body::write(body, kind, timestamp, |body| write_data(body, item));
}

fn write_cloudevent(body: &mut Vec<u8>, item: &Item<'_>) {
    // Writing strings into memory cannot fail.
    let _ = serde_json::to_writer(&mut *body, &Attributes::of(item));
    body.pop();
    body.extend_from_slice(br#","data":"#);
    write_data(body, item);
    body.push(b'}');
}

fn write_data(body: &mut Vec<u8>, item: &Item<'_>) {
    body.extend_from_slice(&item.event.open_data);
    standard_body::end_data(body, item.superseded, &rfc3339(item.sent_at));
}

/// The binary form of CloudEvents' HTTP binding. `content-type` stands for `datacontenttype`.
fn add_attributes(headers: &mut HeaderMap, attributes: &Attributes<'_>) {
    let id = attributes.id.to_string();
    for (name, value) in [
        ("ce-specversion", Some(attributes.specversion)),
        ("ce-id", Some(id.as_str())),
        ("ce-source", Some(attributes.source)),
        ("ce-type", Some(attributes.r#type)),
        ("ce-time", Some(attributes.time)),
        ("ce-subject", attributes.subject),
        ("ce-sequence", attributes.sequence),
        ("ce-partitionkey", attributes.partitionkey),
        ("ce-recordedtime", attributes.recordedtime),
    ] {
        let value = value.and_then(|value| HeaderValue::try_from(percent_encoded(value)).ok());
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// As the HTTP binding (3.1.3.2) wants text in a header: what is not printable ASCII, space, quote and
/// percent as the percent-encoded bytes of UTF-8.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => encoded.push_str(&format!("%{byte:02X}")),
            0x21..=0x7E => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The headers of attempt number `attempt` (from 1) at `timestamp`, in Unix seconds.
#[must_use]
pub fn headers(id: &str, attempt: u32, timestamp: i64, signers: &[Signer], rendered: &Rendered) -> HeaderMap {
    let mut headers = rendered.headers.clone();
    headers.insert(USER_AGENT, SENDER);
    headers.insert(HeaderName::from_static("presence-bridge-attempt"), HeaderValue::from(attempt));
    headers.insert(HeaderName::from_static("webhook-timestamp"), HeaderValue::from(timestamp));
    let signature = signature_header(signers, id, timestamp, &rendered.body);
    for (name, value) in [("webhook-id", id), ("webhook-signature", &signature)] {
        // Ids and base64 are always fit for a header.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

/// The POST of a delivery, as it was sent or would be.
#[must_use]
pub fn shown(event: &Event, sent: &SentAs) -> SentPost {
    let rendered = RenderedEvent::of(event);
    let SentAs { delivery, format, superseded, sent_at } = *sent;
    let item = Item { event: &rendered, delivery_id: delivery, superseded, sent_at };
    let Rendered { body, mut headers } = render(&item, format);
    headers.insert(USER_AGENT, SENDER);
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    headers.push(("webhook-id".to_owned(), delivery.to_string()));
    headers.sort_unstable();
    SentPost { headers, body: String::from_utf8_lossy(&body).into_owned() }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
