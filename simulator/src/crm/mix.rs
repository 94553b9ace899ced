//! Treatment by chance: a receiver that is slow now and fails then, the same way for the same seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::behaviour::Behaviour;
use crate::chance::Chance;

/// Draws a new [`Behaviour`] for each POST. Without more it answers 204 at once.
#[derive(Debug, Clone)]
pub struct Mix {
    chance: Chance,
    percent: u64,
    errors: Vec<Behaviour>,
    delays: RangeInclusive<Duration>,
}

impl Mix {
    /// A mix of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            chance: Chance::new(seed),
            percent: 0,
            errors: Vec::new(),
            delays: Duration::ZERO..=Duration::ZERO,
        }
    }

    /// `percent` of the POSTs fail: with 500, with 503, with a closed or with a reset connection.
    #[must_use]
    pub fn errors(self, percent: u64) -> Self {
        let errors = [
            Behaviour::status(500),
            Behaviour::status(503),
            Behaviour::CloseUnanswered,
            Behaviour::ResetUnanswered,
        ];
        self.errors_of(percent, errors)
    }

    /// `percent` of the POSTs are treated in one of these ways.
    #[must_use]
    pub fn errors_of(mut self, percent: u64, errors: impl IntoIterator<Item = Behaviour>) -> Self {
        self.percent = percent;
        self.errors = errors.into_iter().collect();
        self
    }

    /// Each complete answer comes after a wait of this length.
    #[must_use]
    pub fn delays(mut self, delays: RangeInclusive<Duration>) -> Self {
        self.delays = delays;
        self
    }

    pub(super) fn draw(&mut self) -> Behaviour {
        let fails = self.chance.below(100) < self.percent;
        let error = if fails { self.chance.pick(&self.errors).cloned() } else { None };
        let room = self.delays.end().saturating_sub(*self.delays.start());
        let micros = u64::try_from(room.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        let delay = *self.delays.start() + Duration::from_micros(self.chance.below(micros));
        error.unwrap_or_default().after(delay)
    }
}

/// Treatment that a path keeps.
#[derive(Debug, Clone)]
pub enum Standing {
    /// The same for each POST.
    Same(Behaviour),
    /// Drawn for each POST.
    Mixed(Mix),
    /// 204 for a body of at most this many bytes, 413 for a larger one.
    UpTo(usize),
    /// The first POST of each connection like this, and any later one like that: a server that ends
    /// connections at the moment of their use.
    PerConnection { first: Behaviour, later: Behaviour },
}

impl Standing {
    /// What is done with a POST whose body has this many bytes, the `nth` of its connection, from 1.
    pub(super) fn treat(&mut self, bytes: usize, nth: u64) -> Behaviour {
        match self {
            Self::Same(behaviour) => behaviour.clone(),
            Self::Mixed(mix) => mix.draw(),
            Self::UpTo(most) => Behaviour::status(if bytes > *most { 413 } else { 204 }),
            Self::PerConnection { first, .. } if nth == 1 => first.clone(),
            Self::PerConnection { later, .. } => later.clone(),
        }
    }
}

impl Default for Standing {
    fn default() -> Self {
        Self::Same(Behaviour::default())
    }
}

impl From<Behaviour> for Standing {
    fn from(behaviour: Behaviour) -> Self {
        Self::Same(behaviour)
    }
}

impl From<Mix> for Standing {
    fn from(mix: Mix) -> Self {
        Self::Mixed(mix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crm::Answer;

    fn draws(mut mix: Mix, count: usize) -> Vec<Behaviour> {
        (0..count).map(|_| mix.draw()).collect()
    }

    #[test]
    fn the_same_seed_treats_alike() {
        let mix = |seed| Mix::new(seed).errors(30).delays(Duration::ZERO..=Duration::from_millis(9));
        assert_eq!(draws(mix(1), 50), draws(mix(1), 50));
        assert_ne!(draws(mix(1), 50), draws(mix(2), 50));
        assert_eq!(draws(Mix::new(1), 3), vec![Behaviour::default(); 3]);
    }

    #[test]
    fn fails_as_often_as_asked_and_waits_within_bounds() {
        let (from, to) = (Duration::from_millis(2), Duration::from_millis(5));
        let drawn = draws(Mix::new(7).errors(10).delays(from..=to), 10_000);
        let failed = drawn.iter().filter(|behaviour| !behaviour.accepts()).count();
        assert!((900..1_100).contains(&failed), "{failed}");
        for error in [Behaviour::CloseUnanswered, Behaviour::ResetUnanswered] {
            assert!(drawn.contains(&error));
        }
        let delays = drawn.iter().filter_map(|behaviour| match behaviour {
            Behaviour::Answer(Answer { delay, .. }) => Some(*delay),
            _ => None,
        });
        assert!(delays.clone().all(|delay| (from..=to).contains(&delay)));
        assert!(
            delays.clone().any(|delay| delay > to.mul_f64(0.9)) && delays.min() < Some(from.mul_f64(1.1))
        );
    }
}
