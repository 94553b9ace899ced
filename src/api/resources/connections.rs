//! `/v1/connections`: the sockets to Genesys, and the two things an operator may ask of one.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::domain::ids::{ConnectionId, SourceId, canonical_guid};
use crate::domain::presence::connection::ConnectionState;
use crate::services::caller::Caller;
use crate::store::sources::connections::{ConnectionFilter, ConnectionRow};

type Reply = Result<HttpResponse, ApiError>;

/// Four names are those of the original specification's metrics (docs/realtime.md).
fn view(caller: &Caller, row: &ConnectionRow) -> Value {
    let live = caller.status().connection(row.connection_id);
    json!({
        "id": row.connection_id,
        "source_id": row.source_id,
        "agent_id": row.agent_id,
        "agents": row.agents,
        "rejected_topics": row.rejected_topics,
        "desired": row.desired.as_str(),
        "state": row.state.as_str(),
        "state_reason": row.state_reason,
        "connectionId": row.upstream_connection_id,
        "attemptCount": row.attempt_count,
        "averageLatency": live.average_latency_ms,
        "stabilityRate": live.stability_rate,
        "samples": live.samples,
        "opened_at": maybe_at(row.opened_at),
        "expires_at": maybe_at(row.expires_at),
        "proven_at": maybe_at(row.proven_at),
        "created_at": at(row.created_at),
        "updated_at": at(row.updated_at),
    })
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let filter = ConnectionFilter {
        source: query.id("source")?.map(SourceId),
        agent: query.text("agent")?.map(canonical_guid),
        state: query.word("state", ConnectionState::WORDS)?.as_deref().and_then(ConnectionState::from_name),
    };
    let paging = query.paging(List::Connections)?;
    let after = paging.after_id().map(ConnectionId);
    let rows = caller.store.connections(&filter, after, paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.connection_id.0), |row| view(&caller, row)))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    let row = caller.store.connection(ConnectionId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&caller, &row)))
}

pub(in crate::api) async fn terminate(caller: Caller, request: HttpRequest) -> Reply {
    let id = ConnectionId(path_id(&request)?);
    let row = caller.store.terminate_connection(id, caller.principal.as_str()).await?;
    Ok(HttpResponse::Accepted().json(view(&caller, &row)))
}

pub(in crate::api) async fn restart(caller: Caller, request: HttpRequest) -> Reply {
    let id = ConnectionId(path_id(&request)?);
    let row = caller.store.restart_connection(id, caller.principal.as_str()).await?;
    Ok(HttpResponse::Accepted().json(view(&caller, &row)))
}
