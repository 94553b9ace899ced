//! The dispatch loop and its one transaction: `actors/dispatch/*.rs`,
//! `store/{claim,settle,leases,deliveries}.rs`.

use super::Model;
use super::state::{
    Cycle, Cycling, EVENTS, Hand, Id, Life, Next, PROCESSES, Process, Recorder, Row, Settlement, State, Word,
    Work, has, only,
};

impl Model {
    /// `turn`: takes what was handed over.
    pub fn take_words(&self, s: &mut State, p: usize) -> bool {
        if !s.processes[p].has_loop() || s.processes[p].waiting.is_empty() {
            return false;
        }
        for word in std::mem::take(&mut s.processes[p].waiting) {
            match word {
                Word::Delivery { event } => take(&mut s.processes[p], event, 1),
                Word::Behind { lane } => {
                    if !(0..EVENTS).any(|e| self.lanes[e] == lane && has(s.processes[p].leased_set(), e)) {
                        s.processes[p].work.lanes |= only(lane);
                    }
                }
            }
        }
        true
    }

    /// A POST begins: what is promised of it is looked at here.
    pub fn post(&self, s: &mut State, p: usize, event: usize) -> bool {
        let Hand::Ready(attempt) = s.processes[p].held[event] else { return false };
        if !s.processes[p].has_loop() {
            return false;
        }
        let posting = |e: usize| s.processes.iter().any(|p| matches!(p.held[e], Hand::Posting(_)));
        let loose = |e: usize| has(s.loose, e);
        let in_lane = |e: &usize| self.same_lane(*e, event);
        s.broken.order |= (0..event).filter(in_lane).any(|e| s.rows[e].is_open());
        s.broken.twice_at_once |=
            !loose(event) && (0..EVENTS).filter(in_lane).any(|e| posting(e) && !loose(e));
        s.broken.repeated |= has(s.answered, event) && !loose(event);
        s.processes[p].held[event] = Hand::Posting(attempt);
        true
    }

    /// `conclude`.
    pub fn answer(&self, s: &mut State, p: usize, event: usize, success: bool) -> bool {
        let Hand::Posting(attempt) = s.processes[p].held[event] else { return false };
        if !s.processes[p].has_loop() {
            return false;
        }
        if success {
            s.answered |= only(event);
        }
        let there = &mut s.processes[p];
        there.held[event] = Hand::Empty;
        let next = if success { Next::Ended } else { Next::Retry };
        there.work.add(Settlement { event, attempt, next, promotes_next: there.life == Life::Runs });
        true
    }

    /// `give_back`: what is leased and not under way.
    pub fn give_back(&self, s: &mut State, p: usize) -> bool {
        let there = &mut s.processes[p];
        let mut any = false;
        for event in 0..EVENTS {
            if let Hand::Ready(attempt) = there.held[event] {
                there.held[event] = Hand::Empty;
                there.work.add(Settlement { event, attempt, next: Next::Back, promotes_next: false });
                any = true;
            }
        }
        any
    }

    /// `start_cycle`.
    pub fn start_cycle(&self, s: &mut State, p: usize) -> bool {
        let due = s.rows.iter().any(|row| matches!(row, Row::Open { due: true, .. }));
        let there = &mut s.processes[p];
        let claims = there.life == Life::Runs && due;
        if !there.has_loop()
            || there.cycle != Cycle::None
            || !(claims || there.commit_unknown || !there.work.is_empty())
        {
            return false;
        }
        let work = std::mem::take(&mut there.work);
        let known = there.leased_set() | work.settles();
        there.cycle =
            if there.commit_unknown { Cycle::Reconciles { known, work } } else { Cycle::Starts(work) };
        there.commit_unknown = true;
        true
    }

