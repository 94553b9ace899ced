//! `/v1/console/login-links`: links that log a browser in to the console, once.

use actix_web::HttpResponse;
use serde_json::json;

use crate::api::http::page::at;
use crate::api::http::problem::ApiError;
use crate::services::caller::Caller;
use crate::services::sessions;

type Reply = Result<HttpResponse, ApiError>;

pub(in crate::api) async fn create(caller: Caller) -> Reply {
    let link = sessions::make_link(&caller).await?;
    Ok(HttpResponse::Created().json(json!({
        // Relative: behind a proxy the caller knows our address better than we do.
        "url": format!("/console/login?link={}", link.token),
        "expires_at": at(link.ends_at),
    })))
}
