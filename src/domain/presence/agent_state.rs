//! State of one agent besides the system presence. `merge` has the rule by which a new state is merged into
//! the known one.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::presence::history::{History, PartValue};

/// Parts of an agent's state, each with upstream's time of it. A part that is `None` is not known, or not in
/// this frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState {
    /// System presence and custom presence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<Timed<PresencePart>>,
    /// Routing status: what the agent does with interactions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<Timed<String>>,
    /// Whether the agent is out of office.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_office: Option<Timed<bool>>,
    /// Ids of the queues the agent works in now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<Timed<Vec<String>>>,
}

/// A value and upstream's time of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed<T> {
    #[serde(rename = "is")]
    pub value: T,
    /// Upstream's time; `None` if it does not say.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub at: Option<OffsetDateTime>,
    /// What was recorded before; empty in a report and in an event.
    #[serde(default, skip_serializing_if = "History::is_empty")]
    pub(super) history: History,
}

impl<T> Timed<T> {
    /// A value without a history.
    #[must_use]
    pub fn new(value: T, at: Option<OffsetDateTime>) -> Self {
        Self { value, at, history: History::default() }
    }
}

impl<T: Clone> Timed<T> {
    fn without_history(&self) -> Self {
        Self::new(self.value.clone(), self.at)
    }
}

/// A presence as upstream reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PresencePart {
    /// System presence in our spelling.
    pub system: Option<String>,
    /// Id of the presence definition; tells custom presences apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition_id: Option<String>,
    /// The definition's name in the source's language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Message that the agent wrote with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl PartValue for PresencePart {
    /// Labels aside, which only translate the definition.
    fn is_same(&self, other: &Self) -> bool {
        self.system == other.system
            && self.definition_id == other.definition_id
            && self.message == other.message
    }

    fn digest(&self, take: &mut dyn FnMut(&[u8])) {
        for text in [&self.system, &self.definition_id, &self.message] {
            // No text that we keep has a NUL.
            take(text.as_ref().map_or(b"", |text| text.as_bytes()));
            take(&[0, u8::from(text.is_some())]);
        }
    }
}

impl PartValue for String {
    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn digest(&self, take: &mut dyn FnMut(&[u8])) {
        take(self.as_bytes());
    }
}

impl PartValue for bool {
    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn digest(&self, take: &mut dyn FnMut(&[u8])) {
        take(&[u8::from(*self)]);
    }
}

/// Queues have no order.
impl PartValue for Vec<String> {
    fn is_same(&self, other: &Self) -> bool {
        sorted(self) == sorted(other)
    }

    fn digest(&self, take: &mut dyn FnMut(&[u8])) {
        for queue in sorted(self) {
            take(queue.as_bytes());
            take(&[0]);
        }
    }
}

fn sorted(list: &[String]) -> Vec<&String> {
    let mut list: Vec<&String> = list.iter().collect();
    list.sort_unstable();
    list
}

/// A part of the state, as the body of a webhook names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Presence,
    RoutingStatus,
    OutOfOffice,
    ActiveQueues,
}

impl Part {
    /// As it is stored and sent.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Presence => "presence",
            Self::RoutingStatus => "routing_status",
            Self::OutOfOffice => "out_of_office",
            Self::ActiveQueues => "active_queues",
        }
    }
}

impl AgentState {
    /// Ids of the queues that the agent works in; empty if they are not known.
    #[must_use]
    pub fn active_queues(&self) -> &[String] {
        self.queues.as_ref().map_or(&[], |queues| &queues.value)
    }

    /// The same state without what was recorded before, as events carry it.
    #[must_use]
    pub fn without_history(&self) -> Self {
        Self {
            presence: self.presence.as_ref().map(Timed::without_history),
            routing: self.routing.as_ref().map(Timed::without_history),
            out_of_office: self.out_of_office.as_ref().map(Timed::without_history),
            queues: self.queues.as_ref().map(Timed::without_history),
        }
    }

    /// Upstream's time of a part.
    #[must_use]
    pub fn time_of(&self, part: Part) -> Option<OffsetDateTime> {
        match part {
            Part::Presence => self.presence.as_ref()?.at,
            Part::RoutingStatus => self.routing.as_ref()?.at,
            Part::OutOfOffice => self.out_of_office.as_ref()?.at,
            Part::ActiveQueues => self.queues.as_ref()?.at,
        }
    }

    /// Whether an interaction can be given to the agent now: on queue, idle and not out of office. `None` if
    /// that is not known.
    #[must_use]
    pub fn can_take_work(&self) -> Option<bool> {
        let system = self.presence.as_ref()?.value.system.as_deref()?;
        if system != "ON_QUEUE" || self.out_of_office.as_ref().is_some_and(|out| out.value) {
            return Some(false);
        }
        Some(self.routing.as_ref()?.value == "IDLE")
    }
}

/// Content of an event about an agent: the state after it, the parts that are new, and the agent's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventState {
    /// The agent's state after the event.
    #[serde(flatten)]
    pub state: AgentState,
    /// Names of the parts that the event changed.
    pub changed: Vec<String>,
    /// Queues that the agent worked in before the event and does not any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_queues: Vec<String>,
    /// The agent's name at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The agent's e-mail address at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// States for the tests of this folder.
#[cfg(test)]
pub(in crate::domain::presence) mod testing {
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    pub const START: OffsetDateTime = datetime!(2026-11-24 09:00 UTC);

    pub fn presence(system: &str, seconds: Option<i64>) -> AgentState {
        let value = PresencePart { system: Some(system.to_owned()), ..PresencePart::default() };
        let at = seconds.map(|seconds| START + Duration::seconds(seconds));
        AgentState { presence: Some(Timed::new(value, at)), ..AgentState::default() }
    }

    pub fn routing(status: &str, seconds: i64) -> AgentState {
        let at = Some(START + Duration::seconds(seconds));
        AgentState { routing: Some(Timed::new(status.to_owned(), at)), ..AgentState::default() }
    }

    pub fn both(system: &str, presence_at: i64, status: &str, routing_at: i64) -> AgentState {
        AgentState { routing: routing(status, routing_at).routing, ..presence(system, Some(presence_at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{both, presence, routing};
    use super::*;

    #[test]
    fn who_can_take_work_is_on_queue_idle_and_in_office() {
        assert_eq!(both("ON_QUEUE", 0, "IDLE", 0).can_take_work(), Some(true));
        assert_eq!(both("ON_QUEUE", 0, "NOT_RESPONDING", 0).can_take_work(), Some(false));
        assert_eq!(both("AVAILABLE", 0, "IDLE", 0).can_take_work(), Some(false));
        assert_eq!(presence("ON_QUEUE", None).can_take_work(), None);
        assert_eq!(routing("IDLE", 0).can_take_work(), None);
        let away =
            AgentState { out_of_office: Some(Timed::new(true, None)), ..both("ON_QUEUE", 0, "IDLE", 0) };
        assert_eq!(away.can_take_work(), Some(false));
    }

    #[test]
    fn what_is_stored_reads_back() {
        let state = EventState {
            state: both("ON_QUEUE", 1, "IDLE", 2),
            changed: vec!["presence".to_owned()],
            left_queues: vec!["q-1".to_owned()],
            name: Some("Ann".to_owned()),
            email: None,
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<EventState>(&text).unwrap(), state);
        assert_eq!(serde_json::from_str::<AgentState>("{}").unwrap(), AgentState::default());
    }
}
