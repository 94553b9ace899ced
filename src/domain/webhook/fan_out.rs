//! Plans the deliveries of new events: which webhooks get one, which waiting states it supersedes, and
//! whether it begins leased to the dispatcher. `store/ingest/write.rs` inserts the plan.

use std::collections::HashMap;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::domain::audit::{Entry, Kind};
use crate::domain::delivery::capacity::DispatchCapacity;
use crate::domain::delivery::outcome::EndState;
use crate::domain::delivery::settings::{Format, Mode};
use crate::domain::delivery::slots::WINDOW_UNPROVEN;
use crate::domain::ids::{ConnectionId, DeliveryId, EventId, TenantId, WebhookId};
use crate::domain::presence::{Detail, Event, EventKind};
use crate::domain::webhook::filter_index::Filters;
use crate::domain::webhook::filter_key::Key;
use crate::domain::webhook::matching::{Facts, Subscription};
use crate::domain::webhook::transition::transitions_of;

/// An event about to be written.
#[derive(Clone)]
pub struct NewEvent {
    pub event: Arc<Event>,
    pub tenant: TenantId,
    pub agent_key: i64,
    pub connection_id: Option<ConnectionId>,
}

impl NewEvent {
    /// What filters look at; `None` if the event is about no source.
    pub fn facts(&self) -> Option<Facts> {
        let event = &self.event;
        let told = match &event.detail {
            Some(Detail::Agent(told)) => Some(told),
            _ => None,
        };
        let queues = told.iter().flat_map(|told| told.state.active_queues().iter().chain(&told.left_queues));
        let routing = told.and_then(|told| told.state.routing.as_ref());
        let transitions = transitions_of(event.previous.as_deref(), event.presence.as_deref());
        Some(Facts {
            tenant: self.tenant,
            source: event.source.as_ref()?.0,
            agent: Key::of(event.agent_id.as_ref().map_or("", |id| id.0.as_str())),
            external_id: event.external_id.as_deref().map(Key::of),
            topic: event.topic.as_deref().map(Key::of),
            presence: event.presence.as_deref().map(Key::of),
            queues: queues.map(|queue| Key::of(queue)).collect(),
            routing_status: routing.map(|routing| Key::of(&routing.value)),
            transitions: transitions.iter().map(|name| Key::of(name)).collect(),
        })
    }
}

/// A delivery about to be written.
pub struct PlannedDelivery {
    pub delivery_id: DeliveryId,
    pub webhook_id: WebhookId,
    pub webhook_version: i64,
    pub lane: i64,
    /// Index of its event, and its id.
    pub event: usize,
    pub event_id: EventId,
    /// Nothing of this plan stands before it in its lane.
    pub first: bool,
    /// When it may be sent if it is the first of its lane; `None`: its webhook is paused.
    pub due_at: Option<OffsetDateTime>,
    /// The dispatcher leases it as it is inserted, if it is the first of its lane.
    pub leased: bool,
    /// The dispatcher would, but has no capacity left for its webhook.
    pub left: bool,
    /// It waits for a batch, whatever stands before it.
    pub batched: bool,
    pub not_before: Option<OffsetDateTime>,
    pub superseded: i32,
    pub is_state: bool,
    /// What its POST looks like if it leaves at once.
    pub format: Format,
}

/// A lane in which waiting deliveries are superseded.
pub struct SupersededLane {
    pub webhook_id: WebhookId,
    pub lane: i64,
    /// Only those whose debounce ends after this time; `None`: all that wait.
    pub debounced_at: Option<OffsetDateTime>,
    /// The delivery that takes their place; `None` if nobody gets one.
    pub to: Option<DeliveryId>,
}

/// The deliveries of some events.
#[derive(Default)]
pub struct Plan {
    pub deliveries: Vec<PlannedDelivery>,
    pub superseded_lanes: Vec<SupersededLane>,
    /// Audit entries of deliveries that were superseded within the plan.
    pub entries: Vec<Entry>,
    /// Number of deliveries of each event, including those superseded within the plan.
    pub deliveries_per_event: Vec<i64>,
}

/// Whether a webhook wants an event.
pub type Wants = fn(&Subscription, EventKind, &Facts) -> bool;

