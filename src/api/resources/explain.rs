//! `/v1/explain`: why a webhook got an event, or did not.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value, json};

use crate::api::http::page::{Query, at};
use crate::api::http::problem::ApiError;
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

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::read(&request)?;
    let event = query.id("event")?.map(EventId);
    let webhook = query.id("webhook")?.map(WebhookId);
    query.finish()?;
    let event = event.ok_or_else(|| ApiError::parameter("event", "is missing"))?;
    let webhook = webhook.ok_or_else(|| ApiError::parameter("webhook", "is missing"))?;
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
