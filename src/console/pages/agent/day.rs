//! A day of an agent, by the clock of the reader or by UTC: its states as a strip, and its changes.

use maud::{Markup, html};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, UtcOffset};

use super::change;
use crate::api::http::page::Query;
use crate::api::http::problem::ApiError;
use crate::clock;
use crate::console::charts::{self, Hue, Segment, strip};
use crate::console::pages::presence;
use crate::console::parts::{empty, table, time};
use crate::console::view::View;
use crate::console::{ROOT, Result, links};
use crate::domain::plural::plural;
use crate::domain::presence::{Detail, Event};
use crate::services::agents::Day;
use crate::store::views::agents::AgentRow;

const DAY: &[BorrowedFormatItem<'static>] = format_description!("[year]-[month]-[day]");
/// Minutes by which clocks of people are ahead of UTC.
const OFFSETS: &[i16] = &[
    -720, -660, -600, -570, -540, -480, -420, -360, -300, -240, -210, -180, -150, -120, -60, 0, 60, 120, 180,
    210, 240, 270, 300, 330, 345, 360, 390, 420, 480, 525, 540, 570, 600, 630, 660, 720, 765, 780, 840,
];
const YEARS: std::ops::RangeInclusive<i32> = 2000..=9000;

/// The day that is looked at.
pub struct Span {
    day: Date,
    /// Minutes by which its clock is ahead of UTC.
    minutes: i16,
    offset: UtcOffset,
    is_today: bool,
}

impl Span {
    /// Takes `day`, today if it is left out, and `offset`, which is that of UTC if it is left out.
    ///
    /// # Errors
    /// If one is none.
    pub fn take(query: &mut Query) -> Result<Self> {
        let minutes = query.text("offset")?.map(|text| {
            let known = text.parse().ok().filter(|minutes| OFFSETS.contains(minutes));
            known
                .ok_or_else(|| ApiError::parameter("offset", "is no number of minutes that clocks differ by"))
        });
        let minutes = minutes.transpose()?.unwrap_or(0);
        let offset = UtcOffset::from_whole_seconds(i32::from(minutes) * 60)
            .map_err(|_| ApiError::parameter("offset", "is too large"))?;
        let today = clock::now().to_offset(offset).date();
        let day = query.text("day")?.map(|text| {
            let day = Date::parse(&text, DAY).ok().filter(|day| YEARS.contains(&day.year()));
            day.ok_or_else(|| ApiError::parameter("day", "is no day such as 2026-01-31"))
        });
        let day = day.transpose()?.unwrap_or(today);
        Ok(Self { day, minutes, offset, is_today: day == today })
    }

    pub fn from(&self) -> OffsetDateTime {
        self.day.midnight().assume_offset(self.offset)
    }

    pub fn to(&self) -> OffsetDateTime {
        self.from() + Duration::DAY
    }

    fn named(day: Date) -> String {
        day.format(DAY).unwrap_or_default()
    }

    fn zone(&self) -> String {
        zone(self.minutes)
    }

    /// The day before, the day after, and a form for any other.
    pub fn chooser(&self, view: &View, agent: &AgentRow) -> Markup {
        let day = |by: i64| Self::named(self.day.saturating_add(Duration::days(by)));
        html! {
            form.filters method="get" action=(view.path) {
                input type="hidden" name="source" value=(agent.source_id);
                label { span { "Day" } input type="date" name="day" value=(day(0)) required; }
                label {
                    span { "By the clock of" }
                    select name="offset" data-own-offset=(day(0)) {
                        @for minutes in OFFSETS {
                            option value=(minutes) selected[*minutes == self.minutes] { (zone(*minutes)) }
                        }
                    }
                }
                button type="submit" { "Show" }
                a href=(view.with("day", Some(&day(-1)))) rel="prev" { "Previous day" }
                @if !self.is_today { a href=(view.with("day", Some(&day(1)))) rel="next" { "Next day" } }
                @if !self.is_today { a href=(links::agent(&agent.agent_id, Some(agent.source_id))) { "Today" } }
            }
        }
    }
}

fn zone(minutes: i16) -> String {
    let sign = if minutes < 0 { '-' } else { '+' };
    match minutes.unsigned_abs() {
        0 => "UTC".to_owned(),
        ahead => format!("UTC{sign}{:02}:{:02}", ahead / 60, ahead % 60),
    }
}

/// The strip with its legend, and the list of changes.
pub fn shown(span: &Span, day: &Day) -> Markup {
    let mut spells = spells(span, day);
    spells.retain(|(segment, _)| segment.to > segment.from);
    let mut presences: Vec<(Hue, String)> = Vec::new();
    for (segment, presence) in &spells {
        let word = presence::word(presence);
        if !presences.iter().any(|(_, known)| *known == word) {
            presences.push((segment.hue, word));
        }
    }
    let gaps: Vec<_> = day.gaps.iter().map(|gap| (gap.from_at, gap.to_at.unwrap_or(day.upto))).collect();
    let segments: Vec<Segment> = spells.iter().map(|(segment, _)| *segment).collect();
    let words: Vec<&str> = presences.iter().map(|(_, word)| word.as_str()).collect();
    let says = format!(
        "States on {} by {}: {}; {}, {}. The table below has each change.",
        Span::named(span.day),
        span.zone(),
        if words.is_empty() { "none known".to_owned() } else { words.join(", ") },
        plural(day.changes.len(), "change", "changes"),
        plural(gaps.len(), "gap", "gaps"),
    );
    let legend: Vec<(Hue, &str)> = presences.iter().map(|(hue, word)| (*hue, word.as_str())).collect();
    html! {
        (strip((span.from(), span.to()), &segments, &gaps, &says))
        p.ends { @for hour in ["00:00", "06:00", "12:00", "18:00", "24:00"] { span { (hour) } } }
        (charts::legend(&legend))
        @if !gaps.is_empty() { p.hint { "Red lines: times in which the agent could not be seen." } }
        @if day.is_cut_off { p.hint { "Only the last " (plural(day.changes.len(), "change", "changes")) " of this day are shown." } }
        (changes(day))
        (gaps_told(day))
    }
}

/// Which presence held from when to when: a change holds from upstream's time of it on, until the next one.
fn spells(span: &Span, day: &Day) -> Vec<(Segment, String)> {
    let (from, to) = (span.from(), day.upto);
    let mut spells = Vec::new();
    let mut spell = |presence: Option<&str>, from, to| {
        if let Some(presence) = presence {
            spells.push((Segment { from, to, hue: presence::hue(presence) }, presence.to_owned()));
        }
    };
    let begin = |event: &Event| event.occurred_at.unwrap_or(event.received_at).clamp(from, to.max(from));
    let (mut presence, mut since) = (day.before.clone().filter(|_| !day.is_cut_off), from);
    for event in day.changes.iter().rev() {
        let at = begin(event).max(since);
        spell(presence.as_deref(), since, at);
        (presence, since) = (event.presence.clone(), at);
    }
    spell(presence.as_deref(), since, to);
    spells
}

fn changes(day: &Day) -> Markup {
    if day.changes.is_empty() {
        return empty("Nothing was told of this agent on this day.", None);
    }
    let rows = html! {
        @for event in &day.changes {
            tr id={ "event-" (event.event_id) } {
                th scope="row" {
                    a href=(links::event(event.event_id)) { (time(event.occurred_at.unwrap_or(event.received_at))) }
                }
                td { (change(event.previous.as_deref(), event.presence.as_deref())) }
                td { (parts_changed(event)) }
                td { (event.origin.as_str()) }
                td {
                    a href=(links::with_query("/deliveries", &[("event", &event.event_id.to_string())])) {
                        "Deliveries"
                    }
                }
            }
        }
    };
    table("Changes of the day", &["When", "State", "What changed", "Origin", "Told"], &rows)
}

fn parts_changed(event: &Event) -> String {
    match &event.detail {
        Some(Detail::Agent(content)) => content.changed.join(", ").replace('_', " "),
        _ => String::new(),
    }
}

fn gaps_told(day: &Day) -> Markup {
    html! {
        @if !day.gaps.is_empty() {
            h3 { "Gaps" }
            ul { @for gap in &day.gaps {
                li {
                    a href={ (ROOT) "/gaps/" (gap.gap_id) } { (time(gap.from_at)) } " to "
                    @match gap.to_at { Some(to_at) => (time(to_at)), None => "now" }
                    ": " (gap.cause.replace('_', " "))
                }
            } }
        }
    }
}
