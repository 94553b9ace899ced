//! Delivery settings as a registration gives them: read, held against their ranges, laid over the present
//! ones. The checked values, which the rest of the bridge works with, are in `domain/delivery/settings.rs`.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::domain::delivery::settings::{
    Batch, DeliverySettings, Format, Mode, RateLimit, Signatures, USUAL_BATCH_BYTES, Verification,
};
use crate::domain::violation::Violation;

/// Most waits of a schedule.
const SCHEDULE_MAX: usize = 30;

/// Settings as given; `None`: not mentioned, `Some(None)`: shall be cleared.
#[derive(Clone, Debug, Default)]
pub struct DeliveryInput {
    /// `every` or `latest`.
    pub mode: Option<String>,
    /// A delivery older than this ends unsent.
    pub max_age_seconds: Option<Option<i32>>,
    /// A state must last this long before it is sent.
    pub min_dwell_ms: Option<i32>,
    /// Several deliveries in one POST.
    pub batch: Option<Option<BatchInput>>,
    /// Waits after the first, second … failure.
    pub retry_schedule_seconds: Option<Option<Vec<i32>>>,
    /// Deadline of one attempt.
    pub timeout_ms: Option<i32>,
    /// POSTs under way at once at most.
    pub max_concurrency: Option<i32>,
    /// How many POSTs at most, and in how many seconds.
    pub rate_limit: Option<Option<(i32, i32)>>,
    /// It is disabled after failing for this long.
    pub disable_after_seconds: Option<i32>,
    /// What a POST looks like.
    pub format: Option<String>,
    /// Kinds of signature.
    pub signatures: Option<Vec<String>>,
    /// How the receiver must show that it wants the POSTs.
    pub verification: Option<String>,
}

/// Several deliveries in one POST, as given.
#[derive(Clone, Copy, Debug)]
pub struct BatchInput {
    /// How many at most.
    pub max_items: i32,
    /// How long a batch may wait to fill.
    pub max_wait_ms: i32,
    /// How large its body may be; `None`: as usual.
    pub max_bytes: Option<i32>,
}

/// The same settings within their ranges; `None`: not mentioned.
#[derive(Clone, Debug, Default)]
pub struct DeliveryChanges {
    mode: Option<Mode>,
    max_age: Option<Option<Duration>>,
    min_dwell: Option<Duration>,
    batch: Option<Option<Batch>>,
    retry_schedule: Option<Option<Vec<u32>>>,
    timeout: Option<Duration>,
    max_concurrency: Option<usize>,
    rate_limit: Option<Option<RateLimit>>,
    disable_after: Option<Duration>,
    format: Option<Format>,
    pub(in crate::domain) signatures: Option<Signatures>,
    pub(in crate::domain) verification: Option<Verification>,
}

/// Notes what is out of its range.
struct Ranges<'a> {
    found: &'a mut Vec<Violation>,
}

impl Ranges<'_> {
    fn number<T: TryFrom<i32>>(&mut self, field: &str, number: i32, range: RangeInclusive<i32>) -> Option<T> {
        if !range.contains(&number) {
            let what = format!("is not between {} and {}", range.start(), range.end());
            self.found.push(Violation::new(field, what));
            return None;
        }
        T::try_from(number).ok()
    }

    fn seconds(&mut self, field: &str, number: i32, range: RangeInclusive<i32>) -> Option<Duration> {
        self.number::<u32>(field, number, range).map(|seconds| Duration::from_secs(seconds.into()))
    }

    fn millis(&mut self, field: &str, number: i32, range: RangeInclusive<i32>) -> Option<Duration> {
        self.number::<u32>(field, number, range).map(|millis| Duration::from_millis(millis.into()))
    }

    /// One of a closed set of words.
    fn word<T>(
        &mut self,
        field: &str,
        text: Option<String>,
        words: &[&str],
        read: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = text?;
        let known = read(&text);
        if known.is_none() {
            self.found.push(Violation::new(field, format!("is none of {}", words.join(", "))));
        }
        known
    }

    /// A value that may be cleared; one that is wrong counts as not mentioned, since it was noted.
    fn nullable<T, V>(
        &mut self,
        given: Option<Option<T>>,
        read: impl FnOnce(&mut Self, T) -> Option<V>,
    ) -> Option<Option<V>> {
        match given? {
            None => Some(None),
            Some(value) => read(self, value).map(Some),
        }
    }
}

