//! Rate limit of one webhook: at most `requests` POSTs in any window of `per`, wherever the window begins.

use std::time::Duration;

use crate::domain::delivery::settings::RateLimit;
use crate::domain::sliding_window::SlidingWindow;

/// POSTs of one webhook under way and in the last window, by durations since some fixed moment.
///
/// A POST counts from its beginning until the window has passed after its end. When it arrives in between
/// only its receiver knows; so no window holds more by the receiver's count either.
#[derive(Debug, Default)]
pub struct RateLimiter {
    under_way: usize,
    ended: SlidingWindow<Duration>,
}

impl RateLimiter {
    /// Counts one more POST if the limit allows one at `now`.
    ///
    /// # Errors
    /// When to ask again, if no POST under way ends before.
    pub fn acquire(&mut self, limit: RateLimit, now: Duration) -> Result<(), Duration> {
        let ended = self.ended.count(now, limit.per);
        if self.under_way + ended >= limit.requests {
            return Err(self.ended.leaves_at(0, limit.per).unwrap_or(now + limit.per));
        }
        self.under_way += 1;
        Ok(())
    }

    /// A POST ended at `now`.
    pub fn finish(&mut self, now: Duration) {
        self.under_way = self.under_way.saturating_sub(1);
        self.ended.push(now);
    }

    /// A POST that was counted is not made.
    pub fn cancel(&mut self) {
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
        let mut limiter = RateLimiter::default();
        for _ in 0..3 {
            assert_eq!(limiter.acquire(LIMIT, ms(0)), Ok(()));
        }
        assert_eq!(limiter.acquire(LIMIT, ms(10)), Err(ms(1010)), "all are under way");
        limiter.finish(ms(200));
        assert_eq!(limiter.acquire(LIMIT, ms(1199)), Err(ms(1200)));
        assert_eq!(limiter.acquire(LIMIT, ms(1200)), Ok(()));
        assert_eq!(limiter.acquire(LIMIT, ms(1200)), Err(ms(2200)));
        limiter.cancel();
        assert_eq!(limiter.acquire(LIMIT, ms(1200)), Ok(()));
    }

    proptest! {
        /// However the calls come, and wherever between its beginning and its end a POST arrives, no window
        /// holds more than the limit.
        #[test]
        fn no_window_holds_more_than_the_limit(
            steps in prop::collection::vec((0_u64..400, 0_u64..600, 0.0_f64..=1.0), 1..200),
            requests in 1_usize..10,
        ) {
            let limit = RateLimit { requests, per: Duration::from_millis(1000) };
            let (mut limiter, mut now) = (RateLimiter::default(), Duration::ZERO);
            let (mut ends, mut arrived): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
            let end_until = |limiter: &mut RateLimiter, ends: &mut Vec<Duration>, now: Duration| {
                ends.sort_unstable();
                while ends.first().is_some_and(|end| *end <= now) {
                    limiter.finish(ends.remove(0));
                }
            };
            for (step, takes, share) in steps {
                now += ms(step);
                end_until(&mut limiter, &mut ends, now);
                while let Err(next) = limiter.acquire(limit, now) {
                    prop_assert!(next > now && next <= now + limit.per);
                    now = ends.first().copied().unwrap_or(next).min(next);
                    end_until(&mut limiter, &mut ends, now);
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
