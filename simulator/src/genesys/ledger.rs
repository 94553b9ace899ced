//! Every presence change, numbered, with what became of it on the wire.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use time::OffsetDateTime;

/// How far a change got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Queued for a live socket and not yet written.
    Pending,
    /// Written to at least one live socket: the kernel took every byte.
    Written,
    /// Nobody had a live socket for this agent.
    Unwatched,
    /// A socket was there, but it ended or was silent before the frame was written.
    Lost,
}

/// One presence change of one agent.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// Global number, from 1, ascending in time; the frame carries it as `n`.
    pub number: u64,
    pub agent: String,
    pub old: Option<String>,
    pub new: String,
    /// When the agent changed, by the wall clock; the frame's `timestamp`.
    #[serde(serialize_with = "as_rfc3339")]
    pub changed_at: OffsetDateTime,
    /// Taken just before the first byte went to a socket (before the change's own end otherwise).
    #[serde(skip)]
    pub sent: Instant,
    /// Wall clock of the same moment.
    #[serde(serialize_with = "as_rfc3339")]
    pub sent_at: OffsetDateTime,
    pub fate: Fate,
    /// Text of the frame, byte by byte as sent.
    #[serde(serialize_with = "as_text")]
    pub frame: Arc<str>,
    /// Connections whose socket took the whole frame.
    pub connections: Vec<String>,
    /// Sockets that still owe an answer about this change.
    #[serde(skip)]
    pub(super) pending: usize,
}

fn as_rfc3339<S: serde::Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::clock::rfc3339_ms(*at))
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Bounded list of changes, addressed by number.
#[derive(Debug)]
pub(super) struct Ledger {
    changes: VecDeque<Change>,
    capacity: usize,
    last: u64,
    written: u64,
}

impl Ledger {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { changes: VecDeque::new(), capacity, last: 0, written: 0 }
    }

    /// Number of the newest change, 0 before the first.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Changes that reached a socket so far.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Appends a change whose number the caller took from [`Ledger::last`] plus one.
    pub(super) fn append(&mut self, change: Change) {
        self.last = change.number;
        self.changes.push_back(change);
        while self.changes.len() > self.capacity {
            self.changes.pop_front();
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&Change> {
        self.changes.get(self.position(number)?)
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Change> {
        let position = self.position(number)?;
        self.changes.get_mut(position)
    }

    /// Notes that one socket took the frame.
    pub(super) fn written_to(
        &mut self,
        number: u64,
        connection: &str,
        sent: Instant,
        sent_at: OffsetDateTime,
    ) {
        let Some(change) = self.get_mut(number) else {
            return;
        };
        let first = change.fate != Fate::Written;
        if first {
            change.fate = Fate::Written;
            change.sent = sent;
            change.sent_at = sent_at;
        }
        change.connections.push(connection.to_owned());
        change.pending = change.pending.saturating_sub(1);
        if first {
            self.written += 1;
        }
    }

    /// Notes that one socket will never write the frame.
    pub(super) fn lost_on_one(&mut self, number: u64) {
        let Some(change) = self.get_mut(number) else {
            return;
        };
        change.pending = change.pending.saturating_sub(1);
        if change.pending == 0 && change.fate == Fate::Pending {
            change.fate = Fate::Lost;
        }
    }

    /// Changes after the given number, oldest first.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| change.number > number)
    }

    fn position(&self, number: u64) -> Option<usize> {
        let first = self.changes.front()?.number;
        usize::try_from(number.checked_sub(first)?).ok()
    }
}
