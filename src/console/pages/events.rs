//! The feed of presence changes, newest first, and one change: what it says, and who was told of it.

use actix_web::http::StatusCode;
use maud::{Markup, html};

use crate::api::http::page::{List, Paging, Place};
use crate::console::content::Content;
use crate::console::fields;
use crate::console::pages::deliveries::state_badge;
use crate::console::parts::{Tone, badge, empty, facts, maybe, or_none, pager, source_text, table, time};
use crate::console::search::names::Names;
use crate::console::search::{self, A_TIME, Fields, take_time, who};
use crate::console::view::View;
use crate::console::{Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::EventId;
use crate::domain::presence::agent_state::EventState;
use crate::domain::presence::{Detail, Event, Origin};
use crate::store::views::deliveries::{DeliveryFilter, DeliveryRow};
use crate::store::views::events::{FeedFilter, FeedPlace};
use crate::store::views::names::SourceName;

pub(super) const PAGES: &[Page] = &[
    Page::named("Events", Scope::Read, "/events", |view| Box::pin(list(view))),
    Page::inner(Scope::Read, "/events/{id}", |view| Box::pin(one(view))),
];

/// Deliveries of one change that are listed.
const TOLD_MAX: i64 = 200;

async fn list(view: View) -> Result<Content> {
    let sources = view.caller.store.source_names().await?;
    let (found, wrong) = search::found_or_wrong(read(&view).await)?;
    let mut page = Content::titled("Events");
    let form = form(Fields::new(&view, &wrong), &sources);
    let Some((filter, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        page.body = form;
        return Ok(page);
    };
    let place = FeedPlace::Before(paging.after_number());
    let feed = view.caller.store.feed(&filter, place, paging.rows()).await?;
    let stopped_at = feed.is_cut_off.then_some(Place::Number(feed.reached));
    let (events, next) = paging.page(feed.events, stopped_at, |event| Place::Number(event.position));
    let rows = table_of(&events);
    let list = html! {
        @if events.is_empty() && next.is_some() {
            p { "Nothing was found in this stretch of time; the search goes on with the next page." }
        } @else if events.is_empty() {
            (empty(
                "No change of presence is like this.",
                Some((&format!("{ROOT}/sources"), "See what the sources watch")),
            ))
        } @else { (rows) }
    };
    // Older pages stay as they are.
    let list = if paging.after_number().is_none() { page.live("feed", &list) } else { list };
    page.body = html! { (form) (list) (pager(&view, next.as_deref())) };
    Ok(page)
}

async fn read(view: &View) -> Result<(FeedFilter, Paging)> {
    let mut query = view.query()?;
    let filter = FeedFilter {
        agents: who::take_agents(view, &mut query).await?,
        source: who::take_source(&mut query)?,
        since: take_time(&mut query, "since")?,
        until: take_time(&mut query, "until")?,
    };
    Ok((filter, query.paging(List::EventsNewestFirst)?))
}

fn form(fields: Fields<'_>, sources: &[SourceName]) -> Markup {
    fields.form(
        "Search",
        &html! {
            (who::agent_field(fields))
            (who::source_field(fields, sources))
            (fields.text("since", "Since", A_TIME))
            (fields.text("until", "Until", ""))
        },
    )
}

fn table_of(events: &[Event]) -> Markup {
    let rows = html! {
        @for event in events {
            tr id={ "event-" (event.position) } {
                th scope="row" { a href=(links::event(event.event_id)) { (time(event.received_at)) } }
                td { (agent(event)) }
                td { (presence(event)) }
                td { (or_none(routing(state(event)).as_deref())) }
                td { (changed(event)) }
                td { @if let Some((id, name)) = &event.source { a href=(links::source(*id)) { (name) } } }
            }
        }
    };
    table("Events", &["Received", "Agent", "Presence", "Routing", "Changed", "Source"], &rows)
}

/// The agent's name at that time, which leads to its page.
pub(super) fn agent(event: &Event) -> Markup {
    let source = event.source.as_ref().map(|(id, _)| *id);
    html! {
        @match &event.agent_id {
            Some(id) => a href=(links::agent(id, source)) {
                (state(event).and_then(|told| told.name.as_deref()).unwrap_or(&id.0))
            },
            None => span.none { "–" }
        }
    }
}

fn state(event: &Event) -> Option<&EventState> {
    match &event.detail {
        Some(Detail::Agent(told)) => Some(told),
        _ => None,
    }
}

/// The presence before and after.
pub(super) fn presence(event: &Event) -> Markup {
    let word = |presence: Option<&str>| or_none(presence.map(super::presence::word).as_deref());
    html! { (word(event.previous.as_deref())) " → " strong { (word(event.presence.as_deref())) } }
}

/// The routing status in words.
fn routing(told: Option<&EventState>) -> Option<String> {
    let status = told?.state.routing.as_ref()?;
    Some(super::presence::routing_word(&status.value))
}

/// The parts of the state that are new.
pub(super) fn changed(event: &Event) -> Markup {
    let parts = state(event).map(|told| told.changed.join(", ").replace('_', " "));
    html! {
        @match parts { Some(parts) => (parts), None => "presence" }
        @if event.origin == Origin::Resync { " " (badge(Tone::Plain, "read after a gap")) }
    }
}

async fn one(view: View) -> Result<Content> {
    let id = EventId(view.id()?);
    view.query()?.finish()?;
    let event = view.caller.store.event(id).await?;
    let filter = DeliveryFilter { event: Some(id), ..DeliveryFilter::default() };
    let told = view.caller.store.delivery_history(&filter, None, TOLD_MAX).await?.rows;
    let names = Names::read(&view, told.iter().filter_map(|row| row.webhook_id), std::iter::empty()).await?;
    let mut page = Content::titled("Event");
    let told = page.live("told", &who_was_told(id, &told, &names));
    let field = who::webhook_field(&view, Fields::new(&view, &fields::Fields::default())).await?;
    page.body = html! {
        p { (agent(&event)) ": " (presence(&event)) }
        (facts_of(&event))
        h2 { "Who was told" }
        (told)
        form.filters method="get" action={ (ROOT) "/explain" } {
            input type="hidden" name="event" value=(id);
            (field)
            button type="submit" { "Why did it get this, or not?" }
        }
        h2 { "Frame" }
        @if event.erased_at.is_some() {
            p { "The person was erased " (maybe(event.erased_at, time)) "; the frame is gone." }
        } @else {
            p.hint { "As it came over the socket, byte for byte: " (event.raw.len()) " bytes." }
            (source_text("Frame", &String::from_utf8_lossy(&event.raw)))
        }
    };
    Ok(page)
}

fn facts_of(event: &Event) -> Markup {
    let told = state(event);
    let queues = told.map(|told| told.state.active_queues().join(", ")).filter(|queues| !queues.is_empty());
    let out = told
        .and_then(|told| told.state.out_of_office.as_ref())
        .map(|out| if out.value { "yes" } else { "no" });
    let content = told.and_then(|told| told.state.presence.as_ref()).map(|presence| &presence.value);
    let source = event.source.as_ref();
    facts(&[
        ("Changed upstream", maybe(event.occurred_at, time)),
        ("Received", time(event.received_at)),
        ("Stored", maybe(event.committed_at, time)),
        ("Changed", changed(event)),
        ("Name in Genesys Cloud", or_none(content.and_then(|content| content.label.as_deref()))),
        ("Message", or_none(content.and_then(|content| content.message.as_deref()))),
        ("Routing", or_none(told.and_then(|told| told.state.routing.as_ref()).map(|it| it.value.as_str()))),
        ("Out of office", or_none(out)),
        ("Queues", or_none(queues.as_deref())),
        ("Genesys id", or_none(event.agent_id.as_ref().map(|id| id.0.as_str()))),
        ("External id", or_none(event.external_id.as_deref())),
        ("Source", html! { @if let Some((id, name)) = source { a href=(links::source(*id)) { (name) } } }),
        ("Sequence", html! { @if let Some(number) = event.sequence { (number) } }),
        ("Topic", or_none(event.topic.as_deref())),
        ("Id", html! { code { (event.event_id) } }),
    ])
}

fn who_was_told(event: EventId, told: &[DeliveryRow], names: &Names) -> Markup {
    let rows = html! {
        @for row in told {
            tr id={ "delivery-" (row.delivery_id) } {
                th scope="row" { (names.webhook(row.webhook_id)) }
                td { (state_badge(&row.state)) }
                td { (row.attempt) }
                td { @match row.last_status { Some(status) => (status), None => (or_none(row.last_outcome.as_deref())) } }
                td { (maybe(row.ended_at.or(row.created_at), time)) }
                td { a href=(links::delivery(row.delivery_id)) { "Delivery" } " "
                     @if let Some(webhook) = row.webhook_id {
                         a href=(links::explain(event, webhook)) { "Explain" }
                     } }
            }
        }
    };
    html! {
        @if told.is_empty() {
            (empty("No webhook was told: no webhook asks for such a change. Choose one below to see why.", None))
        } @else {
            (table("Deliveries of this event", &["Webhook", "State", "Attempts", "Last answer", "Ended, or since", "More"], &rows))
        }
    }
}
