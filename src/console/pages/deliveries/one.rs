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
use crate::domain::explain::{Explanation, explain};
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::domain::presence::{Event, EventKind};
use crate::store::StoreError;
use crate::store::views::deliveries::DeliveryRow;

/// What is still kept of it.
struct Kept {
    row: DeliveryRow,
    event_id: EventId,
    webhook_id: WebhookId,
    /// What became of it, and the kind of its event; `None` once the event is gone.
    explained: Option<(Explanation, EventKind)>,
    /// The change of presence that it tells.
    change: Option<Event>,
}

/// The page.
///
/// # Errors
/// If there is no such delivery, or the database does not answer.
pub async fn show(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let kept = read(&view, DeliveryId(view.id()?)).await?;
    let agent = kept.row.agent_id.iter().map(|id| id.0.clone());
    let names = Names::read(&view, std::iter::once(kept.webhook_id), agent).await?;
    let mut page = Content::titled("Delivery");
    let stands = page.live("delivery", &stands(&kept, &names));
    page.body = html! {
        (stands)
        p.row {
            @if view.may(Scope::Webhooks) {
                (button(&format!("{ROOT}/deliveries/{}/retry", kept.row.delivery_id), "Try again now"))
            }
            a.button href=(links::explain(kept.event_id, kept.webhook_id)) { "Explain" }
        }
        @if let Some(change) = &kept.change {
            h2 { "The event's frame" }
            (source_text("Frame", &String::from_utf8_lossy(&change.raw)))
        }
    };
    Ok(page)
}

async fn read(view: &View, id: DeliveryId) -> Result<Kept> {
    let row = view.caller.store.delivery(id).await?;
    let (Some(event_id), Some(webhook_id)) = (row.event_id, row.webhook_id) else {
        return Err(StoreError::NotFound("delivery").into());
    };
    let known = found(view.caller.store.explain(event_id, webhook_id).await)?;
    let explained = known.map(|known| (explain(&known, clock::now(), at), known.event.kind));
    let change = found(view.caller.store.event(event_id).await)?;
    Ok(Kept { row, event_id, webhook_id, explained, change })
}

/// Events may be gone before the entries that tell of them.
fn found<T>(read: std::result::Result<T, StoreError>) -> Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn stands(kept: &Kept, names: &Names) -> Markup {
    let row = &kept.row;
    let source = kept.change.as_ref().and_then(|change| change.source.as_ref()).map(|(id, _)| *id);
    let event = html! {
        @if kept.change.is_some() { a href=(links::event(kept.event_id)) { code { (kept.event_id) } } }
        @else { code { (kept.event_id) } }
    };
    let kind = kept.explained.as_ref().map_or("no longer kept", |(_, kind)| kind.as_str());
    html! {
        p { (state_badge(&row.state)) " " @if let Some((told, _)) = &kept.explained { (sentence(&told.reason)) } }
        (facts(&[
            ("Agent", names.agent(row.agent_id.as_ref(), source)),
            ("Webhook", names.webhook(Some(kept.webhook_id))),
            ("Event", event),
            ("Kind of event", html! { (kind) }),
            ("Attempts", html! { (row.attempt) }),
            ("Due", maybe(row.due_at, time)),
            ("Ended", maybe(row.ended_at, time)),
            ("webhook-id", html! { code { (row.delivery_id) } }),
        ]))
        h2 { "From the frame to the last answer" }
        @match &kept.explained {
            Some((told, _)) => (timeline::of(&told.steps)),
            None => p { "The event is no longer kept." }
        }
    }
}