    /// `reconcile_after_unknown_commit`.
    pub fn reconcile_after_unknown_commit(&self, s: &mut State, p: usize) -> bool {
        let Cycle::Reconciles { known, work } = s.processes[p].cycle.clone() else { return false };
        if s.cycling.is_some() || !s.processes[p].has_loop() {
            return false;
        }
        for event in 0..EVENTS {
            let row = s.rows[event];
            let leased_at_insert = matches!(row, Row::Open { attempt: 1, leased_at_insert: true, .. });
            if row.holder() == Some(s.processes[p].id) && !has(known, event) && !leased_at_insert {
                s.rows[event] = row.freed(false);
            }
        }
        s.processes[p].cycle = Cycle::Starts(work);
        true
    }

    /// `dispatch_cycle` up to its commit: settle, take the next of each lane that moved, claim.
    pub fn run_cycle(&self, s: &mut State, p: usize) -> bool {
        let Cycle::Starts(work) = s.processes[p].cycle.clone() else { return false };
        if s.cycling.is_some() || !s.processes[p].has_loop() {
            return false;
        }
        let (id, before) = (s.processes[p].id, s.rows);
        let seen = (0..EVENTS).filter(|e| before[*e].is_open()).fold(0, |set, e| set | only(e));
        let (mut rows, mut claimed) = (before, 0);
        // All of settle.rs is one statement: what it looks at is what was there before.
        let mut moved: Vec<(usize, usize, bool)> =
            (0..EVENTS).filter(|l| has(work.lanes, *l)).map(|lane| (lane, 0, true)).collect();
        for settlement in &work.settlements {
            let row = before[settlement.event];
            if row.holder() != Some(id) || row.attempt() != settlement.attempt {
                continue;
            }
            rows[settlement.event] = match settlement.next {
                Next::Ended => {
                    moved.push((
                        self.lanes[settlement.event],
                        settlement.event + 1,
                        settlement.promotes_next,
                    ));
                    Row::Ended
                }
                Next::Retry => row.freed(true),
                Next::Back => row.freed(false),
            };
        }
        for (lane, from, promotes_next) in moved {
            let next = (from..EVENTS).find(|e| self.lanes[*e] == lane && before[*e].is_open());
            if let Some(next) = next
                && before[next].is_blocked()
            {
                if promotes_next {
                    claimed |= only(next);
                    rows[next] = before[next].leased_to(id);
                } else {
                    rows[next] = before[next].freed(true);
                }
            }
        }
        if s.processes[p].life == Life::Runs {
            let after = rows;
            for event in 0..EVENTS {
                if !matches!(after[event], Row::Open { due: true, .. }) {
                    continue;
                }
                if (0..event).any(|e| self.same_lane(e, event) && after[e].is_open()) {
                    let (attempt, leased_at_insert) =
                        (after[event].attempt(), self.was_leased_at_insert(after[event]));
                    rows[event] = Row::Open { due: false, leased: None, attempt, leased_at_insert };
                } else {
                    claimed |= only(event);
                    rows[event] = after[event].leased_to(id);
                }
            }
        }
        s.processes[p].cycle = Cycle::Waits(work);
        s.cycling = Some(Cycling { process: p, rows, seen, claimed, awaited: true });
        true
    }

    fn was_leased_at_insert(&self, row: Row) -> bool {
        matches!(row, Row::Open { leased_at_insert: true, .. })
    }

    /// The cycle's transaction ends: committed or not, and its loop told of it or not.
    pub fn end_cycle(&self, s: &mut State, committed: bool, told: bool) -> bool {
        let Some(cycling) = s.cycling.take() else { return false };
        if committed {
            for event in (0..EVENTS).filter(|e| has(cycling.seen, *e)) {
                s.rows[event] = cycling.rows[event];
            }
        }
        if cycling.awaited {
            let there = &mut s.processes[cycling.process];
            if told && committed {
                there.cycle = Cycle::None;
                there.commit_unknown = false;
                for event in (0..EVENTS).filter(|e| has(cycling.claimed, *e)) {
                    take(there, event, cycling.rows[event].attempt());
                }
            } else {
                keep(there);
            }
        }
        true
    }

