//! Decides which changes of a batch are events, and numbers them. No SQL: called by `store/ingest/record.rs`,
//! which has locked the agents and writes them back.

use std::collections::HashMap;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::{AgentId, SourceId, TenantId};
use crate::domain::presence::agent_state::{AgentState, EventState, Part};
use crate::domain::presence::merge::{Merged, Seen};
use crate::domain::presence::{Origin, PresenceChange};

/// The agents of a batch.
pub type Agents = HashMap<(SourceId, AgentId), Agent>;

/// An agent as the batch leaves it.
#[derive(Clone)]
pub struct Agent {
    pub tenant: TenantId,
    pub agent_key: i64,
    pub sequence: i64,
    pub presence: Option<String>,
    pub since: Option<OffsetDateTime>,
    pub state: AgentState,
    pub received_at: Option<OffsetDateTime>,
    pub name: Option<String>,
    pub email: Option<String>,
    pub external_id: Option<String>,
    /// When its person was erased; `None`: never.
    pub erased_at: Option<OffsetDateTime>,
    /// It is left out of what its source watches.
    pub is_excluded: bool,
    /// The batch changed the row.
    pub touched: bool,
    /// The last of the batch's changes that became an event.
    pub last: Option<usize>,
}

/// A change that becomes an event, with its number and other values of its agent.
pub struct Numbered<'a> {
    pub change: &'a PresenceChange,
    pub tenant: TenantId,
    pub agent_key: i64,
    pub sequence: i64,
    pub external_id: Option<String>,
    pub presence: Option<String>,
    pub previous: Option<String>,
    pub occurred_at: Option<OffsetDateTime>,
    pub state: Option<Box<EventState>>,
}

/// A time of a change that is too far ahead of ours to be one: it does not count.
pub struct TimeAhead<'a> {
    pub change: &'a PresenceChange,
    pub part: Part,
    pub time: OffsetDateTime,
}

/// A batch, decided.
#[derive(Default)]
pub struct Decided<'a> {
    pub numbered: Vec<Numbered<'a>>,
    pub dropped: Vec<Dropped<'a>>,
    pub times_ahead: Vec<TimeAhead<'a>>,
}

/// A change that holds nothing new.
pub struct Dropped<'a> {
    pub change: &'a PresenceChange,
    pub stale: bool,
}

/// Gives each change that is an event the next sequence of its agent and the presence before it; updates the
/// agents.
pub fn number<'a>(changes: &'a [PresenceChange], agents: &mut Agents) -> Decided<'a> {
    let mut decided = Decided { numbered: Vec::with_capacity(changes.len()), ..Decided::default() };
    for (index, change) in changes.iter().enumerate() {
        let Some(agent) = agents.get_mut(&(change.source_id, change.agent_id.clone())) else {
            continue; // not reached: agents_of made a row for each
        };
        if agent.leaves_out(change) {
            continue; // and leaves no trace: that it may not is what was asked for
        }
        let previous = agent.presence.clone();
        let ahead = agent.times_ahead(change).into_iter();
        decided.times_ahead.extend(ahead.map(|(part, time)| TimeAhead { change, part, time }));
        match agent.apply(change) {
            Applied::Event { presence, occurred_at, state } => {
                agent.sequence += 1;
                agent.last = Some(index);
                let (agent_key, sequence) = (agent.agent_key, agent.sequence);
                let (tenant, external_id) = (agent.tenant, agent.external_id.clone());
                decided.numbered.push(Numbered {
                    change,
                    tenant,
                    agent_key,
                    sequence,
                    external_id,
                    presence,
                    previous,
                    occurred_at,
                    state,
                });
            }
            // A resync finds most states unchanged; it counts them itself.
            Applied::Nothing { .. } if change.origin == Origin::Resync => {}
            Applied::Nothing { stale } => decided.dropped.push(Dropped { change, stale }),
        }
    }
    decided
}

enum Applied {
    Event { presence: Option<String>, occurred_at: Option<OffsetDateTime>, state: Option<Box<EventState>> },
    Nothing { stale: bool },
}

impl Agent {
    /// Applies a change. Without parts every change is an event; one whose presence could not be read keeps
    /// the last known presence.
    fn apply(&mut self, change: &PresenceChange) -> Applied {
        let Some(reported) = &change.state else {
            self.set_presence(&change.presence, change.occurred_at.unwrap_or(change.received_at));
            self.received_at = Some(change.received_at);
            return Applied::Event {
                presence: change.presence.clone(),
                occurred_at: change.occurred_at,
                state: None,
            };
        };
        let before = self.state.clone();
        let merged = self.state.merge(reported, self.seen(change));
        self.touched |= self.state != before;
        let changed = match merged {
            Merged::Changed(changed) => changed,
            Merged::Duplicate => return Applied::Nothing { stale: false },
            Merged::Stale => return Applied::Nothing { stale: true },
        };
        self.received_at = self.received_at.max(Some(change.received_at));
        let system = self.state.presence.as_ref().and_then(|presence| presence.value.system.clone());
        let since = self.state.presence.as_ref().and_then(|presence| presence.at);
        self.set_presence(&system, since.unwrap_or(change.received_at));
        let active = self.state.active_queues();
        let left_queues = before.active_queues().iter().filter(|queue| !active.contains(queue));
        let state = EventState {
            state: self.state.without_history(),
            changed: changed.iter().map(|part| part.as_str().to_owned()).collect(),
            left_queues: left_queues.cloned().collect(),
            name: self.name.clone(),
            email: self.email.clone(),
        };
        let occurred_at = changed.iter().filter_map(|part| self.state.time_of(*part)).max();
        Applied::Event {
            presence: self.presence.clone(),
            occurred_at: occurred_at.or(change.occurred_at),
            state: Some(Box::new(state)),
        }
    }

