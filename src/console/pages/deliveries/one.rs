//! One delivery: how it stands, its way from the socket frame to the last answer, and a button to try again.

use maud::{Markup, html};

use super::{state_badge, timeline};
use crate::api::http::page::at;
use crate::clock;
use crate::console::content::Content;
use crate::console::parts::{button, facts, maybe, sentence, source_text, time};
use crate::console::search::names::Names;
use crate::console::view::View;
use crate::console::{ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::explain::explain;
use crate::domain::ids::DeliveryId;
use crate::store::StoreError;
use crate::store::views::deliveries::DeliveryRow;

/// The page.
///
/// # Errors
/// If there is no such delivery, or the database does not answer.
pub async fn show(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let id = DeliveryId(view.id()?);
    let row = view.caller.store.delivery(id).await?;
    let (Some(event_id), Some(webhook_id)) = (row.event_id, row.webhook_id) else {
        return Err(StoreError::NotFound("delivery").into());
    };
    let names =
        Names::read(&view, std::iter::once(webhook_id), row.agent_id.iter().map(|id| id.0.clone())).await?;
    let mut page = Content::titled("Delivery");
    let explained = match view.caller.store.explain(event_id, webhook_id).await {
        Ok(known) => Some(explain(&known, clock::now(), at)),
        // Events may be gone before the audit entries that tell of them.
        Err(StoreError::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let event = match view.caller.store.event(event_id).await {
        Ok(event) => Some(event),
        Err(StoreError::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let source = event.as_ref().and_then(|event| event.source.as_ref()).map(|(id, _)| *id);
    let stands = html! {
        p { (state_badge(&row.state)) " " @if let Some(told) = &explained { (sentence(&told.reason)) } }
        (facts(&[
            ("Agent", names.agent(row.agent_id.as_ref(), source)),
            ("Webhook", names.webhook(Some(webhook_id))),
            ("Event", html! { a href=(links::event(event_id)) { code { (event_id) } } }),
            ("Attempts", html! { (row.attempt) }),
            ("Due", maybe(row.due_at, time)),
            ("Ended", maybe(row.ended_at, time)),
            ("webhook-id", html! { code { (id) } }),
        ]))
        h2 { "From the frame to the last answer" }
        @match &explained {
            Some(told) => (timeline::of(&told.steps)),
            None => p { "The event is no longer kept." }
        }
    };
    let stands = page.live("delivery", &stands);
    page.body = html! {
        (stands)
        p.row { (retry(&view, &row)) a.button href=(links::explain(event_id, webhook_id)) { "Explain" } }
        @if let Some(event) = &event {
            h2 { "The event's frame" }
            (source_text("Frame", &String::from_utf8_lossy(&event.raw)))
        }
    };
    Ok(page)
}

fn retry(view: &View, row: &DeliveryRow) -> Markup {
    html! {
        @if view.may(Scope::Webhooks) {
            (button(&format!("{ROOT}/deliveries/{}/retry", row.delivery_id), "Try again now"))
        }
    }
}
