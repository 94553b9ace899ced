//! Latency of pings: the tracker of the original specification (docs/realtime.md), fed by round trips of our
//! own.

use std::collections::VecDeque;
use std::time::Duration;

/// Round trips kept.
const SAMPLES_MAX: usize = 100;
/// A round trip of at most this many milliseconds counts as stable.
const STABLE_MS: f64 = 200.0;
/// With fewer samples the stable share says nothing, and is 0.
const SAMPLES_FOR_RATE: usize = 10;
/// Longer round trips are no measurement: the connection counts as dead long before.
const ABSURD: Duration = Duration::from_secs(600);

/// The last 100 round trips.
#[derive(Clone, Debug, Default)]
pub struct LatencyTracker {
    samples_ms: VecDeque<f64>,
}

impl LatencyTracker {
    /// Adds one round trip, unless it is absurd.
    pub fn record(&mut self, round_trip: Duration) {
        if round_trip > ABSURD {
            return;
        }
        self.samples_ms.push_back(round_trip.as_secs_f64() * 1000.0);
        if self.samples_ms.len() > SAMPLES_MAX {
            self.samples_ms.pop_front();
        }
    }

    /// Mean in milliseconds; 0 without samples.
    #[must_use]
    pub fn average_ms(&self) -> f64 {
        if self.samples_ms.is_empty() {
            return 0.0;
        }
        self.samples_ms.iter().sum::<f64>() / count(self.samples_ms.len())
    }

    /// Share of stable round trips in percent; 0 below 10 samples.
    #[must_use]
    pub fn stability_rate(&self) -> f64 {
        if self.samples_ms.len() < SAMPLES_FOR_RATE {
            return 0.0;
        }
        let stable = self.samples_ms.iter().filter(|ms| **ms <= STABLE_MS).count();
        count(stable) / count(self.samples_ms.len()) * 100.0
    }

    /// Round trips behind the two figures.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.samples_ms.len()
    }
}

fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)]
    use super::*;

    fn tracker(samples_ms: impl IntoIterator<Item = u64>) -> LatencyTracker {
        let mut tracker = LatencyTracker::default();
        samples_ms.into_iter().for_each(|ms| tracker.record(Duration::from_millis(ms)));
        tracker
    }

    #[test]
    fn without_samples_both_figures_are_zero() {
        assert_eq!((tracker([]).average_ms(), tracker([]).stability_rate()), (0.0, 0.0));
    }

    #[test]
    fn the_rate_needs_ten_samples_and_counts_up_to_200_ms() {
        assert_eq!(tracker([1; 9]).stability_rate(), 0.0);
        let ten = tracker([200, 200, 200, 200, 200, 201, 300, 100, 100, 100]);
        assert_eq!(ten.stability_rate(), 80.0);
        assert_eq!(ten.average_ms(), 180.1);
    }

    #[test]
    fn only_the_last_hundred_count() {
        let tracker = tracker(std::iter::repeat_n(1000, 50).chain(std::iter::repeat_n(10, 100)));
        assert_eq!((tracker.samples(), tracker.average_ms()), (100, 10.0));
    }

    #[test]
    fn absurd_round_trips_are_not_taken() {
        assert_eq!(tracker([1_800_000_000_000]).samples(), 0);
    }
}
