//! `/v1/deliveries`: pending deliveries, and how the others ended.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::api::resources::agents::take_agents;
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::services;
use crate::services::caller::Caller;
use crate::store::views::deliveries::{AttemptRow, DeliveryFilter, DeliveryRow};

type Reply = Result<HttpResponse, ApiError>;

const STATES: [&str; 13] = [
    "open",
    "ended",
    "waiting",
    "sending",
    "blocked",
    "paused",
    "delivered",
    "dead",
    "superseded",
    "expired",
    "webhook_gone",
    "webhook_disabled",
    "erased",
];

fn view(row: &DeliveryRow) -> Value {
    json!({
        "id": row.delivery_id,
        "webhook_id": row.webhook_id,
        "event_id": row.event_id,
        "agent_id": row.agent_id,
        "state": row.state,
        "attempts_begun": row.attempt,
        "due_at": maybe_at(row.due_at),
        "last_status": row.last_status,
        "last_outcome": row.last_outcome,
        "created_at": maybe_at(row.created_at),
        "ended_at": maybe_at(row.ended_at),
    })
}

fn attempt_view(row: &AttemptRow) -> Value {
    json!({
        "attempt": row.attempt,
        "at": at(row.at),
        "status": row.status,
        "outcome": row.outcome,
        "duration_ms": row.duration_ms,
        "data": row.data,
    })
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let filter = DeliveryFilter {
        delivery: None,
        webhook: query.id("webhook")?.map(WebhookId),
        agents: take_agents(&caller, &mut query).await?,
        event: query.id("event")?.map(EventId),
        state: query.word("state", &STATES)?,
        since: query.time("since")?,
        until: query.time("until")?,
    };
    let paging = query.paging(List::Deliveries)?;
    let before = paging.after_id().map(DeliveryId);
    let page = caller.store.delivery_history(&filter, before, paging.rows()).await?;
    let place = |id: DeliveryId| Place::Id(id.0);
    Ok(paging.respond_so_far(page.rows, page.stopped_at.map(place), |row| place(row.delivery_id), view))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    let id = DeliveryId(path_id(&request)?);
    let mut shown = view(&caller.store.delivery(id).await?);
    let attempts = caller.store.attempts(id).await?;
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("attempts".to_owned(), attempts.iter().map(attempt_view).collect());
    }
    Ok(HttpResponse::Ok().json(shown))
}

pub(in crate::api) async fn retry(caller: Caller, request: HttpRequest) -> Reply {
    let row = services::deliveries::retry(&caller, DeliveryId(path_id(&request)?)).await?;
    Ok(HttpResponse::Accepted().json(view(&row)))
}
