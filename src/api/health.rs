//! What is open without a key: signs of life, figures, the contract and its documentation page.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use actix_web::http::header::{self, Accept, Header, Quality};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde_json::json;
use utoipa_swagger_ui::Config;

use super::ApiState;
use crate::api::http::page::path_text;
use crate::api::http::problem::ApiError;
use crate::metrics::TextFormat;
use crate::services::readiness::{self, Readiness};

/// The contract, as this binary was built with it.
const OPENAPI: &str = include_str!("../../openapi.yaml");
/// The page's files are our own; its styles are partly inline, and it draws small pictures from data URLs.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; font-src 'self' data:; connect-src 'self'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static DOCS: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    Arc::new(Config::from("/openapi.yaml").validator_url("none").try_it_out_enabled(true).use_base_layout())
});

pub(super) async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

pub(super) async fn ready(state: web::Data<ApiState>) -> HttpResponse {
    let Readiness { reasons, database } = readiness::readiness(&state.services).await;
    let mut response =
        if reasons.is_empty() { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    let database = database.map(|standing| {
        json!({
            "server": standing.server, "timeline": standing.timeline, "commits": standing.commits.as_str()
        })
    });
    response.json(json!({"ready": reasons.is_empty(), "reasons": reasons, "database": database}))
}

pub(super) async fn metrics(request: HttpRequest, state: web::Data<ApiState>) -> HttpResponse {
    let format = metrics_format(Accept::parse(&request).unwrap_or_else(|_| Accept::star()));
    HttpResponse::Ok()
        .content_type(format.content_type())
        .insert_header((header::VARY, "Accept"))
        .body(state.metrics.encode(format))
}

/// Prometheus' own format, unless OpenMetrics is asked for by name and is not liked less.
fn metrics_format(accept: Accept) -> TextFormat {
    let liking = |subtype: &str| {
        let named = accept.iter().filter(|item| item.item.essence_str() == subtype);
        named.map(|item| item.quality).max().unwrap_or(Quality::ZERO)
    };
    let open_metrics = liking("application/openmetrics-text");
    if open_metrics > Quality::ZERO && open_metrics >= liking("text/plain") {
        TextFormat::OpenMetrics
    } else {
        TextFormat::Prometheus
    }
}

pub(super) async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")}))
}

pub(super) async fn openapi() -> HttpResponse {
    HttpResponse::Ok().content_type("application/yaml").body(OPENAPI)
}

/// The page names its files relative to `/docs/`.
pub(super) async fn docs_redirect() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/docs/")).finish()
}

pub(super) async fn docs(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let name = path_text(&request)?;
    let file = utoipa_swagger_ui::serve(&name, Arc::clone(&DOCS)).map_err(ApiError::internal)?;
    let file = file.ok_or_else(ApiError::not_found)?;
    Ok(HttpResponse::Ok()
        .content_type(file.content_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, DOCS_POLICY))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        // As they are in the program: nothing is held for a caller who is slow to take them.
        .body(match file.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        }))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn metrics_come_in_the_format_that_is_asked_for() {
        let format = |accept: &str| {
            let request = TestRequest::default().insert_header((header::ACCEPT, accept)).to_http_request();
            metrics_format(Accept::parse(&request).unwrap_or_else(|_| Accept::star()))
        };
        for (accept, wanted) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                TextFormat::OpenMetrics,
            ),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", TextFormat::OpenMetrics),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.2", TextFormat::Prometheus),
            ("text/plain;version=0.0.4", TextFormat::Prometheus),
            ("application/openmetrics-text;q=0", TextFormat::Prometheus),
            ("*/*", TextFormat::Prometheus),
            ("rubbish", TextFormat::Prometheus),
            ("", TextFormat::Prometheus),
        ] {
            assert_eq!(format(accept), wanted, "{accept}");
        }
    }
}
