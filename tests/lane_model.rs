//! A model of the lane protocol, explored exhaustively: each order in which the steps of a writer of events,
//! of two dispatchers and of the database can happen, with a few faults at any place. `store/` and
//! `actors/dispatch/` are the protocol; here is what of them decides who may send what, step by step under
//! the names of the code.
//!
//! A step is what happens without anybody seeing something in between: a transaction has one when it runs and
//! one when it ends, and a fault between them is a step of its own. Faults: a commit that is refused, one
//! whose answer is lost, one that comes after its caller's time is over; a kill; a graceful stop; a
//! dispatcher that stalls and is given up for dead. What is left out: batches, mode `latest`, debounce, rates
//! and circuits. Time is left out too: what is due in the code when its time has come is due here at any
//! time, and what waits for longer than a step may take (`reconcile`) waits until nobody is left who could
//! say something about it.
//!
//! Promised, in each state that can be reached:
//! - **Order.** No POST of a delivery begins while an older one of its lane is open.
//! - **One at a time.** No two POSTs of a lane are under way. After a kill, or after a dispatcher was given
//!   up for dead, what was leased to it may be sent again (the same id, at least once), even next to its own
//!   first POST.
//! - **Once.** But for these, a POST that was answered with 2xx is not begun again: not by a stop, not by a
//!   lost commit.
//! - **Stored once.** No change that is stored is recorded again.
//! - **Every delivery ends.** From each state a fair run without further faults ends everything that is
//!   stored, and nobody has to be started for it as long as a process lives. Stated so and not as
//!   `eventually`, which in stateright does not see runs that go in circles, and which a run of nothing but
//!   faults would break: [`Model::ends`] takes from each state the run in which everybody who can do
//!   something does it, in turn.
//!
//! A new rule: if it is about a moment, a flag of [`state::Broken`], set where the moment is; if it is about
//! a state, a line in `properties`. A new step: a variant of [`Act`], its guard and effect in `writer.rs` or
//! `dispatcher.rs`. A fault that was found in the code: a field of [`Faults`] that puts it back in, and a
//! test that sees it found.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::as_conversions, clippy::panic)]

use stateright::{Checker, HasDiscoveries, Model as _, Property};

use dispatcher::ALL;
use state::{Broken, EVENTS, Life, Process, Recorder, Row, State, has};

#[path = "lane_model/dispatcher.rs"]
mod dispatcher;
#[path = "lane_model/state.rs"]
mod state;
#[path = "lane_model/writer.rs"]
mod writer;

/// Faults that the code had, and one that it has.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// `stored_events` did not wait for the writers' lock.
    ask_without_lock: bool,
    /// Nobody looked for rows that are leased to us and that we were not told of.
    no_lease_compare: bool,
    /// A writer that found its dispatcher gone freed all that it held.
    drain_frees_all: bool,
    /// Lanes were looked through at a dispatcher's start and after it had freed something, not over and over.
    walks_once: bool,
    /// What was committed as leased to a dispatcher that had no row any more was looked for by nobody.
    needs_a_row: bool,
    /// `release_unannounced` freed what it found leased, even if it had come into a dispatcher's hands by a
    /// claim since.
    frees_whoever_holds: bool,
    /// Still so: if the recorder comes to ask what became of its transaction only after `UNKNOWN_FOR`, the
    /// delivery may have been given back and claimed, which looks like a direct dispatch.
    asks_late: bool,
}

/// What is explored.
#[derive(Clone, Debug)]
struct Model {
    /// How many events are written.
    events: usize,
    /// The lane of each.
    lanes: [usize; EVENTS],
    /// This one is written by a snapshot, which asks for nothing afterwards.
    snapshot: Option<usize>,
    /// The second process runs.
    two_processes: bool,
    /// How much goes wrong at most.
    faults_left: u8,
    /// How many POSTs fail at most.
    failures_left: u8,
    faults: Faults,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Write {
        may_hand: bool,
    },
    EndWrite {
        committed: bool,
        told: bool,
    },
    GiveUpWrite,
    Announce,
    ReturnUnannounced,
    Ask,
    ReleaseUnannounced,
    TakeWords(usize),
    Post(usize, usize),
    Answer(usize, usize, bool),
    StartCycle(usize),
    ReconcileAfterUnknownCommit(usize),
    RunCycle(usize),
    EndCycle {
        committed: bool,
        told: bool,
    },
    GiveUpCycle,
    Reconcile(usize),
    LookInto(usize),
    Walk(usize),
    ReleaseExpired(usize),
    /// The second one is given up for dead by the first, though it lives.
    GiveUp(usize, usize),
    FindLost(usize),
    Stop(usize),
    GiveBack(usize),
    EndDrain(usize),
    Kill(usize),
    Start(usize),
}

impl Model {
    fn same_lane(&self, one: usize, other: usize) -> bool {
        self.lanes[one] == self.lanes[other]
    }

