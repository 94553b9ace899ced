//! Content of the events about gaps, sources, webhooks and the database, as it is stored with the event.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::ids::{ConnectionId, GapId, WebhookId};

/// Gaps that one notice about a source lists at most; the API has all of them.
pub const GAPS_MAX: usize = 100;

/// `presence.gap`: a time without coverage of one agent, which is over. Nobody knows the changes in it; the
/// agent's next event is the state that was found after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapNotice {
    pub id: GapId,
    pub connection_id: ConnectionId,
    /// Text, because events outlive the set of causes that this version knows.
    pub cause: String,
    /// Last moment of proven coverage.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// First moment of coverage again.
    #[serde(with = "time::serde::rfc3339")]
    pub to: OffsetDateTime,
}

/// `source.stale` and `source.recovered`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceNotice {
    /// Last proof of a live connection before the source became stale.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// First moment of a live connection again; `None` while there is none.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
    /// The gaps that overlap that time, oldest first, at most [`GAPS_MAX`].
    #[serde(default)]
    pub gaps: Vec<NoticedGap>,
    /// Number of all of them.
    #[serde(default)]
    pub gap_count: u32,
}

/// A gap as a notice about a source lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticedGap {
    pub id: GapId,
    pub connection_id: ConnectionId,
    pub cause: String,
    /// Last moment of proven coverage.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// First moment of coverage again; `None` while there is none.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub to: Option<OffsetDateTime>,
    /// Number of agents without coverage.
    pub agents: u32,
}

/// `webhook.failing`, `webhook.disabled` and `webhook.recovered`, about another webhook. Its address is left
/// out: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookNotice {
    pub id: WebhookId,
    pub description: String,
    /// An outcome class, `gone` or `failing`; `None` when it has recovered.
    #[serde(default)]
    pub reason: Option<String>,
    /// Why the last attempt failed, in words, where there is more to say than its class does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// First failure since the last success; `None` if it never failed.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub failing_since: Option<OffsetDateTime>,
    /// Failed attempts in a row.
    #[serde(default)]
    pub failures: u32,
}

/// `database.failed_over`: what became of the last events of the time before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverNotice {
    /// Of the new primary; `None`: the server does not say.
    #[serde(default)]
    pub timeline: Option<u32>,
    /// Events that were lost and are stored again.
    #[serde(default)]
    pub restored: u64,
    /// Events that were lost, and that no process could store again.
    #[serde(default)]
    pub not_restorable: u64,
    /// Events of the time since then may be lost; `None`: none is.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub lost_since: Option<OffsetDateTime>,
}
