//! What a standby link reports before it takes over, in order, without what other links reported meanwhile.
//! Pure.
//!
//! Two links report the same changes for a while, and the active one may be behind: its report would come too
//! late if the standby's were recorded first. So the standby's changes wait here until the active link's
//! socket has ended.

use std::collections::{HashMap, VecDeque};

use time::OffsetDateTime;

use crate::domain::ids::AgentId;
use crate::domain::presence::agent_state::AgentState;
use crate::domain::presence::merge::{Merged, Seen};
use crate::domain::presence::{Origin, PresenceChange};

/// Changes that wait at most.
const CHANGES_MAX: usize = 16_384;
/// Bytes of their frames at most.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Each time that another 4096 changes wait, those that were seen meanwhile are dropped: a hand-over may last
/// long.
const PRUNE_EVERY: usize = 4096;

/// Changes that wait for a hand-over.
#[derive(Default)]
pub struct HandoverBuffer {
    changes: VecDeque<PresenceChange>,
    bytes: usize,
    /// Each agent's state by what was recorded since this buffer began.
    seen_meanwhile: HashMap<AgentId, AgentState>,
}

/// The buffer has no room: the change is lost unless the agents' states are read again.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// One change that leaves the buffer.
#[derive(Debug)]
pub enum Released {
    /// It says more than what was seen meanwhile.
    New(Box<PresenceChange>),
    /// Another link reported it, or something newer.
    Seen,
}

impl HandoverBuffer {
    /// Adds a change at the end.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn push(&mut self, change: PresenceChange) -> Result<(), Full> {
        if self.changes.len() >= CHANGES_MAX || self.bytes + change.raw.len() > BYTES_MAX {
            return Err(Full);
        }
        self.bytes += change.raw.len();
        self.changes.push_back(change);
        if self.changes.len().is_multiple_of(PRUNE_EVERY) {
            self.prune();
        }
        Ok(())
    }

    /// Another link's change was recorded.
    pub fn saw(&mut self, change: &PresenceChange) {
        self.is_new(change);
    }

    /// Takes out the oldest change; `None` if the buffer is empty.
    pub fn release(&mut self) -> Option<Released> {
        let change = self.changes.pop_front()?;
        self.bytes -= change.raw.len();
        Some(if self.is_new(&change) { Released::New(Box::new(change)) } else { Released::Seen })
    }

    /// Puts back a change that was released and could not be recorded.
    pub fn put_back(&mut self, change: PresenceChange) {
        self.seen_meanwhile.remove(&change.agent_id);
        self.bytes += change.raw.len();
        self.changes.push_front(change);
    }

    /// When the oldest change was received; `None` if the buffer is empty.
    #[must_use]
    pub fn oldest_at(&self) -> Option<OffsetDateTime> {
        self.changes.front().map(|change| change.received_at)
    }

    /// Whether a change says more than what was seen; from now on it is seen.
    fn is_new(&mut self, change: &PresenceChange) -> bool {
        let Some(state) = &change.state else { return true };
        let known = self.seen_meanwhile.entry(change.agent_id.clone()).or_default();
        matches!(known.merge(state, seen(change)), Merged::Changed(_))
    }

    /// Drops what was seen meanwhile.
    fn prune(&mut self) {
        let known = &self.seen_meanwhile;
        self.changes.retain(|change| match (known.get(&change.agent_id), &change.state) {
            (Some(known), Some(state)) => {
                matches!(known.clone().merge(state, seen(change)), Merged::Changed(_))
            }
            _ => true,
        });
        self.bytes = self.changes.iter().map(|change| change.raw.len()).sum();
    }
}

