//! A presence change, whatever protocol reported it, and the events that are stored.

use bytes::Bytes;
use time::OffsetDateTime;

use super::ids::{AgentId, ConnectionId, EventId, SourceId};
use agent_state::{AgentState, EventState};
use notices::{FailoverNotice, GapNotice, SourceNotice, WebhookNotice};

pub mod agent_state;
pub mod connection;
pub mod event_data;
pub mod examination;
pub mod history;
pub mod merge;
pub mod notices;
pub mod numbering;
pub mod regions;
pub mod remedies;
pub mod source;
pub mod topics;

/// System presences of Genesys Cloud in the spelling we write.
pub const SYSTEM_PRESENCES: [&str; 10] =
    ["AVAILABLE", "AWAY", "BREAK", "BUSY", "IDLE", "MEAL", "MEETING", "OFFLINE", "ON_QUEUE", "TRAINING"];

/// Routing statuses of Genesys Cloud.
pub const ROUTING_STATUSES: [&str; 5] =
    ["OFF_QUEUE", "IDLE", "INTERACTING", "NOT_RESPONDING", "COMMUNICATING"];

/// Longest presence text we keep, in characters; a longer one is cut, the raw frame has it whole.
const PRESENCE_CHARS_MAX: usize = 100;

/// One spelling for each system presence: upstream writes `ON_QUEUE`, `OnQueue` and `On Queue` for one and
/// the same. A text that names none of them (a custom presence) is kept as it is, trimmed, without control
/// characters; `None` if nothing is left.
#[must_use]
pub fn canonical_presence(text: &str) -> Option<String> {
    let letters = |s: &str| -> String {
        s.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_uppercase()).collect()
    };
    let wanted = letters(text);
    if let Some(known) = SYSTEM_PRESENCES.iter().find(|known| letters(known) == wanted) {
        return Some((*known).to_owned());
    }
    let kept: String = text.chars().filter(|c| !c.is_control()).take(PRESENCE_CHARS_MAX).collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// One presence change as it arrived on a connection, before it has a sequence.
#[derive(Clone, Debug)]
pub struct PresenceChange {
    pub event_id: EventId,
    pub source_id: SourceId,
    /// The source's name at that time.
    pub source_name: String,
    pub connection_id: ConnectionId,
    pub agent_id: AgentId,
    /// Topic as the frame names it, else the connection's first topic.
    pub topic: String,
    /// System presence in our spelling; `None` if none could be read.
    pub presence: Option<String>,
    /// The parts of the state that the frame reports; parts that are not newer than the known ones are
    /// dropped. `None` in protocol `realtime`, whose every frame is an event.
    pub state: Option<AgentState>,
    /// Upstream's time of the change; `None` if the frame gives none.
    pub occurred_at: Option<OffsetDateTime>,
    /// When the frame arrived, or the request that it answers was sent.
    pub received_at: OffsetDateTime,
    pub origin: Origin,
    /// The frame, byte for byte.
    pub raw: Bytes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// It was pushed over a socket.
    #[default]
    Live,
    /// It was read by REST after a time without coverage.
    Resync,
}

impl Origin {
    /// As it is stored and sent.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Resync => "resync",
        }
    }

    /// The origin of this name. An unknown name counts as `live`; the database's check rules it out.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        if name == "resync" { Self::Resync } else { Self::Live }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An agent's presence changed.
    PresenceUpdated,
    /// The present state of an agent, sent to one webhook because it asked or was just registered.
    PresenceSnapshot,
    /// A time without coverage of an agent is over.
    PresenceGap,
    /// Somebody asked for a test ping of one webhook.
    WebhookTest,
    /// A source has had no live connection for too long.
    SourceStale,
    /// A source that was stale has a live connection again.
    SourceRecovered,
    /// A webhook's receiver has failed several times in a row.
    WebhookFailing,
    /// A webhook was disabled, because its receiver is gone or has failed for too long.
    WebhookDisabled,
    /// A webhook that was failing or disabled takes deliveries again.
    WebhookRecovered,
    /// Another server has taken over the database, or it was restored.
    DatabaseFailedOver,
}

impl EventKind {
    pub const ALL: [Self; 10] = [
        Self::PresenceUpdated,
        Self::PresenceSnapshot,
        Self::PresenceGap,
        Self::WebhookTest,
        Self::SourceStale,
        Self::SourceRecovered,
        Self::WebhookFailing,
        Self::WebhookDisabled,
        Self::WebhookRecovered,
        Self::DatabaseFailedOver,
    ];

    /// As it is stored, and sent as the body's `type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PresenceUpdated => "presence.updated",
            Self::PresenceSnapshot => "presence.snapshot",
            Self::PresenceGap => "presence.gap",
            Self::WebhookTest => "webhook.test",
            Self::SourceStale => "source.stale",
            Self::SourceRecovered => "source.recovered",
            Self::WebhookFailing => "webhook.failing",
            Self::WebhookDisabled => "webhook.disabled",
            Self::WebhookRecovered => "webhook.recovered",
            Self::DatabaseFailedOver => "database.failed_over",
        }
    }

    /// The kind of this name; `None` if there is none.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One event as it is stored. Only events about an agent have an agent, a sequence and a presence.
#[derive(Clone, Debug)]
pub struct Event {
    pub event_id: EventId,
    pub kind: EventKind,
    /// Place in the feed, which is commit order.
    pub position: i64,
    /// The source, and its name at that time; `None` for events about a webhook.
    pub source: Option<(SourceId, String)>,
    pub agent_id: Option<AgentId>,
    /// Number among the agent's events, from 1, without holes.
    pub sequence: Option<i64>,
    /// Topic it came in on.
    pub topic: Option<String>,
    /// The agent's id in the CRM at that time; `None` if none was given.
    pub external_id: Option<String>,
    /// System presence; `None` if none could be read.
    pub presence: Option<String>,
    /// System presence before; `None` if unknown.
    pub previous: Option<String>,
    /// Upstream's time of the change; `None` if it gave none.
    pub occurred_at: Option<OffsetDateTime>,
    /// When the frame arrived.
    pub received_at: OffsetDateTime,
    /// When it was written, just before the commit; `None` in rows of versions that did not store it.
    pub committed_at: Option<OffsetDateTime>,
    pub origin: Origin,
    pub detail: Option<Detail>,
    /// The frame, byte for byte.
    pub raw: Bytes,
    /// When the person it is about was erased: ids and times are left. `None` if it was not.
    pub erased_at: Option<OffsetDateTime>,
}

/// Content of an event besides its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    Agent(Box<EventState>),
    Source(Box<SourceNotice>),
    Gap(Box<GapNotice>),
    Webhook(Box<WebhookNotice>),
    Failover(FailoverNotice),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_system_presence_becomes_one() {
        for text in ["ON_QUEUE", "OnQueue", "On Queue", "on queue", " on-queue "] {
            assert_eq!(canonical_presence(text).as_deref(), Some("ON_QUEUE"), "{text}");
        }
    }

    #[test]
    fn a_custom_presence_is_kept_and_nothing_is_nothing() {
        assert_eq!(canonical_presence(" Coffee\u{0} with Ann ").as_deref(), Some("Coffee with Ann"));
        assert_eq!(canonical_presence(" \u{0}\n"), None);
        assert_eq!(canonical_presence(&"x".repeat(5000)).map(|p| p.len()), Some(PRESENCE_CHARS_MAX));
    }
}
