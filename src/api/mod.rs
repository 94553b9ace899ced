//! Floor 3: the REST API. `app.rs` builds an actix-web `App` from [`edge`] and [`configure`]:
//!
//! ```text
//! App::new().app_data(state).wrap(from_fn(api::edge)).configure(api::configure)
//! ```
//!
//! `openapi.yaml` is the contract. The routes are a table, so that a test can hold the two against each other.

use std::sync::Arc;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::ServiceConfig;
use actix_web::{HttpMessage, Resource, Route, guard, web};
use uuid::Uuid;

use crate::domain::secret::MasterKey;
use crate::domain::target::TargetPolicy;
use crate::metrics::Metrics;
use crate::status::Status;
use crate::store::Store;
use problem::{ApiError, Code};

mod agents;
mod audit;
pub mod auth;
mod body;
mod body_reader;
mod connections;
mod deliveries;
mod events;
mod explain;
mod external_ids;
mod gaps;
mod health;
mod idempotency;
pub(crate) mod page;
pub mod problem;
mod recovery;
mod rejected_topics;
mod sources;
pub(crate) mod strict_json;
mod webhook_body;
mod webhooks;

/// What handlers work with; give it to the `App` as `web::Data<ApiState>`.
#[derive(Debug)]
pub struct ApiState {
    /// The database.
    pub store: Store,
    /// What is true right now.
    pub status: Arc<Status>,
    /// Counters and gauges.
    pub metrics: Metrics,
    /// Seals secrets.
    pub master_key: MasterKey,
    /// Which addresses webhooks may have.
    pub targets: TargetPolicy,
    /// Wrong keys of late.
    failures: auth::Failures,
}

impl ApiState {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        store: Store,
        status: Arc<Status>,
        metrics: Metrics,
        master_key: MasterKey,
        targets: TargetPolicy,
    ) -> Self {
        Self { store, status, metrics, master_key, targets, failures: auth::Failures::default() }
    }
}

/// One route: method, path, and how it gets its handler.
pub struct Endpoint {
    /// Such as `GET`; a `GET` answers `HEAD` too.
    pub method: &'static str,
    /// Path with `{id}` in the places of ids.
    pub path: &'static str,
    handler: fn(Route) -> Route,
}

impl Endpoint {
    const fn new(method: &'static str, path: &'static str, handler: fn(Route) -> Route) -> Self {
        Self { method, path, handler }
    }
}

/// Every route there is.
pub const ROUTES: &[Endpoint] = &[
    Endpoint::new("GET", "/v1/webhooks", |r| r.to(webhooks::list)),
    Endpoint::new("POST", "/v1/webhooks", |r| r.to(webhooks::create)),
    Endpoint::new("GET", "/v1/webhooks/{id}", |r| r.to(webhooks::get)),
    Endpoint::new("PATCH", "/v1/webhooks/{id}", |r| r.to(webhooks::update)),
    Endpoint::new("DELETE", "/v1/webhooks/{id}", |r| r.to(webhooks::delete)),
    Endpoint::new("POST", "/v1/webhooks/{id}/rotate-secret", |r| r.to(webhooks::rotate_secret)),
    Endpoint::new("POST", "/v1/webhooks/{id}/test", |r| r.to(webhooks::test)),
    Endpoint::new("POST", "/v1/webhooks/{id}/pause", |r| r.to(webhooks::pause)),
    Endpoint::new("POST", "/v1/webhooks/{id}/resume", |r| r.to(webhooks::resume)),
    Endpoint::new("POST", "/v1/webhooks/{id}/enable", |r| r.to(webhooks::enable)),
    Endpoint::new("POST", "/v1/webhooks/{id}/snapshot", |r| r.to(webhooks::snapshot)),
    Endpoint::new("POST", "/v1/webhooks/{id}/recover", |r| r.to(recovery::recover)),
    Endpoint::new("GET", "/v1/sources", |r| r.to(sources::list)),
    Endpoint::new("POST", "/v1/sources", |r| r.to(sources::create)),
    Endpoint::new("GET", "/v1/sources/{id}", |r| r.to(sources::get)),
    Endpoint::new("PATCH", "/v1/sources/{id}", |r| r.to(sources::update)),
    Endpoint::new("DELETE", "/v1/sources/{id}", |r| r.to(sources::delete)),
    Endpoint::new("POST", "/v1/sources/{id}/refresh", |r| r.to(sources::refresh)),
    Endpoint::new("GET", "/v1/rejected-topics", |r| r.to(rejected_topics::list)),
    Endpoint::new("GET", "/v1/connections", |r| r.to(connections::list)),
    Endpoint::new("GET", "/v1/connections/{id}", |r| r.to(connections::get)),
    Endpoint::new("POST", "/v1/connections/{id}/terminate", |r| r.to(connections::terminate)),
    Endpoint::new("POST", "/v1/connections/{id}/restart", |r| r.to(connections::restart)),
    Endpoint::new("GET", "/v1/agents", |r| r.to(agents::list)),
    // Before the path of one agent, which fits it too.
    Endpoint::new("GET", "/v1/agents/external-ids", |r| r.to(external_ids::list)),
    Endpoint::new("PUT", "/v1/agents/external-ids", |r| r.to(external_ids::put)),
    Endpoint::new("GET", "/v1/agents/{id}", |r| r.to(agents::get)),
    Endpoint::new("PATCH", "/v1/agents/{id}", |r| r.to(external_ids::update)),
    Endpoint::new("GET", "/v1/events", |r| r.to(events::list)),
    Endpoint::new("GET", "/v1/events/{id}", |r| r.to(events::get)),
    Endpoint::new("GET", "/v1/deliveries", |r| r.to(deliveries::list)),
    Endpoint::new("GET", "/v1/deliveries/{id}", |r| r.to(deliveries::get)),
    Endpoint::new("POST", "/v1/deliveries/{id}/retry", |r| r.to(deliveries::retry)),
    Endpoint::new("GET", "/v1/explain", |r| r.to(explain::get)),
    Endpoint::new("GET", "/v1/audit", |r| r.to(audit::list)),
    Endpoint::new("GET", "/v1/gaps", |r| r.to(gaps::list)),
    Endpoint::new("GET", "/healthz", |r| r.to(health::health)),
    Endpoint::new("GET", "/readyz", |r| r.to(health::readiness)),
    Endpoint::new("GET", "/metrics", |r| r.to(health::metrics)),
    Endpoint::new("GET", "/version", |r| r.to(health::version)),
    Endpoint::new("GET", "/openapi.yaml", |r| r.to(health::openapi)),
    Endpoint::new("GET", "/docs", |r| r.to(health::docs_redirect)),
    Endpoint::new("GET", "/docs/{file:.*}", |r| r.to(health::docs)),
];