/// Plans the deliveries of events, in their order.
pub fn plan(
    events: &[NewEvent],
    filters: &Filters,
    wants: Wants,
    published: &DispatchCapacity,
    now: OffsetDateTime,
) -> Plan {
    let mut planning = Planning {
        plan: Plan::default(),
        lanes: HashMap::new(),
        capacity: CapacityLeft::of(published),
        published,
        now,
    };
    for (index, new) in events.iter().enumerate() {
        planning.plan.deliveries_per_event.push(0);
        let event = &new.event;
        let Some(facts) = new.facts() else { continue };
        for subscription in filters.concerned(&facts) {
            let wanted = wants(subscription, event.kind, &facts);
            if wanted {
                planning.plan_delivery(index, new, subscription);
            } else if !subscription.min_dwell.is_zero()
                && event.kind == EventKind::PresenceUpdated
                && !subscription.stands_after(&facts)
            {
                planning.supersede_debounced(new, subscription, None);
            }
        }
    }
    let gone: Vec<usize> = planning.lanes.values().flat_map(|lane| lane.gone.iter().copied()).collect();
    planning.plan.leave_out(gone);
    planning.plan
}

#[derive(Default)]
struct LanePlan {
    /// Indexes of the lane's deliveries that stand.
    standing: Vec<usize>,
    /// Indexes of those that were superseded.
    gone: Vec<usize>,
    /// Index into `superseded_lanes` of the lane's line without a time.
    superseded_lanes: Option<usize>,
}

struct Planning<'a> {
    plan: Plan,
    lanes: HashMap<(WebhookId, i64), LanePlan>,
    capacity: CapacityLeft<'a>,
    published: &'a DispatchCapacity,
    now: OffsetDateTime,
}

/// The dispatcher's capacity that the plan has not used yet.
struct CapacityLeft<'a> {
    published: &'a DispatchCapacity,
    all: usize,
    unproven: usize,
    taken: HashMap<WebhookId, usize>,
}

impl<'a> CapacityLeft<'a> {
    fn of(published: &'a DispatchCapacity) -> Self {
        Self { published, all: published.room, unproven: published.unproven, taken: HashMap::new() }
    }

    /// Whether the dispatcher shares out places of a webhook by what it is known to be, and not by what it
    /// has.
    fn is_unproven(&self, webhook: WebhookId) -> bool {
        !self.published.rooms.contains_key(&webhook) && !self.published.proven.contains(&webhook)
    }

    /// Takes a place, if there is one.
    fn try_use(&mut self, webhook: WebhookId) -> bool {
        let is_unproven = self.is_unproven(webhook);
        let others = if is_unproven { WINDOW_UNPROVEN } else { self.published.others };
        let most = self.published.rooms.get(&webhook).copied().unwrap_or(others);
        let taken = self.taken.entry(webhook).or_insert(0);
        if self.all == 0 || *taken >= most || (is_unproven && self.unproven == 0) {
            return false;
        }
        *taken += 1;
        self.all -= 1;
        self.unproven -= usize::from(is_unproven);
        true
    }

    /// Gives a place back.
    fn put_back(&mut self, webhook: WebhookId) {
        self.all += 1;
        self.unproven += usize::from(self.is_unproven(webhook));
        if let Some(taken) = self.taken.get_mut(&webhook) {
            *taken = taken.saturating_sub(1);
        }
    }
}

