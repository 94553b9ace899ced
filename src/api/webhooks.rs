//! `/v1/webhooks`: who is told of presence changes.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use uuid::Uuid;

use super::ApiState;
use super::auth::Principal;
use super::body::{JsonBody, OptionalJsonBody};
use super::page::{List, Place, Query, at, maybe_at, path_id};
use super::problem::ApiError;
use crate::domain::ids::{SourceId, WebhookId};
use crate::domain::signature::SigningKey;
use crate::domain::violation::Violation;
use crate::domain::webhook::{WebhookChanges, WebhookInput};
use crate::metrics::OutcomeLabels;
use crate::random;
use crate::store::webhooks::Webhook;

/// Bytes of a secret that we make.
const SECRET_BYTES: usize = 32;

type Reply = Result<HttpResponse, ApiError>;

fn view(webhook: &Webhook) -> Value {
    json!({
        "id": webhook.webhook_id,
        "url": webhook.url,
        "description": webhook.description,
        "agents": webhook.agents,
        "topics": webhook.topics,
        "presences": webhook.presences,
        "sources": webhook.sources,
        "events": webhook.events,
        "state": webhook.state,
        "version": webhook.version,
        "former_secrets_expire_at": maybe_at(webhook.former_secrets_expire_at),
        "created_at": at(webhook.created_at),
        "updated_at": at(webhook.updated_at),
    })
}

/// The only two answers that show a secret: the one to its making, and the one to its replacement.
fn view_with_secret(webhook: &Webhook, secret: &SigningKey) -> Value {
    let mut shown = view(webhook);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("secret".to_owned(), Value::String(secret.to_text()));
    }
    shown
}

pub(super) async fn list(state: web::Data<ApiState>, request: HttpRequest) -> Reply {
    let paging = Query::read(&request)?.paging(List::Webhooks)?;
    let rows = state.store.webhooks(paging.after_id().map(WebhookId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.webhook_id.0), view))
}

pub(super) async fn create(state: web::Data<ApiState>, principal: Principal, mut body: JsonBody) -> Reply {
    body.must_be_given(&["url"]);
    let secret = take_secret(&mut body);
    let changes = take_changes(&state, body).await?;
    let secret = secret_or_new(secret)?;
    let webhook =
        state.store.create_webhook(&changes, &secret, &state.master_key, principal.as_str()).await?;
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/v1/webhooks/{}", webhook.webhook_id)))
        .json(view_with_secret(&webhook, &secret)))
}

pub(super) async fn get(state: web::Data<ApiState>, request: HttpRequest) -> Reply {
    let webhook = state.store.webhook(WebhookId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&webhook)))
}

pub(super) async fn update(
    state: web::Data<ApiState>,
    principal: Principal,
    request: HttpRequest,
    body: JsonBody,
) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let changes = take_changes(&state, body).await?;
    let webhook = state.store.update_webhook(id, &changes, principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&webhook)))
}

pub(super) async fn delete(state: web::Data<ApiState>, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let ended = state.store.delete_webhook(id, principal.as_str()).await?;
    let outcome = OutcomeLabels { outcome: "webhook_gone" };
    state.metrics.deliveries_ended.get_or_create(&outcome).inc_by(ended);
    Ok(HttpResponse::NoContent().finish())
}

pub(super) async fn rotate_secret(
    state: web::Data<ApiState>,
    principal: Principal,
    request: HttpRequest,
    OptionalJsonBody(mut body): OptionalJsonBody,
) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let secret = take_secret(&mut body);
    body.finish(Vec::new())?;
    let secret = secret_or_new(secret)?;
    let webhook =
        state.store.rotate_webhook_secret(id, &secret, &state.master_key, principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view_with_secret(&webhook, &secret)))
}

pub(super) async fn test(state: web::Data<ApiState>, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let (event, delivery) = state.store.create_test_ping(id, principal.as_str()).await?;
    state.store.wake.deliveries_due();
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/v1/deliveries/{delivery}")))
        .json(json!({"event_id": event, "delivery_id": delivery})))
}

pub(super) async fn pause(state: web::Data<ApiState>, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = state.store.pause_webhook(id, principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&webhook)))
}

pub(super) async fn resume(state: web::Data<ApiState>, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = state.store.resume_webhook(id, principal.as_str()).await?;
    state.store.wake.deliveries_due();
    Ok(HttpResponse::Ok().json(view(&webhook)))
}

/// Reads and checks the fields that a registration and a change have in common.
async fn take_changes(state: &ApiState, mut body: JsonBody) -> Result<WebhookChanges, ApiError> {
    let input = WebhookInput {
        url: body.text("url"),
        description: body.text("description"),
        agents: body.texts("agents"),
        topics: body.texts("topics"),
        presences: body.texts("presences"),
        sources: take_sources(state, &mut body).await?,
        events: body.texts("events"),
    };
    match input.check(&state.targets) {
        Ok(changes) => body.finish(Vec::new()).map(|()| changes),
        Err(violations) => {
            body.finish(violations.clone())?;
            Err(ApiError::fields(&violations))
        }
    }
}

async fn take_sources(state: &ApiState, body: &mut JsonBody) -> Result<Option<Vec<SourceId>>, ApiError> {
    let Some(texts) = body.texts("sources") else {
        return Ok(None);
    };
    let mut ids = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match Uuid::try_parse(text) {
            Ok(id) => ids.push(SourceId(id)),
            Err(_) => body.wrong::<()>(&format!("sources/{i}"), "is no uuid").unwrap_or_default(),
        }
    }
    for unknown in state.store.unknown_sources(&ids).await? {
        if let Some(i) = texts.iter().position(|text| Uuid::try_parse(text) == Ok(unknown.0)) {
            body.wrong::<()>(&format!("sources/{i}"), "is no source that we know");
        }
    }
    Ok(Some(ids))
}

/// A secret that was given: read, or found to be none. The text itself is never told back.
fn take_secret(body: &mut JsonBody) -> Option<SigningKey> {
    let text = body.text("secret")?;
    match SigningKey::parse(&text) {
        Ok(key) => Some(key),
        Err(_) => body.wrong("secret", "is not whsec_ and the base64 of 24 to 64 bytes"),
    }
}

fn secret_or_new(given: Option<SigningKey>) -> Result<SigningKey, ApiError> {
    match given {
        Some(key) => Ok(key),
        // 32 bytes are within the limits; if the rule ever says otherwise, the caller hears of it.
        None => SigningKey::from_bytes(&random::bytes::<SECRET_BYTES>())
            .map_err(|_| ApiError::fields(&[Violation::new("secret", "must be given: none could be made")])),
    }
}
