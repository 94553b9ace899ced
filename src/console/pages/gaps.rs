//! Gaps: times in which agents could not be seen. Those that last come first.

use actix_web::http::StatusCode;
use maud::{Markup, html};

use crate::api::http::page::{List, Paging, Place};
use crate::console::content::Content;
use crate::console::parts::{Tone, badge, empty, facts, pager, since, span, table, time};
use crate::console::search::names::Names;
use crate::console::search::{self, A_TIME, Fields, take_time, who};
use crate::console::view::View;
use crate::console::{Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::{AgentId, GapId};
use crate::domain::plural::plural;
use crate::domain::presence::connection::GapCause;
use crate::store::sources::gaps::{GapFilter, GapRow};

pub(super) const PAGES: &[Page] = &[
    Page::named("Gaps", Scope::Read, "/gaps", |view| Box::pin(list(view))),
    Page::inner(Scope::Read, "/gaps/{id}", |view| Box::pin(one(view))),
];

/// Gaps that last are shown at once; there is one for each connection at most.
const LASTING_MAX: i64 = 200;
/// Agents that a row names.
const NAMED: usize = 3;

async fn list(view: View) -> Result<Content> {
    let sources = view.caller.store.source_names().await?;
    let (found, wrong) = search::found_or_wrong(read(&view).await)?;
    let mut page = Content::titled("Gaps");
    let fields = Fields::new(&view, &wrong);
    let states = [("true".to_owned(), "open".to_owned()), ("false".to_owned(), "ended".to_owned())];
    let form = fields.form(
        "Search",
        &html! {
            (who::agent_field(fields))
            (who::source_field(fields, &sources))
            (fields.choice("open", "State", "any", &states))
            (fields.text("since", "Since", A_TIME))
            (fields.text("until", "Until", ""))
        },
    );
    let Some((filter, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        page.body = form;
        return Ok(page);
    };
    let of = |open| GapFilter { open: Some(open), ..filter.clone() };
    let before = paging.after_id().map(GapId);
    let shows_lasting = filter.open != Some(false) && before.is_none();
    let (lasting, over) = (
        if shows_lasting { view.caller.store.gaps(&of(true), None, LASTING_MAX).await? } else { Vec::new() },
        if filter.open == Some(true) {
            Vec::new()
        } else {
            view.caller.store.gaps(&of(false), before, paging.rows()).await?
        },
    );
    let (over, next) = paging.page(over, None, |gap| Place::Id(gap.gap_id.0));
    let named = lasting.iter().chain(&over).flat_map(|gap| gap.agents.iter().take(NAMED).cloned());
    let names = Names::read(&view, std::iter::empty(), named).await?.with_sources(&sources);
    let both = html! {
        @if shows_lasting {
            h2 { "Open" }
            @if lasting.is_empty() {
                p { (badge(Tone::Good, "none open")) " Every agent that this search covers can be seen now." }
            } @else { (rows("Open gaps", &lasting, &names)) }
        }
        @if filter.open != Some(true) {
            h2 { "Ended" }
            @if over.is_empty() { (empty("No gap of this kind is on record.", None)) }
            @else { (rows("Ended gaps", &over, &names)) }
        }
    };
    let both = if before.is_none() { page.live("gaps", &both) } else { both };
    page.body = html! {
        p.hint { "A gap is a time in which agents could not be seen. Afterwards their present states are read, and what differs is marked so." }
        (form) (both) (pager(&view, next.as_deref()))
    };
    Ok(page)
}

async fn read(view: &View) -> Result<(GapFilter, Paging)> {
    let mut query = view.query()?;
    let filter = GapFilter {
        source: who::take_source(&mut query)?,
        agents: who::take_agents(view, &mut query).await?,
        open: query.boolean("open")?,
        since: take_time(&mut query, "since")?,
        until: take_time(&mut query, "until")?,
        ..GapFilter::default()
    };
    Ok((filter, query.paging(List::Gaps)?))
}

fn rows(label: &str, gaps: &[GapRow], names: &Names) -> Markup {
    let rows = html! {
        @for gap in gaps {
            tr id={ "gap-" (gap.gap_id) } {
                th scope="row" { a href={ (ROOT) "/gaps/" (gap.gap_id) } { (time(gap.from_at)) } }
                td { (ends(gap)) }
                td { (cause(&gap.cause)) }
                td { (some_agents(gap, names)) }
                td { (names.source(Some(gap.source_id))) }
            }
        }
    };
    table(label, &["From", "Until", "Why", "Agents", "Source"], &rows)
}

fn ends(gap: &GapRow) -> Markup {
    html! {
        @match gap.to_at {
            Some(to) => { (time(to)) " " span.hint { "(" (span(gap.from_at, to)) ")" } },
            None => { (badge(Tone::Bad, "open")) " " (since(gap.from_at)) }
        }
    }
}

fn some_agents(gap: &GapRow, names: &Names) -> Markup {
    let ids: Vec<AgentId> = gap.agents.iter().take(NAMED).cloned().map(AgentId).collect();
    let more = gap.agents.len().saturating_sub(NAMED);
    html! {
        @for (at, id) in ids.iter().enumerate() {
            @if at > 0 { ", " }
            (names.agent(Some(id), Some(gap.source_id)))
        }
        @if more > 0 { " and " a href={ (ROOT) "/gaps/" (gap.gap_id) } { (more) " more" } }
    }
}

/// Why, as a sentence for people; an earlier version's word stays as it is.
fn cause(word: &str) -> Markup {
    let told = match GapCause::from_name(word) {
        Some(GapCause::SocketClosed) => "The socket was closed",
        Some(GapCause::ProtocolViolation) => "The platform broke a rule of WebSocket",
        Some(GapCause::Silence) => "Nothing was heard for too long",
        Some(GapCause::Backpressure) => "Changes came faster than they could be stored",
        Some(GapCause::Displaced) => "Another program took the channel's place",
        Some(GapCause::SubscriptionsTaken) => "Another program took subscriptions from the channel",
        Some(GapCause::TokenRevoked) => "The token of the channel was revoked",
        Some(GapCause::ChannelGone) => "The platform did not know the channel any more",
        Some(GapCause::BridgeDown) => "No bridge was running",
        Some(GapCause::Terminated) => "An operator closed the connection",
        Some(GapCause::Replaced) => "The connection was replaced, or was not wanted any more",
        Some(GapCause::BridgeStopped) => "The bridge was stopped",
        Some(GapCause::Database) => "The database lost changes in a failover, or was restored",
        None => word,
    };
    html! { span title=(word) { (told) } }
}

async fn one(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let gap = view.caller.store.gap(GapId(view.id()?)).await?;
    let sources = view.caller.store.source_names().await?;
    let names =
        Names::read(&view, std::iter::empty(), gap.agents.iter().cloned()).await?.with_sources(&sources);
    let mut page = Content::titled("Gap");
    let shown = facts(&[
        ("From", time(gap.from_at)),
        ("Until", ends(&gap)),
        ("Why", cause(&gap.cause)),
        ("Source", names.source(Some(gap.source_id))),
        ("Connection", html! { code { (gap.connection_id) } }),
    ]);
    let shown = page.live("gap", &shown);
    let ids: Vec<AgentId> = gap.agents.iter().cloned().map(AgentId).collect();
    page.body = html! {
        (shown)
        h2 { (plural(ids.len(), "agent", "agents")) " could not be seen" }
        ul.columns { @for id in &ids { li { (names.agent(Some(id), Some(gap.source_id))) } } }
        p { a href=(links::with_query("/events", &[("source", &gap.source_id.to_string())])) { "Changes of this source" } }
    };
    Ok(page)
}