fn seen(change: &PresenceChange) -> Seen {
    Seen { origin: Origin::Live, at: change.received_at, known_at: None }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use time::Duration;
    use time::macros::datetime;

    use super::*;
    use crate::domain::ids::{ConnectionId, EventId, SourceId};
    use crate::domain::presence::agent_state::Timed;

    const START: OffsetDateTime = datetime!(2026-11-24 09:00 UTC);

    fn change(agent: &str, status: &str, second: i64, bytes: usize) -> PresenceChange {
        let at = START + Duration::seconds(second);
        let routing = Timed::new(status.to_owned(), Some(at));
        PresenceChange {
            event_id: EventId::generate(),
            source_id: SourceId::generate(),
            source_name: "default".to_owned(),
            connection_id: ConnectionId::generate(),
            agent_id: AgentId(agent.to_owned()),
            topic: "t".to_owned(),
            presence: None,
            state: Some(AgentState { routing: Some(routing), ..AgentState::default() }),
            occurred_at: None,
            received_at: at,
            origin: Origin::Live,
            raw: Bytes::from(vec![b'x'; bytes]),
        }
    }

    /// Agents and seconds of all that is released; what was seen meanwhile is left out.
    fn release_all(buffer: &mut HandoverBuffer) -> Vec<(String, i64)> {
        let mut released = Vec::new();
        while let Some(next) = buffer.release() {
            if let Released::New(change) = next {
                released.push((change.agent_id.0, (change.received_at - START).whole_seconds()));
            }
        }
        released
    }

    fn pairs_of(pairs: &[(&str, i64)]) -> Vec<(String, i64)> {
        pairs.iter().map(|(agent, second)| ((*agent).to_owned(), *second)).collect()
    }

    #[test]
    fn all_is_released_in_order() {
        let mut buffer = HandoverBuffer::default();
        for (agent, status, second) in [("ann", "IDLE", 1), ("bob", "IDLE", 2), ("ann", "INTERACTING", 3)] {
            buffer.push(change(agent, status, second, 10)).unwrap();
        }
        assert_eq!(buffer.oldest_at(), Some(START + Duration::seconds(1)));
        assert_eq!(release_all(&mut buffer), pairs_of(&[("ann", 1), ("bob", 2), ("ann", 3)]));
        assert_eq!((buffer.oldest_at(), buffer.bytes), (None, 0));
    }

    #[test]
    fn changes_seen_meanwhile_are_dropped_and_newer_ones_are_not() {
        let mut buffer = HandoverBuffer::default();
        buffer.push(change("ann", "IDLE", 1, 10)).unwrap();
        buffer.push(change("bob", "IDLE", 1, 10)).unwrap();
        buffer.saw(&change("ann", "IDLE", 1, 10));
        buffer.saw(&change("ann", "INTERACTING", 2, 10));
        buffer.push(change("ann", "INTERACTING", 2, 10)).unwrap();
        buffer.push(change("ann", "IDLE", 3, 10)).unwrap();
        assert_eq!(release_all(&mut buffer), pairs_of(&[("bob", 1), ("ann", 3)]));
    }

    #[test]
    fn a_change_that_tells_no_state_is_always_new() {
        let mut buffer = HandoverBuffer::default();
        let stateless = PresenceChange { state: None, ..change("ann", "", 1, 10) };
        buffer.saw(&stateless);
        buffer.push(stateless).unwrap();
        assert_eq!(release_all(&mut buffer), pairs_of(&[("ann", 1)]));
    }

    #[test]
    fn a_change_put_back_is_released_first_and_once() {
        let mut buffer = HandoverBuffer::default();
        buffer.push(change("ann", "IDLE", 1, 10)).unwrap();
        buffer.push(change("ann", "IDLE", 1, 10)).unwrap();
        buffer.push(change("bob", "IDLE", 2, 10)).unwrap();
        let Some(Released::New(first)) = buffer.release() else { panic!("nothing was released") };
        buffer.put_back(*first);
        assert_eq!(buffer.bytes, 30);
        assert_eq!(release_all(&mut buffer), pairs_of(&[("ann", 1), ("bob", 2)]));
    }

    #[test]
    fn changes_beyond_the_limits_are_refused() {
        let mut buffer = HandoverBuffer::default();
        for second in 0..i64::try_from(CHANGES_MAX).unwrap() {
            buffer.push(change("ann", "IDLE", second, 0)).unwrap();
        }
        assert_eq!(buffer.push(change("ann", "IDLE", 99_999, 0)), Err(Full), "too many");

        let mut buffer = HandoverBuffer::default();
        for second in 0..16 {
            buffer.push(change("ann", "IDLE", second, BYTES_MAX / 16)).unwrap();
        }
        assert_eq!(buffer.push(change("ann", "IDLE", 16, 1)), Err(Full), "too large");
        assert!(buffer.release().is_some());
        buffer.push(change("ann", "IDLE", 16, 1)).unwrap();
    }

    #[test]
    fn a_long_hand_over_does_not_fill_the_buffer_with_what_was_seen() {
        let mut buffer = HandoverBuffer::default();
        for second in 0..i64::try_from(CHANGES_MAX).unwrap() * 2 {
            let change = change("ann", if second % 2 == 0 { "IDLE" } else { "INTERACTING" }, second, 10);
            buffer.saw(&change);
            buffer.push(change).unwrap();
        }
        assert!(buffer.changes.len() < PRUNE_EVERY, "{}", buffer.changes.len());
        assert_eq!(buffer.bytes, buffer.changes.len() * 10);
    }
}
