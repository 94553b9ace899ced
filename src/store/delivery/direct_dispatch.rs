//! From the writer of an event to the dispatcher in the same process, past the claim: a nudge that says what it is about.
//!
//! It carries no truth. What is handed over stands in `delivery`, held by the dispatcher; if the message is lost with
//! the process, or the dispatcher is another one by then, the row is freed like any that a dead dispatcher held.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::domain::delivery::capacity::DispatchCapacity;
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::domain::presence::Event;
use crate::domain::webhook::fan_out::{NewEvent, Plan};
use crate::store::delivery::types::Claimed;

/// What a writer has to say to the dispatcher.
#[derive(Clone, Debug)]
pub enum DirectDispatch {
    /// A delivery that it holds from birth.
    Leased(Box<Claimed>),
    /// Something stands in a lane behind what was there before. If nothing of that lane is under way, the dispatcher looks
    /// who is first there.
    Blocked {
        /// To whom.
        webhook: WebhookId,
        /// In which lane.
        lane: i64,
    },
    /// Something due was left where it is for want of room: it is claimed when there is some.
    NoRoom {
        /// Whose.
        webhook: WebhookId,
    },
    /// Deliveries that wait for their batch.
    Batched {
        /// To whom.
        webhook: WebhookId,
        /// How many.
        count: usize,
    },
}

/// What was written by transactions that may be committed or not.
#[derive(Debug, Default)]
pub struct Uncertain {
    /// Lanes into which something was put behind others.
    pub lanes: HashSet<(WebhookId, i64)>,
    /// Leased at birth, each with the moment of it.
    pub leased_at_insert: Vec<(DeliveryId, OffsetDateTime)>,
}

impl Uncertain {
    /// Whether there is nothing of the kind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.leased_at_insert.is_empty()
    }
}

#[derive(Debug, Default)]
struct Inner {
    capacity: DispatchCapacity,
    waiting: Vec<DirectDispatch>,
    /// Events that blocked deliveries tell, so that they need not be read again, and their ids, oldest first.
    events: HashMap<EventId, Arc<Event>>,
    kept: VecDeque<EventId>,
    uncertain: Uncertain,
}

impl Inner {
    fn keep(&mut self, events: &[Arc<Event>]) {
        for event in events {
            if self.events.insert(event.event_id, event.clone()).is_none() {
                self.kept.push_back(event.event_id);
            }
        }
        while self.kept.len() > EVENTS_MAX {
            if let Some(oldest) = self.kept.pop_front() {
                self.events.remove(&oldest);
            }
        }
    }
}

/// Events kept for blocked deliveries at most: at 1 KiB each some 8 MiB.
const EVENTS_MAX: usize = 8192;

/// How long a removed webhook is remembered: by then every loop has read that it is gone.
const REMOVED_FOR: Duration = Duration::from_secs(60);

/// Between the writers and the dispatcher of one process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Handoff {
    inner: Arc<Mutex<Inner>>,
    /// Webhooks that were removed a moment ago, and when.
    removed: Arc<Mutex<HashMap<WebhookId, Instant>>>,
    notify: Arc<Notify>,
}

impl Handoff {
    /// What a writer may do now; asked before its transaction.
    #[must_use]
    pub fn capacity(&self) -> DispatchCapacity {
        let inner = self.lock();
        let room = inner.capacity.room.saturating_sub(inner.waiting.len());
        DispatchCapacity { room, ..inner.capacity.clone() }
    }

    /// The dispatcher says whose hands they are now and how many more it can hold.
    pub fn publish_capacity(&self, capacity: DispatchCapacity) {
        self.lock().capacity = capacity;
    }

    /// The dispatcher takes nothing any more; what waits is given to nobody (its rows are freed with the dispatcher).
    pub fn close(&self) {
        let mut inner = self.lock();
        *inner = Inner { uncertain: std::mem::take(&mut inner.uncertain), ..Inner::default() };
    }

