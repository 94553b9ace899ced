//! A limit that holds: at most so many in any window, wherever the window begins.

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::delivery::settings::RateLimit;

/// What was sent of late, by a clock that never jumps: durations since some fixed moment.
///
/// A POST takes its place from its beginning until the window has passed after its end. When it arrives in between nobody
/// but its receiver knows; so no window holds more by the receiver's count either.
#[derive(Debug, Default)]
pub struct Pace {
    under_way: usize,
    ended: VecDeque<Duration>,
}

impl Pace {
    /// Takes one place at `now`; or says when to ask again, if nothing ends before.
    ///
    /// # Errors
    /// That moment.
    pub fn take(&mut self, limit: RateLimit, now: Duration) -> Result<(), Duration> {
        while self.ended.front().is_some_and(|at| *at + limit.per <= now) {
            self.ended.pop_front();
        }
        if self.under_way + self.ended.len() >= limit.requests {
            return Err(self.ended.front().copied().unwrap_or(now) + limit.per);
        }
        self.under_way += 1;
        Ok(())
    }

    /// A POST has ended.
    pub fn end(&mut self, now: Duration) {
        self.under_way = self.under_way.saturating_sub(1);
        self.ended.push_back(now);
    }

    /// No POST was made after all.
    pub fn give_back(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: RateLimit = RateLimit { requests: 3, per: Duration::from_millis(1000) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_place_is_free_again_when_the_window_has_passed_after_the_end() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            assert_eq!(pace.take(LIMIT, ms(0)), Ok(()));
        }
        assert_eq!(pace.take(LIMIT, ms(10)), Err(ms(1010)), "all are under way");
        pace.end(ms(200));
        assert_eq!(pace.take(LIMIT, ms(1199)), Err(ms(1200)));
        assert_eq!(pace.take(LIMIT, ms(1200)), Ok(()));
        assert_eq!(pace.take(LIMIT, ms(1200)), Err(ms(2200)));
        pace.give_back();
        assert_eq!(pace.take(LIMIT, ms(1200)), Ok(()));
    }

    proptest! {
        /// However the calls come, and wherever between its beginning and its end a POST arrives, no window holds more
        /// than the limit.
        #[test]
        fn no_window_holds_more_than_the_limit(
            steps in prop::collection::vec((0_u64..400, 0_u64..600, 0.0_f64..=1.0), 1..200),
            requests in 1_usize..10,
        ) {
            let limit = RateLimit { requests, per: Duration::from_millis(1000) };
            let (mut pace, mut now) = (Pace::default(), Duration::ZERO);
            let (mut ends, mut arrived): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
            let end_until = |pace: &mut Pace, ends: &mut Vec<Duration>, now: Duration| {
                ends.sort_unstable();
                while ends.first().is_some_and(|end| *end <= now) {
                    pace.end(ends.remove(0));
                }
            };
            for (step, takes, share) in steps {
                now += ms(step);
                end_until(&mut pace, &mut ends, now);
                while let Err(next) = pace.take(limit, now) {
                    prop_assert!(next > now && next <= now + limit.per);
                    now = ends.first().copied().unwrap_or(next).min(next);
                    end_until(&mut pace, &mut ends, now);
                }
                ends.push(now + ms(takes));
                arrived.push(now + ms(takes).mul_f64(share));
            }
            arrived.sort_unstable();
            for (i, at) in arrived.iter().enumerate() {
                let within = arrived[i..].iter().take_while(|later| **later < *at + limit.per).count();
                prop_assert!(within <= requests);
            }
        }
    }
}
