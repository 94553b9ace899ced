//! `/v1/sources`: the Genesys organisations that are watched.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::body::JsonBody;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::domain::ids::SourceId;
use crate::domain::presence::source::SourceSettings;
use crate::domain::secret::Secret;
use crate::services;
use crate::services::caller::Caller;
use crate::store::sources::Source;
use crate::store::sources::health::Health;

pub(in crate::api) mod examinations;
pub(in crate::api) mod rejected_topics;

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
        "all_users": source.all_users,
        "queues": source.queues,
        "groups": source.groups,
        "language": source.language,
        "stale_after_seconds": source.stale_after_seconds,
        "roster_interval_seconds": source.roster_interval_seconds,
        "health": health(&source.health),
        "origin": source.origin.as_str(),
        "version": source.version,
        "created_at": at(source.created_at),
        "updated_at": at(source.updated_at),
    })
}

fn health(health: &Health) -> Value {
    json!({
        "state": if health.stale_since.is_some() { "stale" } else { "ok" },
        "stale_since": maybe_at(health.stale_since),
        "roster_read_at": maybe_at(health.roster_read_at),
        "roster_error": health.roster_error,
        "agents_wanted": health.agents_wanted,
        "agents_over_limit": health.agents_over_limit,
        "agents_rejected": health.agents_rejected,
        "connections": health.connections,
        "connections_open": health.connections_open,
    })
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let paging = Query::read(&request)?.paging(List::Sources)?;
    let rows = caller.store.sources(paging.after_id().map(SourceId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.source_id.0), view))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    let source = caller.store.source(SourceId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&source)))
}

pub(in crate::api) async fn create(caller: Caller, mut body: JsonBody) -> Reply {
    body.must_be_given(&["name", "client_id", "client_secret"]);
    let client_secret = body.text("client_secret").map(Secret::new);
    let settings = take_settings(&caller, body, client_secret, None)?;
    let source = services::sources::create(&caller, &settings).await?;
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/v1/sources/{}", source.source_id)))
        .json(view(&source)))
}

pub(in crate::api) async fn update(caller: Caller, request: HttpRequest, mut body: JsonBody) -> Reply {
    let id = SourceId(path_id(&request)?);
    let client_secret = body.text("client_secret").map(Secret::new);
    let (before, present) = services::sources::begin_update(&caller, id, client_secret.clone()).await?;
    let settings = take_settings(&caller, body, client_secret, Some(present))?;
    let source = services::sources::update(&caller, &before, &settings).await?;
    Ok(HttpResponse::Ok().json(view(&source)))
}

pub(in crate::api) async fn delete(caller: Caller, request: HttpRequest) -> Reply {
    services::sources::delete(&caller, SourceId(path_id(&request)?)).await?;
    Ok(HttpResponse::NoContent().finish())
}

pub(in crate::api) async fn refresh(caller: Caller, request: HttpRequest) -> Reply {
    let source = caller.store.refresh_source(SourceId(path_id(&request)?), caller.principal.as_str()).await?;
    Ok(HttpResponse::Accepted().json(view(&source)))
}

/// Reads the given fields over the present settings, or over the defaults, and checks the whole. The client
/// secret was taken from the body before.
fn take_settings(
    caller: &Caller,
    mut body: JsonBody,
    client_secret: Option<Secret>,
    present: Option<SourceSettings>,
) -> Result<SourceSettings, ApiError> {
    let carried = present.clone().filter(|_| client_secret.is_none());
    let present = present.unwrap_or_default();
    let settings = SourceSettings {
        name: body.text("name").unwrap_or(present.name),
        protocol: body.text("protocol").unwrap_or(present.protocol),
        region: body.text_or_null("region").unwrap_or(present.region),
        api_url: body.text_or_null("api_url").unwrap_or(present.api_url),
        login_url: body.text_or_null("login_url").unwrap_or(present.login_url),
        client_id: body.text("client_id").unwrap_or(present.client_id),
        client_secret: client_secret.unwrap_or(present.client_secret),
        agents: body.texts("agents").unwrap_or(present.agents),
        topic_matrix: body
            .in_order("topic_matrix", "is not an object of topic lists")
            .unwrap_or(present.topic_matrix),
        heartbeat_interval_ms: body.integer("heartbeat_interval_ms").unwrap_or(present.heartbeat_interval_ms),
        all_users: body.boolean("all_users").unwrap_or(present.all_users),
        queues: body.texts("queues").unwrap_or(present.queues),
        groups: body.texts("groups").unwrap_or(present.groups),
        language: body.text("language").unwrap_or(present.language),
        stale_after_seconds: body.integer("stale_after_seconds").unwrap_or(present.stale_after_seconds),
        roster_interval_seconds: body
            .integer("roster_interval_seconds")
            .unwrap_or(present.roster_interval_seconds),
    };
    body.finish_with(services::sources::check(caller, settings, carried.as_ref()))
}
