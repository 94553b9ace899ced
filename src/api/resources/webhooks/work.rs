//! `/v1/webhooks/{id}/lanes`, `/attempts`, `/outcomes`, `/secrets`: what waits at a webhook, what came of what
//! was sent, and how old its secrets are.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::page::{Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::domain::ids::WebhookId;
use crate::services;
use crate::services::caller::Caller;
use crate::services::webhooks::Hour;
use crate::store::views::lanes::{Lane, Lanes, LastAttempt, Traffic};
use crate::store::webhooks::secrets::SecretAge;

/// Attempts of one answer.
const ATTEMPTS_SHOWN: i64 = 20;
/// Lanes of one answer.
const LANES_SHOWN: i64 = 20;

/// What a list of webhooks says of each on request.
pub(super) fn traffic_view(traffic: &Traffic) -> Value {
    json!({
        "open": traffic.open,
        "oldest_at": maybe_at(traffic.oldest),
        "attempts": traffic.attempts,
        "taken": traffic.taken,
    })
}

fn lane_view(lanes: &Lanes, lane: &Lane) -> Value {
    let (verdict, reason) = services::webhooks::why_waits(lanes, lane, at);
    json!({
        "agent_id": lane.agent_id,
        "agent_name": lane.agent_name,
        "delivery_id": lane.delivery_id,
        "event_id": lane.event_id,
        "created_at": at(lane.head.created_at),
        "attempt": lane.head.attempt,
        "due_at": maybe_at(lane.head.due_at),
        "verdict": verdict.as_str(),
        "reason": reason,
        "behind": lane.behind,
    })
}

fn attempt_view(attempt: &LastAttempt) -> Value {
    json!({
        "delivery_id": attempt.delivery_id,
        "agent_id": attempt.agent_id,
        "attempt": attempt.attempt,
        "at": at(attempt.at),
        "status": attempt.status,
        "outcome": attempt.outcome,
        "duration_ms": attempt.duration_ms,
        "end_state": attempt.end_state,
        "reason": attempt.reason,
    })
}

fn hour_view(hour: &Hour) -> Value {
    let by_outcome: BTreeMap<&str, Value> = hour
        .outcomes
        .iter()
        .map(|of| (of.outcome.as_str(), json!({"attempts": of.attempts, "duration_ms": of.duration_ms})))
        .collect();
    json!({"hour": at(hour.hour), "outcomes": by_outcome})
}

fn secret_view(secret: &SecretAge) -> Value {
    json!({
        "kind": secret.kind.as_str(),
        "created_at": at(secret.created_at),
        "expires_at": maybe_at(secret.expires_at),
    })
}

pub(in crate::api) async fn lanes(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Query::read(&request)?.finish()?;
    let id = WebhookId(path_id(&request)?);
    let lanes = services::webhooks::lanes(&caller, id, LANES_SHOWN).await?;
    let oldest: Vec<Value> = lanes.oldest.iter().map(|lane| lane_view(&lanes, lane)).collect();
    Ok(HttpResponse::Ok().json(json!({"open": lanes.open, "lanes": lanes.lanes, "oldest": oldest})))
}

pub(in crate::api) async fn attempts(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Query::read(&request)?.finish()?;
    let id = WebhookId(path_id(&request)?);
    caller.store.webhook(id).await?;
    let attempts = caller.store.last_attempts(id, ATTEMPTS_SHOWN).await?;
    Ok(HttpResponse::Ok().json(json!({"items": attempts.iter().map(attempt_view).collect::<Vec<_>>()})))
}

pub(in crate::api) async fn outcomes(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Query::read(&request)?.finish()?;
    let hours = services::webhooks::outcomes(&caller, WebhookId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(json!({"hours": hours.iter().map(hour_view).collect::<Vec<_>>()})))
}

pub(in crate::api) async fn secrets(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Query::read(&request)?.finish()?;
    let id = WebhookId(path_id(&request)?);
    caller.store.webhook(id).await?;
    let secrets = caller.store.webhook_secrets(id).await?;
    Ok(HttpResponse::Ok().json(json!({"items": secrets.iter().map(secret_view).collect::<Vec<_>>()})))
}
