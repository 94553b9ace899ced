//! Requests to deliver again what webhooks missed, and how far each one is.

use actix_web::http::StatusCode;
use maud::{Markup, html};

use crate::api::http::page::{List, Paging, Place};
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::parts::{Tone, badge, button, empty, facts, maybe, pager, span, table, time};
use crate::console::search::names::Names;
use crate::console::search::{self, Fields, who};
use crate::console::view::View;
use crate::console::{Action, Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::delivery::recovery::{RecoveryFailure, RecoveryState};
use crate::domain::ids::{AgentId, RecoveryId};
use crate::domain::plural::plural;
use crate::services;
use crate::store::recovery::requests::{Recovery, RecoveryFilter};

pub(super) const PAGES: &[Page] = &[
    Page::inner(Scope::Read, "/recoveries", |view| Box::pin(list(view))),
    Page::inner(Scope::Read, "/recoveries/{id}", |view| Box::pin(one(view))),
];

pub(super) const ACTIONS: &[Action] =
    &[Action::new(Scope::Webhooks, "/recoveries/{id}/cancel", |view, _| Box::pin(cancel(view)))];

/// Agents that are named.
const AGENTS_SHOWN: usize = 10;

async fn list(view: View) -> Result<Content> {
    let (found, wrong) = search::found_or_wrong(read(&view).await)?;
    let mut page = Content::titled("Recoveries");
    let fields = Fields::new(&view, &wrong);
    let states = RecoveryState::WORDS.iter().map(|word| ((*word).to_owned(), (*word).to_owned()));
    let states: Vec<_> = states.collect();
    let webhook = who::webhook_field(&view, fields).await?;
    let form = fields.form("Search", &html! { (webhook) (fields.choice("state", "State", "any", &states)) });
    let Some((filter, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        let meant = who::webhook_choice(&view, &who::webhooks_meant(&view).await?);
        page.body = html! { (form) (meant) };
        return Ok(page);
    };
    let before = paging.after_id().map(RecoveryId);
    let rows = view.caller.store.recoveries(&filter, before, paging.rows()).await?;
    let (rows, next) = paging.page(rows, None, |row| Place::Id(row.recovery_id.0));
    let names = Names::read(&view, rows.iter().map(|row| row.webhook_id), std::iter::empty()).await?;
    let list = html! {
        @if rows.is_empty() {
            (empty(
                "No recovery was requested.",
                Some((&format!("{ROOT}/deliveries?state=dead"), "See deliveries that were given up")),
            ))
        } @else { (table_of(&rows, &names)) }
    };
    let list = page.live("recoveries", &list);
    page.body = html! { (form) (list) (pager(&view, next.as_deref())) };
    Ok(page)
}

async fn read(view: &View) -> Result<(RecoveryFilter, Paging)> {
    let mut query = view.query()?;
    let filter = RecoveryFilter {
        recovery: None,
        webhook: who::take_webhook(view, &mut query).await?,
        state: query.word("state", RecoveryState::WORDS)?.and_then(|word| RecoveryState::from_name(&word)),
    };
    Ok((filter, query.paging(List::Recoveries)?))
}

fn table_of(rows: &[Recovery], names: &Names) -> Markup {
    let shown = html! {
        @for row in rows {
            tr id={ "recovery-" (row.recovery_id) } {
                th scope="row" { a href=(links::recovery(row.recovery_id)) { (time(row.requested_at)) } }
                td { (names.webhook(Some(row.webhook_id))) }
                td { (state(row)) }
                td { (row.recovered) }
                td { (row.skipped) }
                td { (maybe(row.ended_at, time)) }
            }
        }
    };
    table("Recoveries", &["Requested", "Webhook", "State", "Opened again", "Left out", "Ended"], &shown)
}

fn state(row: &Recovery) -> Markup {
    match (row.state(), row.reason) {
        (RecoveryState::Running, _) => badge(Tone::Plain, "running"),
        (RecoveryState::Done, _) => badge(Tone::Good, "done"),
        (RecoveryState::Failed, Some(RecoveryFailure::Cancelled)) => badge(Tone::Warn, "cancelled"),
        (RecoveryState::Failed, reason) => {
            let why = reason.map_or("failed", RecoveryFailure::as_str).replace('_', " ");
            badge(Tone::Bad, &format!("failed: {why}"))
        }
    }
}

async fn one(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let id = RecoveryId(view.id()?);
    let row = view.caller.store.recovery(id).await?;
    let sources = view.caller.store.source_names().await?;
    let names = Names::read(&view, std::iter::once(row.webhook_id), row.agents.iter().cloned()).await?;
    let names = names.with_sources(&sources);
    let mut page = Content::titled("Recovery");
    let is_running = row.state() == RecoveryState::Running;
    let stands = html! {
        p { (state(&row)) " " (how_far(&row)) }
        @if is_running && view.may(Scope::Webhooks) {
            div.row { (button(&format!("{ROOT}/recoveries/{id}/cancel"), "Cancel: what is open by then stays open")) }
        }
    };
    let stands = page.live("recovery", &stands);
    let webhook = row.webhook_id.to_string();
    page.body = html! {
        (stands)
        (facts(&[
            ("Webhook", names.webhook(Some(row.webhook_id))),
            ("Events since", time(row.since)),
            ("Events until", time(row.until)),
            ("Which", html! { (which(&row)) }),
            ("Source", html! { @if row.source_id.is_some() { (names.source(row.source_id)) } @else { "all" } }),
            ("Agents", html! { (agents(&row, &names)) }),
            ("Requested", time(row.requested_at)),
            ("Id", html! { code { (id) } }),
        ]))
        p.row {
            a.button href=(links::with_query("/deliveries", &[("webhook", &webhook), ("state", "open")])) {
                "Its webhook's open deliveries"
            }
            a href={ (ROOT) "/recoveries" } { "All recoveries" }
        }
    };
    Ok(page)
}

fn which(row: &Recovery) -> String {
    match &row.states {
        Some(states) => format!("deliveries that ended as {}", states.join(", ").replace('_', " ")),
        None if row.only_failed => "what the webhook's filters ask for and ended without success".to_owned(),
        None => "everything that the webhook's filters ask for".to_owned(),
    }
}

fn agents(row: &Recovery, names: &Names) -> Markup {
    let shown: Vec<AgentId> = row.agents.iter().take(AGENTS_SHOWN).cloned().map(AgentId).collect();
    html! {
        @if row.agents.is_empty() { "all" }
        @for (at, id) in shown.iter().enumerate() { @if at > 0 { ", " } (names.agent(Some(id), row.source_id)) }
        @if row.agents.len() > AGENTS_SHOWN { " and " (row.agents.len() - AGENTS_SHOWN) " more" }
    }
}

fn how_far(row: &Recovery) -> Markup {
    html! {
        (plural(row.recovered, "delivery was", "deliveries were")) " opened again"
        @if row.skipped > 0 { ", " (plural(row.skipped, "was", "were")) " left out: a later one of the same agent was being sent" }
        @if let Some(ended) = row.ended_at { ", within " (span(row.requested_at, ended)) } "."
    }
}

async fn cancel(view: View) -> Result<Done> {
    let row = services::recoveries::cancel(&view.caller, RecoveryId(view.id()?)).await?;
    let notice = format!(
        "It is cancelled; {} opened by then.",
        plural(row.recovered, "delivery was", "deliveries were")
    );
    Ok(Done::Go { to: links::recovery(row.recovery_id), notice })
}
