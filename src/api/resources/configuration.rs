//! `/v1/configuration`: what the process that answers runs with. For the operator alone.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use crate::api::http::page::{Query, at};
use crate::api::http::problem::ApiError;
use crate::services::caller::{Caller, Setting};

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Query::read(&request)?.finish()?;
    let (configuration, database) = caller.operator()?.configuration().await?;
    let setting = |one: &Setting| {
        json!({
            "name": one.name,
            "value": one.value,
            "secret": one.value.is_none(),
            "origin": one.origin,
            "help": one.help,
        })
    };
    Ok(HttpResponse::Ok().json(json!({
        "version": configuration.version,
        "started_at": at(configuration.started_at),
        "database": {
            "version": database.version,
            "name": database.database,
            "embedded": configuration.embedded_database,
            "size": database.size,
            "connections": database.connections,
            "connections_max": database.connections_max,
            "encrypted": database.encrypted,
        },
        "settings": configuration.settings.iter().map(setting).collect::<Vec<_>>(),
    })))
}
