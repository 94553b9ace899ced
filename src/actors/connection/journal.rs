//! What a connection has to write to the database: its state, its gaps and its audit entries, in order, one
//! write at a time.
//!
//! A write that fails is tried again with all that has come since, so nothing is lost while the database is
//! unavailable.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::actors::recorder::Recorder;
use crate::domain::audit::Entry;
use crate::domain::ids::{AgentId, ProvisioningId};
use crate::domain::presence::connection::GapCause;
use crate::store::sources::desired_connections::ConnectionRecord;
use crate::store::sources::gap_tracking::{GapStep, Watcher};
use crate::store::{Store, StoreError};

/// Audit entries that wait for the database at most; the oldest go first, with a log line.
const ENTRIES_MAX: usize = 1000;

/// Everything of one connection that is not written yet.
pub struct Journal {
    watcher: Watcher,
    entries: Vec<Entry>,
    gaps: Vec<GapStep>,
    /// Provisioning requests that were answered.
    answered: Vec<ProvisioningId>,
    /// Something, if only the state, is not written.
    unsaved: bool,
    writing: bool,
}

/// A write that came back, with what it tried to write.
pub struct FinishedWrite {
    result: Result<(), StoreError>,
    entries: Vec<Entry>,
    gaps: Vec<GapStep>,
    answered: Vec<ProvisioningId>,
}

impl Journal {
    /// An empty journal.
    pub fn new(watcher: Watcher) -> Self {
        Self {
            watcher,
            entries: Vec::new(),
            gaps: Vec::new(),
            answered: Vec::new(),
            unsaved: false,
            writing: false,
        }
    }

    /// From now on the connection watches these agents.
    pub fn watch(&mut self, agents: Arc<Vec<AgentId>>) {
        self.watcher.agents = agents;
    }

    /// Adds an audit entry about this connection.
    pub fn audit(&mut self, mut entry: Entry) {
        entry.source_id = Some(self.watcher.source_id);
        entry.connection_id = Some(self.watcher.connection_id);
        entry.agent_id = self.watcher.only_agent().cloned();
        self.entries.push(entry);
        self.unsaved = true;
    }

    /// Adds a step of a monitoring gap.
    pub fn gap(&mut self, step: GapStep) {
        self.gaps.push(step);
        self.unsaved = true;
    }

    /// The active link lost its coverage. A gap begins unless a standby covers the agents; it is over already
    /// if the standby was opened since.
    pub fn coverage_lost(
        &mut self,
        from: OffsetDateTime,
        cause: GapCause,
        standby_open_since: Option<OffsetDateTime>,
    ) {
        match standby_open_since {
            None => self.gap(GapStep::Opened { from, cause }),
            Some(to) if from < to => {
                self.gap(GapStep::Opened { from, cause });
                self.gap(GapStep::Closed { to });
            }
            Some(_) => {}
        }
    }

    /// A provisioning request was answered; the state that is written next holds the result.
    pub fn answered(&mut self, id: ProvisioningId) {
        self.answered.push(id);
        self.unsaved = true;
    }

    /// The state has changed and is to be written.
    pub fn save(&mut self) {
        self.unsaved = true;
    }

    /// Whether everything is written.
    pub fn is_settled(&self) -> bool {
        !self.unsaved && !self.writing
    }

    /// The next write, with the state as it is now; `None` if there is nothing to write or one is under way.
    pub fn next_write(
        &mut self,
        store: Store,
        recorder: Recorder,
        state: ConnectionRecord,
    ) -> Option<impl Future<Output = FinishedWrite> + use<>> {
        if self.writing || !self.unsaved {
            return None;
        }
        (self.writing, self.unsaved) = (true, false);
        let (entries, gaps) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.gaps));
        let (watcher, answered) = (self.watcher.clone(), std::mem::take(&mut self.answered));
        Some(async move {
            // Everything before a gap's begin must be stored first: else a crash now would lose a frame that
            // no gap covers.
            let result = if recorder.flushed().await {
                store.write_connection(&watcher, &state, &gaps, &answered, &entries).await
            } else {
                Err(StoreError::Conflict("presence changes before it are not stored yet".to_owned()))
            };
            FinishedWrite { result, entries, gaps, answered }
        })
    }

    /// Ends a write.
    ///
    /// # Errors
    /// If it failed; what it tried to write waits again, before what has come since.
    pub fn finish(&mut self, finished: FinishedWrite) -> Result<(), StoreError> {
        self.writing = false;
        let FinishedWrite { result, mut entries, mut gaps, mut answered } = finished;
        if result.is_ok() {
            return Ok(());
        }
        entries.append(&mut self.entries);
        gaps.append(&mut self.gaps);
        answered.append(&mut self.answered);
        if entries.len() > ENTRIES_MAX {
            let dropped = entries.len() - ENTRIES_MAX;
            tracing::error!(
                connection = %self.watcher.connection_id,
                dropped,
                "dropped audit entries of a connection: the database is unavailable for too long"
            );
            entries.drain(..dropped);
        }
        (self.entries, self.gaps, self.answered, self.unsaved) = (entries, gaps, answered, true);
        result
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;
    use crate::domain::audit::Kind;
    use crate::domain::ids::{ConnectionId, SourceId};

    const START: OffsetDateTime = datetime!(2026-11-24 09:00 UTC);

    fn journal() -> Journal {
        let agents = Arc::new(vec![AgentId("ann".to_owned())]);
        let (source_id, connection_id) = (SourceId::generate(), ConnectionId::generate());
        Journal::new(Watcher { source_id, connection_id, agents })
    }

    fn failed(entries: Vec<Entry>) -> FinishedWrite {
        let result = Err(StoreError::Conflict("it failed".to_owned()));
        FinishedWrite { result, entries, gaps: Vec::new(), answered: Vec::new() }
    }

    #[test]
    fn a_standby_shortens_a_gap_or_prevents_it() {
        let second = Duration::SECOND;
        for (standby_open_since, steps) in [(None, 1), (Some(START + second), 2), (Some(START - second), 0)] {
            let mut journal = journal();
            journal.coverage_lost(START, GapCause::Silence, standby_open_since);
            assert_eq!(journal.gaps.len(), steps, "{standby_open_since:?}");
        }
    }

    #[test]
    fn a_failed_write_waits_again_before_what_has_come_since() {
        let mut journal = journal();
        journal.audit(Entry::new(START, Kind::WsClose));
        assert!(journal.finish(failed(vec![Entry::new(START, Kind::WsOpen)])).is_err());
        let kinds: Vec<_> = journal.entries.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::WsOpen, Kind::WsClose]);
        assert!(!journal.is_settled());
    }

    #[test]
    fn the_oldest_entries_go_first_when_too_many_wait() {
        let mut journal = journal();
        journal.audit(Entry::new(START, Kind::WsClose));
        assert!(journal.finish(failed(vec![Entry::new(START, Kind::WsOpen); ENTRIES_MAX])).is_err());
        assert_eq!(journal.entries.len(), ENTRIES_MAX);
        assert_eq!(journal.entries.last().map(|entry| entry.kind), Some(Kind::WsClose));
    }
}
