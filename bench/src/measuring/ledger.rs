//! A record of a million POSTs: for each webhook and agent the last sequence and two bits a change, for
//! each `webhook-id` a hash of the body, and counts. The POSTs themselves are not kept.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use genesys_simulator::crm::{Observer, Post};

use crate::measuring::figures::count;

/// Examples of broken promises that are kept.
const EXAMPLES: usize = 10;

/// Sees each POST. Webhooks have the paths `/w/0`, `/w/1` …, agents are named with their number at the end.
#[derive(Debug)]
pub struct Ledger {
    agents: usize,
    /// One of this many POSTs has its signature checked, and its body read as JSON.
    judge_every: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lanes: Vec<Lane>,
    /// Hash of the first body that came under an id.
    bodies: HashMap<u128, u64>,
    tally: Tally,
    examples: Vec<String>,
    /// How each life of the bridge so far has ended.
    ended: Vec<Ended>,
}

/// How a life of the bridge ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Killed,
    Stopped,
}

/// All that one webhook is told of one agent. Bit n stands for the change with sequence n.
#[derive(Debug, Default)]
struct Lane {
    last: u64,
    arrived: Bits,
    accepted: Bits,
    /// In which life of the bridge each came, the last time before it was accepted.
    lives: Vec<u16>,
}

impl Lane {
    fn life_of(&mut self, sequence: u64) -> Option<&mut u16> {
        // A sequence that cannot be true would take all memory.
        let place = usize::try_from(sequence).ok().filter(|place| *place < 1 << 26)?;
        if place >= self.lives.len() {
            self.lives.resize(place + 1, 0);
        }
        self.lives.get_mut(place)
    }
}

/// Counts since the start.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// POSTs of any kind.
    pub posts: u64,
    /// Deliveries that were accepted, each once.
    pub accepted: u64,
    /// POSTs that came after their delivery had been accepted.
    pub duplicates: u64,
    /// Of these, those that were answered in an earlier life, which was asked to stop.
    pub repeated_by_stops: u64,
    /// Of these, those that were answered in the same life.
    pub repeated_within: u64,
    /// First arrivals whose sequence is not above the last of their lane.
    pub inversions: u64,
    /// Repeats with another body, or of another change.
    pub altered: u64,
    /// Changes that came to a webhook under two ids.
    pub doubled: u64,
    /// POSTs whose signature and body were checked.
    pub checked: u64,
    /// Of these, those with a wrong signature or body.
    pub distrusted: u64,
    /// POSTs that say nothing of webhook, agent and sequence.
    pub unreadable: u64,
}

impl Ledger {
    pub fn new(webhooks: usize, agents: usize, judge_every: u64) -> Self {
        let lanes = (0..webhooks * agents).map(|_| Lane::default()).collect();
        let state = Mutex::new(State { lanes, ..State::default() });
        Self { agents, judge_every: judge_every.max(1), state }
    }

    pub fn tally(&self) -> Tally {
        self.state().tally
    }

    pub fn examples(&self) -> Vec<String> {
        self.state().examples.clone()
    }

    /// Deliveries that were expected and never accepted, and arrivals that were not expected. `expected`
    /// holds the last sequence of each agent; every webhook must get all from 1 to it.
    pub fn compare(&self, expected: &[u64]) -> (u64, u64) {
        let state = self.state();
        let (mut lost, mut surplus) = (0, 0);
        for (lane, expected) in state.lanes.iter().zip(expected.iter().cycle()) {
            lost +=
                (1..=*expected).filter(|sequence| !lane.accepted.holds(*sequence)).fold(0, |sum, _| sum + 1);
            surplus += lane.arrived.above(*expected);
        }
        (lost, surplus)
    }

