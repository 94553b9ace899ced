//! What `source.stale` and `source.recovered` tell.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::ids::{ConnectionId, GapId};

/// Gaps that one notice lists at most; the API has all of them.
pub const GAPS_MAX: usize = 100;

/// The particulars of a notice about a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceNotice {
    /// Last proof of a live connection before the source became stale.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// When there was a live connection again; `None` while there is none.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
    /// The gaps that overlap that time, oldest first, at most [`GAPS_MAX`].
    #[serde(default)]
    pub gaps: Vec<NoticedGap>,
    /// How many there are in all.
    #[serde(default)]
    pub gap_count: u32,
}

/// A gap as a notice lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticedGap {
    /// Its id.
    pub id: GapId,
    /// The connection that was down.
    pub connection_id: ConnectionId,
    /// Why.
    pub cause: String,
    /// Last proof of sight.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// When there was sight again; `None` while there is none.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub to: Option<OffsetDateTime>,
    /// How many agents were unseen.
    pub agents: u32,
}
