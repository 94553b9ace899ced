//! Figures for people.

use std::time::Duration;

/// Value at a share of a sorted list, 0 if it is empty.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "an index into a list"
)]
pub fn at(sorted: &[f64], share: f64) -> f64 {
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

/// Times in milliseconds, sorted once.
pub struct Times(Vec<f64>);

impl Times {
    pub fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut millis: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
        millis.sort_by(f64::total_cmp);
        Self(millis)
    }

    pub fn at(&self, share: f64) -> f64 {
        at(&self.0, share)
    }

    pub fn describe(&self) -> String {
        format!(
            "p50 {:.2} ms  p90 {:.2}  p99 {:.2}  max {:.2}  (n {})",
            self.at(0.5),
            self.at(0.9),
            self.at(0.99),
            self.at(1.0),
            self.0.len()
        )
    }
}

/// A count as a number that one can divide.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a count for people to read")]
pub const fn float(count: u64) -> f64 {
    count as f64
}

/// A length as a count.
pub fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
