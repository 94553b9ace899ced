//! `/v1/webhooks/{id}/recover`, `/v1/recoveries`: requests to deliver again what a webhook missed, and their
//! progress.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::body::JsonBody;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::domain::delivery::recovery::{RecoveryFailure, RecoveryState};
use crate::domain::ids::{RecoveryId, WebhookId};
use crate::services;
use crate::services::caller::Caller;
use crate::services::recoveries::RecoveryInput;
use crate::store::recovery::requests::{Recovery, RecoveryFilter};

pub(super) fn view(recovery: &Recovery) -> Value {
    json!({
        "id": recovery.recovery_id,
        "webhook_id": recovery.webhook_id,
        "since": at(recovery.since),
        "until": at(recovery.until),
        "only_failed": recovery.only_failed,
        "states": recovery.states,
        "source_id": recovery.source_id,
        "agents": recovery.agents,
        "state": recovery.state().as_str(),
        "reason": recovery.reason.map(RecoveryFailure::as_str),
        "recovered": recovery.recovered,
        "skipped": recovery.skipped,
        "requested_at": at(recovery.requested_at),
        "ended_at": maybe_at(recovery.ended_at),
    })
}

pub(in crate::api) async fn recover(
    caller: Caller,
    request: HttpRequest,
    mut body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let webhook = WebhookId(path_id(&request)?);
    let input = RecoveryInput {
        since: body.time("since"),
        until: body.time("until"),
        only_failed: body.boolean("only_failed"),
        agents: body.texts("agents"),
    };
    let wanted = body.finish_with(services::recoveries::check(webhook, input))?;
    let recovery = services::recoveries::request(&caller, &wanted).await?;
    Ok(HttpResponse::Accepted().json(view(&recovery)))
}

pub(in crate::api) async fn cancel(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let recovery = services::recoveries::cancel(&caller, RecoveryId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&recovery)))
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::read(&request)?;
    let filter = RecoveryFilter {
        recovery: None,
        webhook: query.id("webhook")?.map(WebhookId),
        state: query.word("state", RecoveryState::WORDS)?.and_then(|word| RecoveryState::from_name(&word)),
    };
    let paging = query.paging(List::Recoveries)?;
    let rows = caller.store.recoveries(&filter, paging.after_id().map(RecoveryId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.recovery_id.0), view))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Query::read(&request)?.finish()?;
    let recovery = caller.store.recovery(RecoveryId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&recovery)))
}
