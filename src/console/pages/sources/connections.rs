//! Connections to Genesys: their state, age and latency, and the two things that can be asked of one.

use actix_web::http::StatusCode;
use maud::{Markup, html};
use time::OffsetDateTime;

use crate::api::http::page::{List, Paging, Place};
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::parts::{
    Tone, answers, badge, button, empty, facts, maybe, or_none, pager, since, table, time,
};
use crate::console::search::names::Names;
use crate::console::search::{self, Fields, who};
use crate::console::view::View;
use crate::console::{Action, Page, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::{ConnectionId, canonical_guid};
use crate::domain::plural::plural;
use crate::domain::presence::connection::{ConnectionState, DesiredState, ROTATE_AFTER};
use crate::domain::presence::remedies::remedy_of_text;
use crate::store::sources::connections::{ConnectionFilter, ConnectionRow};

pub(super) const LIST: Page = Page::inner(Scope::Read, "/connections", |view| Box::pin(list(view)));
pub(super) const ONE: Page = Page::inner(Scope::Read, "/connections/{id}", |view| Box::pin(one(view)));
pub(super) const TERMINATE: Page =
    Page::inner(Scope::Sources, "/connections/{id}/terminate", |view| Box::pin(ask(view)));

pub(super) const RESTART: Action =
    Action::new(Scope::Sources, "/connections/{id}/restart", |view, _| Box::pin(restart(view)));
pub(super) const DO_TERMINATE: Action =
    Action::new(Scope::Sources, "/connections/{id}/terminate", |view, _| Box::pin(terminate(view)));

async fn list(view: View) -> Result<Content> {
    let sources = view.caller.store.source_names().await?;
    let (found, wrong) = search::found_or_wrong(read(&view))?;
    let mut page = Content::titled("Connections");
    let fields = Fields::new(&view, &wrong);
    let states: Vec<_> =
        ConnectionState::WORDS.iter().map(|word| ((*word).to_owned(), word.replace('_', " "))).collect();
    let form = fields.form(
        "Search",
        &html! {
            (fields.text("agent", "Agent", "Genesys id"))
            (who::source_field(fields, &sources))
            (fields.choice("state", "State", "any", &states))
        },
    );
    let Some((filter, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        page.body = form;
        return Ok(page);
    };
    let after = paging.after_id().map(ConnectionId);
    let rows = view.caller.store.connections(&filter, after, paging.rows()).await?;
    let (rows, next) = paging.page(rows, None, |row| Place::Id(row.connection_id.0));
    let shown = html! {
        @if rows.is_empty() { (empty("No connection is like this.", None)) } @else { (table_of(&view, &rows)) }
    };
    let shown = page.live("connections", &shown);
    page.body = html! { (form) (shown) (pager(&view, next.as_deref())) };
    Ok(page)
}

fn read(view: &View) -> Result<(ConnectionFilter, Paging)> {
    let mut query = view.query()?;
    let filter = ConnectionFilter {
        source: who::take_source(&mut query)?,
        agent: query.text("agent")?.map(canonical_guid),
        state: query.word("state", ConnectionState::WORDS)?.as_deref().and_then(ConnectionState::from_name),
    };
    Ok((filter, query.paging(List::Connections)?))
}

/// Connections as a table.
pub(super) fn table_of(view: &View, rows: &[ConnectionRow]) -> Markup {
    let shown = html! {
        @for row in rows {
            tr id={ "connection-" (row.connection_id) } {
                th scope="row" { a href=(links::connection(row.connection_id)) { (state(row)) } }
                td { (row.agents) @if row.rejected_topics > 0 { " " (badge(Tone::Bad, &format!("{} rejected", row.rejected_topics))) } }
                td { (maybe(row.opened_at, since)) }
                td { (latency(view, row.connection_id)) }
                td { (handover(row)) }
                td { (or_none(row.state_reason.as_deref())) }
            }
        }
    };
    table("Connections", &["State", "Agents", "Open since", "Round trip", "Handed over", "Why"], &shown)
}

fn state(row: &ConnectionRow) -> Markup {
    match row.state {
        ConnectionState::Open => badge(Tone::Good, "open"),
        ConnectionState::Connecting => badge(Tone::Plain, "connecting"),
        ConnectionState::Idle => badge(Tone::Plain, "idle"),
        ConnectionState::BackingOff => badge(Tone::Warn, "waits to try again"),
        ConnectionState::Refused => badge(Tone::Bad, "refused"),
        ConnectionState::Terminated => badge(Tone::Warn, "terminated"),
    }
}

/// The mean of the last pings, as far as this process holds the socket. Rounded, so that the page stays the
/// same while nothing of note has changed.
fn latency(view: &View, id: ConnectionId) -> Markup {
    let live = view.caller.status().connection(id);
    html! {
        @if live.samples > 0 { (format!("{:.0} ms", live.average_latency_ms)) } @else { span.none { "–" } }
    }
}

/// When another connection takes its place, as far as upstream ends it.
fn handover(row: &ConnectionRow) -> Markup {
    let Some((opened_at, expires_at)) = row.opened_at.zip(row.expires_at) else {
        return html! { span.none { "–" } };
    };
    html! { "from " (time(due(opened_at, expires_at))) }
}

fn due(opened_at: OffsetDateTime, expires_at: OffsetDateTime) -> OffsetDateTime {
    opened_at + (expires_at - opened_at) * ROTATE_AFTER
}

async fn one(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let row = view.caller.store.connection(ConnectionId(view.id()?)).await?;
    let sources = view.caller.store.source_names().await?;
    let agent = row.agent_id.as_ref().map(|agent| agent.0.clone());
    let names = Names::read(&view, std::iter::empty(), agent.into_iter()).await?.with_sources(&sources);
    let live = view.caller.status().connection(row.connection_id);
    let mut page = Content::titled("Connection");
    let stands = html! {
        p.verdict { (state(&row)) " " (row.state_reason.as_deref().unwrap_or_default()) }
        (advice(&row))
        @if view.may(Scope::Sources) { (buttons(&row)) }
        (facts(&[
            ("Source", names.source(Some(row.source_id))),
            ("Agents", html! { (row.agents) @if row.agent_id.is_some() { ": " (names.agent(row.agent_id.as_ref(), Some(row.source_id))) } }),
            ("Of those rejected", html! { (row.rejected_topics) }),
            ("Open since", maybe(row.opened_at, since)),
            ("Ended by Genesys at", maybe(row.expires_at, time)),
            ("Handed over", handover(&row)),
            ("Round trip", latency(&view, row.connection_id)),
            ("Round trips up to 200 ms", html! { @if live.samples >= 10 { (format!("{:.0} %", live.stability_rate)) } @else { span.none { "–" } } }),
            ("Attempts since the last healthy minute", html! { (row.attempt_count) }),
            ("State since", time(row.updated_at)),
            ("Created", time(row.created_at)),
            ("Id at Genesys", or_none(row.upstream_connection_id.as_deref())),
            ("Id", html! { code { (row.connection_id) } }),
        ]))
    };
    let stands = page.live("connection", &stands);
    let id = row.connection_id.to_string();
    page.body = html! {
        (stands)
        p.row {
            a href=(links::with_query("/rejected-topics", &[("connection", &id)])) { "What it may not watch" }
            @if view.may(Scope::Audit) {
                a href=(links::with_query("/audit", &[("connection", &id)])) { "Its audit entries" }
            }
        }
    };
    Ok(page)
}

/// What to do about a connection that does not come to be.
fn advice(row: &ConnectionRow) -> Markup {
    let remedy = row.state_reason.as_deref().and_then(|why| remedy_of_text("subscribe", why));
    html! {
        @match row.state {
            ConnectionState::Refused => p.alert {
                "Genesys denies permission (403). It is not tried again before something changes: its settings, or a restart here."
                @if let Some(remedy) = remedy { " What to do: " (remedy) "." }
            },
            ConnectionState::BackingOff => p {
                "The last attempt failed; the next one follows by itself, at the latest within minutes."
                @if let Some(remedy) = remedy { " If it stays: " (remedy) "." }
            },
            ConnectionState::Terminated => p { "An operator had it closed. A restart opens it again." },
            _ => {}
        }
    }
}

fn buttons(row: &ConnectionRow) -> Markup {
    let address = links::connection(row.connection_id);
    html! {
        div.row {
            @if row.desired != DesiredState::Removed { (button(&format!("{address}/restart"), "Restart")) }
            @if row.desired == DesiredState::Open { a.button href={ (address) "/terminate" } { "Terminate" } }
        }
    }
}

async fn ask(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let row = view.caller.store.connection(ConnectionId(view.id()?)).await?;
    let address = links::connection(row.connection_id);
    let mut page = Content::titled("Terminate this connection?");
    page.body = html! {
        p { "Its socket is closed, and " (plural(row.agents, "agent is", "agents are")) " not seen any more until somebody restarts it: that is a gap, "
            "which webhooks are told of." }
        (answers(&format!("{address}/terminate"), "Terminate", &address))
    };
    Ok(page)
}

async fn terminate(view: View) -> Result<Done> {
    let id = ConnectionId(view.id()?);
    view.caller.store.terminate_connection(id, view.caller.principal.as_str()).await?;
    Ok(Done::Go { to: links::connection(id), notice: "The connection is being closed.".to_owned() })
}

async fn restart(view: View) -> Result<Done> {
    let id = ConnectionId(view.id()?);
    view.caller.store.restart_connection(id, view.caller.principal.as_str()).await?;
    Ok(Done::Go { to: links::connection(id), notice: "The connection is being restarted.".to_owned() })
}
