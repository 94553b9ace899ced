//! `/v1/deliveries`: pending deliveries, and how the others ended.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::body::JsonBody;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::api::resources::agents::take_agents;
use crate::api::resources::recoveries;
use crate::domain::ids::{DeliveryId, EventId, SourceId, WebhookId};
use crate::domain::presence::Event;
use crate::services;
use crate::services::caller::Caller;
use crate::services::deliveries::{Retried, RetryInput, Timeline};
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
        "started_at": maybe_at(row.started_at()),
        "at": at(row.at),
        "status": row.status,
        "outcome": row.outcome,
        "duration_ms": row.duration_ms,
        "data": row.data,
    })
}

/// When what happened to the event of a delivery.
fn stamps(event: &Event) -> Value {
    json!({
        "type": event.kind.as_str(),
        "occurred_at": maybe_at(event.occurred_at),
        "received_at": at(event.received_at),
        "committed_at": maybe_at(event.committed_at),
        "erased_at": maybe_at(event.erased_at),
    })
}

fn request_view(told: &Timeline) -> Option<Value> {
    let sent = told.request.as_ref()?;
    let headers: Vec<_> =
        sent.headers.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    Some(json!({"headers": headers, "body": sent.body, "batch_id": told.batch}))
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let filter = DeliveryFilter {
        delivery: None,
        webhook: query.id("webhook")?.map(WebhookId),
        agents: take_agents(&caller, &mut query).await?,
        source: query.id("source")?.map(SourceId),
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
    let told = services::deliveries::timeline(&caller, DeliveryId(path_id(&request)?)).await?;
    let mut shown = view(&told.row);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("event".to_owned(), told.event.as_ref().map(stamps).into());
        fields.insert("request".to_owned(), request_view(&told).into());
        fields.insert("attempts".to_owned(), told.attempts.iter().map(attempt_view).collect());
    }
    Ok(HttpResponse::Ok().json(shown))
}

pub(in crate::api) async fn retry(caller: Caller, request: HttpRequest) -> Reply {
    let row = services::deliveries::retry(&caller, DeliveryId(path_id(&request)?)).await?;
    Ok(HttpResponse::Accepted().json(view(&row)))
}

fn retried_view(retried: &Retried) -> Value {
    json!({
        "webhook_id": retried.webhook_id,
        "deliveries": retried.deliveries,
        "at_least": retried.at_least,
        "recovery": retried.recovery.as_ref().map(recoveries::view),
        "refused": retried.refused,
    })
}

pub(in crate::api) async fn retry_matching(caller: Caller, mut body: JsonBody) -> Reply {
    let dry_run = body.boolean("dry_run").unwrap_or_default();
    let input = RetryInput {
        webhook: body.id("webhook").map(WebhookId),
        agent: body.text("agent"),
        agents: Vec::new(),
        source: body.id("source").map(SourceId),
        states: body.texts("states"),
        since: body.time("since"),
        until: body.time("until"),
    };
    let wanted = body.finish_with(services::deliveries::check_retry(input))?;
    let found = services::deliveries::retry_matching(&caller, wanted, dry_run).await?;
    let mut answer = if dry_run { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    Ok(answer.json(json!({
        "dry_run": dry_run,
        "deliveries": found.iter().map(|of| of.deliveries).sum::<i64>(),
        "at_least": found.iter().any(|of| of.at_least),
        "webhooks": found.iter().map(retried_view).collect::<Vec<_>>(),
    })))
}
