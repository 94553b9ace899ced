//! State of one agent besides the system presence, and the rule that merges a new state into the known one.
//!
//! Upstream numbers nothing and promises no order, but gives a time for each part. So the newer time wins,
//! part by part: an older one is stale, the same one a duplicate. Called by the ingest
//! (`store/ingest/record.rs`) under the row lock of the agent, and by a resync to find out what differs.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::presence::Origin;

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

impl PresencePart {
    /// Whether both say the same; labels aside, which only translate the definition.
    fn is_same(&self, other: &Self) -> bool {
        self.system == other.system
            && self.definition_id == other.definition_id
            && self.message == other.message
    }
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// These parts are new.
    Changed(Vec<Part>),
    /// Every part was known already.
    Duplicate,
    /// No part is new, and at least one is older than the known one.
    Stale,
}

/// When and how a state was seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub origin: Origin,
    /// Our time: when the frame arrived, or when the request was sent.
    pub at: OffsetDateTime,
    /// Our time of the last state that was merged; `None` before the first.
    pub known_at: Option<OffsetDateTime>,
}

impl AgentState {
    /// Takes over newer parts.
    pub fn merge(&mut self, reported: &Self, seen: Seen) -> Merged {
        let parts = [
            (
                Part::Presence,
                merge_part(&mut self.presence, reported.presence.as_ref(), seen, PresencePart::is_same),
            ),
            (
                Part::RoutingStatus,
                merge_part(&mut self.routing, reported.routing.as_ref(), seen, PartialEq::eq),
            ),
            (
                Part::OutOfOffice,
                merge_part(&mut self.out_of_office, reported.out_of_office.as_ref(), seen, PartialEq::eq),
            ),
            (
                Part::ActiveQueues,
                merge_part(&mut self.queues, reported.queues.as_ref(), seen, |a, b| same_set(a, b)),
            ),
        ];
        let changed: Vec<Part> =
            parts.iter().filter(|(_, merge)| *merge == PartMerge::New).map(|(part, _)| *part).collect();
        if !changed.is_empty() {
            Merged::Changed(changed)
        } else if parts.iter().any(|(_, merge)| *merge == PartMerge::Older) {
            Merged::Stale
        } else {
            Merged::Duplicate
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartMerge {
    NotReported,
    New,
    Same,
    Older,
}

fn merge_part<T: Clone>(
    known: &mut Option<Timed<T>>,
    reported: Option<&Timed<T>>,
    seen: Seen,
    same: impl Fn(&T, &T) -> bool,
) -> PartMerge {
    let Some(reported) = reported else {
        return PartMerge::NotReported;
    };
    let Some(kept) = known.as_mut() else {
        *known = Some(reported.clone());
        return PartMerge::New;
    };
    let equal = same(&kept.value, &reported.value);
    match (kept.at, reported.at) {
        (Some(kept_at), Some(reported_at)) if reported_at < kept_at => return PartMerge::Older,
        (Some(kept_at), Some(reported_at)) if reported_at == kept_at => return PartMerge::Same,
        // An answer without a time may be older than a report of the socket since the request.
        (_, None) | (None, _)
            if !equal && seen.origin == Origin::Resync && seen.known_at.is_some_and(|at| at > seen.at) =>
        {
            return PartMerge::Older;
        }
        // Equal and without a time: the known time stays.
        (_, None) if equal => return PartMerge::Same,
        _ => {}
    }
    *kept = reported.clone();
    if equal { PartMerge::Same } else { PartMerge::New }
}

/// Queues have no order.
fn same_set(a: &[String], b: &[String]) -> bool {
    let (mut a, mut b): (Vec<&String>, Vec<&String>) = (a.iter().collect(), b.iter().collect());
    a.sort_unstable();
    b.sort_unstable();
    a == b
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
    /// The agent's name at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The agent's e-mail address at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-11-24 09:00 UTC);

    fn presence(system: &str, seconds: Option<i64>) -> AgentState {
        let value = PresencePart { system: Some(system.to_owned()), ..PresencePart::default() };
        let at = seconds.map(|seconds| START + Duration::seconds(seconds));
        AgentState { presence: Some(Timed { value, at }), ..AgentState::default() }
    }

    fn routing(status: &str, seconds: i64) -> AgentState {
        let at = Some(START + Duration::seconds(seconds));
        AgentState { routing: Some(Timed { value: status.to_owned(), at }), ..AgentState::default() }
    }

    fn both(system: &str, presence_at: i64, status: &str, routing_at: i64) -> AgentState {
        AgentState { routing: routing(status, routing_at).routing, ..presence(system, Some(presence_at)) }
    }

    fn live() -> Seen {
        Seen { origin: Origin::Live, at: START, known_at: None }
    }

    #[test]
    fn the_newer_time_wins_part_by_part() {
        let mut known = both("AVAILABLE", 5, "OFF_QUEUE", 5);
        let reported = both("AWAY", 4, "IDLE", 6);
        assert_eq!(known.merge(&reported, live()), Merged::Changed(vec![Part::RoutingStatus]));
        assert_eq!(known, both("AVAILABLE", 5, "IDLE", 6));
    }

    #[test]
    fn older_is_stale_and_the_same_time_is_a_duplicate() {
        let mut known = presence("AVAILABLE", Some(5));
        assert_eq!(known.merge(&presence("AWAY", Some(4)), live()), Merged::Stale);
        assert_eq!(known.merge(&presence("AVAILABLE", Some(5)), live()), Merged::Duplicate);
        assert_eq!(known, presence("AVAILABLE", Some(5)));
    }

    #[test]
    fn the_same_state_at_a_later_time_is_no_change_but_its_time_is_kept() {
        let mut known = presence("AVAILABLE", Some(5));
        assert_eq!(known.merge(&presence("AVAILABLE", Some(9)), live()), Merged::Duplicate);
        assert_eq!(known.merge(&presence("AWAY", Some(7)), live()), Merged::Stale);
    }

    #[test]
    fn a_label_is_no_change() {
        let mut known = presence("AVAILABLE", Some(5));
        let mut reported = presence("AVAILABLE", Some(6));
        reported.presence.as_mut().unwrap().value.label = Some("Ready".to_owned());
        assert_eq!(known.merge(&reported, live()), Merged::Duplicate);
        assert_eq!(known.presence.unwrap().value.label.as_deref(), Some("Ready"));
    }

    #[test]
    fn without_a_time_a_push_is_believed_and_an_answer_only_if_nothing_was_pushed_since_the_question() {
        let mut known = presence("AVAILABLE", Some(5));
        assert_eq!(known.merge(&presence("AVAILABLE", None), live()), Merged::Duplicate);
        let asked = Seen { origin: Origin::Resync, at: START, known_at: Some(START + Duration::seconds(1)) };
        assert_eq!(known.merge(&presence("AWAY", None), asked), Merged::Stale);
        let asked = Seen { known_at: Some(START - Duration::seconds(1)), ..asked };
        assert_eq!(known.merge(&presence("AWAY", None), asked), Merged::Changed(vec![Part::Presence]));
        assert_eq!(known.merge(&presence("MEAL", None), live()), Merged::Changed(vec![Part::Presence]));
    }

    #[test]
    fn who_can_take_work_is_on_queue_idle_and_in_office() {
        assert_eq!(both("ON_QUEUE", 0, "IDLE", 0).can_take_work(), Some(true));
        assert_eq!(both("ON_QUEUE", 0, "NOT_RESPONDING", 0).can_take_work(), Some(false));
        assert_eq!(both("AVAILABLE", 0, "IDLE", 0).can_take_work(), Some(false));
        assert_eq!(presence("ON_QUEUE", None).can_take_work(), None);
        assert_eq!(routing("IDLE", 0).can_take_work(), None);
        let away = AgentState {
            out_of_office: Some(Timed { value: true, at: None }),
            ..both("ON_QUEUE", 0, "IDLE", 0)
        };
        assert_eq!(away.can_take_work(), Some(false));
    }

    #[test]
    fn what_is_stored_reads_back() {
        let state = EventState {
            state: both("ON_QUEUE", 1, "IDLE", 2),
            changed: vec!["presence".to_owned()],
            name: Some("Ann".to_owned()),
            email: None,
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<EventState>(&text).unwrap(), state);
        assert_eq!(serde_json::from_str::<AgentState>("{}").unwrap(), AgentState::default());
    }

    proptest! {
        /// Whatever the order of arrival, and however often each arrives, the newest state remains.
        #[test]
        fn the_end_does_not_depend_on_the_order(
            mut order in Just((0..12_i64).chain(0..12).collect::<Vec<_>>()).prop_shuffle(),
            first in 0..12_i64,
        ) {
            order.insert(0, first);
            let mut known = AgentState::default();
            for second in order {
                let _ = known.merge(&both(&format!("P{second}"), second, &format!("R{second}"), second), live());
            }
            prop_assert_eq!(known, both("P11", 11, "R11", 11));
        }
    }
}