    /// The loop's time is over; the transaction goes on.
    pub fn give_up_cycle(&self, s: &mut State) -> bool {
        let Some(cycling) = s.cycling.as_mut().filter(|cycling| cycling.awaited) else { return false };
        cycling.awaited = false;
        keep(&mut s.processes[cycling.process]);
        true
    }

    /// `reconcile`: what is leased to us and stays unknown for longer than a step may take, so that no word
    /// about it is on its way.
    pub fn reconcile(&self, s: &mut State, p: usize) -> bool {
        let there = &s.processes[p];
        let told_of = |event: usize| {
            there.waiting.contains(&Word::Delivery { event })
                || (p == 0
                    && s.next == event
                    && matches!(
                        s.recorder,
                        Recorder::Writes { .. } | Recorder::Announces { .. } | Recorder::Returns { .. }
                    ))
                || (p == 0
                    && s.next == event
                    && !self.faults.asks_late
                    && matches!(s.recorder, Recorder::Unsure | Recorder::Unannounced))
        };
        let settled = s.cycling.is_none() && matches!(there.cycle, Cycle::None);
        if self.faults.no_lease_compare || !there.has_loop() || !settled {
            return false;
        }
        let unknown =
            |e: &usize| s.rows[*e].holder() == Some(there.id) && !has(there.knows(), *e) && !told_of(*e);
        let unknown: Vec<_> = (0..EVENTS).filter(unknown).collect();
        for event in &unknown {
            s.rows[*event] = s.rows[*event].freed(false);
        }
        !unknown.is_empty()
    }

    /// `uncertain_lanes`: once the writers' lock was had.
    pub fn look_into(&self, s: &mut State, p: usize) -> bool {
        let there = &mut s.processes[p];
        if there.life != Life::Runs || there.uncertain == 0 || s.writing.is_some() {
            return false;
        }
        there.work.lanes |= std::mem::take(&mut there.uncertain);
        true
    }

    /// `wake_stranded`, through all lanes: the first of each becomes due if nobody holds it and nothing wakes
    /// it.
    pub fn walk(&self, s: &mut State, p: usize) -> bool {
        if s.processes[p].life != Life::Runs || !s.processes[p].walks || s.cycling.is_some() {
            return false;
        }
        s.processes[p].walks = !self.faults.walks_once;
        let mut any = self.faults.walks_once;
        for lane in 0..EVENTS {
            let head = (0..EVENTS).find(|e| self.lanes[*e] == lane && s.rows[*e].is_open());
            if let Some(head) = head
                && s.rows[head].is_blocked()
            {
                s.rows[head] = s.rows[head].freed(true);
                any = true;
            }
        }
        any
    }

    /// `free_of_the_dead`: what killed processes held. `stalled`: one that lives has given no sign of life in
    /// time.
    pub fn release_expired(&self, s: &mut State, p: usize, stalled: Option<usize>) -> bool {
        if s.processes[p].life != Life::Runs || s.cycling.is_some() || stalled == Some(p) {
            return false;
        }
        let lives = |id: Id| {
            s.processes
                .iter()
                .enumerate()
                .any(|(q, process)| process.id == id && process.has_loop() && stalled != Some(q))
        };
        // Has a row and gives no sign of life, or holds something and has no row. One that lives and has lost
        // its row could be freed over and over until it finds out: that is one fault, and not without end.
        let listed = |id: Id| has(s.dispatchers, usize::from(id));
        let holds = |id: Id| s.rows.iter().any(|row| row.holder() == Some(id));
        let found = |id: Id| listed(id) || (holds(id) && !self.faults.needs_a_row);
        let dead: Vec<Id> = (0..s.ids).filter(|id| !lives(*id) && found(*id)).collect();
        if dead.is_empty() || stalled.is_some_and(|q| !dead.contains(&s.processes[q].id)) {
            return false;
        }
        let mut freed = false;
        for event in 0..EVENTS {
            if s.rows[event].holder().is_some_and(|id| dead.contains(&id)) {
                s.rows[event] = s.rows[event].freed(true);
                s.loose |= only(event);
                freed = true;
            }
        }
        for id in dead {
            s.dispatchers &= !only(usize::from(id));
        }
        s.processes[p].walks |= freed;
        if let Some(q) = stalled {
            s.loose |= s.processes[q].knows();
        }
        true
    }

