//! Why a webhook got an event, or did not: a sentence, and what it rests on. Whoever does not know the ids finds
//! the event by agent and time, and the webhook by a piece of its name.

use actix_web::http::StatusCode;
use maud::{Markup, html};
use time::OffsetDateTime;

use crate::api::http::page::at;
use crate::clock;
use crate::console::content::Content;
use crate::console::pages::{deliveries, events};
use crate::console::parts::{Tone, badge, empty, sentence, table, time};
use crate::console::search::names::{Names, webhook_label};
use crate::console::search::{self, A_TIME, Fields, take_time, who};
use crate::console::view::View;
use crate::console::{Page, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::explain::{Explanation, Match, Verdict, explain};
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::domain::plural::plural;
use crate::domain::presence::{Event, EventKind};
use crate::store::views::deliveries::DeliveryFilter;
use crate::store::views::events::{FeedFilter, FeedPlace};

pub(super) const PAGES: &[Page] =
    &[Page::named("Explain", Scope::Read, "/explain", |view| Box::pin(show(view)))];

/// Changes of an agent to choose from.
const CHANGES: i64 = 20;
/// Webhooks to choose from.
const WEBHOOKS: i64 = 50;

/// What the address asks about.
struct Asked {
    event: Option<EventId>,
    webhook: Option<WebhookId>,
    agents: Option<Vec<String>>,
    at: Option<OffsetDateTime>,
}

async fn show(view: View) -> Result<Content> {
    let (asked, wrong) = search::found_or_wrong(read(&view).await)?;
    let mut page = Content::titled("Explain");
    let form = form(&view, Fields::new(&view, &wrong)).await?;
    let below = match asked {
        None => {
            page.status = StatusCode::BAD_REQUEST;
            who::webhook_choice(&view, &who::webhooks_meant(&view).await?)
        }
        Some(Asked { event: Some(event), webhook: Some(webhook), .. }) => {
            let told = explained(&view, event, webhook).await?;
            page.live("explanation", &told)
        }
        Some(Asked { event: Some(event), webhook: None, .. }) => which_webhook(&view, event).await?,
        Some(Asked { event: None, agents: Some(agents), at, webhook }) => {
            which_event(&view, agents, at, webhook).await?
        }
        Some(_) => html! {
            p.hint { "Give the event and the webhook, or an agent and a time to look for the event. Every list of "
                "events and deliveries leads here too." }
        },
    };
    page.body = html! { (form) (below) };
    Ok(page)
}

async fn read(view: &View) -> Result<Asked> {
    let mut query = view.query()?;
    let asked = Asked {
        event: query.id("event")?.map(EventId),
        webhook: who::take_webhook(view, &mut query).await?,
        agents: who::take_agents(view, &mut query).await?,
        at: take_time(&mut query, "at")?,
    };
    query.finish()?;
    Ok(asked)
}

async fn form(view: &View, fields: Fields<'_>) -> Result<Markup> {
    let webhook = who::webhook_field(view, fields).await?;
    Ok(fields.form(
        "Explain",
        &html! {
            (fields.text("event", "Event", "Its id; or an agent and a time"))
            (who::agent_field(fields))
            (fields.text("at", "Changes up to", A_TIME))
            (webhook)
        },
    ))
}

/// The event is known; its webhooks to choose from.
async fn which_webhook(view: &View, id: EventId) -> Result<Markup> {
    let event = view.caller.store.event(id).await?;
    let filter = DeliveryFilter { event: Some(id), ..DeliveryFilter::default() };
    let told = view.caller.store.delivery_history(&filter, None, WEBHOOKS).await?.rows;
    let names = Names::read(view, told.iter().filter_map(|row| row.webhook_id), std::iter::empty()).await?;
    let others = view.caller.store.webhooks_called("", WEBHOOKS).await?;
    let others =
        others.iter().filter(|known| told.iter().all(|row| row.webhook_id != Some(known.webhook_id)));
    let rows = html! {
        @for row in &told { @if let Some(webhook) = row.webhook_id {
            tr id={ "webhook-" (webhook) } {
                th scope="row" { (names.webhook(Some(webhook))) }
                td { (deliveries::state_badge(&row.state)) }
                td { a href=(links::explain(id, webhook)) { "Explain" } }
            }
        } }
        @for known in others {
            tr id={ "webhook-" (known.webhook_id) } {
                th scope="row" { a href=(links::webhook(known.webhook_id)) { (webhook_label(known)) } }
                td { (badge(Tone::Plain, "no delivery")) }
                td { a href=(links::explain(id, known.webhook_id)) { "Explain" } }
            }
        }
    };
    Ok(html! {
        (about(&event))
        h2 { "Which webhook?" }
        (table("Webhooks", &["Webhook", "Delivery", "Why"], &rows))
    })
}

/// The agent is known; its changes up to a time to choose from.
async fn which_event(
    view: &View,
    agents: Vec<String>,
    until: Option<OffsetDateTime>,
    webhook: Option<WebhookId>,
) -> Result<Markup> {
    let called = view.caller.store.agent_names(&agents).await?;
    // What arrived within the second that was given was there by then.
    let until = until.map(|until| until.saturating_add(::time::Duration::SECOND));
    let filter = FeedFilter { agents: Some(agents), until, ..FeedFilter::default() };
    let changes = view.caller.store.feed(&filter, FeedPlace::Before(None), CHANGES).await?.events;
    let address = |event: &Event| match webhook {
        Some(webhook) => links::explain(event.event_id, webhook),
        None => links::with_query("/explain", &[("event", &event.event_id.to_string())]),
    };
    let rows = html! {
        @for event in &changes {
            tr id={ "event-" (event.position) } {
                th scope="row" { a href=(address(event)) { (time(event.received_at)) } }
                td { (events::agent(event)) }
                td { (events::presence(event)) }
                td { (events::changed(event)) }
            }
        }
    };
    Ok(html! {
        h2 { "Which change?" }
        @if called.len() > 1 { p { (plural(called.len(), "agent is", "agents are")) " called so." } }
        @if changes.is_empty() {
            (empty("No change of this agent had arrived by then.", None))
        } @else {
            p { "The newest first. Choose one to explain it." }
            (table("Changes", &["Received", "Agent", "Presence", "Changed"], &rows))
        }
    })
}

fn about(event: &Event) -> Markup {
    html! {
        p { (events::agent(event)) ": " (events::presence(event)) ", received "
            a href=(links::event(event.event_id)) { (time(event.received_at)) } }
    }
}

async fn explained(view: &View, event_id: EventId, webhook: WebhookId) -> Result<Markup> {
    let known = view.caller.store.explain(event_id, webhook).await?;
    let told = explain(&known, clock::now(), at);
    let names =
        Names::read(view, std::iter::once(webhook), known.event.agent_id.iter().map(|agent| agent.0.clone()))
            .await?;
    let has_delivery = known.open.is_some() || !known.of_delivery.is_empty();
    let agent = known.event.agent_id.as_ref();
    Ok(html! {
        p.verdict { (badge(tone(told.verdict), &told.verdict.as_str().replace('_', " "))) " " strong { (sentence(&told.reason)) } }
        p {
            "Webhook " (names.webhook(Some(webhook))) ", "
            @if known.event.kind == EventKind::PresenceUpdated {
                a href=(links::event(event_id)) { "the event" }
            } @else { "an event of the kind " (known.event.kind.as_str()) }
            @if let Some(agent) = agent { " of " (names.agent(Some(agent), known.event.source_id)) }
            @if has_delivery {
                ", " a href=(links::delivery(DeliveryId::of(event_id, webhook))) { "the delivery" }
            } "."
        }
        (evidence(&told))
    })
}

fn evidence(told: &Explanation) -> Markup {
    let filters = html! {
        @for each in &told.matched {
            tr id={ "filter-" (each.filter) } {
                th scope="row" { (each.filter.replace('_', " ")) }
                td { (passes(each)) }
                td { (listed(&each.asked, "anything")) }
                td { (listed(&each.has, "nothing")) }
            }
        }
    };
    html! {
        h2 { "What happened" }
        (deliveries::timeline::of(&told.steps))
        h2 { "The webhook's filters, as they are now" }
        (table("Filters", &["Filter", "Lets it pass", "Asks for", "The event has"], &filters))
    }
}

fn passes(each: &Match) -> Markup {
    if each.matches { badge(Tone::Good, "yes") } else { badge(Tone::Bad, "no") }
}

fn listed(values: &[String], none: &str) -> Markup {
    let shown = values.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    html! {
        @if values.is_empty() { span.none { (none) } } @else { (shown) }
        @if values.len() > 10 { " and " (values.len() - 10) " more" }
    }
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Delivered => Tone::Good,
        Verdict::Dead | Verdict::Expired | Verdict::WebhookGone | Verdict::WebhookDisabled => Tone::Bad,
        Verdict::Held | Verdict::Blocked | Verdict::Paused => Tone::Warn,
        Verdict::Waiting
        | Verdict::Sending
        | Verdict::Superseded
        | Verdict::Erased
        | Verdict::NotMatched
        | Verdict::NotRegisteredThen
        | Verdict::Unknown => Tone::Plain,
    }
}
