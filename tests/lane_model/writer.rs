//! The writer of events: `store/{recorder,events,written,handoff,leases}.rs`.

use super::Model;
use super::state::{EVENTS, Recorder, Row, State, Word, Writing, only};

impl Model {
    /// `write_events`, under the writers' lock. `may_hand`: the dispatcher gave leave for this webhook.
    pub fn write(&self, s: &mut State, may_hand: bool) -> bool {
        if s.recorder != Recorder::Idle || s.next >= self.events || s.writing.is_some() {
            return false;
        }
        if s.rows[s.next] != Row::Absent {
            s.broken.refused = true; // duplicate key: quarantined
            s.next += 1;
            return true;
        }
        let leave = s.processes[0].leave;
        let leads = !(0..EVENTS).any(|e| self.same_lane(e, s.next) && s.rows[e].is_open());
        let handed = leave.filter(|_| may_hand);
        if !may_hand && (leave.is_none() || !leads) {
            return false; // no other than with leave
        }
        let row = match handed {
            _ if !leads => Row::BLOCKED,
            None => Row::DUE,
            Some(id) => Row::Open { due: false, leased: Some(id), attempt: 1, leased_at_insert: true },
        };
        s.writing = Some(Writing { event: s.next, row, awaited: true });
        s.recorder = Recorder::Writes { leave };
        true
    }

    /// The transaction ends: committed or not, and its writer told of it or not.
    pub fn end_write(&self, s: &mut State, committed: bool, told: bool) -> bool {
        let Some(Writing { event, row, awaited }) = s.writing.take() else { return false };
        if committed {
            s.rows[event] = row;
        }
        if let Recorder::Writes { leave } = s.recorder
            && awaited
        {
            if told && committed {
                s.recorder = Recorder::Announces { leave, row };
            } else {
                self.drop_unannounced(s, event, row);
            }
        }
        true
    }

    /// The client's time is over; the transaction goes on.
    pub fn give_up_write(&self, s: &mut State) -> bool {
        let Some(writing) = s.writing.as_mut().filter(|writing| writing.awaited) else { return false };
        writing.awaited = false;
        let (event, row) = (writing.event, writing.row);
        self.drop_unannounced(s, event, row);
        true
    }

    /// `Written::drop`.
    fn drop_unannounced(&self, s: &mut State, event: usize, row: Row) {
        if row == Row::BLOCKED {
            s.processes[0].uncertain |= only(self.lanes[event]);
        }
        s.recorder = Recorder::Unsure;
    }

    /// `hand_over`, after the commit.
    pub fn announce(&self, s: &mut State) -> bool {
        let Recorder::Announces { leave, row } = s.recorder else { return false };
        let word = match row {
            Row::BLOCKED => Some(Word::Behind { lane: self.lanes[s.next] }),
            row if row.holder().is_some() => Some(Word::Delivery { event: s.next }),
            _ => None, // due: a wake-up
        };
        let gone = s.processes[0].leave != leave;
        match word {
            Some(_) if gone => {
                s.recorder = Recorder::Returns { leave, row };
                return true;
            }
            // Without leave there is nobody to tell: the walk finds the lane.
            Some(word) if leave.is_some() => s.processes[0].waiting.push(word),
            _ => {}
        }
        s.recorder = Recorder::Idle;
        s.next += 1;
        true
    }

    /// Its dispatcher is gone: it gives back what it wanted to hand over.
    pub fn return_unannounced(&self, s: &mut State) -> bool {
        let Recorder::Returns { leave, row } = s.recorder else { return false };
        if s.cycling.is_some() {
            return false;
        }
        for event in 0..EVENTS {
            let ours = leave.is_some() && s.rows[event].holder() == leave;
            let meant = event == s.next && row.holder().is_some() && s.rows[event].attempt() == 1;
            if ours && (meant || self.faults.drain_frees_all) {
                s.rows[event] = s.rows[event].freed(false);
            }
        }
        s.recorder = Recorder::Idle;
        s.next += 1;
        true
    }

    /// `stored_events`, after a transaction whose outcome is unknown.
    pub fn ask(&self, s: &mut State) -> bool {
        if s.recorder != Recorder::Unsure || (s.writing.is_some() && !self.faults.ask_without_lock) {
            return false;
        }
        s.recorder = match s.rows[s.next] {
            Row::Absent => Recorder::Idle,
            // A snapshot knows by where it stands that its chunk is stored, and frees nothing.
            _ if self.snapshot == Some(s.next) => {
                s.next += 1;
                Recorder::Idle
            }
            _ => Recorder::Unannounced,
        };
        true
    }

    /// `release_unannounced`.
    pub fn release_unannounced(&self, s: &mut State) -> bool {
        if s.recorder != Recorder::Unannounced || s.cycling.is_some() {
            return false;
        }
        let row = s.rows[s.next];
        let leased_at_insert = matches!(row, Row::Open { attempt: 1, leased_at_insert: true, .. });
        if row.holder().is_some() && (leased_at_insert || self.faults.frees_whoever_holds) {
            s.rows[s.next] = row.freed(false);
        }
        s.recorder = Recorder::Idle;
        s.next += 1;
        true
    }
}
