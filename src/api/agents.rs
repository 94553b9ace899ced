//! `/v1/agents`: the last known state of each Genesys user.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::ApiState;
use super::page::{List, Place, Query, maybe_at, path_text};
use super::problem::{ApiError, Code};
use crate::domain::ids::SourceId;
use crate::domain::presence::canonical_presence;
use crate::store::agents::AgentRow;

type Reply = Result<HttpResponse, ApiError>;

fn view(row: &AgentRow) -> Value {
    json!({
        "id": row.agent_id,
        "source": {"id": row.source_id, "name": row.source_name},
        "presence": row.presence.as_ref().map(|system| json!({"system": system})),
        "since": maybe_at(row.since),
        "sequence": row.sequence,
        "topic": row.topic,
        "occurred_at": maybe_at(row.occurred_at),
        "received_at": maybe_at(row.received_at),
        "event_id": row.event_id,
        "connected": row.connected,
    })
}

pub(super) async fn list(state: web::Data<ApiState>, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let source = query.id("source")?.map(SourceId);
    let presence = query
        .text("presence")?
        .map(|text| canonical_presence(&text).ok_or_else(|| ApiError::parameter("presence", "is empty")))
        .transpose()?;
    let paging = query.paging(List::Agents)?;
    let rows = state.store.agents(source, presence.as_deref(), paging.after_number(), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Number(row.agent_key), view))
}

pub(super) async fn get(state: web::Data<ApiState>, request: HttpRequest) -> Reply {
    let id = path_text(&request)?;
    let mut query = Query::read(&request)?;
    let source = query.id("source")?.map(SourceId);
    query.finish()?;
    let mut rows = state.store.agents_by_id(&id, source).await?;
    if rows.len() > 1 {
        return Err(ApiError::new(
            Code::AmbiguousAgent,
            "Say which source is meant: add ?source=<id of the source>.",
        ));
    }
    let row = rows.pop().ok_or_else(|| ApiError::new(Code::NotFound, "There is no such agent."))?;
    Ok(HttpResponse::Ok().json(view(&row)))
}
