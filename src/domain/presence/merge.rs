//! The rule that merges a reported state into the known one (docs/adr/0011).
//!
//! Upstream numbers nothing and promises no order, but gives a time for each part. So the newer time wins,
//! part by part; of one time each value counts once, in the order of arrival. Called by the ingest
//! (`store/ingest/record.rs`) under the row lock of the agent, by a hand-over, and by a resync to find out
//! what differs.

use time::OffsetDateTime;

use crate::domain::presence::Origin;
use crate::domain::presence::agent_state::{AgentState, Part, Timed};
use crate::domain::presence::history::{PartValue, is_believable};

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

impl Seen {
    /// Our time, as late as it is known.
    fn now(&self) -> OffsetDateTime {
        self.known_at.map_or(self.at, |known_at| known_at.max(self.at))
    }

    /// Whether it is an answer that may be older than the last report of the socket.
    fn is_asked_too_early(&self) -> bool {
        self.origin == Origin::Resync && self.known_at.is_some_and(|at| at > self.at)
    }
}

impl AgentState {
    /// Takes over newer parts.
    pub fn merge(&mut self, reported: &Self, seen: Seen) -> Merged {
        let parts = [
            (Part::Presence, merge_part(&mut self.presence, reported.presence.as_ref(), seen)),
            (Part::RoutingStatus, merge_part(&mut self.routing, reported.routing.as_ref(), seen)),
            (Part::OutOfOffice, merge_part(&mut self.out_of_office, reported.out_of_office.as_ref(), seen)),
            (Part::ActiveQueues, merge_part(&mut self.queues, reported.queues.as_ref(), seen)),
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

    /// Parts of a report whose time is too far ahead of ours to be one, each with that time. Values that are
    /// known to have come with that time are left out.
    #[must_use]
    pub fn times_ahead(&self, reported: &Self, seen: Seen) -> Vec<(Part, OffsetDateTime)> {
        let parts = [
            (Part::Presence, time_ahead(self.presence.as_ref(), reported.presence.as_ref(), seen)),
            (Part::RoutingStatus, time_ahead(self.routing.as_ref(), reported.routing.as_ref(), seen)),
            (
                Part::OutOfOffice,
                time_ahead(self.out_of_office.as_ref(), reported.out_of_office.as_ref(), seen),
            ),
            (Part::ActiveQueues, time_ahead(self.queues.as_ref(), reported.queues.as_ref(), seen)),
        ];
        parts.into_iter().filter_map(|(part, time)| Some((part, time?))).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartMerge {
    NotReported,
    New,
    Same,
    Older,
}

fn merge_part<T: PartValue>(
    known: &mut Option<Timed<T>>,
    reported: Option<&Timed<T>>,
    seen: Seen,
) -> PartMerge {
    let Some(reported) = reported else {
        return PartMerge::NotReported;
    };
    let believable = |time: &OffsetDateTime| is_believable(*time, seen.now());
    let time = reported.at.filter(believable);
    let ahead = reported.at.filter(|at| !believable(at));
    let Some(kept) = known.as_mut() else {
        let mut first = Timed::new(reported.value.clone(), time);
        first.note_ahead(&reported.value, ahead);
        *known = Some(first);
        return PartMerge::New;
    };
    // A former version may have kept a time that is none.
    let kept_at = kept.at.filter(believable);
    let newest = kept_at.or(kept.history.newest);
    let is_newer = match (newest, time) {
        (Some(newest), Some(time)) if time < newest => return PartMerge::Older,
        (newest, Some(time)) => newest.is_none_or(|newest| time > newest),
        (_, None) => false,
    };
    let equal = kept.value.is_same(&reported.value);
    let is_decided_by_times = is_newer && kept_at.is_some();
    if !equal && !is_decided_by_times && seen.is_asked_too_early() {
        return PartMerge::Older;
    }
    if seen.origin == Origin::Live && kept.has_recorded(reported, newest) {
        return PartMerge::Same;
    }
    if equal && time.is_none_or(|time| kept.at == Some(time)) {
        // The known time stays.
        kept.note_ahead(&reported.value, ahead);
        return PartMerge::Same;
    }
    if is_newer {
        kept.history.forget_same_time();
    } else if kept_at.is_some() && !equal {
        kept.history.add(&kept.value);
    }
    kept.history.newest = if time.is_some() { None } else { newest };
    kept.value = reported.value.clone();
    kept.at = time;
    kept.note_ahead(&reported.value, ahead);
    if equal { PartMerge::Same } else { PartMerge::New }
}

impl<T: PartValue> Timed<T> {
    /// Whether the value was recorded with its time before: with the newest one, of which another value took
    /// its place since, or with one that was too far ahead then. That one may have become believable meanwhile.
    fn has_recorded(&self, reported: &Self, newest: Option<OffsetDateTime>) -> bool {
        reported.at.is_some_and(|at| {
            self.history.has_ahead(&reported.value, at)
                || newest == Some(at) && self.history.has(&reported.value)
        })
    }

    fn note_ahead(&mut self, value: &T, ahead: Option<OffsetDateTime>) {
        if let Some(ahead) = ahead {
            self.history.add_ahead(value, ahead);
        }
    }
}

fn time_ahead<T: PartValue>(
    known: Option<&Timed<T>>,
    reported: Option<&Timed<T>>,
    seen: Seen,
) -> Option<OffsetDateTime> {
    let reported = reported?;
    let time = reported.at.filter(|time| !is_believable(*time, seen.now()))?;
    let is_known = known.is_some_and(|known| known.history.has_ahead(&reported.value, time));
    (!is_known).then_some(time)
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
