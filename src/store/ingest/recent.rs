//! What this process has committed and sent in the last minute: enough to store it again if a failover has lost
//! it, and to send the same bytes (docs/adr/0057).

use std::collections::{HashSet, VecDeque};
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::clock;
use crate::domain::erasure::ErasureAsked;
use crate::domain::ids::{AgentId, DeliveryId, EventId, SourceId};
use crate::domain::presence::EventKind;
use crate::domain::presence::numbering::Agent;
use crate::domain::webhook::fan_out::NewEvent;
use crate::store::delivery::types::Claimed;

/// How long a write is kept.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Bytes that all kept writes may take, by estimate.
const BYTES_MAX: usize = 24 * 1024 * 1024;
/// First POSTs that are kept: in 8 MiB.
const SENT_MAX: usize = 200_000;
/// What an event and an agent take besides their frame: names, topics, parts of a state.
const TEXTS: usize = 512;

/// An agent as a write left it, with the names that a database without it knows it by.
pub(super) type AgentAfter = ((SourceId, AgentId), Agent);

/// Key of an event's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventKey {
    pub(super) event_id: EventId,
    pub(super) received_at: OffsetDateTime,
}

impl EventKey {
    pub(super) fn of(new: &NewEvent) -> Self {
        Self { event_id: new.event.event_id, received_at: new.event.received_at }
    }
}

/// Events of one transaction, in order of position.
#[derive(Clone, Default)]
pub(super) struct Write {
    pub(super) events: Vec<NewEvent>,
    /// The agents of these events.
    pub(super) agents: Arc<Vec<AgentAfter>>,
}

impl Write {
    /// A write of these events. Snapshots are left out: the progress of theirs goes back with them, and they
    /// are written again.
    pub(super) fn of(events: &[NewEvent]) -> Self {
        let numbered = events.iter().filter(|new| new.event.kind != EventKind::PresenceSnapshot);
        Self { events: numbered.cloned().collect(), agents: Arc::default() }
    }

    fn bytes(&self) -> usize {
        let events = self.events.iter().map(|new| size_of::<NewEvent>() + TEXTS * 2 + new.event.raw.len());
        events.sum::<usize>() + self.agents.len() * (size_of::<AgentAfter>() + TEXTS)
    }
}

/// What the body of a delivery has had of its own since its first POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) delivery_id: DeliveryId,
    pub(super) sent_at: OffsetDateTime,
    pub(super) superseded: i32,
}

#[derive(Default)]
struct Kept {
    writes: VecDeque<(Instant, usize, Arc<Write>)>,
    bytes: usize,
    sent: VecDeque<Sent>,
    erasures: VecDeque<(Instant, ErasureAsked)>,
    /// The last event that is not kept any more, or was stored before this process began; `None`: there is
    /// none.
    before: Option<EventKey>,
}

impl Kept {
    fn forget_oldest(&mut self) {
        let Some((_, bytes, write)) = self.writes.pop_front() else { return };
        self.bytes -= bytes;
        self.before = write.events.last().map(EventKey::of).or(self.before);
    }

    fn forget_old(&mut self, now: Instant) {
        while self.bytes > BYTES_MAX
            || self.writes.front().is_some_and(|(at, ..)| now.saturating_duration_since(*at) > KEPT_FOR)
        {
            self.forget_oldest();
        }
        self.erasures.retain(|(at, _)| now.saturating_duration_since(*at) <= KEPT_FOR);
        let is_old = |sent: &Sent| clock::now() - sent.sent_at > KEPT_FOR;
        while self.sent.len() > SENT_MAX || self.sent.front().is_some_and(is_old) {
            self.sent.pop_front();
        }
        if self.sent.len() * 4 < self.sent.capacity() {
            self.sent.shrink_to(self.sent.len() * 2);
        }
    }
}

/// The writes of the last minute. Clones share them.
#[derive(Clone, Default)]
pub struct RecentWrites(Arc<Mutex<Kept>>);

impl std::fmt::Debug for RecentWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecentWrites({} bytes)", self.lock().bytes)
    }
}

/// What was committed last, as far as it is kept.
pub(super) struct Recent {
    /// In the order of their positions, each event once.
    pub(super) writes: Vec<Arc<Write>>,
    pub(super) before: Option<EventKey>,
}

impl RecentWrites {
    /// Keeps a write that is committed, or may be.
    pub(super) fn keep(&self, write: Write, now: Instant) {
        let mut kept = self.lock();
        if !write.events.is_empty() {
            let bytes = write.bytes();
            kept.bytes += bytes;
            kept.writes.push_back((now, bytes, Arc::new(write)));
        }
        kept.forget_old(now);
    }

