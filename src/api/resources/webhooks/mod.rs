//! `/v1/webhooks`: who is told of presence changes.

use std::collections::HashMap;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::body::{JsonBody, OptionalJsonBody};
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::domain::delivery::signature::SigningKey;
use crate::domain::ids::WebhookId;
use crate::domain::violation::Violation;
use crate::domain::webhook::WebhookSettings;
use crate::domain::webhook::state::{StateReason, WebhookState};
use crate::services;
use crate::services::caller::Caller;
use crate::store::webhooks::{Webhook, WebhookFilter};
use body::{take_changes, take_secret};
use work::traffic_view;

pub(super) mod body;
pub(in crate::api) mod work;

type Reply = Result<HttpResponse, ApiError>;

/// Everything but what is secret: of that, only which kinds there are.
fn view(caller: &Caller, webhook: &Webhook) -> Result<Value, ApiError> {
    let unsealed = services::webhooks::unsealed(caller, webhook)?;
    let (settings, delivery, health) = (&webhook.settings, &webhook.settings.delivery, &webhook.health);
    let mut shown = json!({
        "id": webhook.webhook_id,
        "url": settings.url,
        "description": settings.description,
        "agents": settings.agents,
        "topics": settings.topics,
        "presences": settings.presences,
        "sources": settings.sources,
        "queues": settings.queues,
        "routing_statuses": settings.routing_statuses,
        "transitions": settings.transitions,
        "events": settings.events,
        "mode": delivery.mode.as_str(),
        "max_age_seconds": delivery.max_age.map(|age| age.as_secs()),
        "min_dwell_ms": millis(delivery.min_dwell),
        "batch": delivery.batch.map(|batch| json!({
            "max_items": batch.max_items,
            "max_wait_ms": millis(batch.max_wait),
            "max_bytes": batch.max_bytes,
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
        "client_certificate": unsealed.has_client_certificate,
        "verification": settings.verification.as_str(),
        "state": webhook.state.as_str(),
        "state_reason": webhook.state_reason.map(StateReason::as_str),
        "health": {
            "failures": health.failures,
            "failing_since": maybe_at(health.failing_since),
            "hold_until": maybe_at(health.hold_until),
            "probe_at": maybe_at(health.probe_at),
            "last_outcome": health.last_outcome,
            "last_reason": health.last_reason,
        },
        "version": webhook.version,
        "former_secrets_expire_at": maybe_at(webhook.former_secrets_expire_at),
        "created_at": at(webhook.created_at),
        "updated_at": at(webhook.updated_at),
    });
    if let (Some(key), Some(fields)) = (unsealed.public_key, shown.as_object_mut()) {
        fields.insert("public_key".to_owned(), Value::String(key));
    }
    Ok(shown)
}

/// The ranges keep it far below the limit.
fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What can never match among its filters. Ask before the write: once that is done, nothing may fail any more.
async fn warnings(caller: &Caller, settings: &WebhookSettings) -> Result<Value, ApiError> {
    let found = services::webhooks::never_matching(caller, settings).await?;
    let shown =
        |warning: &Violation| json!({"pointer": format!("/{}", warning.field), "detail": warning.what});
    Ok(found.iter().map(shown).collect())
}

fn with_warnings(mut shown: Value, warnings: Value) -> Value {
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("warnings".to_owned(), warnings);
    }
    shown
}

/// The only two answers that show a secret: the one to its making, and the one to its replacement.
fn view_with_secret(caller: &Caller, webhook: &Webhook, secret: &SigningKey) -> Result<Value, ApiError> {
    let mut shown = view(caller, webhook)?;
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("secret".to_owned(), Value::String(secret.to_text()));
    }
    Ok(shown)
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let filter = WebhookFilter {
        state: query.word("state", WebhookState::WORDS)?.and_then(|word| WebhookState::from_name(&word)),
        failing: query.boolean("failing")?,
        text: query.text("text")?,
    };
    let with_traffic = query.boolean("traffic")?.unwrap_or(false);
    let paging = query.paging(List::Webhooks)?;
    let rows = caller.store.webhooks(&filter, paging.after_id().map(WebhookId), paging.rows()).await?;
    let ids: Vec<WebhookId> = rows.iter().map(|row| row.webhook_id).collect();
    let traffic =
        if with_traffic { services::webhooks::traffic(&caller, &ids).await? } else { HashMap::new() };
    let rows: Vec<(WebhookId, Value)> = rows
        .iter()
        .map(|row| {
            let mut shown = view(&caller, row)?;
            if let (Some(traffic), Some(fields)) = (traffic.get(&row.webhook_id), shown.as_object_mut()) {
                fields.insert("traffic".to_owned(), traffic_view(traffic));
            }
            Ok((row.webhook_id, shown))
        })
        .collect::<Result<_, ApiError>>()?;
    Ok(paging.respond(rows, |(id, _)| Place::Id(id.0), |(_, shown)| shown.clone()))
}

pub(in crate::api) async fn create(caller: Caller, mut body: JsonBody) -> Reply {
    body.must_be_given(&["url"]);
    let secret = take_secret(&mut body);
    let snapshot = body.boolean("snapshot").unwrap_or(false);
    let changes = take_changes(&caller, body, &WebhookSettings::default()).await?;
    let warnings = warnings(&caller, &changes.over(&WebhookSettings::default())).await?;
    let (webhook, secret) = services::webhooks::create(&caller, &changes, secret, snapshot).await?;
    let shown = with_warnings(view_with_secret(&caller, &webhook, &secret)?, warnings);
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/v1/webhooks/{}", webhook.webhook_id)))
        .json(shown))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    let webhook = caller.store.webhook(WebhookId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&caller, &webhook)?))
}

