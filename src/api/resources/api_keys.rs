//! `/v1/api-keys`: who may call. A key never gives more than its maker has, but the operator may give anything.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::ApiState;
use crate::api::http::auth::Principal;
use crate::api::http::body::JsonBody;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::clock;
use crate::domain::access::api_key::{PREFIX, check_expiry, check_name, read_scopes};
use crate::domain::ids::{ApiKeyId, TenantId};
use crate::domain::violation::Violation;
use crate::random;
use crate::store::access::api_keys::{ApiKey, NewApiKey};

type Reply = Result<HttpResponse, ApiError>;

fn view(key: &ApiKey) -> Value {
    let state = if key.revoked_at.is_some() {
        "revoked"
    } else if key.expires_at.is_some_and(|at| at <= clock::now()) {
        "expired"
    } else {
        "active"
    };
    json!({
        "id": key.api_key_id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "scopes": key.scopes,
        "origin": if key.is_bootstrap() { "environment" } else { "api" },
        "state": state,
        "created_at": at(key.created_at),
        "expires_at": maybe_at(key.expires_at),
        "revoked_at": maybe_at(key.revoked_at),
        "last_used_at": maybe_at(key.last_used_at),
    })
}

pub(in crate::api) async fn list(
    state: web::Data<ApiState>,
    principal: Principal,
    request: HttpRequest,
) -> Reply {
    let mut query = Query::read(&request)?;
    let tenant = query.id("tenant")?.map(TenantId);
    let paging = query.paging(List::ApiKeys)?;
    if tenant.is_some_and(|tenant| tenant != principal.tenant()) {
        principal.must_be_operator()?;
    }
    let tenant = tenant.unwrap_or(principal.tenant());
    let rows =
        state.whole_store.api_keys(Some(tenant), paging.after_id().map(ApiKeyId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.api_key_id.0), view))
}

pub(in crate::api) async fn get(
    state: web::Data<ApiState>,
    principal: Principal,
    request: HttpRequest,
) -> Reply {
    let key =
        state.whole_store.api_key(ApiKeyId(path_id(&request)?), principal.tenant_unless_operator()).await?;
    Ok(HttpResponse::Ok().json(view(&key)))
}

pub(in crate::api) async fn create(
    state: web::Data<ApiState>,
    principal: Principal,
    mut body: JsonBody,
) -> Reply {
    body.must_be_given(&["name", "scopes"]);
    let name = body.text("name").unwrap_or_default();
    let scopes = body.texts("scopes").unwrap_or_default();
    let tenant = body.id("tenant_id").map(TenantId);
    let expires_at = body.time_or_null("expires_at").flatten();
    let bound = principal.expires_at().filter(|_| !principal.is_operator());
    let mut wrong: Vec<Violation> = check_name(&name).err().into_iter().collect();
    wrong.extend(check_expiry(expires_at, bound, clock::now()).err());
    let scopes = read_scopes(&scopes).unwrap_or_else(|more| {
        wrong.extend(more);
        Vec::new()
    });
    body.finish(wrong)?;
    // Whether it is there or not is no matter of theirs.
    if tenant.is_some_and(|tenant| tenant != principal.tenant()) {
        principal.must_be_operator()?;
    }
    for scope in &scopes {
        if !principal.is_operator() {
            principal.must_have(*scope)?;
        }
    }
    let key = format!("{PREFIX}{}", BASE64URL.encode(random::bytes::<32>()));
    let new = NewApiKey {
        tenant_id: tenant.unwrap_or(principal.tenant()),
        name: &name,
        hash: &Sha256::digest(key.as_bytes()).into(),
        scopes: &scopes,
        expires_at,
    };
    let Some(made) = state.whole_store.create_api_key(&new, principal.as_str()).await? else {
        return Err(ApiError::fields(&[Violation::new("tenant_id", "is no tenant")]));
    };
    let mut shown = view(&made);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("key".to_owned(), Value::String(key));
    }
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/v1/api-keys/{}", made.api_key_id)))
        .json(shown))
}

/// Takes effect with the next call: keys are looked up each time.
pub(in crate::api) async fn revoke(
    state: web::Data<ApiState>,
    principal: Principal,
    request: HttpRequest,
) -> Reply {
    let id = ApiKeyId(path_id(&request)?);
    let key =
        state.whole_store.revoke_api_key(id, principal.tenant_unless_operator(), principal.as_str()).await?;
    Ok(HttpResponse::Ok().json(view(&key)))
}
