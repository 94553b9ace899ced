//! `/v1/audit`: every step that was taken.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::page::{List, Place, Query, at, maybe_at};
use crate::api::http::problem::ApiError;
use crate::api::resources::agents::take_agents;
use crate::domain::audit::{Kind, Level};
use crate::domain::ids::{ConnectionId, DeliveryId, EventId, WebhookId};
use crate::services;
use crate::services::caller::Caller;
use crate::store::audit::{AuditFilter, AuditRow};

fn view(row: &AuditRow) -> Value {
    json!({
        "id": row.audit_id,
        "at": at(row.at),
        "kind": row.kind,
        "level": row.level,
        "source_id": row.source_id,
        "connection_id": row.connection_id,
        "agent_id": row.agent_id,
        "webhook_id": row.webhook_id,
        "event_id": row.event_id,
        "delivery_id": row.delivery_id,
        "attempt": row.attempt,
        "status": row.status,
        "duration_ms": row.duration_ms,
        "outcome": row.outcome,
        "end_state": row.end_state,
        "principal": row.principal,
        "data": row.data,
    })
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    let levels = [Level::Info, Level::Warn, Level::Error].map(Level::as_str);
    let mut query = Query::read(&request)?;
    let filter = AuditFilter {
        agents: take_agents(&caller, &mut query).await?,
        webhook: query.id("webhook")?.map(WebhookId),
        event: query.id("event")?.map(EventId),
        delivery: query.id("delivery")?.map(DeliveryId),
        connection: query.id("connection")?.map(ConnectionId),
        kind: query.word("kind", &kinds)?,
        level: query.word("level", &levels)?,
        since: query.time("since")?,
        until: query.time("until")?,
    };
    let paging = query.paging(List::Audit)?;
    let rows = caller.store.audit_entries(&filter, paging.after_number(), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Number(row.audit_id), view))
}

/// Newest seal, to be kept elsewhere.
pub(in crate::api) async fn head(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let last = services::audit::head(&caller).await?;
    Query::read(&request)?.finish()?;
    Ok(HttpResponse::Ok().json(json!({
        "head": last.map(|last| last.head.to_string()),
        "seal": last.map(|last| last.head.seal_id),
        "through": last.map(|last| last.last_audit_id),
        "sealed_at": maybe_at(last.map(|last| last.sealed_at)),
    })))
}
