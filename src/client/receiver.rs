//! A receiver on the developer's machine: gets each change of the feed as its webhook would get it.

use std::fmt;
use std::time::{Duration, Instant};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use ureq::Agent;
use ureq::http::Request;
use url::Url;
use uuid::Uuid;

use crate::client::transport::{self, Deadlines, reason};
use crate::clock::{self, read_rfc3339, rfc3339};
use crate::domain::delivery::signature::Signer;
use crate::domain::delivery::standard_body;
use crate::domain::ids::{DeliveryId, EventId, WebhookId};

/// The deadline of an attempt, which is the usual one of a webhook.
const POST_WITHIN: Duration = Duration::from_secs(15);
/// Most of an answer that is read: enough for the connection to be used again after a usual one.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// The only kind of event in the feed.
const KIND: &str = "presence.updated";
/// Fields of an item that no webhook gets.
const OF_THE_FEED: [&str; 2] = ["position", "erased_at"];

/// The members of an object as they came, in their order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// What is read of an item besides its members.
#[derive(Deserialize)]
struct Item {
    event_id: EventId,
    #[serde(with = "time::serde::rfc3339::option")]
    occurred_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    received_at: OffsetDateTime,
    erased_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct RoutingStatus {
    status: String,
    since: Option<String>,
}

/// What is posted of one change: the same bytes and the same id at each attempt.
pub struct Message {
    /// Id of the event.
    pub event_id: EventId,
    /// The header `webhook-id`: made of the event, so that it is the same at every run.
    pub id: DeliveryId,
    body: Vec<u8>,
}

impl Message {
    /// Makes it of an item of the feed, to be sent from `sent_at` on; `None` for a change whose person was
    /// erased, which no webhook gets.
    ///
    /// # Errors
    /// If it is no item of the feed.
    pub fn of_item(item: &str, sent_at: OffsetDateTime) -> serde_json::Result<Option<Self>> {
        let known: Item = serde_json::from_str(item)?;
        if known.erased_at.is_some() {
            return Ok(None);
        }
        let members: Members = serde_json::from_str(item)?;
        let timestamp = rfc3339(known.occurred_at.unwrap_or(known.received_at));
        let mut body = vec![b'{'];
        standard_body::write(&mut body, KIND, &timestamp, |body| {
            write_open_data(body, &members);
            standard_body::end_data(body, 0, &rfc3339(sent_at));
        });
        let id = DeliveryId::of(known.event_id, WebhookId(Uuid::nil()));
        Ok(Some(Self { event_id: known.event_id, id, body }))
    }

    /// The bytes that are signed and sent.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// The event's part of `data`, without the closing brace.
fn write_open_data(body: &mut Vec<u8>, members: &Members) {
    let mut separator = b'{';
    for (name, value) in &members.0 {
        if OF_THE_FEED.contains(&name.as_str()) {
            continue;
        }
        body.push(separator);
        separator = b',';
        body.extend_from_slice(format!("\"{name}\":").as_bytes());
        let text = match name.as_str() {
            "occurred_at" | "received_at" | "committed_at" => in_milliseconds(value.get()),
            "routing_status" => routing_status(value.get()),
            _ => None,
        };
        body.extend_from_slice(text.as_deref().unwrap_or(value.get()).as_bytes());
    }
}

/// A time of the feed, in the fewest digits that it takes, as webhooks get it. Null stays.
fn in_milliseconds(json: &str) -> Option<String> {
    let text: String = serde_json::from_str(json).ok()?;
    Some(format!("\"{}\"", rfc3339(read_rfc3339(&text)?)))
}

fn routing_status(json: &str) -> Option<String> {
    let mut status: RoutingStatus = serde_json::from_str(json).ok()?;
    let since = status.since.as_deref().and_then(read_rfc3339);
    status.since = since.map(rfc3339);
    serde_json::to_string(&status).ok()
}

/// How a POST ended.
pub struct Outcome {
    /// HTTP status of the answer.
    pub status: Option<u16>,
    /// Why there was none.
    pub reason: Option<String>,
    /// From its begin to the end of the answer.
    pub took: Duration,
}

impl Outcome {
    /// Whether the receiver has taken it.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// Who gets the POSTs.
pub struct Receiver {
    url: Url,
    signer: Signer,
    agent: Agent,
}

impl Receiver {
    /// The receiver at this address, which checks signatures with the secret of `signer`.
    #[must_use]
    pub fn new(url: Url, signer: Signer) -> Self {
        let deadlines = Deadlines { whole: Some(POST_WITHIN), silence: POST_WITHIN };
        let agent = transport::agent(&url, &deadlines);
        Self { url, signer, agent }
    }

    /// Makes attempt number `attempt`, from 1.
    #[must_use]
    pub fn post(&self, message: &Message, attempt: u32) -> Outcome {
        let began = Instant::now();
        let (status, reason) = match self.try_post(message, attempt) {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(reason(&error))),
        };
        Outcome { status, reason, took: began.elapsed() }
    }

    fn try_post(&self, message: &Message, attempt: u32) -> Result<u16, ureq::Error> {
        let id = message.id.to_string();
        let timestamp = clock::now().unix_timestamp();
        let request = Request::builder()
            .method("POST")
            .uri(self.url.as_str())
            .header("content-type", "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", self.signer.sign(&id, timestamp, &message.body))
            .header("presence-bridge-attempt", attempt)
            .body(message.body.as_slice())?;
        let mut response = self.agent.run(request)?;
        // The status is the answer, whatever comes behind it.
        let _ = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        Ok(response.status().as_u16())
    }
}
