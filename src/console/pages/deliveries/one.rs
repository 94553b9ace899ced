//! One delivery: how it stands, its way from the socket frame to the last answer, what was sent, and a button to
//! try again.

use maud::{Markup, html};

use super::{state_badge, timeline};
use crate::api::http::page::at;
use crate::clock;
use crate::console::content::Content;
use crate::console::parts::{button, facts, maybe, sentence, source_text, table, time};
use crate::console::search::names::Names;
use crate::console::view::View;
use crate::console::{ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::delivery::sent_post::SentPost;
use crate::domain::explain::{Explanation, explain};
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::domain::presence::EventKind;
use crate::services;
use crate::services::deliveries::Timeline;
use crate::store::StoreError;

/// What is still kept of it.
struct Kept {
    whole: Timeline,
    event_id: EventId,
    webhook_id: WebhookId,
    /// What became of it; `None` once the event is gone.
    explained: Option<Explanation>,
}

/// The page.
///
/// # Errors
/// If there is no such delivery, or the database does not answer.
pub async fn show(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let kept = read(&view, DeliveryId(view.id()?)).await?;
    let row = &kept.whole.row;
    let agent = row.agent_id.iter().map(|id| id.0.clone());
    let names = Names::read(&view, std::iter::once(kept.webhook_id), agent).await?;
    let mut page = Content::titled("Delivery");
    let verdict = page.live("verdict", &verdict(&kept));
    let stands = page.live("delivery", &stands(&kept, &names));
    page.body = html! {
        (verdict)
        div.row {
            @if view.may(Scope::Webhooks) {
                (button(&format!("{ROOT}/deliveries/{}/retry", row.delivery_id), "Try again now"))
            }
            a.button href=(links::explain(kept.event_id, kept.webhook_id)) { "Explain" }
        }
        (stands)
        h2 { "The request, as sent" }
        @match &kept.whole.request {
            Some(sent) => (request(sent, kept.whole.batch.as_deref())),
            None => p { "Nothing was sent yet, or its event is gone." }
        }
        @if let Some(event) = kept.whole.event.as_ref().filter(|event| !event.raw.is_empty()) {
            h2 { "The frame that it tells of" }
            (source_text("Frame", &String::from_utf8_lossy(&event.raw)))
        }
    };
    Ok(page)
}

async fn read(view: &View, id: DeliveryId) -> Result<Kept> {
    let whole = services::deliveries::timeline(&view.caller, id).await?;
    let (Some(event_id), Some(webhook_id)) = (whole.row.event_id, whole.row.webhook_id) else {
        return Err(StoreError::NotFound("delivery").into());
    };
    let explained = match view.caller.store.explain(event_id, webhook_id).await {
        Ok(known) => Some(explain(&known, clock::now(), at)),
        // Events may be gone before the entries that tell of them.
        Err(StoreError::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Kept { whole, event_id, webhook_id, explained })
}

/// How it stands, in a sentence.
fn verdict(kept: &Kept) -> Markup {
    html! {
        p.verdict {
            (state_badge(&kept.whole.row.state)) " "
            @if let Some(told) = &kept.explained { (sentence(&told.reason)) }
        }
    }
}

fn stands(kept: &Kept, names: &Names) -> Markup {
    let (row, event) = (&kept.whole.row, kept.whole.event.as_ref());
    let source = event.and_then(|event| event.source.as_ref()).map(|(id, _)| *id);
    let is_change = event.is_some_and(|event| event.kind == EventKind::PresenceUpdated);
    let linked = html! {
        @if is_change { a href=(links::event(kept.event_id)) { code { (kept.event_id) } } }
        @else { code { (kept.event_id) } }
    };
    let kind = event.map_or("no longer kept", |event| event.kind.as_str());
    html! {
        (facts(&[
            ("Agent", names.agent(row.agent_id.as_ref(), source)),
            ("Webhook", names.webhook(Some(kept.webhook_id))),
            ("Event", linked),
            ("Kind of event", html! { (kind) }),
            ("Changed upstream", maybe(event.and_then(|event| event.occurred_at), time)),
            ("Attempts", html! { (row.attempt) }),
            ("Due", maybe(row.due_at, time)),
            ("Ended", maybe(row.ended_at, time)),
            ("webhook-id", html! { code { (row.delivery_id) } }),
        ]))
        h2 { "From the frame to the last answer" }
        @match &kept.explained {
            Some(told) => (timeline::of(&told.steps)),
            None => p { "The event is no longer kept." }
        }
    }
}

fn request(sent: &SentPost, batch: Option<&str>) -> Markup {
    let rows = html! {
        @for (name, value) in &sent.headers {
            tr { th scope="row" { code { (name) } } td { code { (value) } } }
        }
    };
    html! {
        @if let Some(batch) = batch {
            p { "It was sent in the batch " code { (batch) } "; below is what it would be alone." }
        }
        (table("Headers", &["Header", "Value"], &rows))
        p.hint { "An attempt adds its number, its time, its signature and the webhook's credentials, none of which is kept." }
        (source_text("Body", &sent.body))
    }
}
