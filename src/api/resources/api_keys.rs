//! `/v1/api-keys`: who may call.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::body::JsonBody;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::clock;
use crate::domain::access::api_key::ApiKeyState;
use crate::domain::ids::{ApiKeyId, TenantId};
use crate::services;
use crate::services::api_keys::ApiKeyInput;
use crate::services::caller::Caller;
use crate::store::access::api_keys::ApiKey;

type Reply = Result<HttpResponse, ApiError>;

fn view(key: &ApiKey) -> Value {
    json!({
        "id": key.api_key_id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "scopes": key.scopes,
        "origin": if key.is_bootstrap() { "environment" } else { "api" },
        "state": ApiKeyState::of(key.revoked_at, key.expires_at, clock::now()).as_str(),
        "created_at": at(key.created_at),
        "expires_at": maybe_at(key.expires_at),
        "revoked_at": maybe_at(key.revoked_at),
        "last_used_at": maybe_at(key.last_used_at),
    })
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let tenant = query.id("tenant")?.map(TenantId);
    let paging = query.paging(List::ApiKeys)?;
    let after = paging.after_id().map(ApiKeyId);
    let rows = services::api_keys::list(&caller, tenant, after, paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.api_key_id.0), view))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    let key = services::api_keys::get(&caller, ApiKeyId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&key)))
}

pub(in crate::api) async fn create(caller: Caller, mut body: JsonBody) -> Reply {
    body.must_be_given(&["name", "scopes"]);
    let input = ApiKeyInput {
        name: body.text("name").unwrap_or_default(),
        scopes: body.texts("scopes").unwrap_or_default(),
        tenant: body.id("tenant_id").map(TenantId),
        expires_at: body.time_or_null("expires_at").flatten(),
    };
    let wanted = body.finish_with(services::api_keys::check(&caller, input))?;
    let (made, key) = services::api_keys::create(&caller, &wanted).await?;
    let mut shown = view(&made);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("key".to_owned(), Value::String(key));
    }
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/v1/api-keys/{}", made.api_key_id)))
        .json(shown))
}

pub(in crate::api) async fn revoke(caller: Caller, request: HttpRequest) -> Reply {
    let key = services::api_keys::revoke(&caller, ApiKeyId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&key)))
}
