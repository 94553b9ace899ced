//! Which changes of state are worth a line in the log: each one, but of a thing that flaps only a few, and of
//! all things together no flood. What got no line for lack of room gets one later, if it still holds then.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Add;
use std::time::Duration;

use crate::domain::sliding_window::SlidingWindow;

/// Lines are counted over this window.
const WINDOW: Duration = Duration::from_secs(600);
/// Most lines about one thing, and about all of them, in a window.
const LINES_OF_ONE: usize = 6;
const LINES_OF_ALL: usize = 200;

/// A line that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Changes that got no line since the last one, about whatever thing; `None` if there were none.
    pub omitted: Option<u64>,
}

/// What the log says of things of one kind. `S` are the states that a thing may be in, `T` is a moment of a
/// clock that never goes back.
#[derive(Debug)]
pub struct StateLog<K, S, T> {
    /// State of a thing that the log has said nothing of; `None`: the first state always gets a line.
    usual: Option<S>,
    things: HashMap<K, Logged<S, T>>,
    all: SlidingWindow<T>,
    omitted: u64,
}

#[derive(Debug)]
struct Logged<S, T> {
    /// State that the log said last.
    logged: Option<S>,
    /// State that was reported last.
    reported: Option<S>,
    lines: SlidingWindow<T>,
}

impl<K, S, T> StateLog<K, S, T>
where
    K: Copy + Eq + Hash,
    S: Copy + PartialEq,
    T: Copy + Ord + Add<Duration, Output = T>,
{
    /// A log that has said nothing yet.
    #[must_use]
    pub fn new(usual: Option<S>) -> Self {
        Self { usual, things: HashMap::new(), all: SlidingWindow::default(), omitted: 0 }
    }

    /// Reports the state of a thing, at a change and as often as is convenient; `None` if that needs no line.
    pub fn report(&mut self, thing: K, state: S, now: T) -> Option<Line> {
        if self.usual == Some(state) && !self.things.contains_key(&thing) {
            return None;
        }
        let thing = self.things.entry(thing).or_insert_with(|| Logged {
            logged: self.usual,
            reported: self.usual,
            lines: SlidingWindow::default(),
        });
        let is_change = thing.reported.replace(state) != Some(state);
        if thing.logged == Some(state) {
            // If it changes back to what the log says, it had changed without a line.
            self.omitted += u64::from(is_change);
            return None;
        }
        let fits =
            thing.lines.count(now, WINDOW) < LINES_OF_ONE && self.all.count(now, WINDOW) < LINES_OF_ALL;
        if !fits {
            self.omitted += u64::from(is_change);
            return None;
        }
        thing.logged = Some(state);
        thing.lines.push(now);
        self.all.push(now);
        let (usual, as_usual) = (self.usual, [self.usual; 2]);
        self.things.retain(|_, thing| {
            usual.is_none()
                || [thing.logged, thing.reported] != as_usual
                || thing.lines.count(now, WINDOW) > 0
        });
        let omitted = std::mem::take(&mut self.omitted);
        Some(Line { omitted: (omitted > 0).then_some(omitted) })
    }

    /// Whether anything is kept about a thing.
    #[must_use]
    pub fn keeps(&self, thing: K) -> bool {
        self.things.contains_key(&thing)
    }

    /// Forgets a thing that is gone.
    pub fn forget(&mut self, thing: K) {
        self.things.remove(&thing);
    }

    /// Forgets things that are gone.
    pub fn forget_all_but(&mut self, exists: impl Fn(K) -> bool) {
        self.things.retain(|thing, _| exists(*thing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: Option<Line> = Some(Line { omitted: None });

    #[test]
    fn each_change_gets_one_line_however_often_it_is_reported() {
        let (mut log, now) = (StateLog::new(Some("well")), Duration::ZERO);
        assert_eq!(log.report(1, "well", now), None, "nothing to say");
        let said: Vec<_> =
            ["fails", "fails", "well", "well"].into_iter().map(|state| log.report(1, state, now)).collect();
        assert_eq!(said, [TOLD, None, TOLD, None]);
        let mut log = StateLog::new(None);
        assert_eq!((log.report(1, "well", now), log.report(1, "well", now)), (TOLD, None));
    }

    #[test]
    fn what_flaps_is_omitted_and_what_holds_is_told_when_there_is_room() {
        let (mut log, start) = (StateLog::new(Some("well")), Duration::ZERO);
        let mut lines = 0;
        for round in 0..50 {
            let now = start + Duration::from_secs(round);
            for state in ["fails", "well"] {
                lines += usize::from(log.report(1, state, now).is_some());
            }
        }
        assert_eq!(lines, LINES_OF_ONE);
        assert_eq!(log.report(2, "fails", start + Duration::from_secs(60)), Some(Line { omitted: Some(94) }));
        let later = start + Duration::from_secs(100);
        for _ in 0..3 {
            assert_eq!(log.report(1, "fails", later), None);
        }
        assert_eq!(log.report(1, "fails", later + WINDOW), Some(Line { omitted: Some(1) }));
    }

    #[test]
    fn many_things_at_once_make_no_flood_and_are_forgotten_when_they_are_well_again() {
        let (mut log, now) = (StateLog::new(Some("well")), Duration::ZERO);
        let told = (0..1000).filter(|thing| log.report(*thing, "fails", now).is_some()).count();
        assert_eq!(told, LINES_OF_ALL);
        for thing in 0..1000 {
            log.report(thing, "well", now + WINDOW);
        }
        log.report(5000, "fails", now + WINDOW * 2);
        assert_eq!(log.things.len(), 1);
        log.report(6000, "fails", now + WINDOW * 2);
        log.forget_all_but(|thing| thing != 5000);
        assert!(log.keeps(6000) && !log.keeps(5000));
        log.forget(6000);
        assert_eq!(log.things.len(), 0);
    }
}
