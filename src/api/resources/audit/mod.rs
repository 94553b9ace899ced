//! `/v1/audit`: every step that was taken, and below it what was malformed (`quarantine`) and checks of the
//! whole log (`verifications`).

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::download;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_text};
use crate::api::http::problem::ApiError;
use crate::api::resources::agents::take_agents;
use crate::domain::audit::{Kind, Level};
use crate::domain::ids::{ConnectionId, DeliveryId, EventId, SourceId, TenantId, WebhookId};
use crate::services;
use crate::services::audit::{ExportInput, Whose};
use crate::services::caller::Caller;
use crate::store::audit::{AuditFilter, AuditRow};

pub(in crate::api) mod quarantine;
pub(in crate::api) mod verifications;

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
        source: query.id("source")?.map(SourceId),
        principal: query.text("principal")?,
        kind: query.word("kind", &kinds)?,
        level: query.word("level", &levels)?,
        since: query.time("since")?,
        until: query.time("until")?,
    };
    let paging = query.paging(List::Audit)?;
    let page = caller.store.audit_entries(&filter, paging.after_number(), paging.rows()).await?;
    let stopped_at = page.stopped_at.map(Place::Number);
    Ok(paging.respond_so_far(page.rows, stopped_at, |row| Place::Number(row.audit_id), view))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let id = path_text(&request)?.parse().map_err(|_| ApiError::not_found())?;
    Query::read(&request)?.finish()?;
    Ok(HttpResponse::Ok().json(view(&caller.store.audit_entry(id).await?)))
}

/// Sealed entries as lines, oldest first.
pub(in crate::api) async fn export(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::read(&request)?;
    let wanted = ExportInput {
        after: query.number("after")?.unwrap_or(0),
        until: query.time("until")?,
        whose: match query.id_or_word("tenant", "all")? {
            None => Whose::Own,
            Some(None) => Whose::All,
            Some(Some(id)) => Whose::Of(TenantId(id)),
        },
    };
    query.finish()?;
    let whose = caller.clone();
    let still_valid = async move || services::api_keys::is_in_use(&whose).await;
    download::audit_log(&request, &caller, wanted, still_valid).await
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
