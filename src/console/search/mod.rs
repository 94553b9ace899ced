//! Forms that search: their values stand in the address, and what is wrong with one is said at its field.

use actix_web::http::StatusCode;
use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use super::Result;
use super::fields::{self, field};
use super::view::View;
use crate::api::http::page::Query;
use crate::api::http::problem::ApiError;
use crate::clock;

pub mod names;
pub mod who;

/// What the hint of a field for times says.
pub const A_TIME: &str = "UTC, such as 2026-01-31 09:30, or how long ago: 15m, 2h, 3d";

/// What a search has found, or what was wrong with its fields.
///
/// # Errors
/// Anything else that went wrong.
pub fn found_or_wrong<T>(found: Result<T>) -> Result<(Option<T>, fields::Fields)> {
    match found {
        Ok(found) => Ok((Some(found), fields::Fields::default())),
        Err(wrong)
            if [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY].contains(&wrong.status()) =>
        {
            Ok((None, fields::Fields::of(&wrong)))
        }
        Err(error) => Err(error),
    }
}

/// The fields of a form that searches.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    view: &'a View,
    fields: &'a fields::Fields,
}

impl<'a> Fields<'a> {
    /// Fields with the values of the address, and what was wrong with them.
    pub fn new(view: &'a View, fields: &'a fields::Fields) -> Self {
        Self { view, fields }
    }

    /// A text.
    pub fn text(&self, name: &str, label: &str, hint: &str) -> Markup {
        self.fields.text(field(name, label, hint), &self.view.given(name))
    }

    /// One of several values, or any.
    pub fn choice(&self, name: &str, label: &str, any: &str, choices: &[(String, String)]) -> Markup {
        let mut all = vec![("", any)];
        all.extend(choices.iter().map(|(value, shown)| (value.as_str(), shown.as_str())));
        self.fields.choice(field(name, label, ""), &self.view.given(name), &all)
    }

    /// The form; a complaint that belongs to no field stands above it.
    pub fn form(&self, send: &str, fields: &Markup) -> Markup {
        html! {
            (self.fields.refusal())
            form.filters method="get" action=(self.view.path) role="search" {
                (fields)
                button type="submit" { (send) }
                @if self.view.address() != self.view.path { a href=(self.view.path) { "Clear" } }
            }
        }
    }
}

/// Takes a time as people write it: RFC 3339, the same without seconds or zone (then it is UTC), a day, or how
/// long ago.
///
/// # Errors
/// If it is none of these.
pub fn take_time(query: &mut Query, name: &str) -> Result<Option<OffsetDateTime>> {
    let wrong = || ApiError::parameter(name, "is no time such as 2026-01-31 09:30 (UTC), 15m, 2h or 3d");
    query.text(name)?.map(|text| read_time(text.trim(), clock::now()).ok_or_else(wrong)).transpose()
}

/// Reads a time as [`take_time`] does.
pub fn read_time(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let units = [('m', 60), ('h', 3600), ('d', 86400)];
    for (unit, seconds) in units {
        if let Some(count) = text.strip_suffix(unit).and_then(|count| count.parse::<u32>().ok()) {
            let ago = now.checked_sub(Duration::seconds(i64::from(count).checked_mul(seconds)?));
            // Postgres knows no times of long before.
            return ago.filter(|at| at.year() > 0);
        }
    }
    let mut text = text.replacen(' ', "T", 1);
    text.push_str(match text.len() {
        10 => "T00:00:00Z",
        16 => ":00Z",
        _ if text.get(10..).is_some_and(|time| !time.contains(['Z', 'z', '+', '-'])) => "Z",
        _ => "",
    });
    clock::read_rfc3339(&text)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);

    #[test]
    fn a_time_is_read_as_people_write_it() {
        for (text, read) in [
            ("2026-01-31T09:30:00Z", datetime!(2026-01-31 09:30 UTC)),
            ("2026-01-31 09:30", datetime!(2026-01-31 09:30 UTC)),
            ("2026-01-31 09:30:05", datetime!(2026-01-31 09:30:05 UTC)),
            ("2026-01-31T09:30:05.25", datetime!(2026-01-31 09:30:05.25 UTC)),
            ("2026-01-31T10:30:00+01:00", datetime!(2026-01-31 09:30 UTC)),
            ("2026-01-31", datetime!(2026-01-31 00:00 UTC)),
            ("15m", datetime!(2026-11-30 11:45 UTC)),
            ("2h", datetime!(2026-11-30 10:00 UTC)),
            ("3d", datetime!(2026-11-27 12:00 UTC)),
        ] {
            assert_eq!(read_time(text, NOW), Some(read), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "yesterday",
            "",
            "m",
            "-2h",
            "4294967295d",
            "3000000d",
            "9999-12-31T23:59:59-12:00",
            "2026-13-01",
            "2026-01-31 25:00",
            "9é-01-31 09:3",
        ] {
            assert_eq!(read_time(text, NOW), None, "{text}");
        }
    }
}
