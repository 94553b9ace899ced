//! One spelling of time: RFC 3339 in UTC with milliseconds, as the frames carry it.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Writes a moment as `2026-08-01T09:30:00.250Z`.
///
/// By hand, because the well-known format drops trailing zeros and a reader that compares timestamps as text
/// would then see `…00.25Z` sort after `…00.250Z`.
#[must_use]
pub fn rfc3339_ms(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// Reads an RFC 3339 moment of any precision; `None` when it is not one.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// Writes the time of day as `09:30:00.250`, for lines that people read.
#[must_use]
pub fn time_of_day(at: OffsetDateTime) -> String {
    format!("{:02}:{:02}:{:02}.{:03}", at.hour(), at.minute(), at.second(), at.millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_all_three_digits_and_reads_them_back() {
        let at = parse_rfc3339("2026-08-01T11:30:00.25+02:00").unwrap();
        assert_eq!(rfc3339_ms(at), "2026-08-01T09:30:00.250Z");
        assert_eq!(parse_rfc3339(&rfc3339_ms(at)), Some(at));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
