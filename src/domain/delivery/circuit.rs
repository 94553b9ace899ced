//! Circuit breaker of one webhook: when its failing receiver is left alone.
//!
//! ```text
//!            5 failures in a row                       hold is over
//!  closed ─────────────────────────▶ open (held) ────────────────────▶ trying: one POST
//!    ▲                                   ▲                                │       │
//!    │                                   └────────── it failed ◀──────────┘       │
//!    └───────────────────────────────────── it was taken ◀────────────────────────┘
//! ```

use std::time::Duration;

use time::OffsetDateTime;

/// Failures in a row that open the circuit. One agent's deliveries alone can hardly reach it before they are
/// due again.
pub const OPENS_AFTER: u32 = 5;
/// First and longest hold: a POST a minute costs nothing, and a receiver that is back is not kept waiting.
const HOLD_FIRST: Duration = Duration::from_secs(5);
const HOLD_LONGEST: Duration = Duration::from_secs(60);

/// Failures of a webhook's receiver since its last success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    /// Failed attempts since the last success.
    pub failures: u32,
    /// Time of the first of them; `None` if there are none.
    pub failing_since: Option<OffsetDateTime>,
    /// Nothing is sent before; `None` if it is not left alone.
    pub hold_until: Option<OffsetDateTime>,
}

impl Circuit {
    /// A POST was taken. Says whether that changes anything.
    pub fn succeed(&mut self) -> bool {
        let changed = *self != Self::default();
        *self = Self::default();
        changed
    }

    /// A POST failed at `now`; `rest` is what the receiver asked for. `jitter` is random, at least 0 and
    /// below 1.
    pub fn fail(&mut self, now: OffsetDateTime, rest: Option<Duration>, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        // Those that were under way when it opened do not lengthen the hold.
        if self.hold_until.is_none_or(|until| until <= now) && self.failures >= OPENS_AFTER {
            let doubled = HOLD_FIRST.saturating_mul(1 << (self.failures - OPENS_AFTER).min(16));
            let hold = doubled.min(HOLD_LONGEST);
            self.hold_until = Some(now + hold + hold.mul_f64(0.1 * jitter));
        }
        if let Some(rest) = rest {
            self.hold_until = self.hold_until.max(Some(now + rest));
        }
    }

    /// Whether nothing may be sent now.
    #[must_use]
    pub fn holds(&self, now: OffsetDateTime) -> bool {
        self.hold_until.is_some_and(|until| until > now)
    }

    /// Most POSTs that may be under way now: a receiver that was left alone is tried with one.
    #[must_use]
    pub fn room(&self, now: OffsetDateTime, max_concurrency: usize) -> usize {
        match (self.holds(now), self.failures >= OPENS_AFTER) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => max_concurrency,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 15:00:00 UTC);

    #[test]
    fn five_failures_in_a_row_open_it_and_one_success_closes_it() {
        let mut circuit = Circuit::default();
        for _ in 0..4 {
            circuit.fail(NOW, None, 0.0);
        }
        assert_eq!(circuit.room(NOW, 100), 100);
        circuit.fail(NOW, None, 0.0);
        assert_eq!(circuit.room(NOW, 100), 0);
        assert_eq!(circuit.hold_until, Some(NOW + HOLD_FIRST));
        assert_eq!(circuit.room(NOW + HOLD_FIRST, 100), 1);
        assert!(circuit.succeed());
        assert_eq!(circuit.room(NOW, 100), 100);
        assert!(!circuit.succeed());
    }

    #[test]
    fn each_failed_try_doubles_the_hold_up_to_a_minute() {
        let (mut circuit, mut now, mut holds) = (Circuit::default(), NOW, Vec::new());
        for _ in 0..14 {
            circuit.fail(now, None, 0.0);
            if let Some(until) = circuit.hold_until {
                holds.push((until - now).whole_seconds());
                now = until;
            }
        }
        assert_eq!(holds, [5, 10, 20, 40, 60, 60, 60, 60, 60, 60]);
    }

    #[test]
    fn what_was_under_way_when_it_opened_does_not_lengthen_the_hold() {
        let mut circuit = Circuit::default();
        for _ in 0..100 {
            circuit.fail(NOW, None, 0.0);
        }
        assert_eq!(circuit.hold_until, Some(NOW + HOLD_FIRST));
    }

    #[test]
    fn a_receiver_that_asks_for_rest_gets_it_at_once() {
        let mut circuit = Circuit::default();
        circuit.fail(NOW, Some(Duration::from_secs(120)), 0.0);
        assert!(circuit.holds(NOW + Duration::from_secs(119)));
        assert_eq!(circuit.room(NOW + Duration::from_secs(120), 100), 100);
    }

    proptest! {
        #[test]
        fn whatever_happens_a_hold_is_short_and_a_success_ends_it(
            steps in proptest::collection::vec((0_u8..4, 0_u64..100, 0_u64..600, 0.0_f64..1.0), 0..60),
            room in 1_usize..200,
        ) {
            let (mut circuit, mut now, mut in_a_row) = (Circuit::default(), NOW, 0_u32);
            for (step, passed, rest, jitter) in steps {
                now += Duration::from_secs(passed);
                let (held, rest) = (circuit.hold_until, Duration::from_secs(rest));
                match step {
                    0 => {
                        circuit.succeed();
                        in_a_row = 0;
                        prop_assert_eq!(circuit.room(now, room), room);
                    }
                    1 => {
                        circuit.fail(now, Some(rest), jitter);
                        in_a_row += 1;
                        prop_assert!(circuit.hold_until >= Some(now + rest), "the rest that was asked for");
                    }
                    _ => {
                        circuit.fail(now, None, jitter);
                        in_a_row += 1;
                        let longest = now + HOLD_LONGEST.mul_f64(1.1);
                        prop_assert!(circuit.hold_until <= held.max(Some(longest)));
                    }
                }
                prop_assert_eq!(circuit.failures, in_a_row);
                prop_assert_eq!(circuit.failing_since.is_some(), in_a_row > 0);
                prop_assert_eq!(circuit.holds(now), circuit.room(now, room) == 0);
                prop_assert!(circuit.hold_until >= held || in_a_row == 0, "no failure makes a hold shorter");
                if in_a_row >= OPENS_AFTER {
                    prop_assert!(circuit.room(now, room) <= 1);
                    let over = circuit.hold_until.map_or(now, |until| until.max(now));
                    prop_assert_eq!(circuit.room(over, room), 1, "it is tried again when the hold is over");
                }
            }
        }
    }
}