/// What wants a key begins with this.
const KEY_WANTED_BELOW: &str = "/v1";

/// Adds every route, and problem documents for all that is none.
pub fn configure(config: &mut ServiceConfig) {
    let mut guarded = web::scope(KEY_WANTED_BELOW);
    let mut paths: Vec<&str> = ROUTES.iter().map(|endpoint| endpoint.path).collect();
    paths.dedup();
    for path in paths {
        match path.strip_prefix(KEY_WANTED_BELOW) {
            Some(rest) => guarded = guarded.service(resource(path, rest)),
            None => {
                config.service(resource(path, path));
            }
        }
    }
    // The last one wrapped is met first.
    let guarded = guarded.default_service(web::to(not_found));
    config.service(guarded.wrap(from_fn(idempotency::once)).wrap(from_fn(auth::check)));
    config.default_service(web::to(not_found));
}

fn resource(path: &str, pattern: &str) -> Resource {
    let mut resource = web::resource(pattern);
    let mut allowed = Vec::new();
    for endpoint in ROUTES.iter().filter(|endpoint| endpoint.path == path) {
        let route = match endpoint.method {
            "GET" => web::route().guard(guard::Any(guard::Get()).or(guard::Head())),
            "POST" => web::post(),
            "PATCH" => web::patch(),
            "PUT" => web::put(),
            _ => web::delete(),
        };
        resource = resource.route((endpoint.handler)(route));
        allowed.push(endpoint.method);
        if endpoint.method == "GET" {
            allowed.push("HEAD");
        }
    }
    let allowed = allowed.join(", ");
    resource.default_service(web::to(move || {
        let allowed = allowed.clone();
        async move {
            Err::<&str, _>(
                ApiError::new(Code::MethodNotAllowed, format!("This path knows {allowed}."))
                    .with_header(header::ALLOW, &allowed),
            )
        }
    }))
}

async fn not_found() -> Result<&'static str, ApiError> {
    Err(ApiError::not_found())
}

/// Headers that every response carries unless its handler knows better.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

/// Longest that a call may take: its body may take 10 s to arrive, the rest is the database's.
const ANSWER_WITHIN: std::time::Duration = std::time::Duration::from_secs(16);

/// How the log knows a request; problem documents name it.
#[derive(Clone, Debug)]
struct RequestId(String);

/// Outermost middleware: gives the request an id, writes that id into problem documents, sets the headers that every
/// response carries.
///
/// # Errors
/// Only what the inner service fails with.
pub async fn edge<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let request_id = Uuid::now_v7().to_string();
    request.extensions_mut().insert(RequestId(request_id.clone()));
    // A database that went silent must not keep callers waiting, nor the connections that their calls hold.
    let answer = tokio::time::timeout(ANSWER_WITHIN, next.call(request)).await;
    let answer = answer.map_err(|_| ApiError::unavailable("no answer in time"))?;
    let mut response = answer?.map_into_boxed_body();
    if let Some(error) = response.response().error() {
        let told = match error.as_error::<ApiError>() {
            Some(error) => {
                if let Some(cause) = error.cause() {
                    tracing::error!(%request_id, cause, "an API call failed");
                }
                error.respond(&request_id)
            }
            None => {
                tracing::error!(%request_id, cause = %error, "an API call failed outside of its handler");
                ApiError::internal(error).respond(&request_id)
            }
        };
        response = response.into_response(told);
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests;
