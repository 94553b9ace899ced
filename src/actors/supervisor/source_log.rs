//! Lines in the log about sources: that one is up, has lost a socket, is stale, was handed over to other
//! sockets. The supervisor looks each second, sockets that are lost at once make one line.

use std::collections::HashMap;
use std::time::Instant;

use crate::domain::ids::SourceId;
use crate::domain::presence::connection::DesiredState;
use crate::domain::state_log::{Line, StateLog};
use crate::status::{SocketNews, Status};
use crate::store::sources::desired_connections::WantedSource;

/// How a source is, as the log says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// Every socket that is wanted is open.
    Up,
    /// A socket was lost, and not every one is open again.
    Lost,
    Stale,
}

/// What the log has said of sources.
pub struct SourceLog {
    conditions: StateLog<SourceId, Condition, Instant>,
    /// Hand-overs so far: each number is another state.
    handovers: StateLog<SourceId, u64, Instant>,
    handed_over: HashMap<SourceId, u64>,
}

impl Default for SourceLog {
    fn default() -> Self {
        Self {
            conditions: StateLog::new(None),
            handovers: StateLog::new(Some(0)),
            handed_over: HashMap::new(),
        }
    }
}

impl SourceLog {
    /// Writes what has changed since the last look.
    pub fn look(&mut self, source: &WantedSource, status: &Status, now: Instant) {
        let id = source.source_id;
        let news = status.take_socket_news(id);
        self.look_at_handovers(source, &news, now);
        let stale = source.stale_since.is_some();
        if let Some(cause) = news.lost_by.filter(|_| !stale)
            && let Some(Line { omitted }) = self.conditions.report(id, Condition::Lost, now)
        {
            tracing::warn!(
                source = %source.name, sockets = news.lost, cause = cause.as_str(), omitted,
                "lost a socket of a source; connecting again"
            );
        }
        let wanted = source.connections.iter().filter(|connection| connection.desired == DesiredState::Open);
        let (mut sockets, mut open, mut agents) = (0_usize, 0_usize, 0_usize);
        for figures in wanted.map(|connection| status.connection(connection.connection_id)) {
            sockets += 1;
            if figures.open {
                open += 1;
                agents += figures.agents;
            }
        }
        if stale {
            if let Some(Line { omitted }) = self.conditions.report(id, Condition::Stale, now) {
                tracing::warn!(
                    source = %source.name, omitted,
                    "source is stale: no live connection for too long"
                );
            }
        } else if sockets > 0
            && open == sockets
            && let Some(Line { omitted }) = self.conditions.report(id, Condition::Up, now)
        {
            tracing::info!(source = %source.name, agents, sockets, omitted, "source is up");
        }
    }

    fn look_at_handovers(&mut self, source: &WantedSource, news: &SocketNews, now: Instant) {
        if news.handed_over == 0 {
            return;
        }
        let total = self.handed_over.entry(source.source_id).or_default();
        *total += news.handed_over;
        if let Some(Line { omitted }) = self.handovers.report(source.source_id, *total, now) {
            tracing::info!(
                source = %source.name, sockets = news.handed_over, omitted,
                "handed a source's agents over to another socket"
            );
        }
    }

    /// Forgets sources that are gone.
    pub fn forget_all_but(&mut self, wanted: impl Fn(SourceId) -> bool) {
        self.conditions.forget_all_but(&wanted);
        self.handovers.forget_all_but(&wanted);
        self.handed_over.retain(|source, _| wanted(*source));
    }
}
