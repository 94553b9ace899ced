//! Reads times and texts of an untrusted peer so that they can be stored. Pure.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::clock;

/// Length of a date such as `2026-11-24`.
const DATE_CHARS: usize = 10;

/// A text without control characters (a NUL would be refused by the database), trimmed and cut; `None` if
/// nothing is left.
#[must_use]
pub fn clean(text: &str, chars_max: usize) -> Option<String> {
    let kept: String = text.chars().filter(|c| !c.is_control()).take(chars_max).collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// Reads JSON of an untrusted peer. A value that the grammar allows and serde_json refuses does not cost the
/// rest of it: half of a surrogate pair (an emoji that was cut in two) is read as U+FFFD, a number that no
/// double can hold as null.
///
/// # Errors
/// If it is no JSON, or nests deeper than 127 levels.
pub fn read_json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| match mended(text) {
        Some(mended) => serde_json::from_str(&mended),
        None => Err(error),
    })
}

/// The same JSON without the values that serde_json refuses; `None` if it is no JSON, or has no such value.
fn mended(text: &str) -> Option<String> {
    serde_json::from_str::<&RawValue>(text).ok()?;
    let (mut mended, mut rest) = (String::with_capacity(text.len()), text);
    let (mut in_string, mut changed) = (false, false);
    while let Some(first) = rest.chars().next() {
        let (length, instead) = match first {
            '"' => {
                in_string = !in_string;
                (1, None)
            }
            '\\' if in_string => escape(rest),
            '-' | '0'..='9' if !in_string => number(rest),
            other => (other.len_utf8(), None),
        };
        let (taken, left) = rest.split_at_checked(length)?;
        mended.push_str(instead.unwrap_or(taken));
        changed |= instead.is_some();
        rest = left;
    }
    changed.then_some(mended)
}

/// Length of the escape that a text begins with, and its replacement.
fn escape(text: &str) -> (usize, Option<&'static str>) {
    match (utf16_unit(text), text.get(6..).and_then(utf16_unit)) {
        (None, _) => (2, None),
        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, None),
        (Some(0xd800..=0xdfff), _) => (6, Some("\\ufffd")),
        (Some(_), _) => (6, None),
    }
}

fn utf16_unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

/// Length of the number that a text begins with, and its replacement.
fn number(text: &str) -> (usize, Option<&'static str>) {
    let ends = |c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E');
    let length = text.find(ends).unwrap_or(text.len());
    let finite = text.get(..length).and_then(|number| number.parse().ok()).is_some_and(f64::is_finite);
    (length, (!finite).then_some("null"))
}

/// RFC 3339 text (also with an offset such as `+0000` or `+00`), or a number of seconds or milliseconds since
/// 1970.
#[must_use]
pub fn read_time(value: &Value) -> Option<OffsetDateTime> {
    let at = match value {
        Value::String(text) => clock::read_rfc3339(&with_whole_offset(text.trim()))?,
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

/// The same text with an offset of ISO 8601's basic form, `+0100` or `+01`, written as RFC 3339 wants it.
fn with_whole_offset(text: &str) -> Cow<'_, str> {
    let offset_at = text.rfind(['+', '-']).filter(|at| *at > DATE_CHARS);
    let Some((head, offset)) = offset_at.and_then(|at| text.split_at_checked(at)) else {
        return Cow::Borrowed(text);
    };
    let digits = offset.get(1..).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.map(|digits| (digits.len(), digits.split_at_checked(2))) {
        Some((2 | 4, Some((hours, minutes)))) => {
            let minutes = if minutes.is_empty() { "00" } else { minutes };
            Cow::Owned(format!("{head}{}{hours}:{minutes}", offset.get(..1).unwrap_or_default()))
        }
        _ => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_value_that_cannot_be_read_does_not_cost_the_rest() {
        for (text, expected) in [
            (r#"{"a":"cut \ud83d","b":1}"#, json!({"a": "cut \u{fffd}", "b": 1})),
            (r#"{"a":"\udc00\ud83d\ude00\ud83d\ud83d\ude00"}"#, json!({"a": "\u{fffd}😀\u{fffd}😀"})),
            (
                r#"{"a":1e400,"b":-1E+999,"c":[1e400],"d":-2.5}"#,
                json!({"a": null, "b": null, "c": [null], "d": -2.5}),
            ),
            (
                r#"{"1e400":"1e400 \\\" \\ud800","n":1e400}"#,
                json!({"1e400": "1e400 \\\" \\ud800", "n": null}),
            ),
            (r#"{"\ud800":"grüß \u0041\n"  , "n" : 1e400 }"#, json!({"\u{fffd}": "grüß A\n", "n": null})),
        ] {
            assert_eq!(read_json(text).unwrap(), expected, "{text}");
        }
        let long = format!(r#"{{"n":{}}}"#, "9".repeat(400));
        assert_eq!(read_json(&long).unwrap(), json!({"n": null}));
        for text in [r#"{"a":"\ud83d""#, r#"{"a":"\ud83"}"#, "1e", "", r#"{"a":1e400,}"#] {
            assert!(read_json(text).is_err(), "{text}");
        }
        assert!(read_json(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn a_time_is_read_in_the_forms_that_platforms_write() {
        let read = |text: &str| read_time(&json!(text));
        for text in [
            "2026-11-24T09:00:00Z",
            "2026-11-24T09:00:00.000Z",
            "2026-11-24T09:00:00.000+0000",
            "2026-11-24T10:00:00+0100",
            "2026-11-24T06:30:00-0230",
            "2026-11-24T10:00:00+01",
            "2026-11-24T09:00:00-00:00",
        ] {
            assert_eq!(read(text), Some(datetime!(2026-11-24 09:00 UTC)), "{text}");
        }
        for text in [
            "",
            "2026-11-24",
            "2026-11-24T09:00:00",
            "2026-11-24T09:00:00+000",
            "9999-12-31T23:59:59-12:00",
            "+0000",
            "yesterday",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_of_times_fail(text in "\\PC{0,40}|2026-11-24T09:00:00[-+0-9:]{0,7}") {
            let _ = read_time(&json!(text));
        }

        #[test]
        fn what_our_reader_takes_is_changed_by_nothing(texts in proptest::collection::vec(any::<String>(), 0..4),
                number in any::<f64>(), other in any::<i64>()) {
            let text = json!({"texts": texts, "number": number, "other": [other, {"": null}, true]}).to_string();
            prop_assert_eq!(mended(&text), None);
        }

        #[test]
        fn no_text_makes_the_reader_fail(text in "[\\[\\]{}0-9\",:a-f\\\\uE+.-]{0,60}") {
            let _ = read_json(&text);
        }

        #[test]
        fn any_text_in_any_string_comes_back(units in proptest::collection::vec(any::<u16>(), 0..20)) {
            let escapes: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let read = read_json(&format!(r#"{{"text":"{escapes}"}}"#)).unwrap();
            prop_assert_eq!(read["text"].as_str().unwrap(), String::from_utf16_lossy(&units));
        }
    }
}
