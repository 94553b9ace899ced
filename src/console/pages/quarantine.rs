//! Quarantine: what came from Genesys and was not understood, with its bytes.

use actix_web::http::StatusCode;
use maud::{Markup, html};

use crate::api::http::page::{List, Paging, Place};
use crate::console::content::Content;
use crate::console::parts::{empty, facts, pager, source_text, table, time};
use crate::console::search::names::Names;
use crate::console::search::{self, Fields, who};
use crate::console::view::View;
use crate::console::{Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::{QuarantineId, SourceId};
use crate::domain::plural::plural;
use crate::domain::presence::connection::MalformedReason;
use crate::store::audit::quarantine::Quarantined;

pub(super) const PAGES: &[Page] = &[
    Page::named("Quarantine", Scope::Audit, "/quarantine", |view| Box::pin(list(view))),
    Page::inner(Scope::Audit, "/quarantine/{id}", |view| Box::pin(one(view))),
];

/// Bytes of a piece that are shown as text, and as numbers.
const TEXT_BYTES: usize = 16 * 1024;
const HEX_BYTES: usize = 4 * 1024;
/// Bytes of a line of numbers.
const LINE: usize = 16;

async fn list(view: View) -> Result<Content> {
    let sources = view.caller.store.source_names().await?;
    let (found, wrong) = search::found_or_wrong(read(&view))?;
    let mut page = Content::titled("Quarantine");
    let fields = Fields::new(&view, &wrong);
    let form = fields.form("Search", &who::source_field(fields, &sources));
    let Some((source, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        page.body = form;
        return Ok(page);
    };
    let before = paging.after_id().map(QuarantineId);
    let rows = view.caller.store.quarantine(source, before, paging.rows()).await?;
    let (rows, next) = paging.page(rows, None, |row| Place::Id(row.quarantine_id.0));
    let agents = rows.iter().filter_map(|row| Some(row.agent_id.as_ref()?.0.clone()));
    let names = Names::read(&view, std::iter::empty(), agents).await?.with_sources(&sources);
    let list = html! {
        @if rows.is_empty() {
            (empty("Everything that came was understood, as far back as this is kept.", None))
        } @else { (table_of(&rows, &names)) }
    };
    let list = if before.is_none() { page.live("pieces", &list) } else { list };
    page.body = html! {
        p.hint { "Frames that the bridge did not recognise, and changes that could not be stored. At most 60 a minute are kept of each source." }
        (form) (list) (pager(&view, next.as_deref()))
    };
    Ok(page)
}

fn read(view: &View) -> Result<(Option<SourceId>, Paging)> {
    let mut query = view.query()?;
    let source = who::take_source(&mut query)?;
    Ok((source, query.paging(List::Quarantine)?))
}

fn table_of(rows: &[Quarantined], names: &Names) -> Markup {
    let shown = html! {
        @for row in rows {
            tr id={ "piece-" (row.quarantine_id) } {
                th scope="row" { a href={ (ROOT) "/quarantine/" (row.quarantine_id) } { (time(row.received_at)) } }
                td { (reason(&row.reason)) }
                td { (plural(row.size, "byte", "bytes")) }
                td { (names.source(row.source_id)) }
                td { (names.agent(row.agent_id.as_ref(), row.source_id)) }
            }
        }
    };
    table("Pieces", &["Received", "Why", "Size", "Source", "Agent"], &shown)
}

/// Why, for people; another word stays as it is.
fn reason(word: &str) -> Markup {
    let told = match MalformedReason::from_name(word) {
        Some(MalformedReason::Binary) => "It is binary",
        Some(MalformedReason::NotJson) => "It is no JSON",
        Some(MalformedReason::NotAnObject) => "It is JSON other than an object",
        Some(MalformedReason::NoTopic) => "It has no topic and answers nothing of ours",
        Some(MalformedReason::UnexpectedAnswer) => "It answers a message of ours in an unknown way",
        Some(MalformedReason::UnknownTopic) => "Its topic is unknown",
        Some(MalformedReason::UnknownSystemTopic) => "It is about the channel, in an unknown way",
        Some(MalformedReason::NoEventBody) => "It has the topic of an agent and no body",
        Some(MalformedReason::NothingTold) => "No part of its body could be read",
        Some(MalformedReason::UnwatchedAgent) => "It is of an agent that the connection does not watch",
        None => word,
    };
    html! { span title=(word) { (told) } }
}

async fn one(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let row = view.caller.store.quarantined(QuarantineId(view.id()?)).await?;
    let sources = view.caller.store.source_names().await?;
    let agent = row.agent_id.as_ref().map(|agent| agent.0.clone());
    let names = Names::read(&view, std::iter::empty(), agent.into_iter()).await?.with_sources(&sources);
    let bytes = row.bytes.as_deref().unwrap_or_default();
    let mut page = Content::titled("What was not understood");
    page.body = html! {
        (facts(&[
            ("Received", time(row.received_at)),
            ("Why", reason(&row.reason)),
            ("Size", html! { (plural(row.size, "byte", "bytes")) @if row.size > as_i64(bytes.len()) { ", of which " (bytes.len()) " are kept" } }),
            ("Source", names.source(row.source_id)),
            ("Connection", html! { @match row.connection_id { Some(id) => a href=(links::connection(id)) { (id) }, None => span.none { "–" } } }),
            ("Agent", names.agent(row.agent_id.as_ref(), row.source_id)),
        ]))
        h2 { "As text" }
        (source_text("As text", &as_text(bytes)))
        @if bytes.len() > TEXT_BYTES { p.hint { "The first " (TEXT_BYTES) " bytes." } }
        h2 { "As bytes" }
        (source_text("As bytes", &as_numbers(bytes)))
        @if bytes.len() > HEX_BYTES { p.hint { "The first " (HEX_BYTES) " bytes; " code { "GET /v1/quarantine/" (row.quarantine_id) } " has all." } }
        p { a.button href={ (ROOT) "/quarantine" } { "All pieces" } }
    };
    Ok(page)
}

fn as_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The first bytes as text; what nobody can see is written as its number.
fn as_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..TEXT_BYTES).unwrap_or(bytes));
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' || is_invisible(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Characters that change the direction or order of others, or have no width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The first bytes as lines of their place, their hexadecimal numbers, and their ASCII characters.
fn as_numbers(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for (line, piece) in bytes.get(..HEX_BYTES).unwrap_or(bytes).chunks(LINE).enumerate() {
        let numbers: Vec<String> = piece.iter().map(|byte| format!("{byte:02x}")).collect();
        let is_plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        let plain = piece.iter().map(|byte| if is_plain(*byte) { char::from(*byte) } else { '.' });
        let plain: String = plain.collect();
        shown.push_str(&format!("{:06x}  {:<47}  {plain}\n", line * LINE, numbers.join(" ")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_so_that_each_can_be_told() {
        assert_eq!(as_text(b"a\n\x00\xe2\x80\xae\xff"), "a\n\\u{0}\\u{202e}\u{fffd}");
        let numbers = as_numbers(&[b'A'; 17]);
        assert_eq!(numbers.lines().count(), 2);
        assert!(numbers.ends_with(&format!("000010  41{}  A\n", " ".repeat(45))), "{numbers}");
    }

    #[test]
    fn what_is_shown_has_an_end() {
        let bytes = vec![0; 64 * 1024];
        assert!(as_text(&bytes).len() <= TEXT_BYTES * 8);
        assert_eq!(as_numbers(&bytes).lines().count(), HEX_BYTES / LINE);
    }
}
