//! `/v1/sources`: the Genesys organisations that are watched.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Principal;
use super::body::JsonBody;
use super::page::{List, Place, Query, at, path_id};
use super::problem::{ApiError, Code};
use crate::domain::ids::SourceId;
use crate::domain::secret::Secret;
use crate::domain::source::{
    ENVIRONMENT_SOURCE_NAME, HEARTBEAT_INTERVAL_MS_DEFAULT, PROTOCOL_REALTIME, SourceSettings,
};
use crate::store::sources::Source;

type Reply = Result<HttpResponse, ApiError>;

fn view(source: &Source) -> Value {
    json!({
        "id": source.source_id,
        "name": source.name,
        "protocol": source.protocol,
        "region": source.region,
        "api_url": source.api_url,
        "login_url": source.login_url,
        "client_id": source.client_id,
        "agents": source.agents,
        "topic_matrix": source.topic_matrix,
        "heartbeat_interval_ms": source.heartbeat_interval_ms,
        "origin": source.origin,
        "version": source.version,
        "created_at": at(source.created_at),
        "updated_at": at(source.updated_at),
    })
}

pub(super) async fn list(state: web::Data<ApiState>, request: HttpRequest) -> Reply {
    let paging = Query::read(&request)?.paging(List::Sources)?;
    let rows = state.store.sources(paging.after_id().map(SourceId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.source_id.0), view))
}

pub(super) async fn get(state: web::Data<ApiState>, request: HttpRequest) -> Reply {
    let source = state.store.source(SourceId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&source)))
}

pub(super) async fn create(state: web::Data<ApiState>, principal: Principal, mut body: JsonBody) -> Reply {
    body.must_be_given(&["name", "client_id", "client_secret", "agents", "topic_matrix"]);
    let nothing_yet = SourceSettings {
        name: String::new(),
        protocol: PROTOCOL_REALTIME.to_owned(),
        region: None,
        api_url: None,
        login_url: None,
        client_id: String::new(),
        client_secret: Secret::new(""),
        agents: Vec::new(),
        topic_matrix: json!({}),
        heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS_DEFAULT,
    };
    let settings = take_settings(body, nothing_yet)?;
    let source = state.store.create_source(&settings, &state.master_key, principal.as_str()).await?;
    state.store.wake.connections_changed();
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/v1/sources/{}", source.source_id)))
        .json(view(&source)))
}

pub(super) async fn update(
    state: web::Data<ApiState>,
    principal: Principal,
    request: HttpRequest,
    mut body: JsonBody,
) -> Reply {
    let before = state.store.source(SourceId(path_id(&request)?)).await?;
    if before.is_from_environment() {
        return Err(ApiError::new(
            Code::Conflict,
            "The source is set by the environment of the process and can only be changed there.",
        ));
    }
    // A new secret is taken first: with it, a kept one that no longer opens does not matter.
    let client_secret = match body.text("client_secret") {
        Some(text) => Secret::new(text),
        None => before.client_secret(&state.master_key).map_err(|error| {
            ApiError::new(
                Code::Conflict,
                format!("The kept client_secret does not open ({error}); give it anew."),
            )
        })?,
    };
    let present = SourceSettings {
        name: before.name.clone(),
        protocol: before.protocol.clone(),
        region: before.region.clone(),
        api_url: before.api_url.clone(),
        login_url: before.login_url.clone(),
        client_id: before.client_id.clone(),
        client_secret,
        agents: before.agents.clone(),
        topic_matrix: before.topic_matrix.clone(),
        heartbeat_interval_ms: before.heartbeat_interval_ms,
    };
    let settings = take_settings(body, present)?;
    let source = state.store.update_source(&before, &settings, &state.master_key, principal.as_str()).await?;
    state.store.wake.connections_changed();
    Ok(HttpResponse::Ok().json(view(&source)))
}

pub(super) async fn delete(state: web::Data<ApiState>, principal: Principal, request: HttpRequest) -> Reply {
    let id = SourceId(path_id(&request)?);
    state.store.delete_source(id, principal.as_str()).await?;
    state.store.wake.connections_changed();
    Ok(HttpResponse::NoContent().finish())
}

/// Reads the given fields over the present settings and checks the whole.
fn take_settings(mut body: JsonBody, present: SourceSettings) -> Result<SourceSettings, ApiError> {
    let name = body.text("name");
    if name.as_deref().is_some_and(|name| name.trim() == ENVIRONMENT_SOURCE_NAME) {
        body.wrong::<()>("name", "is kept for the source from the environment");
    }
    let settings = SourceSettings {
        name: name.unwrap_or(present.name),
        protocol: body.text("protocol").unwrap_or(present.protocol),
        region: body.text_or_null("region").unwrap_or(present.region),
        api_url: body.text_or_null("api_url").unwrap_or(present.api_url),
        login_url: body.text_or_null("login_url").unwrap_or(present.login_url),
        client_id: body.text("client_id").unwrap_or(present.client_id),
        client_secret: body.text("client_secret").map_or(present.client_secret, Secret::new),
        agents: body.texts("agents").unwrap_or(present.agents),
        topic_matrix: body.value("topic_matrix").unwrap_or(present.topic_matrix),
        heartbeat_interval_ms: body.integer("heartbeat_interval_ms").unwrap_or(present.heartbeat_interval_ms),
    };
    match settings.check() {
        Ok(settings) => body.finish(Vec::new()).map(|()| settings),
        Err(violations) => {
            body.finish(violations.clone())?;
            Err(ApiError::fields(&violations))
        }
    }
}
