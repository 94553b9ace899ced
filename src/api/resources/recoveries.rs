//! `/v1/webhooks/{id}/recover`, `/v1/recoveries`: what a webhook missed is owed to it again, and how far that is.

use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api::http::auth::Principal;
use crate::api::http::body::JsonBody;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::api::http::scoped::Scoped;
use crate::clock;
use crate::domain::delivery::recovery::{RecoveryFailure, RecoveryState};
use crate::domain::ids::{RecoveryId, WebhookId};
use crate::domain::violation::Violation;
use crate::domain::webhook::filters::check_agents;
use crate::store::recovery::requests::{Recovery, RecoveryFilter, RecoveryRequest};
use crate::store::transaction;

/// How long the caller waits for the end of it, which comes without the caller too.
const ANSWER_AFTER: Duration = Duration::from_secs(4);
/// How often it is looked whether it has ended: soon at first, for most are short.
const LOOK_AFTER_FIRST: Duration = Duration::from_millis(20);
const LOOK_AFTER_LONGEST: Duration = Duration::from_millis(320);

fn view(recovery: &Recovery) -> Value {
    json!({
        "id": recovery.recovery_id,
        "webhook_id": recovery.webhook_id,
        "since": at(recovery.since),
        "until": at(recovery.until),
        "only_failed": recovery.only_failed,
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
    state: Scoped,
    principal: Principal,
    request: HttpRequest,
    mut body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let webhook = WebhookId(path_id(&request)?);
    body.must_be_given(&["since"]);
    let (since, until) = (body.time("since"), body.time("until"));
    let only_failed = body.boolean("only_failed").unwrap_or(true);
    let agents = body.texts("agents").unwrap_or_default();
    let until = until.unwrap_or_else(clock::now);
    let mut wrong = Vec::new();
    if since.is_some_and(|since| since >= until) {
        wrong.push(Violation::new("since", "is not before until"));
    }
    let agents = check_agents(agents, &mut wrong);
    body.finish(wrong)?;
    let Some(since) = since else {
        return Err(ApiError::fields(&[Violation::new("since", "is missing")]));
    };
    let wanted = RecoveryRequest { webhook, since, until, only_failed, agents };
    let mut recovery = state.store.request_recovery(&wanted, principal.as_str()).await?;
    let by = Instant::now() + ANSWER_AFTER;
    let mut look_after = LOOK_AFTER_FIRST;
    while recovery.ended_at.is_none() && Instant::now() < by && !transaction::is_shared() {
        sleep(look_after).await;
        look_after = (look_after * 2).min(LOOK_AFTER_LONGEST);
        // It stands, whether we can see it or not.
        if let Ok(now) = state.store.recovery(recovery.recovery_id).await {
            recovery = now;
        }
    }
    Ok(HttpResponse::Accepted().json(view(&recovery)))
}

pub(in crate::api) async fn cancel(
    state: Scoped,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let id = RecoveryId(path_id(&request)?);
    state.store.cancel_recovery(id, principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&state.store.recovery(id).await?)))
}

pub(in crate::api) async fn list(state: Scoped, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::read(&request)?;
    let filter = RecoveryFilter {
        recovery: None,
        webhook: query.id("webhook")?.map(WebhookId),
        state: query.word("state", RecoveryState::WORDS)?.and_then(|word| RecoveryState::from_name(&word)),
    };
    let paging = query.paging(List::Recoveries)?;
    let rows = state.store.recoveries(&filter, paging.after_id().map(RecoveryId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.recovery_id.0), view))
}

pub(in crate::api) async fn get(state: Scoped, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Query::read(&request)?.finish()?;
    let recovery = state.store.recovery(RecoveryId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&recovery)))
}
