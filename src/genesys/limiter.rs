//! Rate limit of an OAuth client: the platform counts 300 requests a minute, and refuses the rest. Pure.
//!
//! The window slides, so that no minute ever holds more, wherever the platform's own minutes begin. Calls
//! that keep sockets alive go first: rosters and resyncs may not use the last part of the window.

use std::time::{Duration, Instant};

use crate::domain::sliding_window::SlidingWindow;

/// Calls that one OAuth client may make in a minute.
const CALLS_PER_MINUTE: usize = 300;
/// Calls of ours among them; the rest is left for other programs of the same client, and for what our window
/// misses.
const OURS: usize = CALLS_PER_MINUTE - 20;
/// Part of ours that is kept for urgent calls.
const KEPT_FOR_URGENT: usize = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// How much a call matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Without it presence changes are missed.
    Urgent,
    /// It can wait.
    Patient,
}

/// The calls of one OAuth client.
#[derive(Debug, Default)]
pub struct Limiter {
    made: SlidingWindow<Instant>,
    /// The platform said to wait until then.
    paused_until: Option<Instant>,
}

impl Limiter {
    /// Takes a place in the window if there is one now; else says how long to wait before asking again.
    ///
    /// # Errors
    /// The wait, never zero.
    pub fn take(&mut self, urgency: Urgency, now: Instant) -> Result<(), Duration> {
        let made = self.made.count(now, WINDOW);
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Err(until - now);
        }
        let places = match urgency {
            Urgency::Urgent => OURS,
            Urgency::Patient => OURS - KEPT_FOR_URGENT,
        };
        // With all places taken, one is free when the oldest call that takes one of them leaves the window.
        let full = made.checked_sub(places);
        if let Some(free_at) = full.and_then(|oldest| self.made.leaves_at(oldest, WINDOW)) {
            return Err(free_at.saturating_duration_since(now).max(Duration::from_millis(1)));
        }
        self.made.push(now);
        Ok(())
    }

    /// The platform refused with 429 and asks for `wait` without a call.
    pub fn pause(&mut self, wait: Duration, now: Instant) {
        let until = now + wait;
        if self.paused_until.is_none_or(|present| until > present) {
            self.paused_until = Some(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_window_slides() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for call in 0..u64::try_from(OURS).unwrap() {
            assert_eq!(limiter.take(Urgency::Urgent, at(start, call)), Ok(()));
        }
        let refused = limiter.take(Urgency::Urgent, at(start, 1_000));
        assert_eq!(refused, Err(Duration::from_millis(59_000)));
        assert_eq!(limiter.take(Urgency::Urgent, at(start, 60_000)), Ok(()));
        assert!(limiter.take(Urgency::Urgent, at(start, 60_000)).is_err());
    }

    #[test]
    fn what_can_wait_leaves_room_for_what_is_urgent() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        while limiter.take(Urgency::Patient, start).is_ok() {}
        for _ in 0..KEPT_FOR_URGENT {
            assert_eq!(limiter.take(Urgency::Urgent, start), Ok(()));
        }
        assert!(limiter.take(Urgency::Urgent, start).is_err());
        // Urgent calls delay the patient ones further, but not for ever.
        assert!(limiter.take(Urgency::Patient, at(start, 59_999)).is_err());
        assert_eq!(limiter.take(Urgency::Patient, at(start, 60_000)), Ok(()));
    }

    #[test]
    fn a_wait_that_the_platform_asks_for_holds_for_all() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        limiter.pause(Duration::from_secs(7), start);
        limiter.pause(Duration::from_secs(3), start);
        assert_eq!(limiter.take(Urgency::Urgent, at(start, 1_000)), Err(Duration::from_secs(6)));
        assert_eq!(limiter.take(Urgency::Patient, at(start, 7_000)), Ok(()));
    }

    proptest! {
        /// However calls come, no minute holds more than our part, and a caller that waits as long as it was
        /// told gets through.
        #[test]
        fn no_minute_holds_more_than_ours(steps in proptest::collection::vec((0_u64..2_000, any::<bool>()), 1..1500)) {
            let (mut limiter, start) = (Limiter::default(), Instant::now());
            let (mut now, mut made) = (0_u64, Vec::new());
            for (step, urgent) in steps {
                now += step / 10;
                let urgency = if urgent { Urgency::Urgent } else { Urgency::Patient };
                match limiter.take(urgency, at(start, now)) {
                    Ok(()) => made.push(now),
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO);
                        now += u64::try_from(wait.as_millis()).unwrap() + 1;
                    }
                }
            }
            for (index, first) in made.iter().enumerate() {
                let within = made[index..].iter().take_while(|at| **at < first + 60_000).count();
                prop_assert!(within <= OURS);
            }
        }
    }
}
