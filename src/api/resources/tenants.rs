//! `/v1/tenants`: whom things belong to. For the operator alone.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::body::JsonBody;
use crate::api::http::page::{List, Place, Query, at};
use crate::api::http::problem::ApiError;
use crate::domain::access::api_key::check_plain_name;
use crate::domain::ids::TenantId;
use crate::services::caller::Caller;
use crate::store::access::tenants::Tenant;

type Reply = Result<HttpResponse, ApiError>;

fn view(tenant: &Tenant) -> Value {
    json!({"id": tenant.tenant_id, "name": tenant.name, "created_at": at(tenant.created_at)})
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let operator = caller.operator()?;
    let paging = Query::read(&request)?.paging(List::Tenants)?;
    let rows = operator.tenants(paging.after_id().map(TenantId), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.tenant_id.0), view))
}

pub(in crate::api) async fn create(caller: Caller, mut body: JsonBody) -> Reply {
    let operator = caller.operator()?;
    body.must_be_given(&["name"]);
    let name = body.text("name").unwrap_or_default();
    body.finish(check_plain_name(&name).err().into_iter().collect())?;
    let tenant = operator.create_tenant(&name).await?;
    Ok(HttpResponse::Created().json(view(&tenant)))
}
