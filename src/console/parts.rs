//! Pieces that pages are put together from.

use std::time::Duration;

use maud::{Markup, html};
use time::OffsetDateTime;

use super::view::View;
use crate::api::http::page::at;
use crate::clock;

/// How something stands, by a colour and always by a word too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Neither.
    Plain,
}

/// A word with a colour.
pub fn badge(tone: Tone, word: &str) -> Markup {
    let class = match tone {
        Tone::Good => "badge good",
        Tone::Warn => "badge warn",
        Tone::Bad => "badge bad",
        Tone::Plain => "badge",
    };
    html! { span class=(class) { (word) } }
}

/// A time: written in UTC, shown by `times.js` in the reader's zone with UTC on hover.
pub fn time(time: OffsetDateTime) -> Markup {
    let text = at(time);
    html! { time datetime=(text) data-local { (short(&text)) } }
}

/// A time from which `times.js` counts: "4 min ago".
pub fn since(time: OffsetDateTime) -> Markup {
    let text = at(time);
    html! { time datetime=(text) data-since { (short(&text)) } }
}

/// The same for a time that moves by itself, such as that of a proof: a row in which nothing else has changed
/// does not count as changed.
pub fn since_quietly(time: OffsetDateTime) -> Markup {
    let text = at(time);
    html! { time datetime=(text) data-since data-quiet { (short(&text)) } }
}

/// To the second, in UTC.
fn short(text: &str) -> String {
    let to_the_second = text.get(..19).unwrap_or(text).replace('T', " ");
    format!("{to_the_second} UTC")
}

/// A sentence in which times are shown as such.
pub fn sentence(text: &str) -> Markup {
    html! {
        @for (place, word) in text.split(' ').enumerate() {
            @if place > 0 { " " }
            @let bare = word.trim_end_matches(['.', ',', ':', ';', ')']);
            @match clock::read_rfc3339(bare) {
                Some(at) => { (time(at)) (word.strip_prefix(bare).unwrap_or_default()) },
                None => (word),
            }
        }
    }
}

/// How long it was from one time to another.
pub fn span(from: OffsetDateTime, to: OffsetDateTime) -> Markup {
    html! { (lasting((to - from).unsigned_abs())) }
}

/// A duration, by its two greatest units.
pub fn lasting(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{seconds}.{} s", millis / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Text as it is, such as a frame or a body: it scrolls by itself and can be copied.
pub fn source_text(label: &str, text: &str) -> Markup {
    html! { pre role="region" aria-label=(label) tabindex="0" data-copy { (text) } }
}

/// A time that may be missing.
pub fn maybe(time: Option<OffsetDateTime>, show: fn(OffsetDateTime) -> Markup) -> Markup {
    html! { @match time { Some(at) => (show(at)), None => span.none { "–" } } }
}

/// A text that may be missing.
pub fn or_none(text: Option<&str>) -> Markup {
    html! { @match text { Some(text) => (text), None => span.none { "–" } } }
}

/// A table that scrolls sideways by itself where the screen is narrow. `label` says what its rows are; a row
/// that keeps its `id` keeps its place and its focus when a live section changes.
pub fn table(label: &str, head: &[&str], rows: &Markup) -> Markup {
    html! {
        div.scroll role="region" aria-label=(label) tabindex="0" {
            table { thead { tr { @for name in head { th scope="col" { (name) } } } } tbody { (rows) } }
        }
    }
}

/// Names and values.
pub fn facts(pairs: &[(&str, Markup)]) -> Markup {
    html! { dl.facts { @for (name, value) in pairs { div { dt { (name) } dd { (value) } } } } }
}

/// What is said where nothing is to be shown: why, and what to do next.
pub fn empty(why: &str, next: Option<(&str, &str)>) -> Markup {
    html! {
        div.empty { p { (why) } @if let Some((address, what)) = next { p { a.button href=(address) { (what) } } } }
    }
}

/// Leads to the next page of a list, and back to its start.
pub fn pager(view: &View, next_cursor: Option<&str>) -> Markup {
    let is_inside = !view.given("cursor").is_empty();
    html! {
        @if is_inside || next_cursor.is_some() {
            nav.pager aria-label="Pages of this list" {
                @if is_inside { a href=(view.with("cursor", None)) { "First page" } }
                @if let Some(cursor) = next_cursor {
                    a href=(view.with("cursor", Some(cursor))) rel="next" { "Next page" }
                }
            }
        }
    }
}

/// A button that is a form of its own. What cannot be undone is asked for on a page of its own first.
pub fn button(action: &str, label: &str) -> Markup {
    html! { form.inline method="post" action=(action) { button type="submit" { (label) } } }
}

/// The answers to a question: what cannot be taken back, and the way back.
pub fn answers(action: &str, label: &str, back: &str) -> Markup {
    html! {
        div.row {
            form.inline method="post" action=(action) { button.danger type="submit" { (label) } }
            a href=(back) { "Keep it" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_looks_like_a_time_stays_text() {
        let shown = sentence("until 2026-01-31T09:30:00Z, not 9999-12-31T23:59:59-12:00.").into_string();
        assert_eq!(shown.matches("<time").count(), 1, "{shown}");
        assert!(shown.ends_with("not 9999-12-31T23:59:59-12:00."), "{shown}");
    }
}
