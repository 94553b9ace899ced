//! Waits between tries of one step, doubled after each failure up to a longest one.

use std::time::Duration;

/// Share of a wait that jitter adds at most, so that processes do not all come back at once.
const JITTER: f64 = 0.3;

/// Wait before the next try of a step that failed.
#[derive(Clone, Copy, Debug)]
pub struct RetryBackoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl RetryBackoff {
    /// Waits from `first` up to `longest`, jitter not counted.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait after one more failure. `jitter` is random, at least 0 and below 1.
    pub fn after_failure(&mut self, jitter: f64) -> Duration {
        let wait = self.next.mul_f64(1.0 + JITTER * jitter);
        self.next = (self.next * 2).min(self.longest);
        wait
    }

    /// Begins again with the first wait: a try succeeded.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again_after_a_success() {
        let mut backoff = RetryBackoff::new(Duration::from_millis(50), Duration::from_millis(300));
        let mut wait = || backoff.after_failure(0.0).as_millis();
        assert_eq!([wait(), wait(), wait(), wait(), wait()], [50, 100, 200, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.after_failure(0.0), Duration::from_millis(50));
    }

    #[test]
    fn jitter_adds_at_most_three_tenths() {
        let mut backoff = RetryBackoff::new(Duration::from_secs(10), Duration::from_secs(10));
        assert_eq!(backoff.after_failure(0.5), Duration::from_millis(11_500));
        assert!(backoff.after_failure(0.999) < Duration::from_secs(13));
    }
}
