//! Floor 1: the only place that asks what time it is.

use time::OffsetDateTime;

/// Now, cut to microseconds, which is what Postgres keeps: a value read back equals the one written.
#[must_use]
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / 1000 * 1000)
        .unwrap_or(now)
}