    /// Whether a change would bring back what was erased: it was on its way then, or nobody watches the agent.
    fn leaves_out(&self, change: &PresenceChange) -> bool {
        self.is_excluded || self.erased_at.is_some_and(|at| change.received_at <= at)
    }

    fn seen(&self, change: &PresenceChange) -> Seen {
        Seen { origin: change.origin, at: change.received_at, known_at: self.received_at }
    }

    fn times_ahead(&self, change: &PresenceChange) -> Vec<(Part, OffsetDateTime)> {
        change
            .state
            .as_ref()
            .map(|reported| self.state.times_ahead(reported, self.seen(change)))
            .unwrap_or_default()
    }

    fn set_presence(&mut self, presence: &Option<String>, since: OffsetDateTime) {
        if presence.is_some() && *presence != self.presence {
            self.presence.clone_from(presence);
            self.since = Some(since);
        }
    }
}

impl Dropped<'_> {
    /// Entry of the audit log.
    pub fn entry(&self) -> Entry {
        let (kind, level) =
            if self.stale { (Kind::StateStale, Level::Warn) } else { (Kind::StateDuplicate, Level::Info) };
        let state = self.change.state.as_ref().and_then(|state| serde_json::to_value(state).ok());
        entry_about(self.change, kind).level(level).data("state", state.unwrap_or(Value::Null))
    }
}

impl TimeAhead<'_> {
    /// Entry of the audit log.
    pub fn entry(&self) -> Entry {
        let ahead = self.time - self.change.received_at;
        entry_about(self.change, Kind::TimeRejected)
            .level(Level::Warn)
            .data("reason", "ahead")
            .data("part", self.part.as_str())
            .data("time", self.time.format(&Rfc3339).unwrap_or_default())
            .data("ahead_seconds", ahead.whole_seconds())
    }
}

fn entry_about(change: &PresenceChange, kind: Kind) -> Entry {
    let mut entry = Entry::new(change.received_at, kind).data("topic", change.topic.clone());
    entry.source_id = Some(change.source_id);
    entry.connection_id = Some(change.connection_id);
    entry.agent_id = Some(change.agent_id.clone());
    entry
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use time::macros::datetime;

    use super::*;
    use crate::domain::ids::{ConnectionId, EventId};

    const ERASED: OffsetDateTime = datetime!(2026-11-23 15:00:00 UTC);

    fn change(source_id: SourceId, seconds: i64) -> PresenceChange {
        PresenceChange {
            event_id: EventId::generate(),
            source_id,
            source_name: "s".to_owned(),
            connection_id: ConnectionId::generate(),
            agent_id: AgentId("ann".to_owned()),
            topic: "t".to_owned(),
            presence: Some("BUSY".to_owned()),
            state: None,
            occurred_at: None,
            received_at: ERASED + time::Duration::seconds(seconds),
            origin: Origin::Live,
            raw: Bytes::new(),
        }
    }

    /// Arrival of the changes that become events, in seconds after the erasure, and the numbers that they get.
    fn recorded(is_excluded: bool) -> Vec<(i64, i64)> {
        let source = SourceId::generate();
        let agent = Agent {
            tenant: TenantId::generate(),
            agent_key: 1,
            sequence: 7,
            presence: None,
            since: None,
            state: AgentState::default(),
            received_at: None,
            name: None,
            email: None,
            external_id: None,
            erased_at: Some(ERASED),
            is_excluded,
            touched: false,
            last: None,
        };
        let mut agents = Agents::from([((source, AgentId("ann".to_owned())), agent)]);
        let changes = [-60, 0, 1].map(|seconds| change(source, seconds));
        let decided = number(&changes, &mut agents);
        assert!(decided.dropped.is_empty(), "an entry would quote what is erased");
        let of = |numbered: &Numbered<'_>| {
            ((numbered.change.received_at - ERASED).whole_seconds(), numbered.sequence)
        };
        decided.numbered.iter().map(of).collect()
    }

    #[test]
    fn what_was_on_its_way_when_a_person_was_erased_is_not_recorded_and_numbers_go_on() {
        assert_eq!(recorded(false), [(1, 8)]);
        assert_eq!(recorded(true), [], "nobody is to watch the agent");
    }
}
