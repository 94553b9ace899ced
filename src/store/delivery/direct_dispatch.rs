//! Direct dispatch: the writer of events leases deliveries to the dispatcher of its process as it inserts
//! them, and tells it of them after the commit, so that they need no claim.
//!
//! The message carries no state of its own. The row in `delivery` says that it is leased; if the message is
//! lost with the process, or the dispatcher is another one by then, the lease is released like any of a dead
//! dispatcher.

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

/// Message of a writer to the dispatcher.
#[derive(Clone, Debug)]
pub enum DirectDispatch {
    /// A delivery that is leased to it.
    Leased(Box<Claimed>),
    /// A lane whose new delivery is blocked. If the dispatcher has nothing of that lane under way, it
    /// promotes the head.
    Blocked {
        /// Webhook of the lane.
        webhook: WebhookId,
        /// `agent_key`, or 0.
        lane: i64,
    },
    /// Deliveries that are due and not leased, because there was no room: a claim takes them when there is.
    NoRoom {
        /// Webhook without room.
        webhook: WebhookId,
    },
    /// Deliveries that wait for their batch.
    Batched {
        /// Webhook that takes batches.
        webhook: WebhookId,
        /// Number of deliveries.
        count: usize,
    },
}

/// Writes of transactions whose commit outcome is unknown.
#[derive(Debug, Default)]
pub struct Uncertain {
    /// Lanes with a delivery that was inserted as blocked.
    pub lanes: HashSet<(WebhookId, i64)>,
    /// Deliveries leased at insert, each with its time.
    pub leased_at_insert: Vec<(DeliveryId, OffsetDateTime)>,
}

impl Uncertain {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.leased_at_insert.is_empty()
    }
}

#[derive(Debug, Default)]
struct Inner {
    capacity: DispatchCapacity,
    waiting: Vec<DirectDispatch>,
    /// Events of blocked deliveries, so that they need not be read again, and their ids, oldest first.
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
    /// Lanes of agents whose person was erased, each with the position before which nothing is sent any more.
    erased: Arc<Mutex<HashMap<i64, i64>>>,
    notify: Arc<Notify>,
}

impl Handoff {
    /// Room for deliveries that a writer may lease now; it asks before its transaction.
    #[must_use]
    pub fn capacity(&self) -> DispatchCapacity {
        let inner = self.lock();
        let room = inner.capacity.room.saturating_sub(inner.waiting.len());
        DispatchCapacity { room, ..inner.capacity.clone() }
    }

    /// The dispatcher says who it is and how many more deliveries it can take.
    pub fn publish_capacity(&self, capacity: DispatchCapacity) {
        self.lock().capacity = capacity;
    }

    /// The dispatcher accepts nothing any more. Waiting messages are dropped; the end of the dispatcher
    /// releases their leases.
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

    /// Webhooks that were removed a moment ago, in this process.
    #[must_use]
    pub fn removed(&self) -> Vec<WebhookId> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// The database does not know any more that these were removed before a time.
    pub fn put_back(&self, webhooks: &[WebhookId], removed_before: Instant) {
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        removed.retain(|webhook, at| *at >= removed_before || !webhooks.contains(webhook));
    }

    /// The person behind an agent was erased: no POST of an event before this position begins from now on.
    pub fn erase(&self, lane: i64, before_position: i64) {
        let mut erased = self.erased.lock().unwrap_or_else(PoisonError::into_inner);
        let before = erased.entry(lane).or_default();
        if *before >= before_position {
            return;
        }
        *before = before_position;
        drop(erased);
        // Which of the kept events are about it need not be known: they are read again.
        let mut inner = self.lock();
        inner.events.clear();
        inner.kept.clear();
    }

    /// Whether the person behind an agent was erased after an event of this position.
    #[must_use]
    pub fn is_erased(&self, lane: i64, position: i64) -> bool {
        let erased = self.erased.lock().unwrap_or_else(PoisonError::into_inner);
        erased.get(&lane).is_some_and(|before| position < *before)
    }

    /// A writer reports writes whose commit outcome is unknown.
    pub fn look_into(&self, more: Uncertain) {
        let mut inner = self.lock();
        inner.uncertain.lanes.extend(more.lanes);
        inner.uncertain.leased_at_insert.extend(more.leased_at_insert);
    }

    /// Reports since the last call.
    #[must_use]
    pub fn take_uncertain(&self) -> Uncertain {
        std::mem::take(&mut self.lock().uncertain)
    }

    /// Sends messages to the dispatcher, after the commit. False if that dispatcher is gone: its leases must
    /// be released.
    #[must_use]
    pub fn hand_over(
        &self,
        capacity: &DispatchCapacity,
        messages: Vec<DirectDispatch>,
        events: &[Arc<Event>],
    ) -> bool {
        if messages.is_empty() {
            return true;
        }
        {
            let mut inner = self.lock();
            if inner.capacity.dispatcher != capacity.dispatcher {
                return capacity.dispatcher.is_none();
            }
            if inner.capacity.dispatcher.is_some() {
                inner.waiting.extend(messages);
                inner.keep(events);
            }
        }
        self.notify.notify_one();
        true
    }

    /// Messages since the last call.
    pub fn accept(&self) -> Vec<DirectDispatch> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Waits until there may be messages.
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

/// Messages to the dispatcher once the plan is committed, and the events of blocked deliveries.
pub(in crate::store) fn direct_dispatches(
    plan: &Plan,
    events: &[NewEvent],
    placements: &HashMap<DeliveryId, Placement>,
    now: OffsetDateTime,
) -> (Vec<DirectDispatch>, Vec<Arc<Event>>) {
    let (mut messages, mut kept, mut batched) = (Vec::new(), Vec::new(), HashMap::new());
    let mut without_room = HashSet::new();
    for planned in &plan.deliveries {
        let Some(new) = events.get(planned.event) else { continue };
        if planned.batched {
            *batched.entry(planned.webhook_id).or_insert(0_usize) += 1;
            continue;
        }
        match placements.get(&planned.delivery_id) {
            Some(Placement::Leased) => messages.push(DirectDispatch::Leased(Box::new(Claimed {
                delivery_id: planned.delivery_id,
                webhook_id: planned.webhook_id,
                webhook_version: planned.webhook_version,
                lane: planned.lane,
                attempt: 1,
                halvings: 0,
                superseded: planned.superseded,
                sent_at: now,
                format: planned.format,
                event_id: new.event.event_id,
                event: Some(new.event.clone()),
                has_newer_state: false,
            }))),
            Some(Placement::Blocked) => {
                if planned.first {
                    messages
                        .push(DirectDispatch::Blocked { webhook: planned.webhook_id, lane: planned.lane });
                }
                kept.push(new.event.clone());
            }
            Some(Placement::Due) | None => {
                if planned.left {
                    without_room.insert(planned.webhook_id);
                }
            }
        }
    }
    messages.extend(without_room.into_iter().map(|webhook| DirectDispatch::NoRoom { webhook }));
    messages.extend(batched.into_iter().map(|(webhook, count)| DirectDispatch::Batched { webhook, count }));
    (messages, kept)
}
