//! What `presence.gap` tells: a time in which one agent could not be seen, and is over.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::ids::{ConnectionId, GapId};

/// A gap as the agent's webhooks are told of it. What happened in it is not known; the next event of the agent is what
/// was found after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapNotice {
    /// Its id.
    pub id: GapId,
    /// The connection that was down.
    pub connection_id: ConnectionId,
    /// Why.
    pub cause: String,
    /// Last proof of sight.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// When there was sight again.
    #[serde(with = "time::serde::rfc3339")]
    pub to: OffsetDateTime,
}
