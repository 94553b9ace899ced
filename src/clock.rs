//! Floor 1: the only place that asks what time it is.
//!
//! One clock counts for everything that is written down, compared or signed: the database's, which the store
//! looks at again and again ([`set_by`]). In between the monotonic clock carries it on. So nobody notices
//! that this machine's wall clock jumps, and processes that share a database agree on what is due and who is
//! alive, whatever their own clocks say.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// This machine's wall clock as it was when it was asked, once.
static BEGAN: LazyLock<(Instant, OffsetDateTime)> =
    LazyLock::new(|| (Instant::now(), OffsetDateTime::now_utc()));
/// Microseconds by which the clock that counts is ahead of it.
static AHEAD: AtomicI64 = AtomicI64::new(0);
/// A difference that is no more than this is left: a clock that trembles helps nobody.
const TREMBLE: Duration = Duration::from_millis(20);

/// Now, cut to microseconds, which is what Postgres keeps: a value read back equals the one written.
#[must_use]
pub fn now() -> OffsetDateTime {
    carried_on(AHEAD.load(Ordering::Relaxed))
}

fn carried_on(ahead: i64) -> OffsetDateTime {
    let (then, began) = *BEGAN;
    let now = began + then.elapsed() + time::Duration::microseconds(ahead);
    now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now)
}

/// Sets the clock by one that was asked at `asked`, has answered by now, and said `at`. Gives the difference,
/// unless it is too small to tell from the time that the answer took.
pub fn set_by(at: OffsetDateTime, asked: Instant) -> Option<time::Duration> {
    let before = AHEAD.load(Ordering::Relaxed);
    let difference = difference(at, carried_on(before), asked.elapsed() / 2)?;
    let ahead = before.saturating_add(i64::try_from(difference.whole_microseconds()).ok()?);
    // Whoever was faster has seen the same difference: it must not be added twice.
    AHEAD.compare_exchange(before, ahead, Ordering::Relaxed, Ordering::Relaxed).ok()?;
    Some(difference)
}

/// How far `at` is ahead of `now`, if it was read `unsure` ago, give or take as much.
fn difference(at: OffsetDateTime, now: OffsetDateTime, unsure: Duration) -> Option<time::Duration> {
    let ahead = at + unsure - now;
    (ahead.unsigned_abs() > unsure + TREMBLE).then_some(ahead)
}

/// Reads a time as others write it, RFC 3339 with any offset, in UTC; `None` for one that UTC's calendar does
/// not reach: whoever converted it would panic.
#[must_use]
pub fn read_rfc3339(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()?.checked_to_offset(time::UtcOffset::UTC)
}

/// A time as others read it: RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn rfc3339(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    at.format(&format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_time_outside_of_the_calendar_is_none() {
        let read = datetime!(2026-01-31 09:30 UTC);
        assert_eq!(read_rfc3339("2026-01-31T10:30:00+01:00"), Some(read));
        assert!(read_rfc3339("9999-12-31T23:59:59Z").is_some());
        assert_eq!(read_rfc3339("9999-12-31T23:59:59-00:01"), None);
        assert_eq!(read_rfc3339("yesterday"), None);
    }

    #[test]
    fn a_clock_is_believed_as_far_as_the_time_that_its_answer_took_allows() {
        let now = datetime!(2026-11-23 15:00:00 UTC);
        let ms = |ms: i64| time::Duration::milliseconds(ms);
        let second = Duration::from_secs(1);
        for (said, unsure, ahead) in [
            (ms(0), Duration::ZERO, None),
            (ms(20), Duration::ZERO, None),
            (ms(-20), Duration::ZERO, None),
            (ms(21), Duration::ZERO, Some(ms(21))),
            (ms(-21), Duration::ZERO, Some(ms(-21))),
            // Within two seconds it answered, most likely in the middle.
            (ms(-1000), second, None),
            (ms(0), second, None),
            (ms(-2020), second, None),
            (ms(100), second, Some(ms(1100))),
            (ms(-2100), second, Some(ms(-1100))),
            (time::Duration::days(3), Duration::ZERO, Some(time::Duration::days(3))),
            (time::Duration::days(-3), Duration::ZERO, Some(time::Duration::days(-3))),
        ] {
            assert_eq!(difference(now + said, now, unsure), ahead, "{said} {unsure:?}");
        }
    }
}
