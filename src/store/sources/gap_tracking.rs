//! Rows of `gap`: times without coverage, written with the state of their connection.

use std::sync::Arc;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::{AgentId, ConnectionId, GapId, SourceId};
use crate::domain::presence::connection::GapCause;
use crate::store::Result;

/// Coverage lost or regained.
#[derive(Clone, Debug)]
pub enum GapStep {
    /// Coverage is lost. A gap of the connection that is open already goes on.
    Opened {
        /// Last moment that the connection was proven live.
        from: OffsetDateTime,
        cause: GapCause,
    },
    /// Coverage is back.
    Closed {
        /// First moment of the new coverage.
        to: OffsetDateTime,
    },
}

/// A connection and the agents that it covers.
#[derive(Clone, Debug)]
pub struct Watcher {
    pub source_id: SourceId,
    pub connection_id: ConnectionId,
    pub agents: Arc<Vec<AgentId>>,
}

impl Watcher {
    /// Its agent, if it covers one alone.
    #[must_use]
    pub fn only_agent(&self) -> Option<&AgentId> {
        match self.agents.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }
}

/// Begins a gap, unless one is open; gives its audit entry.
pub(in crate::store) async fn open_gap(
    conn: &mut PgConnection,
    watcher: &Watcher,
    from: OffsetDateTime,
    cause: GapCause,
) -> Result<Option<Entry>> {
    let opened = sqlx::query!(
        "insert into gap (gap_id, source_id, connection_id, agents, cause, from_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (connection_id) where to_at is null do nothing",
        GapId::generate() as _,
        watcher.source_id as _,
        watcher.connection_id as _,
        watcher.agents.as_slice() as _,
        cause.as_str(),
        from,
    )
    .execute(conn)
    .await?;
    Ok((opened.rows_affected() > 0).then(|| {
        gap_entry(watcher, from, Kind::GapDetected).level(Level::Warn).data("cause", cause.as_str())
    }))
}

/// A gap that has just ended.
pub(in crate::store) struct ClosedGap {
    pub(in crate::store) gap_id: GapId,
    pub(in crate::store) agents: Vec<String>,
    pub(in crate::store) cause: String,
    pub(in crate::store) from: OffsetDateTime,
    pub(in crate::store) to: OffsetDateTime,
}

/// Ends the gap that is open, if there is one; gives it with its audit entry.
pub(in crate::store) async fn close_gap(
    conn: &mut PgConnection,
    watcher: &Watcher,
    to: OffsetDateTime,
) -> Result<Option<(ClosedGap, Entry)>> {
    let closed = sqlx::query!(
        r#"update gap
         set to_at = greatest(from_at, $2)
         where connection_id = $1
           and to_at is null
         returning gap_id as "gap_id: GapId", agents, cause, from_at"#,
        watcher.connection_id as _,
        to,
    )
    .fetch_optional(conn)
    .await?;
    Ok(closed.map(|gap| {
        let ms = i64::try_from((to - gap.from_at).whole_milliseconds()).unwrap_or(i64::MAX);
        let entry = gap_entry(watcher, to, Kind::GapClosed)
            .data("cause", gap.cause.as_str())
            .data("gap_ms", ms.max(0));
        let to = to.max(gap.from_at);
        (ClosedGap { gap_id: gap.gap_id, agents: gap.agents, cause: gap.cause, from: gap.from_at, to }, entry)
    }))
}

fn gap_entry(watcher: &Watcher, at: OffsetDateTime, kind: Kind) -> Entry {
    let mut entry = Entry::new(at, kind);
    entry.source_id = Some(watcher.source_id);
    entry.connection_id = Some(watcher.connection_id);
    match watcher.only_agent() {
        Some(agent) => entry.agent_id = Some(agent.clone()),
        None => entry = entry.data("agents", watcher.agents.len()),
    }
    entry
}
