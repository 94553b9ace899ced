//! A working day of agents, as an endless and repeatable list of presence changes.
//!
//! Nobody's real day: enough of one that a demo looks like a contact centre. Agents come, take calls, pause,
//! meet and leave; after `OFFLINE` only `AVAILABLE` can come. The same seed gives the same day.

use crate::chance::Chance;

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
        Self { agents, chance: Chance::new(seed), absent }
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
            None => {
                let end = u64::try_from(self.agents.len()).unwrap_or(u64::MAX);
                usize::try_from(self.chance.below(end)).unwrap_or(0)
            }
        };
        let (agent, state) = self.agents.get_mut(position)?;
        let (_, ways) = DAY.iter().find(|(from, _)| from == state)?;
        *state = self.chance.weighted(ways)?;
        Some(Step { agent: agent.clone(), state })
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
