//! Events and what is owed for them: who gets a delivery, what gives way to it, and in whose hands it begins. No SQL;
//! `store/ingest/write.rs` writes the plan down.

use std::collections::HashMap;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::domain::audit::{Entry, Kind};
use crate::domain::delivery::capacity::DispatchCapacity;
use crate::domain::delivery::outcome::EndState;
use crate::domain::delivery::settings::{Format, Mode};
use crate::domain::delivery::slots::WINDOW_UNPROVEN;
use crate::domain::ids::{ConnectionId, DeliveryId, EventId, TenantId, WebhookId};
use crate::domain::presence::{Event, EventKind};
use crate::domain::webhook::filter_index::Filters;
use crate::domain::webhook::filter_key::Key;
use crate::domain::webhook::matching::{Facts, Subscription};

/// An event about to be written.
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
        Some(Facts {
            tenant: self.tenant,
            source: event.source.as_ref()?.0,
            agent: Key::of(event.agent_id.as_ref().map_or("", |id| id.0.as_str())),
            external_id: event.external_id.as_deref().map(Key::of),
            topic: event.topic.as_deref().map(Key::of),
            presence: event.presence.as_deref().map(Key::of),
        })
    }
}

/// A delivery about to be written.
pub struct Planned {
    pub delivery_id: DeliveryId,
    pub webhook_id: WebhookId,
    pub webhook_version: i64,
    pub lane: i64,
    /// Index of its event, and its id.
    pub event: usize,
    pub event_id: EventId,
    /// Nothing of this plan stands before it in its lane.
    pub first: bool,
    /// When it may leave if it is the first of its lane; `None`: its webhook is paused.
    pub due_at: Option<OffsetDateTime>,
    /// It goes into the dispatcher's hands if it is the first of its lane.
    pub handed: bool,
    /// It would, but its webhook has no room left.
    pub left: bool,
    /// It waits for a batch, whatever stands before it.
    pub batched: bool,
    pub not_before: Option<OffsetDateTime>,
    pub superseded: i32,
    pub is_state: bool,
    /// What its POST looks like if it leaves at once.
    pub format: Format,
}

/// A lane in which waiting deliveries give way.
pub struct GivesWay {
    pub webhook_id: WebhookId,
    pub lane: i64,
    /// Only those that still dwell at this time; `None`: all that wait.
    pub dwelling_at: Option<OffsetDateTime>,
    /// Who takes their place.
    pub to: Option<DeliveryId>,
}

/// All that is owed for some events.
#[derive(Default)]
pub struct Plan {
    pub deliveries: Vec<Planned>,
    pub gives_way: Vec<GivesWay>,
    /// Of deliveries that gave way within the plan.
    pub entries: Vec<Entry>,
    /// How many of each event's deliveries are in the plan, those that gave way included.
    pub owed: Vec<i64>,
}

/// Which events a webhook is owed.
pub type Wants = fn(&Subscription, EventKind, &Facts) -> bool;

