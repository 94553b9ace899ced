//! Which event has which number among those of its agent, to find numbers that were given twice.

use std::collections::{HashMap, HashSet};

/// Source, agent and sequence.
pub type Number = (String, String, u64);

#[derive(Default)]
pub struct Numbering {
    events: HashMap<Number, String>,
    doubled: HashSet<Number>,
}

impl Numbering {
    /// An event was seen with this number: for the first time, or again.
    pub fn saw(&mut self, number: Number, event_id: &str) {
        match self.events.get(&number) {
            None => drop(self.events.insert(number, event_id.to_owned())),
            Some(known) if known == event_id => {}
            Some(_) => drop(self.doubled.insert(number)),
        }
    }

    /// Numbers that two events have, or more.
    pub fn doubled(&self) -> usize {
        self.doubled.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_doubled_once_another_event_has_it() {
        let number = |agent: &str, sequence| ("source".to_owned(), agent.to_owned(), sequence);
        let mut numbering = Numbering::default();
        for (number, event) in [
            (number("ann", 1), "a"),
            (number("ann", 2), "b"),
            (number("bob", 1), "c"),
            (number("ann", 1), "a"),
        ] {
            numbering.saw(number, event);
        }
        assert_eq!(numbering.doubled(), 0, "repeats are no second event");
        numbering.saw(number("ann", 1), "d");
        numbering.saw(number("ann", 1), "e");
        assert_eq!(numbering.doubled(), 1);
    }
}
