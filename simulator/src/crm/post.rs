//! One POST as it arrived, and the presence event inside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::behaviour::Behaviour;
use super::late::Late;
use super::signature::Distrust;

/// One POST, wholly read.
#[derive(Debug, Clone)]
pub struct Post {
    /// Position among all POSTs, from 1.
    pub number: u64,
    /// Target as requested, with its query.
    pub target: String,
    /// Headers in their order, names in lower case.
    pub headers: Arc<[(String, String)]>,
    pub body: Bytes,
    /// When the last byte of the body was read.
    pub arrived: Instant,
    pub arrived_at: OffsetDateTime,
    /// Whether the signature is right, by the secrets and the clock of its arrival.
    pub verdict: Late<Result<(), Distrust>>,
    /// How the CRM treats it.
    pub behaviour: Behaviour,
    /// Number of the TCP connection it came on, from 1: to see who reuses what.
    pub connection: u64,
    pub peer: SocketAddr,
    /// Presence event in the body, or the reason why it cannot be read.
    pub event: Late<Result<Event, String>>,
}

impl Post {
    /// Path without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// First header of that (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Id by which a receiver recognises a repeat.
    #[must_use]
    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id").unwrap_or_default()
    }

    /// `type` of the body, whatever else is in it.
    #[must_use]
    pub fn kind(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type")]
            kind: String,
        }
        serde_json::from_slice::<Kind>(&self.body).ok().map(|body| body.kind)
    }

    #[must_use]
    pub fn verified(&self) -> bool {
        self.verdict.is_ok()
    }

    /// Whether the sender is told that the POST was accepted.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.behaviour.accepts()
    }

    /// Number that the simulated Genesys gave the change.
    #[must_use]
    pub fn n(&self) -> Option<u64> {
        self.event.as_ref().ok()?.n()
    }

    /// Bridge's id of the event.
    #[must_use]
    pub fn event_id(&self) -> Option<String> {
        self.event.as_ref().ok().map(|event| event.data.event_id.clone())
    }

    /// Milliseconds from the upstream frame's own timestamp to the arrival here; by two readings of one wall
    /// clock.
    #[must_use]
    pub fn latency_ms(&self) -> Option<i64> {
        let sent = self.event.as_ref().ok()?.raw_timestamp()?;
        i64::try_from((self.arrived_at - sent).whole_milliseconds()).ok()
    }
}

/// Body of `presence.updated`, field by field as documented to receivers.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    pub timestamp: String,
    pub data: Data,
}

/// `data` of the body.
#[derive(Debug, Clone, Deserialize)]
pub struct Data {
    pub event_id: String,
    /// Number of the event among those of its agent.
    pub sequence: u64,
    pub source: Source,
    pub agent: Agent,
    /// `live`, or `resync` for a state that was read after a monitoring gap.
    #[serde(default)]
    pub origin: String,
    #[serde(default)]
    pub topic: Option<String>,
    pub presence: Presence,
    pub previous: Option<Presence>,
    pub occurred_at: Option<String>,
    pub received_at: String,
    /// Upstream frame; kept as text, because it may hold what no number type holds.
    pub raw: Option<Box<RawValue>>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Source {
    pub id: String,
    pub name: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Agent {
    pub id: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Presence {
    pub system: String,
}

/// Fields of the upstream frame, in the places of both protocols.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    n: Option<u64>,
    timestamp: Option<String>,
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    n: Option<u64>,
    sent: Option<String>,
}

impl Event {
    /// Reads a body.
    ///
    /// # Errors
    /// Names the field that is missing or of the wrong type.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| error.to_string())
    }

    #[must_use]
    pub fn agent(&self) -> &str {
        &self.data.agent.id
    }

    #[must_use]
    pub fn state(&self) -> &str {
        &self.data.presence.system
    }

    #[must_use]
    pub fn previous(&self) -> Option<&str> {
        self.data.previous.as_ref().map(|presence| presence.system.as_str())
    }

    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.data.sequence
    }

    /// Upstream frame, byte by byte.
    #[must_use]
    pub fn raw(&self) -> Option<&str> {
        self.data.raw.as_deref().map(RawValue::get)
    }

    /// `n` of the upstream frame.
    #[must_use]
    pub fn n(&self) -> Option<u64> {
        let raw = self.read_raw()?;
        raw.n.or(raw.metadata.n)
    }

    /// When upstream made the frame, by its own word.
    #[must_use]
    pub fn raw_timestamp(&self) -> Option<OffsetDateTime> {
        let raw = self.read_raw()?;
        crate::clock::parse_rfc3339(&raw.timestamp.or(raw.metadata.sent)?)
    }

    fn read_raw(&self) -> Option<Raw> {
        serde_json::from_str(self.raw()?).ok()
    }
}
