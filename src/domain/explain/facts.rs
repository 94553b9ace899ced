//! What is kept of one event and one webhook, and what can be said of it.

use serde_json::Value;
use time::OffsetDateTime;

use crate::domain::ids::{AgentId, DeliveryId, SourceId};
use crate::domain::presence::EventKind;
use crate::domain::webhook::state::WebhookState;

/// What is known of the event.
#[derive(Clone, Debug)]
pub struct EventFacts {
    /// Kind of event.
    pub kind: EventKind,
    /// When it arrived.
    pub received_at: OffsetDateTime,
    /// When it was stored.
    pub committed_at: Option<OffsetDateTime>,
    /// The organisation it came from.
    pub source_id: Option<SourceId>,
    /// Its agent; `None` if it is about none.
    pub agent_id: Option<AgentId>,
    /// The agent's id in the CRM at that time.
    pub external_id: Option<String>,
    /// Topic it came in on.
    pub topic: Option<String>,
    /// System presence.
    pub presence: Option<String>,
    /// System presence before.
    pub previous: Option<String>,
    /// Queues that the agent worked in, or had just left.
    pub queues: Vec<String>,
    /// Routing status.
    pub routing_status: Option<String>,
    /// When the person it is about was erased.
    pub erased_at: Option<OffsetDateTime>,
}

/// What is known of the webhook.
#[derive(Clone, Debug)]
pub struct WebhookFacts {
    /// When it was registered.
    pub created_at: OffsetDateTime,
    /// When it was removed.
    pub deleted_at: Option<OffsetDateTime>,
    /// Present one, not that of the event's time.
    pub state: WebhookState,
    /// Kinds of event it asks for.
    pub events: Vec<String>,
    /// Only these agents.
    pub agents: Vec<String>,
    /// Only these topics.
    pub topics: Vec<String>,
    /// Only these presences.
    pub presences: Vec<String>,
    /// Only these sources.
    pub sources: Vec<SourceId>,
    /// Only agents in these queues.
    pub queues: Vec<String>,
    /// Only these routing statuses.
    pub routing_statuses: Vec<String>,
    /// Only these changes of the presence.
    pub transitions: Vec<String>,
    /// Nothing is sent before.
    pub hold_until: Option<OffsetDateTime>,
    /// Outcome class of its last failure since the last success.
    pub last_outcome: Option<String>,
    /// Why it failed, in words.
    pub last_reason: Option<String>,
    /// Whether it limits how fast POSTs follow each other, or gathers them.
    pub limits: bool,
}

/// What is known of a delivery that is open.
#[derive(Clone, Debug)]
pub struct OpenFacts {
    /// `waiting`, `sending`, `blocked` or `paused`.
    pub state: String,
    /// When it was planned.
    pub created_at: OffsetDateTime,
    /// When it may leave.
    pub due_at: Option<OffsetDateTime>,
    /// When it may leave first.
    pub not_before: Option<OffsetDateTime>,
    /// POSTs begun.
    pub attempt: i32,
    /// HTTP status of the last attempt.
    pub last_status: Option<i32>,
    /// Outcome class of the last attempt.
    pub last_outcome: Option<String>,
    /// The delivery that leaves before it.
    pub ahead: Option<DeliveryId>,
}

/// One audit entry of the delivery or of the webhook.
#[derive(Clone, Debug)]
pub struct EntryFacts {
    /// When it happened.
    pub at: OffsetDateTime,
    /// What happened.
    pub kind: String,
    /// Number of the attempt.
    pub attempt: Option<i32>,
    /// HTTP status.
    pub status: Option<i32>,
    /// Outcome class.
    pub outcome: Option<String>,
    /// How long it took.
    pub duration_ms: Option<i32>,
    /// How the delivery ended.
    pub end_state: Option<String>,
    /// Who asked for it.
    pub principal: Option<String>,
    /// Particulars.
    pub data: Value,
}

impl EntryFacts {
    /// Why an attempt failed, in words.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.data.get("reason").and_then(Value::as_str)
    }

    /// The attempt was made twice: a kept connection broke before the answer.
    #[must_use]
    pub fn is_remade(&self) -> bool {
        self.data.get("remade") == Some(&Value::Bool(true))
    }
}

/// Everything that is kept of one event and one webhook.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The event.
    pub event: EventFacts,
    /// The webhook.
    pub webhook: WebhookFacts,
    /// The delivery, while it is open.
    pub open: Option<OpenFacts>,
    /// Entries of the delivery, oldest first.
    pub of_delivery: Vec<EntryFacts>,
    /// Entries of the webhook itself, oldest first.
    pub of_webhook: Vec<EntryFacts>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver took it.
    Delivered,
    /// It leaves later.
    Waiting,
    /// It is under way.
    Sending,
    /// An older one of its lane leaves first.
    Blocked,
    /// Its webhook is paused.
    Paused,
    /// Its receiver or token server fails, or asked for rest.
    Held,
    /// It was given up.
    Dead,
    /// A newer state superseded it.
    Superseded,
    /// It was too old to be sent.
    Expired,
    /// Its webhook was removed.
    WebhookGone,
    /// Its webhook was disabled or unverified.
    WebhookDisabled,
    /// The person that it is about was erased.
    Erased,
    /// The webhook does not ask for it.
    NotMatched,
    /// The webhook was registered later.
    NotRegisteredThen,
    /// What would tell is no longer kept.
    Unknown,
}

impl Verdict {
    /// As it is shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Blocked => "blocked",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::Dead => "dead",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
            Self::WebhookGone => "webhook_gone",
            Self::WebhookDisabled => "webhook_disabled",
            Self::Erased => "erased",
            Self::NotMatched => "not_matched",
            Self::NotRegisteredThen => "not_registered_then",
            Self::Unknown => "unknown",
        }
    }

    /// The verdict on a delivery that ended so.
    pub(in crate::domain) fn of_end(end_state: &str) -> Self {
        [
            Self::Delivered,
            Self::Dead,
            Self::Superseded,
            Self::Expired,
            Self::WebhookGone,
            Self::WebhookDisabled,
            Self::Erased,
        ]
        .into_iter()
        .find(|verdict| verdict.as_str() == end_state)
        .unwrap_or(Self::Unknown)
    }
}
