//! `/v1/gaps`: when agents could not be seen.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::page::{List, Place, Query, at, maybe_at};
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
        agent: query.text("agent")?.map(canonical_guid),
        open: query.boolean("open")?,
    };
    let paging = query.paging(List::Gaps)?;
    let rows = caller.store.gaps(&filter, paging.after_id().map(GapId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.gap_id.0), view))
}
