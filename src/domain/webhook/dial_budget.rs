//! How long one of several addresses of a host may take to answer. They are tried one after another, and one
//! that swallows packets answers never: it must leave time for the next one, and for what the connection is
//! opened for.

use std::time::Duration;

/// Longest that any address may take.
const LONGEST: Duration = Duration::from_secs(4);

/// How long the next address may take, if `untried` (itself included) are left and this much time for all
/// that is to be done. Time is divided evenly, with one part for the work; the last address may use what
/// there is.
#[must_use]
pub fn longest_wait(left: Duration, untried: usize) -> Duration {
    let parts = u32::try_from(untried).unwrap_or(u32::MAX).saturating_add(1);
    if untried > 1 { LONGEST.min(left / parts) } else { LONGEST }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leaves_time_for_the_next_and_for_the_work() {
        for (left, untried, waits) in [
            (15_000, 1, 4000),
            (15_000, 2, 4000),
            (15_000, 4, 3000),
            (3000, 2, 1000),
            (1000, 2, 333),
            (1000, 4, 200),
            // Whoever asks has a deadline of its own.
            (1000, 1, 4000),
            (0, 2, 0),
        ] {
            let waited = longest_wait(Duration::from_millis(left), untried);
            assert_eq!(waited.as_millis(), waits, "{left} ms, {untried} untried");
        }
    }
}
