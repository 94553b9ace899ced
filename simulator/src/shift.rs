//! A working day of agents, as an endless and repeatable list of presence changes.
//!
//! Nobody's real day: enough of one that a demo looks like a contact centre. Agents come, take calls, pause, meet
//! and leave; after `OFFLINE` only `AVAILABLE` can come. The same seed gives the same day, so that a failure seen
//! once can be seen again.

/// Where an agent can go from a state, with weights.
const DAY: [(&str, &[(&str, u64)]); 8] = [
    ("OFFLINE", &[("AVAILABLE", 1)]),
    (
        "AVAILABLE",
        &[("ON_QUEUE", 14), ("BUSY", 3), ("MEETING", 2), ("AWAY", 2), ("BREAK", 1), ("OFFLINE", 1)],
    ),
    ("ON_QUEUE", &[("AVAILABLE", 6), ("BREAK", 3), ("MEAL", 2), ("BUSY", 2), ("AWAY", 1)]),
    ("BUSY", &[("AVAILABLE", 4), ("ON_QUEUE", 3)]),
    ("AWAY", &[("AVAILABLE", 5), ("OFFLINE", 1)]),
    ("BREAK", &[("ON_QUEUE", 3), ("AVAILABLE", 2)]),
    ("MEAL", &[("AVAILABLE", 3), ("ON_QUEUE", 2)]),
    ("MEETING", &[("AVAILABLE", 4), ("BREAK", 1)]),
];

/// One step of the day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub agent: String,
    pub state: &'static str,
}

/// Endless iterator of steps.
#[derive(Debug, Clone)]
pub struct Shift {
    agents: Vec<(String, &'static str)>,
    chance: Chance,
    /// Agents that have not come to work yet: the day begins with everybody's arrival.
    absent: usize,
}

impl Shift {
    /// A day of these agents; all of them begin `OFFLINE`.
    #[must_use]
    pub fn new(agents: &[String], seed: u64) -> Self {
        let agents: Vec<_> = agents.iter().map(|agent| (agent.clone(), "OFFLINE")).collect();
        let absent = agents.len();
        Self { agents, chance: Chance(seed), absent }
    }
}

impl Iterator for Shift {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let position = match self.absent.checked_sub(1) {
            Some(position) => {
                self.absent = position;
                position
            }
            None => self.chance.below(self.agents.len()),
        };
        let (agent, state) = self.agents.get_mut(position)?;
        let (_, ways) = DAY.iter().find(|(from, _)| from == state)?;
        *state = self.chance.weighted(ways)?;
        Some(Step { agent: agent.clone(), state })
    }
}

/// `SplitMix64`: repeatable, good enough for a play, and eight lines.
#[derive(Debug, Clone)]
struct Chance(u64);

impl Chance {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    fn weighted(&mut self, ways: &[(&'static str, u64)]) -> Option<&'static str> {
        let total: u64 = ways.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.next() % total.max(1);
        ways.iter().find_map(|(state, weight)| match drawn.checked_sub(*weight) {
            None => Some(*state),
            Some(rest) => {
                drawn = rest;
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn agents() -> Vec<String> {
        (1..=5).map(|number| format!("agent-{number}")).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_day() {
        let day = |seed| Shift::new(&agents(), seed).take(200).collect::<Vec<_>>();
        assert_eq!(day(7), day(7));
        assert_ne!(day(7), day(8));
    }

    #[test]
    fn everybody_arrives_first_and_nobody_stays_in_a_state() {
        let steps: Vec<_> = Shift::new(&agents(), 1).take(5_000).collect();
        assert!(steps[..5].iter().all(|step| step.state == "AVAILABLE"));
        let mut last = HashMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for step in steps {
            assert_ne!(last.insert(step.agent, step.state), Some(step.state));
            seen.insert(step.state);
        }
        assert_eq!(seen.len(), DAY.len());
    }

    #[test]
    fn a_shift_of_nobody_has_no_steps() {
        assert_eq!(Shift::new(&[], 1).next(), None);
    }
}