    /// A webhook was removed: no POST to it begins from now on.
    pub fn remove(&self, webhook: WebhookId) {
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        removed.retain(|_, at| at.elapsed() < REMOVED_FOR);
        removed.insert(webhook, Instant::now());
    }

    /// Whether a webhook was removed a moment ago, in this process.
    #[must_use]
    pub fn is_removed(&self, webhook: WebhookId) -> bool {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&webhook)
    }

    /// Notes for the dispatcher what a writer has written without knowing whether it is committed.
    pub fn look_into(&self, more: Uncertain) {
        let mut inner = self.lock();
        inner.uncertain.lanes.extend(more.lanes);
        inner.uncertain.leased_at_insert.extend(more.leased_at_insert);
    }

    /// What was noted since.
    #[must_use]
    pub fn take_uncertain(&self) -> Uncertain {
        std::mem::take(&mut self.lock().uncertain)
    }

    /// Hands over after the commit. False if that dispatcher is gone: its rows must be freed.
    #[must_use]
    pub fn hand_over(
        &self,
        capacity: &DispatchCapacity,
        handed: Vec<DirectDispatch>,
        events: &[Arc<Event>],
    ) -> bool {
        if handed.is_empty() {
            return true;
        }
        {
            let mut inner = self.lock();
            if inner.capacity.dispatcher != capacity.dispatcher {
                return capacity.dispatcher.is_none();
            }
            if inner.capacity.dispatcher.is_some() {
                inner.waiting.extend(handed);
                inner.keep(events);
            }
        }
        self.notify.notify_one();
        true
    }

    /// What was handed over since.
    pub fn accept(&self) -> Vec<DirectDispatch> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Waits until something may have been handed over.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }

    /// An event that was written a moment ago, if it is still kept.
    #[must_use]
    pub fn recent_event(&self, id: EventId) -> Option<Arc<Event>> {
        self.lock().events.get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a delivery stands in its lane once it is inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Placement {
    /// Leased to the dispatcher.
    Leased,
    /// Behind an older one that is open.
    Blocked,
    /// To be claimed: now, later, or when its webhook is resumed.
    Due,
}

/// What the dispatcher is told once the plan is committed, and the events that it will need for blocked deliveries.
pub(in crate::store) fn direct_dispatches(
    plan: &Plan,
    events: &[NewEvent],
    placements: &HashMap<DeliveryId, Placement>,
    now: OffsetDateTime,
) -> (Vec<DirectDispatch>, Vec<Arc<Event>>) {
    let (mut handed, mut kept, mut collecting) = (Vec::new(), Vec::new(), HashMap::new());
    let mut left = HashSet::new();
    for planned in &plan.deliveries {
        let Some(new) = events.get(planned.event) else { continue };
        if planned.batched {
            *collecting.entry(planned.webhook_id).or_insert(0_usize) += 1;
            continue;
        }
        match placements.get(&planned.delivery_id) {
            Some(Placement::Leased) => handed.push(DirectDispatch::Leased(Box::new(Claimed {
                delivery_id: planned.delivery_id,
                webhook_id: planned.webhook_id,
                webhook_version: planned.webhook_version,
                lane: planned.lane,
                attempt: 1,
                superseded: planned.superseded,
                sent_at: now,
                format: planned.format,
                event_id: new.event.event_id,
                event: Some(new.event.clone()),
                has_newer_state: false,
            }))),
            Some(Placement::Blocked) => {
                if planned.first {
                    handed.push(DirectDispatch::Blocked { webhook: planned.webhook_id, lane: planned.lane });
                }
                kept.push(new.event.clone());
            }
            Some(Placement::Due) | None => {
                if planned.left {
                    left.insert(planned.webhook_id);
                }
            }
        }
    }
    handed.extend(left.into_iter().map(|webhook| DirectDispatch::NoRoom { webhook }));
    handed.extend(collecting.into_iter().map(|(webhook, count)| DirectDispatch::Batched { webhook, count }));
    (handed, kept)
}
