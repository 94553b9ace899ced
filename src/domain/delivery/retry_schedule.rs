//! When to try again: a schedule that spans more than a day, and the `Retry-After` that a receiver asks for.

use std::time::Duration;

use time::OffsetDateTime;
use time::PrimitiveDateTime;
use time::format_description::well_known::Rfc2822;
use time::macros::format_description;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// Seconds to wait after the first, second, … failed attempt. After the last of them the next failure is the
/// end.
const SCHEDULE: [u64; 10] =
    [5, 30, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR];

/// Share of a delay that jitter may add. It only ever adds: an early retry would break the receiver's rest.
const JITTER: f64 = 0.1;

/// Longest `Retry-After` that is obeyed; a longer one is cut to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * HOUR);

/// Delay after failed attempt number `attempt` (from 1) by a webhook's own schedule in seconds, or by the
/// usual one; `None` if that was the last attempt. `jitter` is random, at least 0 and below 1.
#[must_use]
pub fn delay_after(attempt: u32, schedule: Option<&[u32]>, jitter: f64) -> Option<Duration> {
    let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
    let seconds = match schedule {
        Some(own) => u64::from(*own.get(index)?),
        None => *SCHEDULE.get(index)?,
    };
    let delay = Duration::from_secs(seconds);
    Some(delay + delay.mul_f64(JITTER * jitter.clamp(0.0, 1.0)))
}

/// Reads a `Retry-After` header: seconds, or a date in any of the three forms of RFC 9110. At most
/// [`RETRY_AFTER_MAX`]; a date in the past is no wait; junk is `None`.
#[must_use]
pub fn parse_retry_after(text: &str, now: OffsetDateTime) -> Option<Duration> {
    let text = text.trim();
    // RFC 9110 knows whole seconds only, but `1.5` and `1e12` say as plainly how long the receiver wants its
    // rest.
    if text.starts_with(|c: char| c.is_ascii_digit())
        && let Ok(seconds) = text.parse::<f64>()
    {
        // A number that does not fit is a very long wait, not junk.
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_AFTER_MAX);
        return Some(wait.min(RETRY_AFTER_MAX));
    }
    let at = parse_http_date(text, now)?;
    let wait = Duration::try_from(at - now).unwrap_or(Duration::ZERO);
    Some(wait.min(RETRY_AFTER_MAX))
}

fn parse_http_date(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let rfc850 = format_description!(
        "[weekday], [day]-[month repr:short]-[year repr:last_two] [hour]:[minute]:[second] GMT"
    );
    let asctime = format_description!(
        "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
    );
    let imf = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc2822) {
        return Some(at);
    }
    if let Ok(at) = PrimitiveDateTime::parse(text, &imf).or_else(|_| PrimitiveDateTime::parse(text, &asctime))
    {
        return Some(at.assume_utc());
    }
    // RFC 9110, 5.6.7: two digits that would lie more than 50 years ahead are the past.
    let mut parsed = time::parsing::Parsed::new();
    parsed.parse_items(text.as_bytes(), rfc850).ok().filter(|rest| rest.is_empty())?;
    let this_century = now.year() - now.year().rem_euclid(100);
    let year = this_century + i32::from(parsed.year_last_two()?);
    parsed.set_year(if year > now.year() + 50 { year - 100 } else { year })?;
    PrimitiveDateTime::try_from(parsed).ok().map(PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn ten_retries_and_then_no_more() {
        let seconds: Vec<u64> =
            (1..=10).map(|attempt| delay_after(attempt, None, 0.0).unwrap().as_secs()).collect();
        assert_eq!(seconds, [5, 30, 120, 600, 1800, 3600, 7200, 18_000, 36_000, 36_000]);
        assert_eq!(delay_after(11, None, 0.0), None);
        let own = Some(&[7, 9][..]);
        assert_eq!(
            [1, 2, 3].map(|n| delay_after(n, own, 0.0).map(|d| d.as_secs())),
            [Some(7), Some(9), None]
        );
        assert_eq!(delay_after(1, Some(&[]), 0.0), None);
        assert_eq!(delay_after(0, None, 0.0), None);
        assert_eq!(delay_after(u32::MAX, None, 0.5), None);
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let now = datetime!(2026-11-23 15:00:00 UTC);
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Mon, 23 Nov 2026 15:01:00 GMT", Some(60)),
            ("Monday, 23-Nov-26 15:01:00 GMT", Some(60)),
            ("Mon Nov 23 15:01:00 2026", Some(60)),
            ("Mon, 23 Nov 2026 14:00:00 GMT", Some(0)),
            ("99999999999999999999999", Some(86_400)),
            ("Mon, 23 Nov 2099 15:00:00 GMT", Some(86_400)),
            ("1e12", Some(86_400)),
            ("1e999", Some(86_400)),
            ("1.5", Some(1)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(0)),
            ("-0", None),
            ("+5", None),
            ("inf", None),
            ("5 apples", None),
            ("Mon, 31 Feb 2026 15:01:00 GMT", None),
            ("-5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(parse_retry_after(text, now).map(|wait| wait.as_secs()), seconds, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn jitter_only_adds_and_at_most_a_tenth(attempt in 1_u32..=10, jitter in 0.0_f64..1.0) {
            let (plain, delay) = (delay_after(attempt, None, 0.0).unwrap(), delay_after(attempt, None, jitter).unwrap());
            prop_assert!(delay >= plain && delay <= plain.mul_f64(1.1));
        }

        #[test]
        fn no_header_makes_the_parser_fail(text in ".{0,64}") {
            let wait = parse_retry_after(&text, datetime!(2026-11-23 15:00:00 UTC));
            prop_assert!(wait.is_none_or(|wait| wait <= RETRY_AFTER_MAX));
        }
    }
}
