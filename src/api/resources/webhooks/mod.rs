//! `/v1/webhooks`: who is told of presence changes.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::auth::Principal;
use crate::api::http::body::{JsonBody, OptionalJsonBody};
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::api::http::scoped::Scoped;
use crate::domain::delivery::signature::SigningKey;
use crate::domain::ids::WebhookId;
use crate::domain::violation::Violation;
use crate::domain::webhook::state::StateReason;
use crate::domain::webhook::{FORMER_SECRET_SIGNS_ON, OVERLAP_SECONDS_MAX, WebhookSettings};
use crate::store::webhooks::{NewWebhook, Webhook};
use body::{secret_or_new, take_changes, take_secret};

pub(super) mod body;

type Reply = Result<HttpResponse, ApiError>;

/// Everything but what is secret: of that, only which kinds there are.
fn view(state: &Scoped, webhook: &Webhook) -> Result<Value, ApiError> {
    let (settings, delivery, health) = (&webhook.settings, &webhook.settings.delivery, &webhook.health);
    let mut shown = json!({
        "id": webhook.webhook_id,
        "url": settings.url,
        "description": settings.description,
        "agents": settings.agents,
        "topics": settings.topics,
        "presences": settings.presences,
        "sources": settings.sources,
        "events": settings.events,
        "mode": delivery.mode.as_str(),
        "max_age_seconds": delivery.max_age.map(|age| age.as_secs()),
        "min_dwell_ms": millis(delivery.min_dwell),
        "batch": delivery.batch.map(|batch| json!({
            "max_items": batch.max_items,
            "max_wait_ms": millis(batch.max_wait),
        })),
        "retry_schedule_seconds": delivery.retry_schedule,
        "timeout_ms": millis(delivery.timeout),
        "max_concurrency": delivery.max_concurrency,
        "rate_limit": delivery.rate_limit.map(|limit| json!({
            "requests": limit.requests,
            "per_seconds": limit.per.as_secs(),
        })),
        "disable_after_seconds": delivery.disable_after.as_secs(),
        "format": delivery.format.as_str(),
        "signatures": settings.signatures.words(),
        "header_names": webhook.header_names,
        "auth": {"kind": webhook.auth_kind},
        "client_certificate": webhook.access(&state.master_key)?.client_certificate.is_some(),
        "verification": settings.verification.as_str(),
        "state": webhook.state.as_str(),
        "state_reason": webhook.state_reason.map(StateReason::as_str),
        "health": {
            "failures": health.failures,
            "failing_since": maybe_at(health.failing_since),
            "hold_until": maybe_at(health.hold_until),
            "last_outcome": health.last_outcome,
        },
        "version": webhook.version,
        "former_secrets_expire_at": maybe_at(webhook.former_secrets_expire_at),
        "created_at": at(webhook.created_at),
        "updated_at": at(webhook.updated_at),
    });
    if let (Some(key), Some(fields)) = (webhook.public_key(&state.master_key)?, shown.as_object_mut()) {
        fields.insert("public_key".to_owned(), Value::String(key));
    }
    Ok(shown)
}

/// The ranges keep it far below the limit.
fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The only two answers that show a secret: the one to its making, and the one to its replacement.
fn view_with_secret(state: &Scoped, webhook: &Webhook, secret: &SigningKey) -> Result<Value, ApiError> {
    let mut shown = view(state, webhook)?;
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("secret".to_owned(), Value::String(secret.to_text()));
    }
    Ok(shown)
}

pub(in crate::api) async fn list(state: Scoped, request: HttpRequest) -> Reply {
    let paging = Query::read(&request)?.paging(List::Webhooks)?;
    let rows = state.store.webhooks(paging.after_id().map(WebhookId), paging.rows()).await?;
    let rows: Vec<(WebhookId, Value)> = rows
        .iter()
        .map(|row| view(&state, row).map(|shown| (row.webhook_id, shown)))
        .collect::<Result<_, _>>()?;
    Ok(paging.respond(rows, |(id, _)| Place::Id(id.0), |(_, shown)| shown.clone()))
}

pub(in crate::api) async fn create(state: Scoped, principal: Principal, mut body: JsonBody) -> Reply {
    body.must_be_given(&["url"]);
    let secret = take_secret(&mut body);
    let snapshot = body.boolean("snapshot").unwrap_or(false);
    let changes = take_changes(&state, body, &WebhookSettings::default()).await?;
    let secret = secret_or_new(secret)?;
    let new = NewWebhook { changes: &changes, secret: &secret, snapshot, allowance: state.allowance };
    let webhook = state.store.create_webhook(&new, &state.master_key, principal.as_str()).await?;
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/v1/webhooks/{}", webhook.webhook_id)))
        .json(view_with_secret(&state, &webhook, &secret)?))
}

pub(in crate::api) async fn get(state: Scoped, request: HttpRequest) -> Reply {
    let webhook = state.store.webhook(WebhookId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&state, &webhook)?))
}

pub(in crate::api) async fn update(
    state: Scoped,
    principal: Principal,
    request: HttpRequest,
    body: JsonBody,
) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let present = state.store.webhook(id).await?;
    let changes = take_changes(&state, body, &present.settings).await?;
    let (allowance, key) = (state.allowance, &state.master_key);
    let webhook = state.store.update_webhook(id, &changes, allowance, key, principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&state, &webhook)?))
}

pub(in crate::api) async fn delete(state: Scoped, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    state.store.delete_webhook(id, principal.as_str()).await?;
    Ok(HttpResponse::NoContent().finish())
}

pub(in crate::api) async fn rotate_secret(
    state: Scoped,
    principal: Principal,
    request: HttpRequest,
    OptionalJsonBody(mut body): OptionalJsonBody,
) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let secret = take_secret(&mut body);
    let overlap = body.integer("overlap_seconds");
    let out_of_range = overlap
        .filter(|overlap| !(0..=OVERLAP_SECONDS_MAX).contains(overlap))
        .map(|_| Violation::new("overlap_seconds", format!("is not between 0 and {OVERLAP_SECONDS_MAX}")));
    body.finish(out_of_range.into_iter().collect())?;
    let overlap = overlap.map_or(FORMER_SECRET_SIGNS_ON, |seconds| time::Duration::seconds(seconds.into()));
    let secret = secret_or_new(secret)?;
    let webhook = state
        .store
        .rotate_webhook_secret(id, &secret, overlap, &state.master_key, principal.as_str())
        .await?;
    Ok(HttpResponse::Ok().json(view_with_secret(&state, &webhook, &secret)?))
}

pub(in crate::api) async fn test(state: Scoped, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let (event, delivery) = state.store.create_test_ping(id, principal.as_str()).await?;
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/v1/deliveries/{delivery}")))
        .json(json!({"event_id": event, "delivery_id": delivery})))
}

pub(in crate::api) async fn pause(state: Scoped, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = state.store.pause_webhook(id, principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&state, &webhook)?))
}

pub(in crate::api) async fn resume(state: Scoped, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = state.store.resume_webhook(id, principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&state, &webhook)?))
}

pub(in crate::api) async fn enable(state: Scoped, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = state.store.enable_webhook(id, principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&state, &webhook)?))
}

pub(in crate::api) async fn snapshot(state: Scoped, principal: Principal, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = state.store.request_snapshot(id, principal.as_str()).await?;
    Ok(HttpResponse::Accepted().json(view(&state, &webhook)?))
}