    /// The process is gone, and another one will be started.
    pub fn life_ended(&self, how: Ended) {
        self.state().ended.push(how);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the lane, and the sequence.
    fn read(&self, post: &Post) -> Option<(usize, u64)> {
        let webhook: usize = post.path().strip_prefix("/w/")?.parse().ok()?;
        // Looked for in the text: reading JSON would cost more than all the rest.
        let text = std::str::from_utf8(&post.body).ok()?;
        let sequence = text.split_once("\"sequence\":")?.1.split(',').next()?.parse().ok()?;
        let agent = agent_number(text.split_once("\"agent\":{\"id\":\"")?.1.split('"').next()?)?;
        (agent < self.agents).then_some((webhook * self.agents + agent, sequence))
    }
}

impl Observer for Ledger {
    fn arrived(&self, post: &Post) {
        let (read, id, body) = (self.read(post), id_of(post), hash_of(&post.body));
        let checked = post.number.is_multiple_of(self.judge_every);
        let trusted = !checked || (post.verified() && reads_the_same(post, read));
        let mut state = self.state();
        let State { lanes, bodies, tally, examples, ended } = &mut *state;
        let mut tell = |what: &str| {
            if examples.len() < EXAMPLES {
                let (id, lane) = (post.webhook_id(), read.unwrap_or_default());
                examples.push(format!("{what}: post {} to {} {id} {lane:?}", post.number, post.path()));
            }
        };
        tally.posts += 1;
        tally.checked += u64::from(checked);
        if !trusted {
            tally.distrusted += 1;
            tell("distrusted");
        }
        let Some((sequence, lane)) = read.and_then(|(lane, sequence)| Some((sequence, lanes.get_mut(lane)?)))
        else {
            tally.unreadable += 1;
            return tell("unreadable");
        };
        match bodies.insert(id, body) {
            Some(before) if before != body || !lane.arrived.holds(sequence) => {
                tally.altered += 1;
                tell("altered repeat");
            }
            Some(_) => {}
            None if lane.arrived.holds(sequence) => {
                tally.doubled += 1;
                tell("doubled");
            }
            None => {
                if sequence <= lane.last {
                    tally.inversions += 1;
                    tell("inversion");
                }
                lane.last = lane.last.max(sequence);
            }
        }
        lane.arrived.add(sequence);
        let accepted = lane.accepted.holds(sequence);
        let Some(life) = lane.life_of(sequence) else { return };
        if !accepted {
            *life = u16::try_from(ended.len()).unwrap_or(u16::MAX);
            return;
        }
        tally.duplicates += 1;
        match ended.get(usize::from(*life)) {
            None => tally.repeated_within += 1,
            Some(Ended::Killed) => {}
            Some(Ended::Stopped) => {
                tally.repeated_by_stops += 1;
                tell("answered before a stop, and sent again");
            }
        }
    }

    fn answered(&self, post: &Post) {
        if !post.accepted() {
            return;
        }
        let read = self.read(post);
        let mut state = self.state();
        if let Some((lane, sequence)) = read
            && let Some(lane) = state.lanes.get_mut(lane)
            && lane.accepted.add(sequence)
        {
            state.tally.accepted += 1;
        }
    }
}

/// Number at the end of an agent's name.
pub fn agent_number(id: &str) -> Option<usize> {
    id.rsplit_once('-')?.1.parse().ok()
}

fn reads_the_same(post: &Post, read: Option<(usize, u64)>) -> bool {
    post.event.as_ref().is_ok_and(|event| read.is_some_and(|(_, sequence)| sequence == event.sequence()))
}

fn id_of(post: &Post) -> u128 {
    let digits = post.webhook_id().chars().filter_map(|c| c.to_digit(16));
    digits.fold(0, |id, digit| (id << 4) | u128::from(digit))
}

fn hash_of(body: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(body);
    hasher.finish()
}

/// A set of small numbers.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn place(number: u64) -> (usize, u64) {
        (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
    }

    fn holds(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether it is new.
    fn add(&mut self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        // A sequence that cannot be true would take all memory.
        if word >= self.0.len() && word < 1 << 20 {
            self.0.resize(word + 1, 0);
        }
        let Some(word) = self.0.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// How many numbers are above a limit.
    fn above(&self, limit: u64) -> u64 {
        let end = count(self.0.len()) * 64;
        (limit + 1..end).filter(|number| self.holds(*number)).fold(0, |sum, _| sum + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_bits_holds_what_was_added() {
        let mut bits = Bits::default();
        assert!(bits.add(1) && bits.add(64) && bits.add(200) && !bits.add(64));
        assert!(bits.holds(200) && !bits.holds(2) && !bits.holds(10_000));
        assert_eq!((bits.above(0), bits.above(64), bits.above(200)), (3, 1, 0));
        assert!(!bits.add(u64::MAX));
    }
}