impl DeliveryInput {
    /// Notes everything that is wrong; what is good comes back.
    pub(in crate::domain) fn check(self, found: &mut Vec<Violation>) -> DeliveryChanges {
        let mut r = Ranges { found };
        let max_age = r.nullable(self.max_age_seconds, |r, n| r.seconds("max_age_seconds", n, 1..=2_592_000));
        let batch = r.nullable(self.batch, |r, given| {
            let max_items = r.number("batch/max_items", given.max_items, 1..=1000);
            let max_wait = r.millis("batch/max_wait_ms", given.max_wait_ms, 0..=60_000);
            let max_bytes = match given.max_bytes {
                Some(bytes) => r.number("batch/max_bytes", bytes, 1024..=1_048_576),
                None => Some(USUAL_BATCH_BYTES),
            };
            Some(Batch { max_items: max_items?, max_wait: max_wait?, max_bytes: max_bytes? })
        });
        let retry_schedule = r.nullable(self.retry_schedule_seconds, |r, waits| {
            if waits.len() > SCHEDULE_MAX {
                let what = format!("has more than {SCHEDULE_MAX} items");
                r.found.push(Violation::new("retry_schedule_seconds", what));
                return None;
            }
            let waits = waits.into_iter().enumerate();
            let waits: Vec<Option<u32>> = waits
                .map(|(i, wait)| r.number(&format!("retry_schedule_seconds/{i}"), wait, 1..=86_400))
                .collect();
            waits.into_iter().collect()
        });
        let rate_limit = r.nullable(self.rate_limit, |r, (requests, seconds)| {
            let requests = r.number("rate_limit/requests", requests, 1..=10_000);
            let per = r.seconds("rate_limit/per_seconds", seconds, 1..=3600);
            Some(RateLimit { requests: requests?, per: per? })
        });
        let signatures = self.signatures.map(|words| check_signatures(&words, r.found));
        DeliveryChanges {
            mode: r.word("mode", self.mode, Mode::WORDS, Mode::from_name),
            max_age,
            min_dwell: self.min_dwell_ms.and_then(|n| r.millis("min_dwell_ms", n, 0..=3_600_000)),
            batch,
            retry_schedule,
            timeout: self.timeout_ms.and_then(|n| r.millis("timeout_ms", n, 1000..=30_000)),
            max_concurrency: self.max_concurrency.and_then(|n| r.number("max_concurrency", n, 1..=1000)),
            rate_limit,
            disable_after: self
                .disable_after_seconds
                .and_then(|n| r.seconds("disable_after_seconds", n, 60..=2_592_000)),
            format: r.word("format", self.format, Format::WORDS, Format::from_name),
            signatures,
            verification: r.word(
                "verification",
                self.verification,
                Verification::WORDS,
                Verification::from_name,
            ),
        }
    }
}

fn check_signatures(words: &[String], found: &mut Vec<Violation>) -> Signatures {
    if words.is_empty() {
        found.push(Violation::new("signatures", "is empty"));
    }
    for (i, word) in words.iter().enumerate() {
        if !Signatures::WORDS.contains(&word.as_str()) {
            let what = format!("is none of {}", Signatures::WORDS.join(", "));
            found.push(Violation::new(format!("signatures/{i}"), what));
        }
    }
    Signatures::from_words(words)
}

impl DeliveryChanges {
    /// The settings as they will be.
    #[must_use]
    pub fn over(&self, present: &DeliverySettings) -> DeliverySettings {
        DeliverySettings {
            mode: self.mode.unwrap_or(present.mode),
            max_age: self.max_age.unwrap_or(present.max_age),
            min_dwell: self.min_dwell.unwrap_or(present.min_dwell),
            batch: self.batch.unwrap_or(present.batch),
            retry_schedule: self.retry_schedule.as_ref().unwrap_or(&present.retry_schedule).clone(),
            timeout: self.timeout.unwrap_or(present.timeout),
            max_concurrency: self.max_concurrency.unwrap_or(present.max_concurrency),
            rate_limit: self.rate_limit.unwrap_or(present.rate_limit),
            disable_after: self.disable_after.unwrap_or(present.disable_after),
            format: self.format.unwrap_or(present.format),
        }
    }
}
