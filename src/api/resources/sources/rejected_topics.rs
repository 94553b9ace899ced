//! `/v1/rejected-topics`: agents that Genesys does not let us watch, and why.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::page::{List, Place, Query, maybe_at};
use crate::api::http::problem::ApiError;
use crate::domain::ids::{ConnectionId, SourceId};
use crate::services::caller::Caller;
use crate::store::views::agents::RejectedTopic;

fn view(rejected: &RejectedTopic) -> Value {
    json!({
        "source_id": rejected.source_id,
        "connection_id": rejected.connection_id,
        "agent_id": rejected.agent_id,
        "topic": rejected.topic,
        "reason": rejected.reason,
        "missing_permissions": rejected.missing_permissions,
        "rejected_at": maybe_at(rejected.rejected_at),
    })
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::read(&request)?;
    let source = query.id("source")?.map(SourceId);
    let connection = query.id("connection")?.map(ConnectionId);
    let paging = query.paging(List::RejectedTopics)?;
    let rows = caller.store.rejected_topics(source, connection, paging.after_number(), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Number(row.place), view))
}