    /// Keeps what the bodies of deliveries have of their own that are about to be sent for the first time.
    pub(in crate::store) fn keep_sent<'a>(&self, claimed: impl Iterator<Item = &'a Claimed>) {
        self.lock().sent.extend(claimed.filter(|claimed| claimed.attempt == 1).map(|claimed| Sent {
            delivery_id: claimed.delivery_id,
            sent_at: claimed.sent_at,
            superseded: claimed.superseded,
        }));
    }

    /// Keeps a request that is committed.
    pub(in crate::store) fn keep_erasure(&self, asked: ErasureAsked) {
        self.lock().erasures.push_back((Instant::now(), asked));
    }

    /// The requests of the last minute.
    pub(in crate::store) fn erasures(&self) -> Vec<ErasureAsked> {
        self.lock().erasures.iter().map(|(_, asked)| asked.clone()).collect()
    }

    /// The first POSTs of the last minute.
    pub(super) fn sent(&self) -> Vec<Sent> {
        self.lock().sent.iter().copied().collect()
    }

    /// For each of these deliveries, whether this process has sent it in the last minute.
    pub(in crate::store) fn have_been_sent(&self, deliveries: &[DeliveryId]) -> Vec<bool> {
        let kept = self.lock();
        let sent: HashSet<_> = kept.sent.iter().map(|sent| sent.delivery_id).collect();
        deliveries.iter().map(|delivery| sent.contains(delivery)).collect()
    }

    /// Gives back what is not kept any more.
    pub(in crate::store) fn forget_old(&self, now: Instant) {
        self.lock().forget_old(now);
    }

    /// Nothing before this event is known to this process.
    pub(super) fn begin_behind(&self, last: Option<EventKey>) {
        let mut kept = self.lock();
        (kept.writes, kept.bytes, kept.before) = (VecDeque::new(), 0, last);
    }

    /// What is kept at this moment. A write that was tried again counts as it was tried last.
    pub(super) fn get(&self) -> Recent {
        let kept = self.lock();
        let (mut seen, mut writes) = (HashSet::new(), Vec::with_capacity(kept.writes.len()));
        for (_, _, write) in kept.writes.iter().rev() {
            let is_new: Vec<bool> = write.events.iter().map(|new| seen.insert(new.event.event_id)).collect();
            if is_new.iter().all(|new| *new) {
                writes.push(write.clone());
            } else {
                let events = write.events.iter().zip(is_new).filter(|(_, new)| *new);
                let events: Vec<_> = events.map(|(new, _)| new.clone()).collect();
                if !events.is_empty() {
                    writes.push(Arc::new(Write { events, agents: write.agents.clone() }));
                }
            }
        }
        // Two that committed at about the same time may have been kept the other way round.
        writes.sort_by_key(|write| write.events.first().map(|new| new.event.position));
        Recent { writes, before: kept.before }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::ids::TenantId;
    use crate::domain::presence::{Event, Origin};

    fn event(kind: EventKind, position: i64, raw: usize) -> NewEvent {
        let event = Event {
            event_id: EventId::generate(),
            kind,
            position,
            source: None,
            agent_id: None,
            sequence: None,
            topic: None,
            presence: None,
            previous: None,
            occurred_at: None,
            received_at: OffsetDateTime::UNIX_EPOCH,
            external_id: None,
            committed_at: None,
            origin: Origin::Live,
            detail: None,
            raw: Bytes::from(vec![b' '; raw]),
            erased_at: None,
        };
        NewEvent { event: Arc::new(event), tenant: TenantId::DEFAULT, agent_key: 1, connection_id: None }
    }

    fn ids(recent: &Recent) -> Vec<EventId> {
        recent.writes.iter().flat_map(|write| &write.events).map(|new| new.event.event_id).collect()
    }

    #[test]
    fn a_write_is_kept_for_a_minute_and_then_its_last_event_is_remembered() {
        let (recent, began) = (RecentWrites::default(), Instant::now());
        let events: Vec<_> = (0..3).map(|n| event(EventKind::PresenceUpdated, n, 10)).collect();
        recent.keep(Write::of(&events[..2]), began);
        recent.keep(Write::of(&events[2..]), began + KEPT_FOR);
        assert_eq!(recent.get().writes.len(), 2);
        assert_eq!(recent.get().before, None);
        recent.keep(Write::default(), began + KEPT_FOR + Duration::from_secs(1));
        assert_eq!(ids(&recent.get()), [events[2].event.event_id]);
        assert_eq!(recent.get().before, Some(EventKey::of(&events[1])));
    }

    #[test]
    fn the_oldest_goes_when_there_is_too_much() {
        let (recent, now) = (RecentWrites::default(), Instant::now());
        let large = |position| event(EventKind::PresenceUpdated, position, BYTES_MAX / 3);
        let events = [large(1), large(2), large(3)];
        for new in &events {
            recent.keep(Write::of(std::slice::from_ref(new)), now);
        }
        assert_eq!(ids(&recent.get()), [events[1].event.event_id, events[2].event.event_id]);
        assert!(recent.lock().bytes <= BYTES_MAX);
    }

    #[test]
    fn what_was_tried_twice_counts_once_and_a_snapshot_not_at_all() {
        let (recent, now) = (RecentWrites::default(), Instant::now());
        let (first, second) =
            (event(EventKind::PresenceUpdated, 1, 1), event(EventKind::PresenceUpdated, 2, 1));
        let uncertain = [first.clone(), second.clone()];
        recent.keep(Write::of(&uncertain), now);
        recent.keep(Write::of(std::slice::from_ref(&second)), now);
        recent.keep(Write::of(&[event(EventKind::PresenceSnapshot, 3, 1)]), now);
        let kept = recent.get();
        assert_eq!(ids(&kept), [first.event.event_id, second.event.event_id]);
        assert_eq!(kept.writes.len(), 2);
    }
}
