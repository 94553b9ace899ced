//! Wait before connecting again: the formula of the original specification (docs/realtime.md), as a policy of
//! the crate `backoff`.
//!
//! The only file that knows that crate (docs/adr/0007).

use std::time::Duration;

use backoff::backoff::Backoff;

/// First delay.
const BASE_MS: f64 = 1000.0;
/// Most that chance adds: 30 % of the base.
const JITTER_MS: f64 = 0.3 * BASE_MS;
/// Longest delay.
const MAX_MS: f64 = 30_000.0;
/// At the longest delay chance takes away instead, up to this much: the formula as written makes every client
/// wait exactly 30,000 ms there, and so all come back at once.
const SPREAD_AT_MAX_MS: f64 = 0.3 * MAX_MS;
/// From this attempt on the delay is the longest anyhow; counting on would only overflow.
const ATTEMPT_MAX: u32 = 16;

/// round(min(1000 · 2ⁿ + rand · 300, 30000)) milliseconds for attempt n from 0, spread at the cap. Never
/// gives up.
#[derive(Clone, Debug, Default)]
pub struct ReconnectBackoff {
    attempt: u32,
    /// Random, at least 0 and below 1; set before each use.
    jitter: f64,
}

impl ReconnectBackoff {
    /// Delay of the next attempt; counts it.
    pub fn next(&mut self, jitter: f64) -> Duration {
        self.jitter = jitter;
        self.next_backoff().unwrap_or(Duration::from_secs(30))
    }

    /// Attempts since the last reset.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Starts from the first delay again.
    pub fn reset(&mut self) {
        Backoff::reset(self);
    }
}

impl Backoff for ReconnectBackoff {
    fn reset(&mut self) {
        self.attempt = 0;
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        let exponent = i32::try_from(self.attempt.min(ATTEMPT_MAX)).unwrap_or(0);
        let unlimited = BASE_MS * 2_f64.powi(exponent) + self.jitter * JITTER_MS;
        self.attempt = self.attempt.saturating_add(1);
        let ms = if unlimited < MAX_MS { unlimited } else { MAX_MS - self.jitter * SPREAD_AT_MAX_MS };
        Some(Duration::from_secs_f64(ms.round() / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_those_of_the_seed() {
        let mut backoff = ReconnectBackoff::default();
        let delays: Vec<u128> = (0..5).map(|_| backoff.next(0.5).as_millis()).collect();
        assert_eq!(delays, [1150, 2150, 4150, 8150, 16_150]);
        assert_eq!(backoff.next(0.0).as_millis(), 30_000);
        backoff.reset();
        assert_eq!(backoff.next(0.0).as_millis(), 1000);
    }

    #[test]
    fn at_the_cap_clients_do_not_all_wait_the_same() {
        let mut backoff = ReconnectBackoff { attempt: 40, jitter: 0.0 };
        let delays: std::collections::HashSet<_> =
            (0..10_u8).map(|n| backoff.next(f64::from(n) / 10.0)).collect();
        assert_eq!(delays.len(), 10);
        assert!(delays.iter().all(|delay| (21_000..=30_000).contains(&delay.as_millis())), "{delays:?}");
    }

    #[test]
    fn it_never_gives_up() {
        let mut backoff = ReconnectBackoff { attempt: u32::MAX - 1, jitter: 0.0 };
        assert_eq!(backoff.next(0.0), backoff.next(0.0));
    }
}