pub(in crate::api) async fn update(caller: Caller, request: HttpRequest, mut body: JsonBody) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let expected = body.integer("version").map(i64::from);
    let present = caller.store.webhook(id).await?;
    let changes = take_changes(&caller, body, &present.settings).await?;
    let warnings = warnings(&caller, &changes.over(&present.settings)).await?;
    let webhook = services::webhooks::update(&caller, id, expected, &changes).await?;
    Ok(HttpResponse::Ok().json(with_warnings(view(&caller, &webhook)?, warnings)))
}

pub(in crate::api) async fn delete(caller: Caller, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    caller.store.delete_webhook(id, caller.principal.as_str()).await?;
    Ok(HttpResponse::NoContent().finish())
}

pub(in crate::api) async fn rotate_secret(
    caller: Caller,
    request: HttpRequest,
    OptionalJsonBody(mut body): OptionalJsonBody,
) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let secret = take_secret(&mut body);
    let overlap = services::webhooks::check_overlap(body.integer("overlap_seconds"));
    let overlap = body.finish_with(overlap)?;
    let (webhook, secret) = services::webhooks::rotate_secret(&caller, id, secret, overlap).await?;
    Ok(HttpResponse::Ok().json(view_with_secret(&caller, &webhook, &secret)?))
}

pub(in crate::api) async fn test(caller: Caller, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let (event, delivery) = caller.store.create_test_ping(id, caller.principal.as_str()).await?;
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/v1/deliveries/{delivery}")))
        .json(json!({"event_id": event, "delivery_id": delivery})))
}

pub(in crate::api) async fn pause(caller: Caller, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = caller.store.pause_webhook(id, caller.principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&caller, &webhook)?))
}

pub(in crate::api) async fn resume(caller: Caller, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = caller.store.resume_webhook(id, caller.principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&caller, &webhook)?))
}

pub(in crate::api) async fn enable(caller: Caller, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = caller.store.enable_webhook(id, caller.principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&caller, &webhook)?))
}

pub(in crate::api) async fn snapshot(caller: Caller, request: HttpRequest) -> Reply {
    let id = WebhookId(path_id(&request)?);
    let webhook = caller.store.request_snapshot(id, caller.principal.as_str()).await?;
    Ok(HttpResponse::Accepted().json(view(&caller, &webhook)?))
}