impl Planning<'_> {
    fn plan_delivery(&mut self, index: usize, new: &NewEvent, subscription: &Subscription) {
        let event = &new.event;
        let delivery_id = DeliveryId::of(event.event_id, subscription.webhook_id);
        let is_state = matches!(event.kind, EventKind::PresenceUpdated | EventKind::PresenceSnapshot);
        let mut superseded = 0;
        if !subscription.min_dwell.is_zero() && is_state {
            superseded += self.supersede_debounced(new, subscription, Some(delivery_id));
        }
        if subscription.mode == Mode::Latest && is_state {
            superseded += self.supersede_waiting(new, subscription, delivery_id);
        }
        // Even if it has passed: the next state of the same plan says whether this one lasted that long.
        let not_before = (!subscription.min_dwell.is_zero() && event.kind == EventKind::PresenceUpdated)
            .then(|| event.received_at + subscription.min_dwell);
        let due_at = match (subscription.paused, subscription.batch_wait) {
            (true, _) => None,
            (false, Some(wait)) => Some((self.now + wait).max(not_before.unwrap_or(self.now))),
            (false, None) => Some(not_before.unwrap_or(self.now).max(self.now)),
        };
        let lane = self.lanes.entry((subscription.webhook_id, new.agent_key)).or_default();
        let first = lane.standing.is_empty();
        let fit = first
            && due_at.is_some_and(|at| at <= self.now)
            && subscription.batch_wait.is_none()
            && self.published.dispatcher.is_some()
            && (self.published.limited || !subscription.limited);
        let leased = fit && self.capacity.try_use(subscription.webhook_id);
        lane.standing.push(self.plan.deliveries.len());
        if let Some(deliveries_per_event) = self.plan.deliveries_per_event.get_mut(index) {
            *deliveries_per_event += 1;
        }
        self.plan.deliveries.push(PlannedDelivery {
            delivery_id,
            webhook_id: subscription.webhook_id,
            webhook_version: subscription.version,
            lane: new.agent_key,
            event: index,
            event_id: event.event_id,
            first,
            due_at,
            leased,
            left: fit && !leased,
            batched: subscription.batch_wait.is_some(),
            not_before,
            superseded,
            is_state,
            format: subscription.format,
        });
    }

    /// Mode `latest`: the delivery supersedes all states of the lane that wait. Gives the number of those
    /// within the plan.
    fn supersede_waiting(&mut self, new: &NewEvent, subscription: &Subscription, to: DeliveryId) -> i32 {
        let key = (subscription.webhook_id, new.agent_key);
        let line = match self.lanes.entry(key).or_default().superseded_lanes {
            Some(line) => line,
            None => {
                self.plan.superseded_lanes.push(SupersededLane {
                    webhook_id: key.0,
                    lane: key.1,
                    debounced_at: None,
                    to: None,
                });
                let line = self.plan.superseded_lanes.len() - 1;
                self.lanes.entry(key).or_default().superseded_lanes = Some(line);
                line
            }
        };
        if let Some(line) = self.plan.superseded_lanes.get_mut(line) {
            line.to = Some(to);
        }
        self.supersede_planned(key, Some(to), &new.event, |planned| planned.is_state)
    }

    /// A state that did not last is superseded by whatever comes after it. Gives the number of those within
    /// the plan.
    fn supersede_debounced(
        &mut self,
        new: &NewEvent,
        subscription: &Subscription,
        to: Option<DeliveryId>,
    ) -> i32 {
        let key = (subscription.webhook_id, new.agent_key);
        let at = new.event.received_at;
        self.plan.superseded_lanes.push(SupersededLane {
            webhook_id: key.0,
            lane: key.1,
            debounced_at: Some(at),
            to,
        });
        self.supersede_planned(key, to, &new.event, |planned| {
            planned.not_before.is_some_and(|until| until > at)
        })
    }

    fn supersede_planned(
        &mut self,
        key: (WebhookId, i64),
        to: Option<DeliveryId>,
        by: &Event,
        ends: impl Fn(&PlannedDelivery) -> bool,
    ) -> i32 {
        let Some(lane) = self.lanes.get_mut(&key) else { return 0 };
        let mut superseded = 0;
        for index in std::mem::take(&mut lane.standing) {
            let Some(planned) = self.plan.deliveries.get(index).filter(|planned| ends(planned)) else {
                lane.standing.push(index);
                continue;
            };
            superseded += 1 + planned.superseded;
            if planned.leased {
                self.capacity.put_back(key.0);
            }
            self.plan.entries.push(entry(self.now, planned, by, to));
            lane.gone.push(index);
        }
        superseded
    }
}

impl Plan {
    /// Drops superseded deliveries, and marks the first one of each lane again.
    fn leave_out(&mut self, gone: Vec<usize>) {
        if gone.is_empty() {
            return;
        }
        let gone: std::collections::HashSet<usize> = gone.into_iter().collect();
        let mut index = 0;
        self.deliveries.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
        let mut seen = std::collections::HashSet::new();
        for planned in &mut self.deliveries {
            planned.first = seen.insert((planned.webhook_id, planned.lane));
            planned.leased &= planned.first;
        }
    }

    /// Adds the number of deliveries that the database superseded in a lane to the first state planned there.
    /// False if there is none.
    pub fn add_superseded(&mut self, webhook: WebhookId, lane: i64, count: i32) -> bool {
        let mut lane = self.deliveries.iter_mut().filter(|d| d.webhook_id == webhook && d.lane == lane);
        match lane.find(|d| d.is_state) {
            Some(planned) => {
                planned.superseded += count;
                true
            }
            None => false,
        }
    }
}

fn entry(now: OffsetDateTime, planned: &PlannedDelivery, by: &Event, to: Option<DeliveryId>) -> Entry {
    let PlannedDelivery { webhook_id, event_id, delivery_id, .. } = *planned;
    let mut entry = Entry::for_delivery(now, Kind::DeliveryEnded, webhook_id, event_id, delivery_id);
    entry.agent_id.clone_from(&by.agent_id);
    entry.outcome = Some(EndState::Superseded.as_str());
    entry.end_state = Some(EndState::Superseded.as_str());
    match to {
        Some(to) => entry.data("superseded_by", to.to_string()),
        None => entry.data("superseded_by_event", by.event_id.to_string()),
    }
}

#[cfg(test)]
#[path = "fan_out_tests.rs"]
mod tests;
