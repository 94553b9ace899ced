//! Where connections hand in what they saw: a bounded queue, emptied by group commit.

use tokio::sync::mpsc;

use crate::domain::presence::PresenceChange;

/// The queue is full: the database is away or too slow. The caller drops its socket on purpose and reports a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("presence changes come faster than they can be stored")]
pub struct QueueFull;

/// Hands changes in, in order. Clones feed the same queue.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<PresenceChange>,
}

impl Recorder {
    /// Hands one change in without waiting. What was taken is kept until it is committed, however long that takes.
    ///
    /// # Errors
    /// [`QueueFull`] if it cannot be taken; it has not been kept then.
    pub fn try_record(&self, change: PresenceChange) -> Result<(), QueueFull> {
        self.queue.try_send(change).map_err(|_| QueueFull)
    }
}