    /// maintenance finds that we were given up for dead: begins again under the same id.
    pub fn find_lost(&self, s: &mut State, p: usize) -> bool {
        let id = usize::from(s.processes[p].id);
        if !s.processes[p].has_loop() || has(s.dispatchers, id) {
            return false;
        }
        s.dispatchers |= only(id);
        s.processes[p].walks = true;
        self.give_back(s, p);
        true
    }

    /// SIGTERM: takes nothing more.
    pub fn stop(&self, s: &mut State, p: usize) -> bool {
        let there = &mut s.processes[p];
        if there.life != Life::Runs {
            return false;
        }
        there.life = Life::Drains;
        there.leave = None;
        there.waiting.clear();
        self.give_back(s, p);
        true
    }

    /// Nothing is leased any more: `end_dispatcher`.
    pub fn end_drain(&self, s: &mut State, p: usize) -> bool {
        let there = &s.processes[p];
        let idle = there.leased_set() == 0 && there.cycle == Cycle::None && there.work.is_empty();
        if there.life != Life::Drains || !idle || s.cycling.is_some() {
            return false;
        }
        let id = there.id;
        for event in 0..EVENTS {
            if s.rows[event].holder() == Some(id) {
                s.rows[event] = s.rows[event].freed(false);
            }
        }
        s.dispatchers &= !only(usize::from(id));
        s.processes[p].life = Life::Stopped;
        true
    }

    /// kill -9. What was under way in the database goes on without a caller.
    pub fn kill(&self, s: &mut State, p: usize) -> bool {
        if s.processes[p].life == Life::Killed {
            return false;
        }
        s.loose |= s.processes[p].knows();
        if let Some(cycling) = s.cycling.as_mut().filter(|cycling| cycling.process == p) {
            cycling.awaited = false;
        }
        if p == 0 {
            if let Some(writing) = s.writing.as_mut() {
                writing.awaited = false;
            }
            if s.recorder != Recorder::Idle {
                s.lost |= only(s.next);
                s.next += 1;
            }
            s.recorder = Recorder::Idle;
        }
        let id = s.processes[p].id;
        s.processes[p] = Process { life: Life::Killed, leave: None, walks: false, ..Process::new(id) };
        true
    }

    pub fn start(&self, s: &mut State, p: usize) -> bool {
        let ended = matches!(s.processes[p].life, Life::Stopped | Life::Killed);
        if !ended || (p == 0 && s.recorder != Recorder::Idle) {
            return false;
        }
        s.dispatchers |= only(usize::from(s.ids));
        s.processes[p] = Process::new(s.ids);
        s.ids += 1;
        true
    }
}

/// `take`: one that is leased already goes on under the new attempt.
fn take(there: &mut Process, event: usize, attempt: u8) {
    there.held[event] = match there.held[event] {
        Hand::Empty | Hand::Ready(_) => Hand::Ready(attempt),
        Hand::Posting(_) => Hand::Posting(attempt),
    };
}

/// `keep`: the work of a failed cycle goes before what has come since.
fn keep(there: &mut Process) {
    if let Cycle::Waits(work) = std::mem::replace(&mut there.cycle, Cycle::None) {
        let Work { settlements, lanes } = work;
        settlements.into_iter().for_each(|settlement| there.work.add(settlement));
        there.work.lanes |= lanes;
    }
}

pub const ALL: std::ops::Range<usize> = 0..PROCESSES;
