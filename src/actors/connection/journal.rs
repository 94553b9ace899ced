//! What a connection has to write down: its state, its gaps and its audit entries, in order, one write at a time.
//!
//! A write that fails is kept and tried again with all that has come since, so a database that is away loses nothing.

use std::sync::Arc;

use crate::actors::connection::ConnectionActor;
use crate::actors::recorder::Recorder;
use crate::domain::audit::quarantine::Room;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::{AgentId, ProvisioningId};
use crate::store::sources::desired_connections::ConnectionRecord;
use crate::store::sources::gap_tracking::{GapStep, Watcher};
use crate::store::{Store, StoreError};

/// Audit entries that wait for the database at most; the oldest go first, with a log line.
const ENTRIES_MAX: usize = 1000;

/// What waits, and whether a write is under way.
pub struct Journal {
    watcher: Watcher,
    entries: Vec<Entry>,
    gaps: Vec<GapStep>,
    /// Requests for a connection that were answered.
    answered: Vec<ProvisioningId>,
    /// Something, if only the state, is not written down.
    unsaved: bool,
    writing: bool,
}

/// A write that came back, with what it tried to write.
pub struct Written {
    result: Result<(), StoreError>,
    entries: Vec<Entry>,
    gaps: Vec<GapStep>,
    answered: Vec<ProvisioningId>,
}

impl Journal {
    /// An empty journal of one connection.
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

    /// From now on these agents are watched.
    pub fn watch(&mut self, agents: Arc<Vec<AgentId>>) {
        self.watcher.agents = agents;
    }

    /// An entry to be written, about this connection.
    pub fn tell(&mut self, mut entry: Entry) {
        entry.source_id = Some(self.watcher.source_id);
        entry.connection_id = Some(self.watcher.connection_id);
        entry.agent_id = self.watcher.only_agent().cloned();
        self.entries.push(entry);
        self.unsaved = true;
    }

    /// A step of sight lost or found.
    pub fn gap(&mut self, step: GapStep) {
        self.gaps.push(step);
        self.unsaved = true;
    }

    /// A request for a connection was answered: what came of it is in the state that is written next.
    pub fn answered(&mut self, id: ProvisioningId) {
        self.answered.push(id);
        self.unsaved = true;
    }

    /// The state has changed.
    pub fn save(&mut self) {
        self.unsaved = true;
    }

    /// Everything is written down.
    pub fn is_settled(&self) -> bool {
        !self.unsaved && !self.writing
    }

    /// The next write, with the state as it is now; `None` if there is nothing to write or one is under way.
    pub fn next_write(
        &mut self,
        store: Store,
        recorder: Recorder,
        state: ConnectionRecord,
    ) -> Option<impl Future<Output = Written> + use<>> {
        if self.writing || !self.unsaved {
            return None;
        }
        (self.writing, self.unsaved) = (true, false);
        let (entries, gaps) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.gaps));
        let (watcher, answered) = (self.watcher.clone(), std::mem::take(&mut self.answered));
        Some(async move {
            // Where a gap begins, everything before is stored: else a crash now would lose a frame without a word.
            let result = if recorder.flushed().await {
                store.write_connection(&watcher, &state, &gaps, &answered, &entries).await
            } else {
                Err(StoreError::Conflict("presence changes before it are not stored yet".to_owned()))
            };
            Written { result, entries, gaps, answered }
        })
    }

    /// Takes a write back in.
    ///
    /// # Errors
    /// If it failed; what it tried to write waits again, before what has come since.
    pub fn written(&mut self, written: Written) -> Result<(), StoreError> {
        self.writing = false;
        let Written { result, mut entries, mut gaps, mut answered } = written;
        if result.is_ok() {
            return Ok(());
        }
        entries.append(&mut self.entries);
        gaps.append(&mut self.gaps);
        answered.append(&mut self.answered);
        if entries.len() > ENTRIES_MAX {
            let lost = entries.len() - ENTRIES_MAX;
            tracing::error!(
                lost,
                "audit entries of a connection are lost: the database has been away for too long"
            );
            entries.drain(..lost);
        }
        (self.entries, self.gaps, self.answered, self.unsaved) = (entries, gaps, answered, true);
        result
    }
}

impl ConnectionActor {
    /// Writes an entry down; of odd content only as much as there is room for.
    pub(super) fn tell(&mut self, entry: Entry) {
        let room = match entry.kept {
            Some(_) => self.deps.store.room_in_quarantine(self.assignment.source_id, entry.at),
            None => Room::Free,
        };
        if room == Room::Free {
            return self.journal.tell(entry);
        }
        self.deps.metrics.quarantine_withheld.inc();
        if room == Room::JustFull {
            let told =
                Entry::new(entry.at, Kind::FrameRejected).level(Level::Warn).data("reason", "too_many");
            self.journal.tell(told);
        }
    }
}
