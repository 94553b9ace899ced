//! The audit entry: what may be written down of a step, and under which name.

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::ids::{AgentId, ConnectionId, DeliveryId, EventId, SourceId, WebhookId};
use quarantine::Kept;

pub mod quarantine;
pub mod seal;
pub mod syslog;
pub mod verification;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Expected.
    Info,
    /// Expected now and then; worth a look if it repeats.
    Warn,
    /// Something did not work.
    Error,
}

impl Level {
    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// What happened. The first ten names are those of the original specification (docs/realtime.md).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])+ $variant,)+ }

        impl Kind {
            /// Every kind, in the order of this list.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it is stored and shown.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

kinds! {
    /// A connection starts from nothing.
    InitStart = "INIT_START",
    /// The token was accepted and the topics may be asked for.
    AuthSuccess = "AUTH_SUCCESS",
    /// Upstream made a connection for us.
    ConnectionProvisioned = "CONNECTION_PROVISIONED",
    /// The socket could not be dialled.
    WsInitError = "WS_INIT_ERROR",
    /// The socket is open.
    WsOpen = "WS_OPEN",
    /// The socket closed.
    WsClose = "WS_CLOSE",
    /// The socket broke a rule or failed.
    WsError = "WS_ERROR",
    /// Another try is planned.
    ReconnectScheduled = "RECONNECT_SCHEDULED",
    /// A try failed.
    ReconnectFailed = "RECONNECT_FAILED",
    /// The connection was ended on purpose.
    ConnectionTerminated = "CONNECTION_TERMINATED",
    /// A token was issued to us.
    TokenAcquired = "TOKEN_ACQUIRED",
    /// No token could be had.
    TokenFailed = "TOKEN_FAILED",
    /// Upstream refuses for good (403); waits for a change.
    ConnectionRefused = "CONNECTION_REFUSED",
    /// Upstream's limit was met (409, 422); our own leftovers were looked for.
    LimitMet = "LIMIT_MET",
    /// A connection of ours was deleted upstream.
    UpstreamDeleted = "UPSTREAM_DELETED",
    /// A connection of ours could not be deleted upstream; it is tried again.
    UpstreamDeleteFailed = "UPSTREAM_DELETE_FAILED",
    /// Nothing was heard for too long.
    HeartbeatMissed = "HEARTBEAT_MISSED",
    /// A frame that is no presence update; its bytes are in quarantine.
    FrameRejected = "FRAME_REJECTED",
    /// A monitoring gap of an agent began.
    GapDetected = "GAP_DETECTED",
    /// A monitoring gap of an agent ended.
    GapClosed = "GAP_CLOSED",
    /// A connection was replaced by a new one before it ended.
    ChannelRotated = "CHANNEL_ROTATED",
    /// A channel is gone upstream although nothing ended it: another program uses the same OAuth client.
    ChannelDisplaced = "CHANNEL_DISPLACED",
    /// Upstream announced that it closes a socket soon.
    MaintenanceAnnounced = "MAINTENANCE_ANNOUNCED",
    /// Agents' topics were rejected upstream.
    TopicRejected = "TOPIC_REJECTED",
    /// Other agents were assigned to a connection.
    AgentsAssigned = "AGENTS_ASSIGNED",
    /// The present states were read by REST.
    ResyncDone = "RESYNC_DONE",
    /// The present states could not be read; it is tried again.
    ResyncFailed = "RESYNC_FAILED",
    /// The agents to watch have changed.
    RosterChanged = "ROSTER_CHANGED",
    /// A roster could not be read.
    RosterFailed = "ROSTER_FAILED",
    /// A state that is older than what is known was dropped.
    StateStale = "STATE_STALE",
    /// A state that is known already was dropped.
    StateDuplicate = "STATE_DUPLICATE",
    /// A time of the platform's that cannot be right, or cannot be read, did not count.
    TimeRejected = "TIME_REJECTED",
    /// A source has had no live connection for too long.
    SourceStale = "SOURCE_STALE",
    /// A source has a live connection again.
    SourceRecovered = "SOURCE_RECOVERED",
    /// An operator asked to read a source's rosters at once.
    RefreshRequested = "REFRESH_REQUESTED",
    /// Frames came faster than they could be stored; the socket was dropped on purpose.
    Backpressure = "BACKPRESSURE",
    /// An actor died and a new one took its place.
    ActorRestarted = "ACTOR_RESTARTED",
    /// A presence update was stored.
    EventReceived = "EVENT_RECEIVED",
    /// A POST was tried.
    DeliveryAttempt = "DELIVERY_ATTEMPT",
    /// A delivery ended without a POST.
    DeliveryEnded = "DELIVERY_ENDED",
    /// A dispatcher died with a delivery leased to it: whether the POST was made is not known.
    AttemptLost = "ATTEMPT_LOST",
    /// An operator asked for another try.
    DeliveryRetried = "DELIVERY_RETRIED",
    /// A webhook was registered.
    WebhookCreated = "WEBHOOK_CREATED",
    /// A webhook was changed.
    WebhookUpdated = "WEBHOOK_UPDATED",
    /// A webhook was removed.
    WebhookDeleted = "WEBHOOK_DELETED",
    /// A webhook's secret was replaced.
    WebhookSecretRotated = "WEBHOOK_SECRET_ROTATED",
    /// A test ping was asked for.
    WebhookTested = "WEBHOOK_TESTED",
    /// A webhook was paused.
    WebhookPaused = "WEBHOOK_PAUSED",
    /// A webhook was resumed.
    WebhookResumed = "WEBHOOK_RESUMED",
    /// A webhook's receiver has failed several times in a row.
    WebhookFailing = "WEBHOOK_FAILING",
    /// A webhook that was failing takes deliveries again.
    WebhookRecovered = "WEBHOOK_RECOVERED",
    /// A webhook was disabled: its receiver is gone, or has failed for too long.
    WebhookDisabled = "WEBHOOK_DISABLED",
    /// A disabled or unverified webhook was asked whether it is well.
    WebhookProbed = "WEBHOOK_PROBED",
    /// The present states were written for a webhook.
    SnapshotWritten = "SNAPSHOT_WRITTEN",
    /// A disabled or unverified webhook was enabled, by an operator or because it is well, or is to be
    /// verified again.
    WebhookEnabled = "WEBHOOK_ENABLED",
    /// An operator asked to send a webhook the present states.
    SnapshotRequested = "SNAPSHOT_REQUESTED",
    /// An operator asked to send a webhook again what it missed.
    RecoveryRequested = "RECOVERY_REQUESTED",
    /// Such a request has ended; the outcome says how.
    RecoveryEnded = "RECOVERY_ENDED",
    /// Agents were given ids of the CRM, or lost them.
    AgentsMapped = "AGENTS_MAPPED",
    /// An operator asked to erase the person behind an agent, or that is done; `state` says which.
    AgentErased = "AGENT_ERASED",
    /// A source was added.
    SourceCreated = "SOURCE_CREATED",
    /// A source was changed.
    SourceUpdated = "SOURCE_UPDATED",
    /// A source was removed.
    SourceDeleted = "SOURCE_DELETED",
    /// An operator had settings of a source examined, which sends its credentials to the addresses in `data`.
    SourceExamined = "SOURCE_EXAMINED",
    /// An operator asked to end a connection.
    TerminateRequested = "TERMINATE_REQUESTED",
    /// An operator asked to restart a connection.
    RestartRequested = "RESTART_REQUESTED",
    /// Everything sealed was sealed again under another master key.
    MasterKeyRotated = "MASTER_KEY_ROTATED",
    /// An API key was made, by a caller or from the environment.
    ApiKeyCreated = "API_KEY_CREATED",
    /// An API key was revoked.
    ApiKeyRevoked = "API_KEY_REVOKED",
    /// A browser was logged in to the console.
    ConsoleLogin = "CONSOLE_LOGIN",
    /// A browser was logged out of the console.
    ConsoleLogout = "CONSOLE_LOGOUT",
    /// A tenant was made.
    TenantCreated = "TENANT_CREATED",
    /// Retention took a day of the audit log away; its seals stay.
    AuditDayDropped = "AUDIT_DAY_DROPPED",
    /// A failover of the database, or a restored copy, lost the end of the chain of seals; it goes on before it.
    AuditHeadLost = "AUDIT_HEAD_LOST",
    /// An operator asked to check the audit log against its seals.
    AuditVerificationStarted = "AUDIT_VERIFICATION_STARTED",
    /// An operator asked to end such a check early.
    AuditVerificationCanceled = "AUDIT_VERIFICATION_CANCELED",
    /// Such a check has ended; `state` and `fault` say how.
    AuditVerificationEnded = "AUDIT_VERIFICATION_ENDED",
    /// The embedded Postgres died and was started again.
    DatabaseRestarted = "DATABASE_RESTARTED",
    /// The database is in a new incarnation: another server has taken over, or a copy was restored.
    DatabaseFailedOver = "DATABASE_FAILED_OVER",
    /// The bridge started.
    BridgeStarted = "BRIDGE_STARTED",
    /// The bridge was asked to stop.
    BridgeStopping = "BRIDGE_STOPPING",
}

/// Kinds of which entries are written for single presence changes or deliveries. All others together are few,
/// and an index leads to them (`migrations/0049`).
pub const FREQUENT: [Kind; 6] = [
    Kind::EventReceived,
    Kind::DeliveryAttempt,
    Kind::DeliveryEnded,
    Kind::StateStale,
    Kind::StateDuplicate,
    Kind::TimeRejected,
];

/// One row of `audit_log`. Build it with [`Entry::new`] and the `with`-less setters below; what is not set is
/// null.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it happened.
    pub at: OffsetDateTime,
    /// What happened.
    pub kind: Kind,
    /// How bad it is.
    pub level: Level,
    /// The source concerned.
    pub source_id: Option<SourceId>,
    /// The connection concerned.
    pub connection_id: Option<ConnectionId>,
    /// The agent concerned.
    pub agent_id: Option<AgentId>,
    /// The webhook concerned.
    pub webhook_id: Option<WebhookId>,
    /// The event concerned.
    pub event_id: Option<EventId>,
    /// The delivery concerned.
    pub delivery_id: Option<DeliveryId>,
    /// Number of the attempt, from 1.
    pub attempt: Option<i32>,
    /// HTTP status or socket close code.
    pub status: Option<i32>,
    /// How long the step took, in milliseconds.
    pub duration_ms: Option<i32>,
    /// Outcome class of an attempt.
    pub outcome: Option<&'static str>,
    /// How the delivery ended.
    pub end_state: Option<&'static str>,
    /// Who asked for it; `None` for the bridge itself.
    pub principal: Option<String>,
    /// Particulars; never a secret, a token or a socket URL.
    pub data: Map<String, Value>,
    /// Malformed content, for the quarantine.
    pub kept: Option<Box<Kept>>,
}

impl Entry {
    /// An entry of level INFO about nothing in particular yet.
    #[must_use]
    pub fn new(at: OffsetDateTime, kind: Kind) -> Self {
        Self {
            at,
            kind,
            level: Level::Info,
            source_id: None,
            connection_id: None,
            agent_id: None,
            webhook_id: None,
            event_id: None,
            delivery_id: None,
            attempt: None,
            status: None,
            duration_ms: None,
            outcome: None,
            end_state: None,
            principal: None,
            data: Map::new(),
            kept: None,
        }
    }

