//! One agent: how it stands, its day, what each webhook was told, and its id in the CRM.

mod day;

use std::collections::HashSet;

use maud::{Markup, html};
use serde::Deserialize;

use super::deliveries::state_badge;
use super::{board, presence};
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::fields::{Fields, field};
use crate::console::form::Form;
use crate::console::parts::{Tone, badge, empty, facts, maybe, or_none, since, source_text, table, time};
use crate::console::search::names::Names;
use crate::console::view::View;
use crate::console::{Action, Page, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::external_ids::check_id;
use crate::domain::ids::{SourceId, canonical_guid};
use crate::domain::plural::plural;
use crate::services::{ServiceError, agents};
use crate::store::StoreError;
use crate::store::erasure::requests::{Erasure, ErasureFilter};
use crate::store::views::agents::AgentRow;
use crate::store::views::deliveries::{DeliveryFilter, DeliveryRow};

pub(super) const PAGES: &[Page] =
    &[Page::inner(Scope::Read, "/agents/{id}", |view| Box::pin(show(view, Fields::default(), None)))];
pub(super) const ACTIONS: &[Action] =
    &[Action::new(Scope::Webhooks, "/agents/{id}", |view, form| Box::pin(set_external_id(view, form)))];

/// Deliveries in which the last one of each webhook is looked for.
const DELIVERIES_READ: i64 = 200;

/// `typed`: an external id that was not taken.
async fn show(view: View, fields: Fields, typed: Option<&str>) -> Result<Content> {
    let mut query = view.query()?;
    let source = query.id("source")?.map(SourceId);
    let span = day::Span::take(&mut query)?;
    query.finish()?;
    let id = canonical_guid(view.text()?.to_owned());
    let agent = match agents::get(&view.caller, &id, source).await {
        Ok(agent) => agent,
        Err(ServiceError::AmbiguousAgent) => return which(&view, &id).await,
        Err(error) => return Err(error.into()),
    };
    let day = agents::day(&view.caller, &agent, span.from(), span.to()).await?;
    let told = last_deliveries(&view, &agent).await?;
    let erasure = last_erasure(&view, &agent).await?;
    let frame = last_frame(&view, &agent).await?;
    let mut page = Content::titled(agent.name.clone().unwrap_or_else(|| agent.agent_id.0.clone()));
    let now = page.live("now", &now(&agent, erasure.as_ref()));
    let day_shown = page.live("day", &day::shown(&span, &day));
    let told = page.live("told", &told);
    page.body = html! {
        (now)
        (external_id(&view, &agent, &fields, typed))
        h2 { "Day" }
        (span.chooser(&view, &agent))
        (day_shown)
        h2 { "What webhooks were told last" }
        (told)
        @if let Some(frame) = frame {
            h2 { "Last frame" }
            details { summary { "What Genesys sent, as it came" } (source_text("Last frame", &frame)) }
        }
    };
    Ok(page)
}

/// Several sources know an agent of this id.
async fn which(view: &View, id: &str) -> Result<Content> {
    let mut page = Content::titled("Which agent?");
    let rows = view.caller.store.agents_by_id(id, None).await?;
    page.body = html! {
        p { "Several sources know an agent of this id." }
        ul { @for agent in &rows {
            li { a href=(links::agent(&agent.agent_id, Some(agent.source_id))) { (agent.source_name) } }
        } }
    };
    Ok(page)
}

fn now(agent: &AgentRow, erasure: Option<&Erasure>) -> Markup {
    let state = &agent.state;
    let queues = html! {
        @match &state.queues {
            None => span.none { "Genesys has not told them" },
            Some(queues) if queues.value.is_empty() => span.none { "none" },
            Some(queues) => @for queue in &queues.value {
                a.mono href=(links::with_query("/board", &[("queue", queue)])) { (queue) } " "
            },
        }
    };
    let message = state.presence.as_ref().and_then(|presence| presence.value.message.as_deref());
    html! {
        (facts(&[
            ("State", board::state(agent)),
            ("Since", maybe(agent.since, since)),
            ("Message", or_none(message)),
            ("Coverage", board::coverage(agent)),
            ("Queues now", queues),
            ("E-mail address", or_none(agent.email.as_deref())),
            ("Source", html! { a href=(links::source(agent.source_id)) { (agent.source_name) } }),
            ("Genesys id", html! { code { (agent.agent_id.0) } }),
            ("Last change", html! { "number " (agent.sequence) ", " (maybe(agent.received_at, since)) }),
        ]))
        @if let Some(erased_at) = agent.erased_at {
            p { (badge(Tone::Plain, "Erased")) " What was known of this person was erased; asked for " (time(erased_at)) "." }
        }
        @if let Some(erasure) = erasure {
            p {
                @match erasure.ended_at {
                    Some(ended_at) => { "The erasure was done " (time(ended_at)) ": " }
                    None => { (badge(Tone::Warn, "Erasure runs")) " at the step " (erasure.state.as_str()) ": " }
                }
                (plural(erasure.events, "event", "events")) ", " (plural(erasure.deliveries, "delivery", "deliveries")) ", "
                (plural(erasure.audit_entries, "audit entry", "audit entries")) " so far."
            }
        }
    }
}

/// The id in the CRM, with a form for whoever may set it.
fn external_id(view: &View, agent: &AgentRow, fields: &Fields, typed: Option<&str>) -> Markup {
    if !view.may(Scope::Webhooks) {
        return facts(&[("External id", or_none(agent.external_id.as_deref()))]);
    }
    let value = typed.or(agent.external_id.as_deref()).unwrap_or_default();
    html! {
        form.filters method="post" action=(links::agent(&agent.agent_id, Some(agent.source_id))) {
            (fields.text(field("external_id", "External id", "The agent's id in the CRM; empty: none."), value))
            button type="submit" { "Save" }
        }
    }
}

#[derive(Deserialize)]
struct Given {
    #[serde(default)]
    external_id: String,
}

async fn set_external_id(view: View, form: Form) -> Result<Done> {
    let mut query = view.query()?;
    let source = query.id("source")?.map(SourceId);
    query.finish()?;
    let id = canonical_guid(view.text()?.to_owned());
    let agent = agents::get(&view.caller, &id, source).await?;
    let typed = form.read::<Given>()?.external_id;
    let given = Some(typed.trim()).filter(|given| !given.is_empty());
    if let Some(given) = given
        && let Err(wrong) = check_id("external_id", given)
    {
        return Ok(Done::Again(show(view, Fields::wrong(wrong), Some(&typed)).await?));
    }
    agents::set_external_id(&view.caller, Some(agent.source_id), &agent.agent_id, given).await?;
    let notice = match given {
        Some(given) => format!("The external id is {given} now."),
        None => "The agent has no external id now.".to_owned(),
    };
    Ok(Done::Go { to: links::agent(&agent.agent_id, Some(agent.source_id)), notice })
}

/// The last delivery to each webhook, among the last ones of the agent.
async fn last_deliveries(view: &View, agent: &AgentRow) -> Result<Markup> {
    let filter = DeliveryFilter { agents: Some(vec![agent.agent_id.0.clone()]), ..DeliveryFilter::default() };
    let read = view.caller.store.delivery_history(&filter, None, DELIVERIES_READ).await?;
    let mut seen = HashSet::new();
    let last: Vec<&DeliveryRow> = read.rows.iter().filter(|row| seen.insert(row.webhook_id)).collect();
    if last.is_empty() {
        return Ok(empty("No webhook was told anything of this agent.", None));
    }
    let webhooks = last.iter().filter_map(|row| row.webhook_id);
    let names = Names::read(view, webhooks, std::iter::empty()).await?;
    let rows = html! {
        @for delivery in last {
            tr id={ "told-" (delivery.webhook_id.map_or_else(String::new, |id| id.to_string())) } {
                th scope="row" { (names.webhook(delivery.webhook_id)) }
                td {
                    a href=(links::delivery(delivery.delivery_id)) { (state_badge(&delivery.state)) }
                    @if let Some(status) = delivery.last_status { " " span.hint { "HTTP " (status) } }
                }
                td { (maybe(delivery.ended_at.or(delivery.created_at), since)) }
                td {
                    @if let (Some(event), Some(webhook)) = (delivery.event_id, delivery.webhook_id) {
                        a href=(links::explain(event, webhook)) { "Explain" }
                    }
                }
            }
        }
    };
    let all = links::with_query("/deliveries", &[("agent", &agent.agent_id.0)]);
    Ok(html! {
        (table("Webhooks", &["Webhook", "Outcome", "When", "Why"], &rows))
        p { a href=(all) { "All deliveries of this agent" } }
    })
}

async fn last_erasure(view: &View, agent: &AgentRow) -> Result<Option<Erasure>> {
    if agent.erased_at.is_none() {
        return Ok(None);
    }
    let filter = ErasureFilter {
        source: Some(agent.source_id),
        agent: Some(agent.agent_id.0.clone()),
        ..ErasureFilter::default()
    };
    Ok(view.caller.store.erasures(&filter, None, 1).await?.into_iter().next())
}

/// The frame of the last event, with JSON in lines.
async fn last_frame(view: &View, agent: &AgentRow) -> Result<Option<String>> {
    let Some(event) = agent.event_id else { return Ok(None) };
    let event = match view.caller.store.event(event).await {
        Ok(event) => event,
        // Its day was dropped.
        Err(StoreError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&event.raw).into_owned();
    let lines = serde_json::from_str::<serde_json::Value>(&text);
    let lines = lines.ok().and_then(|value| serde_json::to_string_pretty(&value).ok());
    Ok(Some(lines.unwrap_or(text)).filter(|text| !text.is_empty()))
}

/// A change of presence in words.
fn change(before: Option<&str>, now: Option<&str>) -> Markup {
    html! {
        @match now { Some(now) => (presence::shown(Some(now), None)), None => span.none { "not told" } }
        @if let Some(before) = before.filter(|before| Some(*before) != now) {
            " " span.hint { "was " (presence::word(before)) }
        }
    }
}
