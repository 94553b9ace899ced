//! `/v1/explain`: why a webhook got an event, or did not.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value, json};

use crate::api::http::page::{Query, at};
use crate::api::http::problem::{ApiError, Code};
use crate::api::resources::agents::take_agents;
use crate::clock;
use crate::domain::explain::{Step, explain};
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::services::caller::Caller;

fn step_view(step: &Step) -> Value {
    let mut shown = step.particulars();
    shown.insert("at".to_owned(), Value::String(at(step.at)));
    shown.insert("what".to_owned(), Value::from(step.what));
    shown.insert("detail".to_owned(), Value::from(step.detail.as_str()));
    Value::Object(shown)
}

/// The event that is named, or the one by which the agent became as it was `at` a time; `None` if there was
/// none by then.
async fn take_event(caller: &Caller, query: &mut Query) -> Result<Option<EventId>, ApiError> {
    let event = query.id("event")?.map(EventId);
    let agents = take_agents(caller, query).await?;
    let at = query.time_or_word("at", "last")?;
    match (event, agents) {
        (Some(_), Some(_)) => Err(ApiError::parameter("agent", "says the same as event; give one of them")),
        (Some(_), None) if at.is_some() => {
            Err(ApiError::parameter("at", "goes with agent; an event has its time"))
        }
        (Some(event), None) => Ok(Some(event)),
        (None, Some(agents)) => Ok(caller.store.event_of_agent(&agents, at.flatten()).await?),
        (None, None) => Err(ApiError::parameter("event", "is missing, and so is agent")),
    }
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::read(&request)?;
    let webhook = query.id("webhook")?.map(WebhookId);
    let webhook = webhook.ok_or_else(|| ApiError::parameter("webhook", "is missing"))?;
    let event = take_event(&caller, &mut query).await?;
    query.finish()?;
    let none = || ApiError::new(Code::NotFound, "No change of this agent had arrived by then.");
    let event = event.ok_or_else(none)?;
    let told = explain(&caller.store.explain(event, webhook).await?, clock::now(), at);
    let matched: Map<String, Value> = told
        .matched
        .iter()
        .map(|m| (m.filter.to_owned(), json!({"matches": m.matches, "asked": m.asked, "has": m.has})))
        .collect();
    Ok(HttpResponse::Ok().json(json!({
        "event_id": event,
        "webhook_id": webhook,
        "delivery_id": DeliveryId::of(event, webhook),
        "verdict": told.verdict.as_str(),
        "reason": told.reason,
        "steps": told.steps.iter().map(step_view).collect::<Vec<_>>(),
        "matched": matched,
    })))
}