    /// An entry of level INFO about one delivery.
    #[must_use]
    pub fn for_delivery(
        at: OffsetDateTime,
        kind: Kind,
        webhook: WebhookId,
        event: EventId,
        delivery: DeliveryId,
    ) -> Self {
        Self {
            webhook_id: Some(webhook),
            event_id: Some(event),
            delivery_id: Some(delivery),
            ..Self::new(at, kind)
        }
    }

    /// An entry about content that cannot be used, with its bytes for the quarantine.
    #[must_use]
    pub fn malformed(at: OffsetDateTime, reason: &'static str, bytes: &[u8]) -> Self {
        let kept = Kept::new(reason, bytes);
        let entry = Self::new(at, Kind::FrameRejected)
            .level(Level::Warn)
            .data("reason", reason)
            .data("bytes", bytes.len())
            .data("quarantine", kept.id.to_string());
        Self { kept: Some(Box::new(kept)), ..entry }
    }

    /// The same entry without its content for the quarantine.
    #[must_use]
    pub fn without_bytes(mut self) -> Self {
        self.kept = None;
        self.data.remove("quarantine");
        self
    }

    /// The same entry at another level.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// The same entry with one more particular. NUL characters are dropped from strings, because jsonb
    /// refuses them and an audit entry must never fail for its content.
    #[must_use]
    pub fn data(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.data.insert(key.to_owned(), without_nul(value.into()));
        self
    }
}

fn without_nul(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "")),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nul).collect()),
        Value::Object(map) => Value::Object(
            map.into_iter().map(|(key, value)| (key.replace('\0', ""), without_nul(value))).collect(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_of_their_own() {
        let names: std::collections::HashSet<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn the_index_by_kind_leaves_out_what_is_frequent_and_nothing_else() {
        let migration = include_str!("../../../migrations/0049_pages_by_index.sql");
        let names = FREQUENT.map(|kind| format!("'{}'", kind.as_str())).join(", ");
        assert!(migration.contains(&format!("where kind not in ({names});")));
    }

    #[test]
    fn data_never_holds_what_jsonb_refuses() {
        let entry = Entry::new(OffsetDateTime::UNIX_EPOCH, Kind::FrameRejected)
            .data("text", serde_json::json!({"a\u{0}": ["x\u{0}y"]}));
        assert_eq!(Value::Object(entry.data), serde_json::json!({"text": {"a": ["xy"]}}));
    }
}
