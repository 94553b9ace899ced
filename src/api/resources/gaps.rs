//! `/v1/gaps`: when agents could not be seen.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::domain::ids::{ConnectionId, GapId, SourceId, canonical_guid};
use crate::services::caller::Caller;
use crate::store::sources::gaps::{GapFilter, GapRow};

fn view(gap: &GapRow) -> Value {
    json!({
        "id": gap.gap_id,
        "source_id": gap.source_id,
        "connection_id": gap.connection_id,
        "agents": gap.agents,
        "cause": gap.cause,
        "from": at(gap.from_at),
        "to": maybe_at(gap.to_at),
    })
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::read(&request)?;
    let filter = GapFilter {
        source: query.id("source")?.map(SourceId),
        connection: query.id("connection")?.map(ConnectionId),
        agents: query.text("agent")?.map(|agent| vec![canonical_guid(agent)]),
        open: query.boolean("open")?,
        since: query.time("since")?,
        until: query.time("until")?,
        ..GapFilter::default()
    };
    let paging = query.paging(List::Gaps)?;
    let rows = caller.store.gaps(&filter, paging.after_id().map(GapId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.gap_id.0), view))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let id = GapId(path_id(&request)?);
    Query::read(&request)?.finish()?;
    Ok(HttpResponse::Ok().json(view(&caller.store.gap(id).await?)))
}
