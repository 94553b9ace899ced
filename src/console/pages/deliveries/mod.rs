//! Deliveries: the search, one as a timeline, and the retry of one.

use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use maud::{Markup, html};
use time::OffsetDateTime;

use crate::api::http::page::Place;
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::parts::{Tone, badge, empty, maybe, or_none, pager, table, time};
use crate::console::search::names::Names;
use crate::console::search::{self, Fields, who};
use crate::console::view::View;
use crate::console::{Action, Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::DeliveryId;
use crate::services;
use crate::store::views::deliveries::DeliveryRow;

mod filter;
mod one;
mod retry_all;
pub(super) mod timeline;

pub(super) const PAGES: &[Page] = &[
    Page::named("Deliveries", Scope::Read, "/deliveries", |view| Box::pin(list(view))),
    Page::inner(Scope::Webhooks, "/deliveries/retry", |view| Box::pin(retry_all::ask(view))),
    Page::inner(Scope::Read, "/deliveries/{id}", |view| Box::pin(one::show(view))),
];

pub(super) const ACTIONS: &[Action] = &[
    Action::new(Scope::Webhooks, "/deliveries/retry", |view, form| Box::pin(retry_all::act(view, form))),
    Action::new(Scope::Webhooks, "/deliveries/{id}/retry", |view, _| Box::pin(retry(view))),
];

/// A search that takes longer is not repeated by itself.
const LIVE_WITHIN: Duration = Duration::from_millis(150);

async fn list(view: View) -> Result<Content> {
    let sources = view.caller.store.source_names().await?;
    let (found, wrong) = search::found_or_wrong(filter::read(&view).await)?;
    let mut page = Content::titled("Deliveries");
    let form = filter::form(&view, Fields::new(&view, &wrong), &sources).await?;
    let Some((filter, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        let meant = who::webhook_choice(&view, &who::webhooks_meant(&view).await?);
        page.body = html! { (form) (meant) };
        return Ok(page);
    };
    let began = Instant::now();
    let before = paging.after_id().map(DeliveryId);
    let searched = view.caller.store.delivery_history(&filter, before, paging.rows()).await?;
    let place = |id: DeliveryId| Place::Id(id.0);
    let stopped_at = searched.stopped_at;
    let (rows, next) = paging.page(searched.rows, stopped_at.map(place), |row| place(row.delivery_id));
    let names = Names::read(
        &view,
        rows.iter().filter_map(|row| row.webhook_id),
        rows.iter().filter_map(|row| row.agent_id.clone()).map(|id| id.0),
    )
    .await?;
    let list = html! {
        @if rows.is_empty() && stopped_at.is_none() { (nothing(&view)) }
        @else if !rows.is_empty() { (table_of(&rows, &names)) }
    };
    let is_first = before.is_none() && stopped_at.is_none();
    let list = if is_first && began.elapsed() < LIVE_WITHIN { page.live("deliveries", &list) } else { list };
    page.body = html! {
        (form)
        (try_all(&view))
        (list)
        @if stopped_at.is_some() {
            p.notice { "Few deliveries are like this. The search ended here to answer in time; "
                "the next page goes on from there." }
        }
        (pager(&view, next.as_deref()))
    };
    Ok(page)
}

/// Leads from what a search finds to trying it all again.
fn try_all(view: &View) -> Markup {
    let address = view.with("cursor", None).replacen("/deliveries", "/deliveries/retry", 1);
    html! {
        @if view.may(Scope::Webhooks) && retry_all::is_possible(view) {
            p.row {
                a.button href=(address) { "Try all that match again" }
                a href={ (ROOT) "/recoveries" } { "Recoveries" }
            }
        } @else { p { a href={ (ROOT) "/recoveries" } { "Recoveries" } } }
    }
}

fn nothing(view: &View) -> Markup {
    if view.address() == view.path {
        empty(
            "Nothing was delivered yet. A webhook gets a delivery for each change that it asks for.",
            Some((&format!("{ROOT}/webhooks"), "See the webhooks")),
        )
    } else {
        empty("No delivery is like this.", Some((&format!("{ROOT}/explain"), "Ask why an event got none")))
    }
}

fn table_of(rows: &[DeliveryRow], names: &Names) -> Markup {
    let shown = html! {
        @for row in rows {
            tr id={ "delivery-" (row.delivery_id) } {
                th scope="row" { a href=(links::delivery(row.delivery_id)) { (maybe(told_at(row.delivery_id), time)) } }
                td { (names.agent(row.agent_id.as_ref(), None)) }
                td { (names.webhook(row.webhook_id)) }
                td { (state_badge(&row.state)) }
                td { (row.attempt) }
                td { (last_answer(row)) }
                td { (when(row)) }
                td { @if let (Some(event), Some(webhook)) = (row.event_id, row.webhook_id) {
                    a href=(links::explain(event, webhook)) { "Explain" }
                } }
            }
        }
    };
    let head = ["Event", "Agent", "Webhook", "State", "Attempts", "Last answer", "Ended, or due", "Why"];
    table("Deliveries", &head, &shown)
}

/// When its event arrived: ids begin with that time.
pub(super) fn told_at(id: DeliveryId) -> Option<OffsetDateTime> {
    let nanoseconds = i128::from(id.milliseconds()).checked_mul(1_000_000)?;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()
}

fn last_answer(row: &DeliveryRow) -> Markup {
    html! {
        @match (row.last_status, row.last_outcome.as_deref()) {
            (Some(status), Some("ok") | None) => (status),
            (Some(status), Some(outcome)) => { (status) " (" (outcome) ")" },
            (None, outcome) => (or_none(outcome)),
        }
    }
}

fn when(row: &DeliveryRow) -> Markup {
    html! {
        @match (row.ended_at, row.due_at) {
            (Some(ended), _) => (time(ended)),
            (None, Some(due)) => { "due " (time(due)) },
            (None, None) => span.none { "–" },
        }
    }
}

/// A state by its word.
pub(super) fn state_badge(state: &str) -> Markup {
    let tone = match state {
        "delivered" => Tone::Good,
        "dead" | "expired" | "webhook_gone" | "webhook_disabled" => Tone::Bad,
        "blocked" | "paused" => Tone::Warn,
        _ => Tone::Plain,
    };
    badge(tone, &state.replace('_', " "))
}

async fn retry(view: View) -> Result<Done> {
    let row = services::deliveries::retry(&view.caller, DeliveryId(view.id()?)).await?;
    Ok(Done::Go { to: links::delivery(row.delivery_id), notice: "It is tried again now.".to_owned() })
}
