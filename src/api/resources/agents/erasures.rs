//! `/v1/agents/{id}/data`, `/v1/erasures`: requests to erase the person behind an agent, and their progress.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id, path_text};
use crate::api::http::problem::ApiError;
use crate::domain::erasure::ErasureState;
use crate::domain::external_ids::check_id;
use crate::domain::ids::{AgentId, ErasureId, SourceId, canonical_guid};
use crate::services;
use crate::services::caller::Caller;
use crate::store::erasure::requests::{Erasure, ErasureFilter};

type Reply = Result<HttpResponse, ApiError>;

fn view(erasure: &Erasure) -> Value {
    json!({
        "id": erasure.erasure_id,
        "source_id": erasure.source_id,
        "agent_id": erasure.agent_id,
        "watch": erasure.watch,
        "state": erasure.state.as_str(),
        "events": erasure.events,
        "deliveries": erasure.deliveries,
        "audit_entries": erasure.audit_entries,
        "quarantined": erasure.quarantined,
        "requested_at": at(erasure.requested_at),
        "ended_at": maybe_at(erasure.ended_at),
    })
}

pub(in crate::api) async fn erase(caller: Caller, request: HttpRequest) -> Reply {
    let agent = canonical_guid(path_text(&request)?);
    // Nothing can be there.
    check_id("id", &agent).map_err(|_| ApiError::not_found())?;
    let mut query = Query::read(&request)?;
    let source = query.id("source")?.map(SourceId);
    let watch = query.boolean("watch")?;
    query.finish()?;
    let watch = watch.ok_or_else(|| {
        ApiError::parameter("watch", "is missing: say whether the agent is watched further, true or false")
    })?;
    let erasure = services::agents::erase(&caller, source, &AgentId(agent), watch).await?;
    Ok(HttpResponse::Accepted().json(view(&erasure)))
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let filter = ErasureFilter {
        erasure: None,
        source: query.id("source")?.map(SourceId),
        agent: query.text("agent")?.map(canonical_guid),
        state: query.word("state", ErasureState::WORDS)?.and_then(|word| ErasureState::from_name(&word)),
    };
    let paging = query.paging(List::Erasures)?;
    let rows = caller.store.erasures(&filter, paging.after_id().map(ErasureId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.erasure_id.0), view))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    Query::read(&request)?.finish()?;
    let erasure = caller.store.erasure(ErasureId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&erasure)))
}