    /// Takes a step; false if it cannot be taken.
    fn step(&self, s: &mut State, act: Act) -> bool {
        match act {
            Act::Write { may_hand } => self.write(s, may_hand),
            Act::EndWrite { committed, told } => self.end_write(s, committed, told),
            Act::GiveUpWrite => self.give_up_write(s),
            Act::Announce => self.announce(s),
            Act::ReturnUnannounced => self.return_unannounced(s),
            Act::Ask => self.ask(s),
            Act::ReleaseUnannounced => self.release_unannounced(s),
            Act::TakeWords(p) => self.take_words(s, p),
            Act::Post(p, event) => self.post(s, p, event),
            Act::Answer(p, event, success) => self.answer(s, p, event, success),
            Act::StartCycle(p) => self.start_cycle(s, p),
            Act::ReconcileAfterUnknownCommit(p) => self.reconcile_after_unknown_commit(s, p),
            Act::RunCycle(p) => self.run_cycle(s, p),
            Act::EndCycle { committed, told } => self.end_cycle(s, committed, told),
            Act::GiveUpCycle => self.give_up_cycle(s),
            Act::Reconcile(p) => self.reconcile(s, p),
            Act::LookInto(p) => self.look_into(s, p),
            Act::Walk(p) => self.walk(s, p),
            Act::ReleaseExpired(p) => self.release_expired(s, p, None),
            Act::GiveUp(p, q) => self.release_expired(s, p, Some(q)),
            Act::FindLost(p) => self.find_lost(s, p),
            Act::Stop(p) => self.stop(s, p),
            Act::GiveBack(p) => s.processes[p].life == Life::Drains && self.give_back(s, p),
            Act::EndDrain(p) => self.end_drain(s, p),
            Act::Kill(p) => self.kill(s, p),
            Act::Start(p) => self.start(s, p),
        }
    }

    /// Steps of the protocol, none of which is a fault.
    fn progress(acts: &mut Vec<Act>) {
        acts.extend([
            Act::Write { may_hand: true },
            Act::EndWrite { committed: true, told: true },
            Act::Announce,
            Act::ReturnUnannounced,
            Act::Ask,
            Act::ReleaseUnannounced,
            Act::EndCycle { committed: true, told: true },
        ]);
        for p in ALL {
            acts.extend([
                Act::TakeWords(p),
                Act::StartCycle(p),
                Act::ReconcileAfterUnknownCommit(p),
                Act::RunCycle(p),
                Act::Reconcile(p),
                Act::LookInto(p),
                Act::Walk(p),
                Act::ReleaseExpired(p),
                Act::FindLost(p),
                Act::GiveBack(p),
                Act::EndDrain(p),
            ]);
            for event in 0..EVENTS {
                acts.extend([Act::Post(p, event), Act::Answer(p, event, true)]);
            }
        }
    }

    fn is_over(&self, s: &State) -> bool {
        s.next == self.events
            && s.recorder == Recorder::Idle
            && s.writing.is_none()
            && s.rows[..self.events]
                .iter()
                .enumerate()
                .all(|(event, row)| *row == Row::Ended || (*row == Row::Absent && has(s.lost, event)))
    }

    /// Whether everything that is pending ends from here, if nothing goes wrong any more.
    fn ends(&self, from: &State) -> bool {
        let (mut s, mut acts) = (from.clone(), Vec::new());
        Self::progress(&mut acts);
        for _ in 0..100 {
            if self.is_over(&s) {
                return true;
            }
            let nobody = s.processes.iter().all(|process| !process.has_loop());
            let mut moved = nobody && self.step(&mut s, Act::Start(0));
            for act in &acts {
                moved |= self.step(&mut s, *act);
            }
            if !moved {
                return false; // nobody can do anything, and it is not over
            }
        }
        false // it goes in circles
    }
}

