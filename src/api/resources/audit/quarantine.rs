//! `/v1/quarantine`: malformed content from upstream, with its bytes.

use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::api::http::page::{List, Place, Query, at, path_id};
use crate::api::http::problem::ApiError;
use crate::domain::ids::{QuarantineId, SourceId};
use crate::services::caller::Caller;
use crate::store::audit::quarantine::Quarantined;

fn view(piece: &Quarantined) -> Value {
    json!({
        "id": piece.quarantine_id,
        "received_at": at(piece.received_at),
        "source_id": piece.source_id,
        "connection_id": piece.connection_id,
        "agent_id": piece.agent_id,
        "reason": piece.reason,
        "size": piece.size,
    })
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::read(&request)?;
    let source = query.id("source")?.map(SourceId);
    let paging = query.paging(List::Quarantine)?;
    let rows = caller.store.quarantine(source, paging.after_id().map(QuarantineId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.quarantine_id.0), view))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Query::read(&request)?.finish()?;
    let piece = caller.store.quarantined(QuarantineId(path_id(&request)?)).await?;
    let mut shown = view(&piece);
    if let (Value::Object(fields), Some(bytes)) = (&mut shown, &piece.bytes) {
        fields.insert("bytes".to_owned(), BASE64.encode(bytes).into());
    }
    Ok(HttpResponse::Ok().json(shown))
}
