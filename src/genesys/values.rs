//! Reading what strangers write: times and texts, fit to be stored. Pure.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A text without control characters (a NUL would be refused by the database), trimmed and cut; `None` if nothing is
/// left.
#[must_use]
pub fn clean(text: &str, chars_max: usize) -> Option<String> {
    let kept: String = text.chars().filter(|c| !c.is_control()).take(chars_max).collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// RFC 3339 text, or a number of seconds or milliseconds since 1970.
#[must_use]
pub fn read_time(value: &Value) -> Option<OffsetDateTime> {
    let at = match value {
        Value::String(text) => OffsetDateTime::parse(text, &Rfc3339).ok()?,
        Value::Number(number) => {
            let number = i128::from(number.as_i64()?);
            // Seconds of today have ten digits, milliseconds thirteen.
            let nanos =
                if number.abs() < 100_000_000_000 { number * 1_000_000_000 } else { number * 1_000_000 };
            OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?
        }
        _ => return None,
    };
    // Postgres keeps microseconds, and years that people live in.
    let at = at.to_offset(time::UtcOffset::UTC);
    let at = at.replace_nanosecond(at.nanosecond() / 1000 * 1000).ok()?;
    (1970..=9999).contains(&at.year()).then_some(at)
}