impl stateright::Model for Model {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let mut processes = [Process::new(0), Process::new(1)];
        if !self.two_processes {
            processes[1].life = Life::Killed;
        }
        for process in &mut processes {
            process.walks = !self.faults.walks_once; // there is nothing yet
        }
        vec![State {
            rows: [Row::Absent; EVENTS],
            dispatchers: if self.two_processes { 0b11 } else { 0b01 },
            writing: None,
            cycling: None,
            processes,
            recorder: Recorder::Idle,
            next: 0,
            ids: 2,
            lost: 0,
            answered: 0,
            loose: 0,
            faults_left: self.faults_left,
            failures_left: self.failures_left,
            broken: Broken::default(),
        }]
    }

    fn actions(&self, s: &State, acts: &mut Vec<Act>) {
        Self::progress(acts);
        acts.push(Act::Write { may_hand: false });
        for p in ALL {
            if p == 0 || self.two_processes {
                acts.push(Act::Start(p));
            }
            if s.failures_left > 0 {
                acts.extend((0..EVENTS).map(|event| Act::Answer(p, event, false)));
            }
        }
        // Without a caller nobody sees whether the database gives it up.
        if s.writing.as_ref().is_some_and(|writing| !writing.awaited) {
            acts.push(Act::EndWrite { committed: false, told: false });
        }
        if s.cycling.as_ref().is_some_and(|cycling| !cycling.awaited) {
            acts.push(Act::EndCycle { committed: false, told: false });
        }
        if s.faults_left > 0 {
            for committed in [true, false] {
                acts.push(Act::EndWrite { committed, told: false });
                acts.push(Act::EndCycle { committed, told: false });
            }
            acts.extend([Act::GiveUpWrite, Act::GiveUpCycle, Act::GiveUp(0, 1), Act::GiveUp(1, 0)]);
            acts.extend(ALL.flat_map(|p| [Act::Stop(p), Act::Kill(p)]));
        }
    }

    fn next_state(&self, last: &State, act: Act) -> Option<State> {
        let mut s = last.clone();
        if !self.step(&mut s, act) {
            return None;
        }
        let unseen = |awaited: Option<bool>| awaited == Some(false);
        match act {
            Act::Answer(_, _, false) => s.failures_left -= 1,
            Act::EndWrite { told: false, .. } if unseen(last.writing.as_ref().map(|w| w.awaited)) => {}
            Act::EndCycle { told: false, .. } if unseen(last.cycling.as_ref().map(|c| c.awaited)) => {}
            Act::EndWrite { told: false, .. }
            | Act::EndCycle { told: false, .. }
            | Act::GiveUpWrite
            | Act::GiveUpCycle
            | Act::GiveUp(..)
            | Act::Stop(_)
            | Act::Kill(_) => s.faults_left = s.faults_left.checked_sub(1)?,
            _ => {}
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("order", |_, s: &State| !s.broken.order),
            Property::always("one at a time", |_, s: &State| !s.broken.twice_at_once),
            Property::always("once", |_, s: &State| !s.broken.repeated),
            Property::always("stored once", |_, s: &State| !s.broken.refused),
            Property::always("every delivery ends", |model: &Self, s| model.ends(s)),
        ]
    }
}

/// Two changes of one agent, and a third of another one or of a snapshot.
fn one_process() -> Model {
    Model {
        events: 3,
        lanes: [0, 0, 0],
        snapshot: Some(2),
        two_processes: false,
        faults_left: 2,
        failures_left: 0,
        faults: Faults::default(),
    }
}

fn two_processes() -> Model {
    Model { events: 2, snapshot: None, two_processes: true, faults_left: 1, ..one_process() }
}

/// The promises that do not hold, in order of their names; all of them, or the first that is seen. Prints how
/// each is broken.
fn broken_of(model: Model, wanted: HasDiscoveries) -> Vec<&'static str> {
    let checker = model.checker().finish_when(wanted).spawn_bfs().join();
    println!("{} states, {} of them distinct", checker.state_count(), checker.unique_state_count());
    let mut found: Vec<_> = checker.discoveries().into_iter().collect();
    found.sort_by_key(|(name, _)| *name);
    for (name, path) in &found {
        println!("\"{name}\" is broken by {:?}", path.clone().into_actions());
    }
    found.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn every_promise_holds_with_one_process_and_two_faults() {
    assert_eq!(broken_of(one_process(), HasDiscoveries::All), [] as [&str; 0]);
}

#[test]
fn every_promise_holds_with_two_processes() {
    assert_eq!(broken_of(two_processes(), HasDiscoveries::All), [] as [&str; 0]);
}

/// A fault that is put back in breaks this promise.
#[track_caller]
fn breaks(promise: &'static str, model: Model, faults: Faults) {
    let broken = broken_of(Model { faults, ..model }, HasDiscoveries::AllOf([promise].into()));
    assert!(broken.contains(&promise), "{broken:?}");
}

#[test]
fn a_late_commit_that_is_not_waited_for_is_found() {
    // As it was: the change is quarantined, and its delivery stays leased for ever.
    let both = Faults { ask_without_lock: true, no_lease_compare: true, ..Faults::default() };
    breaks("every delivery ends", Model { snapshot: None, ..one_process() }, both);
    breaks("stored once", one_process(), Faults { ask_without_lock: true, ..Faults::default() });
}

#[test]
fn leases_that_nobody_compares_are_found() {
    breaks("every delivery ends", one_process(), Faults { no_lease_compare: true, ..Faults::default() });
}

#[test]
fn a_stop_that_frees_posts_under_way_is_found() {
    breaks("once", two_processes(), Faults { drain_frees_all: true, ..Faults::default() });
}

#[test]
fn a_lane_that_is_looked_for_only_at_a_start_is_found() {
    breaks("every delivery ends", two_processes(), Faults { walks_once: true, ..Faults::default() });
}

#[test]
fn a_lease_of_a_dispatcher_without_a_row_is_found() {
    breaks("every delivery ends", one_process(), Faults { needs_a_row: true, ..Faults::default() });
}

#[test]
fn a_word_too_late_that_frees_what_is_under_way_is_found() {
    breaks("once", one_process(), Faults { frees_whoever_holds: true, ..Faults::default() });
}

#[test]
fn a_question_that_comes_after_the_comparison_frees_what_is_under_way() {
    breaks("once", one_process(), Faults { asks_late: true, ..Faults::default() });
}
