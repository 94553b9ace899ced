//! Token bucket of one API key: how many calls it may make at once, and how fast more come.

use std::time::Duration;

/// Size of a bucket, and the time in which an empty one fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRate {
    /// Calls at once.
    pub calls: u32,
    /// Seconds until an empty bucket is full.
    pub per_seconds: u32,
}

impl CallRate {
    /// Default: far more than a person or a well-written program needs.
    pub const DEFAULT: Self = Self { calls: 1000, per_seconds: 10 };

    /// Reads `calls/seconds`, such as `1000/10`, or `off`.
    ///
    /// # Errors
    /// The rule, if it is broken.
    pub fn read(text: &str) -> Result<Option<Self>, String> {
        if text == "off" {
            return Ok(None);
        }
        let pair =
            text.split_once('/').and_then(|(calls, per)| Some((calls.parse().ok()?, per.parse().ok()?)));
        pair.map(|(calls, per_seconds)| Self { calls, per_seconds })
            .filter(|rate| (1..=1_000_000).contains(&rate.calls) && (1..=3600).contains(&rate.per_seconds))
            .map(Some)
            .ok_or_else(|| "must be calls/seconds, such as 1000/10 (at most 1000000/3600), or off".to_owned())
    }

    fn per(self) -> Duration {
        Duration::from_secs(self.per_seconds.into())
    }

    /// Time in which one call is added.
    fn each(self) -> Duration {
        self.per() / self.calls.max(1)
    }
}

/// Bucket of one key, by a clock that never jumps: durations since some fixed moment. One moment says it all:
/// when the bucket will be full again.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenBucket {
    full_at: Duration,
}

/// Answer to a call that asked for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    /// Whether it may be made.
    pub allowed: bool,
    /// How many more could be made at once.
    pub left: u32,
    /// When there will be one more than that.
    pub more_in: Duration,
}

impl TokenBucket {
    /// Takes one call out, if there is one.
    pub fn take(&mut self, rate: CallRate, now: Duration) -> Charged {
        let (per, each) = (rate.per(), rate.each());
        let lacks = self.full_at.saturating_sub(now);
        let allowed = lacks + each <= per;
        if allowed {
            self.full_at = now + lacks + each;
        }
        let lacks = self.full_at.saturating_sub(now);
        let grown = per.saturating_sub(lacks).as_nanos() / each.as_nanos().max(1);
        let left = u32::try_from(grown).unwrap_or(u32::MAX).min(rate.calls - 1);
        let next = u32::saturating_add(left, 1);
        let more_in = lacks.saturating_sub(per.saturating_sub(each.saturating_mul(next)));
        Charged { allowed, left, more_in }
    }

    /// Whether the bucket is like a new one, and may be forgotten.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const RATE: CallRate = CallRate { calls: 4, per_seconds: 2 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_full_bucket_gives_all_at_once_and_grows_again_evenly() {
        let mut bucket = TokenBucket::default();
        for left in [3, 2, 1, 0] {
            let charged = bucket.take(RATE, ms(0));
            assert_eq!((charged.allowed, charged.left, charged.more_in), (true, left, ms(500)));
        }
        let refused = bucket.take(RATE, ms(200));
        assert_eq!(refused, Charged { allowed: false, left: 0, more_in: ms(300) });
        assert!(bucket.take(RATE, ms(500)).allowed);
        assert!(!bucket.take(RATE, ms(500)).allowed);
        assert!(!bucket.is_full(ms(2499)) && bucket.is_full(ms(2500)));
        assert_eq!(bucket.take(RATE, ms(60_000)).left, 3, "never more than a full one");
    }

    #[test]
    fn a_rate_is_read_or_refused() {
        assert_eq!(CallRate::read("1000/10"), Ok(Some(CallRate::DEFAULT)));
        assert_eq!(CallRate::read("off"), Ok(None));
        for wrong in ["", "10", "0/1", "1/0", "-1/1", "1/3601", "1000001/1", "1/1/1", "a/b"] {
            assert!(CallRate::read(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        /// However calls come, no window holds more than a bucket and what grows in it.
        #[test]
        fn no_window_holds_more_than_a_bucket_and_what_grows_in_it(
            steps in prop::collection::vec(0_u64..400, 1..300),
            calls in 1_u32..20,
        ) {
            let rate = CallRate { calls, per_seconds: 1 };
            let (mut bucket, mut now, mut allowed) = (TokenBucket::default(), Duration::ZERO, Vec::new());
            for step in steps {
                now += ms(step);
                let charged = bucket.take(rate, now);
                prop_assert!(charged.left < calls);
                if charged.allowed {
                    allowed.push(now);
                } else {
                    prop_assert!(charged.left == 0 && charged.more_in > Duration::ZERO);
                    prop_assert!(bucket.take(rate, now + charged.more_in).allowed);
                    allowed.push(now + charged.more_in);
                    now += charged.more_in;
                }
            }
            for (i, at) in allowed.iter().enumerate() {
                let within = allowed[i..].iter().take_while(|later| **later < *at + ms(1000)).count();
                prop_assert!(within <= usize::try_from(2 * calls).unwrap());
            }
        }
    }
}
