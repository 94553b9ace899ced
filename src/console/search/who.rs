//! Whom a search means: agents and webhooks by a piece of what people call them.

use maud::{Markup, html};
use uuid::Uuid;

use super::Fields;
use super::names::webhook_label;
use crate::api::http::page::Query;
use crate::api::http::problem::ApiError;
use crate::console::Result;
use crate::console::view::View;
use crate::domain::ids::{SourceId, WebhookId};
use crate::store::views::names::{SourceName, WebhookName};

/// Most agents that a piece of a name may mean.
const AGENTS_MAX: usize = 200;
/// Most webhooks that are offered to choose from; where there are more, a piece of the name is asked for.
const OFFERED_MAX: usize = 50;

/// Takes `agent`, a Genesys id, an id of the CRM or a piece of the name: all Genesys ids that it may mean.
///
/// # Errors
/// If it means too many, or the database does not answer.
pub async fn take_agents(view: &View, query: &mut Query) -> Result<Option<Vec<String>>> {
    let Some(text) = query.text("agent")? else { return Ok(None) };
    let most = i64::try_from(AGENTS_MAX + 1).unwrap_or(i64::MAX);
    let called = view.caller.store.agents_called(text.trim(), most).await?;
    if called.len() > AGENTS_MAX {
        return Err(ApiError::parameter("agent", "fits more than 200 agents; give more of the name"));
    }
    let mut ids = view.caller.store.agent_ids_of(text.trim()).await?;
    ids.extend(called.into_iter().map(|agent| agent.agent_id.0));
    ids.sort_unstable();
    ids.dedup();
    Ok(Some(ids))
}

/// Takes `source`, by its id.
///
/// # Errors
/// If it is no uuid.
pub fn take_source(query: &mut Query) -> Result<Option<SourceId>> {
    Ok(query.id("source")?.map(SourceId))
}

/// Takes `webhook`, by its id or by a piece of its description or address that no other has.
///
/// # Errors
/// If it means none or several, or the database does not answer.
pub async fn take_webhook(view: &View, query: &mut Query) -> Result<Option<WebhookId>> {
    let Some(text) = query.text("webhook")? else { return Ok(None) };
    if let Ok(id) = Uuid::try_parse(text.trim()) {
        return Ok(Some(WebhookId(id)));
    }
    match view.caller.store.webhooks_called(text.trim(), 2).await?.as_slice() {
        [] => Err(ApiError::parameter("webhook", "is in no webhook's description or address")),
        [only] => Ok(Some(only.webhook_id)),
        [..] => Err(ApiError::parameter("webhook", "fits several webhooks; choose one of them below")),
    }
}

/// The field for `agent`.
pub fn agent_field(fields: Fields<'_>) -> Markup {
    fields.text("agent", "Agent", "Name, Genesys id or id in the CRM")
}

/// The field for `webhook`: a choice where there are few, otherwise a text.
///
/// # Errors
/// If the database does not answer.
pub async fn webhook_field(view: &View, fields: Fields<'_>) -> Result<Markup> {
    let most = i64::try_from(OFFERED_MAX + 1).unwrap_or(i64::MAX);
    let offered = view.caller.store.webhooks_called("", most).await?;
    if offered.len() > OFFERED_MAX {
        return Ok(fields.text("webhook", "Webhook", "Id, or a piece of its description or address"));
    }
    let choices: Vec<_> =
        offered.iter().map(|known| (known.webhook_id.to_string(), webhook_label(known))).collect();
    Ok(fields.choice("webhook", "Webhook", "any", &choices))
}

/// The webhooks that the address may mean, to choose from; empty if it means one.
///
/// # Errors
/// If the database does not answer.
pub async fn webhooks_meant(view: &View) -> Result<Vec<WebhookName>> {
    let text = view.given("webhook");
    if text.trim().is_empty() || Uuid::try_parse(text.trim()).is_ok() {
        return Ok(Vec::new());
    }
    let most = i64::try_from(OFFERED_MAX).unwrap_or(i64::MAX);
    let called = view.caller.store.webhooks_called(text.trim(), most).await?;
    Ok(if called.len() > 1 { called } else { Vec::new() })
}

/// Webhooks to choose from; each leads to this page with it.
pub fn webhook_choice(view: &View, called: &[WebhookName]) -> Markup {
    html! {
        @if !called.is_empty() {
            h2 { "Which webhook?" }
            ul.choice { @for known in called {
                li { a href=(view.with("webhook", Some(&known.webhook_id.to_string()))) { (webhook_label(known)) }
                     " " span.hint { (known.webhook_id) } }
            } }
        }
    }
}

/// The field for `source`.
pub fn source_field(fields: Fields<'_>, sources: &[SourceName]) -> Markup {
    let present = sources.iter().filter(|source| !source.is_removed);
    let choices: Vec<_> = present.map(|source| (source.source_id.to_string(), source.name.clone())).collect();
    fields.choice("source", "Source", "any", &choices)
}