/// Plans the deliveries of events, in their order.
pub fn plan(
    events: &[NewEvent],
    filters: &Filters,
    wants: Wants,
    leave: &DispatchCapacity,
    now: OffsetDateTime,
) -> Plan {
    let mut planning =
        Planning { plan: Plan::default(), lanes: HashMap::new(), room: Room::of(leave), leave, now };
    for (index, new) in events.iter().enumerate() {
        planning.plan.owed.push(0);
        let event = &new.event;
        let Some(facts) = new.facts() else { continue };
        for subscription in filters.concerned(&facts) {
            let wanted = wants(subscription, event.kind, &facts);
            if wanted {
                planning.owe(index, new, subscription);
            } else if !subscription.min_dwell.is_zero() && event.kind == EventKind::PresenceUpdated {
                planning.end_dwelling(new, subscription, None);
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
    /// And of those that gave way.
    gone: Vec<usize>,
    /// Index into `gives_way` of the lane's line without a time.
    gives_way: Option<usize>,
}

struct Planning<'a> {
    plan: Plan,
    lanes: HashMap<(WebhookId, i64), LanePlan>,
    room: Room<'a>,
    leave: &'a DispatchCapacity,
    now: OffsetDateTime,
}

/// What is left of the leave to put deliveries into the dispatcher's hands.
struct Room<'a> {
    leave: &'a DispatchCapacity,
    all: usize,
    unproven: usize,
    taken: HashMap<WebhookId, usize>,
}

impl<'a> Room<'a> {
    fn of(leave: &'a DispatchCapacity) -> Self {
        Self { leave, all: leave.room, unproven: leave.unproven, taken: HashMap::new() }
    }

    /// Whether the dispatcher shares out places of a webhook by what it is known to be, and not by what it has.
    fn is_unproven(&self, webhook: WebhookId) -> bool {
        !self.leave.rooms.contains_key(&webhook) && !self.leave.proven.contains(&webhook)
    }

    /// Takes a place, if there is one.
    fn take(&mut self, webhook: WebhookId) -> bool {
        let is_unproven = self.is_unproven(webhook);
        let others = if is_unproven { WINDOW_UNPROVEN } else { self.leave.others };
        let most = self.leave.rooms.get(&webhook).copied().unwrap_or(others);
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
    fn give_back(&mut self, webhook: WebhookId) {
        self.all += 1;
        self.unproven += usize::from(self.is_unproven(webhook));
        if let Some(taken) = self.taken.get_mut(&webhook) {
            *taken = taken.saturating_sub(1);
        }
    }
}

impl Planning<'_> {
    fn owe(&mut self, index: usize, new: &NewEvent, subscription: &Subscription) {
        let event = &new.event;
        let delivery_id = DeliveryId::of(event.event_id, subscription.webhook_id);
        let is_state = matches!(event.kind, EventKind::PresenceUpdated | EventKind::PresenceSnapshot);
        let mut superseded = 0;
        if !subscription.min_dwell.is_zero() && is_state {
            superseded += self.end_dwelling(new, subscription, Some(delivery_id));
        }
        if subscription.mode == Mode::Latest && is_state {
            superseded += self.end_waiting(new, subscription, delivery_id);
        }
        // Even if it has passed: whether the state lasted so long is for the next one of the same plan to say.
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
            && self.leave.dispatcher.is_some()
            && (self.leave.limited || !subscription.limited);
        let handed = fit && self.room.take(subscription.webhook_id);
        lane.standing.push(self.plan.deliveries.len());
        if let Some(owed) = self.plan.owed.get_mut(index) {
            *owed += 1;
        }
        self.plan.deliveries.push(Planned {
            delivery_id,
            webhook_id: subscription.webhook_id,
            webhook_version: subscription.version,
            lane: new.agent_key,
            event: index,
            event_id: event.event_id,
            first,
            due_at,
            handed,
            left: fit && !handed,
            batched: subscription.batch_wait.is_some(),
            not_before,
            superseded,
            is_state,
            format: subscription.format,
        });
    }

    /// Mode `latest`: everything of the lane that waits gives way. Says how many did within the plan.
    fn end_waiting(&mut self, new: &NewEvent, subscription: &Subscription, to: DeliveryId) -> i32 {
        let key = (subscription.webhook_id, new.agent_key);
        let line = match self.lanes.entry(key).or_default().gives_way {
            Some(line) => line,
            None => {
                self.plan.gives_way.push(GivesWay {
                    webhook_id: key.0,
                    lane: key.1,
                    dwelling_at: None,
                    to: None,
                });
                let line = self.plan.gives_way.len() - 1;
                self.lanes.entry(key).or_default().gives_way = Some(line);
                line
            }
        };
        if let Some(line) = self.plan.gives_way.get_mut(line) {
            line.to = Some(to);
        }
        self.end_standing(key, Some(to), &new.event, |planned| planned.is_state)
    }

    /// A state that did not last gives way, whatever comes after it. Says how many did within the plan.
    fn end_dwelling(&mut self, new: &NewEvent, subscription: &Subscription, to: Option<DeliveryId>) -> i32 {
        let key = (subscription.webhook_id, new.agent_key);
        let at = new.event.received_at;
        self.plan.gives_way.push(GivesWay { webhook_id: key.0, lane: key.1, dwelling_at: Some(at), to });
        self.end_standing(key, to, &new.event, |planned| planned.not_before.is_some_and(|until| until > at))
    }

    fn end_standing(
        &mut self,
        key: (WebhookId, i64),
        to: Option<DeliveryId>,
        by: &Event,
        ends: impl Fn(&Planned) -> bool,
    ) -> i32 {
        let Some(lane) = self.lanes.get_mut(&key) else { return 0 };
        let mut superseded = 0;
        for index in std::mem::take(&mut lane.standing) {
            let Some(planned) = self.plan.deliveries.get(index).filter(|planned| ends(planned)) else {
                lane.standing.push(index);
                continue;
            };
            superseded += 1 + planned.superseded;
            if planned.handed {
                self.room.give_back(key.0);
            }
            self.plan.entries.push(entry(self.now, planned, by, to));
            lane.gone.push(index);
        }
        superseded
    }
}

impl Plan {
    /// Drops what gave way, and says anew who is the first of a lane.
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
            planned.handed &= planned.first;
        }
    }

    /// Adds what the database says has given way in a lane to the first state that stands there. False if none does.
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

fn entry(now: OffsetDateTime, planned: &Planned, by: &Event, to: Option<DeliveryId>) -> Entry {
    let Planned { webhook_id, event_id, delivery_id, .. } = *planned;
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
