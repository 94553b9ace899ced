//! `/v1/tenants`: whom things belong to. For the operator alone.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::api::ApiState;
use crate::api::http::auth::Principal;
use crate::api::http::body::JsonBody;
use crate::api::http::page::{List, Place, Query, at};
use crate::api::http::problem::ApiError;
use crate::domain::access::api_key::check_plain_name;
use crate::domain::ids::TenantId;
use crate::store::access::tenants::Tenant;

type Reply = Result<HttpResponse, ApiError>;

fn view(tenant: &Tenant) -> Value {
    json!({"id": tenant.tenant_id, "name": tenant.name, "created_at": at(tenant.created_at)})
}

pub(in crate::api) async fn list(
    state: web::Data<ApiState>,
    principal: Principal,
    request: HttpRequest,
) -> Reply {
    principal.must_be_operator()?;
    let paging = Query::read(&request)?.paging(List::Tenants)?;
    let rows = state.whole_store.tenants(paging.after_id().map(TenantId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.tenant_id.0), view))
}

pub(in crate::api) async fn create(
    state: web::Data<ApiState>,
    principal: Principal,
    mut body: JsonBody,
) -> Reply {
    principal.must_be_operator()?;
    body.must_be_given(&["name"]);
    let name = body.text("name").unwrap_or_default();
    body.finish(check_plain_name(&name).err().into_iter().collect())?;
    let tenant = state.whole_store.create_tenant(&name, principal.as_str()).await?;
    Ok(HttpResponse::Created().json(view(&tenant)))
}
