//! `/v1/sources`: the Genesys organisations that are watched.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::auth::Principal;
use crate::api::http::body::JsonBody;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::{ApiError, Code};
use crate::api::http::scoped::Scoped;
use crate::domain::ids::SourceId;
use crate::domain::presence::source::{ENVIRONMENT_SOURCE_NAME, SourceSettings};
use crate::domain::secret::Secret;
use crate::domain::violation::Violation;
use crate::store::sources::Source;
use crate::store::sources::health::Health;

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

pub(in crate::api) async fn list(state: Scoped, request: HttpRequest) -> Reply {
    let paging = Query::read(&request)?.paging(List::Sources)?;
    let rows = state.store.sources(paging.after_id().map(SourceId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.source_id.0), view))
}

pub(in crate::api) async fn get(state: Scoped, request: HttpRequest) -> Reply {
    let source = state.store.source(SourceId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&source)))
}

pub(in crate::api) async fn create(state: Scoped, principal: Principal, mut body: JsonBody) -> Reply {
    body.must_be_given(&["name", "client_id", "client_secret"]);
    let settings = take_settings(&state, body, SourceSettings::default())?;
    let source = state.store.create_source(&settings, &state.master_key, principal.as_str()).await?;
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/v1/sources/{}", source.source_id)))
        .json(view(&source)))
}

pub(in crate::api) async fn update(
    state: Scoped,
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
    let settings = take_settings(&state, body, before.settings(client_secret))?;
    let source = state.store.update_source(&before, &settings, &state.master_key, principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&source)))
}

pub(in crate::api) async fn delete(state: Scoped, principal: Principal, request: HttpRequest) -> Reply {
    let id = SourceId(path_id(&request)?);
    state.store.delete_source(id, principal.as_str()).await?;
    Ok(HttpResponse::NoContent().finish())
}

pub(in crate::api) async fn refresh(state: Scoped, principal: Principal, request: HttpRequest) -> Reply {
    let source = state.store.refresh_source(SourceId(path_id(&request)?), principal.as_str()).await?;
    Ok(HttpResponse::Accepted().json(view(&source)))
}

/// Reads the given fields over the present settings and checks the whole.
fn take_settings(
    state: &Scoped,
    mut body: JsonBody,
    present: SourceSettings,
) -> Result<SourceSettings, ApiError> {
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
    match settings.check() {
        Ok(settings) => body.finish(misled(state, &settings)).map(|()| settings),
        Err(violations) => {
            body.finish(violations.clone())?;
            Err(ApiError::fields(&violations))
        }
    }
}

/// Addresses that whoever adds a source may not lead us to.
fn misled(state: &Scoped, settings: &SourceSettings) -> Vec<Violation> {
    let judge = |(field, url): (&'static str, &Option<String>)| {
        let error = state.targets.check_url(url.as_deref()?).err()?;
        Some(Violation::new(field, error.to_string()))
    };
    [("api_url", &settings.api_url), ("login_url", &settings.login_url)]
        .into_iter()
        .filter_map(judge)
        .collect()
}
