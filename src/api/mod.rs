//! Floor 3: the REST API. `app.rs` starts it by [`http::server::serve`], which builds an actix-web `App` from
//! [`outermost`] and [`configure`].
//!
//! `openapi.yaml` is the contract. The routes are a table, so that a test can hold the two against each
//! other.

use std::convert::Infallible;
use std::sync::Arc;

use actix_web::body::{BodySize, BoxBody, MessageBody, SizedStream};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::ServiceConfig;
use actix_web::{HttpMessage, Resource, Route, guard, web};
use futures_util::stream;
use uuid::Uuid;

use crate::domain::access::caller::TrustedProxies;
use crate::domain::access::scope::Scope;
use crate::domain::access::token_bucket::CallRate;
use crate::metrics::Metrics;
use crate::services::caller::Services;
use http::problem::{ApiError, Code};
use resources::{
    agents::{self, erasures, external_ids},
    api_keys, audit, configuration, connections, deliveries, events, explain, gaps, login_links, overview,
    recoveries, sources, tenants, webhooks,
};

mod health;
pub mod http;
mod resources;

/// How callers are met.
#[derive(Clone, Debug, Default)]
pub struct ClientLimits {
    /// Proxies whose word counts on where a call comes from.
    pub proxies: TrustedProxies,
    /// How many calls a key may make; `None`: any number.
    pub call_rate: Option<CallRate>,
}

/// What handlers and middleware work with; give it to the `App` as `web::Data<ApiState>`.
#[derive(Debug)]
pub struct ApiState {
    services: Arc<Services>,
    metrics: Metrics,
    proxies: TrustedProxies,
    /// Recent calls with wrong keys, by address.
    failures: http::limits::Failures,
    /// Recent calls with right keys, by key.
    uses: http::limits::Uses,
    /// Event streams that are open.
    streams: http::event_stream::Streams,
}

impl ApiState {
    /// Puts the parts together.
    #[must_use]
    pub fn new(services: Arc<Services>, metrics: Metrics, limits: ClientLimits) -> Self {
        let (failures, uses) = (http::limits::Failures::default(), http::limits::Uses::new(limits.call_rate));
        let streams = http::event_stream::Streams::new(metrics.clone());
        Self { services, metrics, proxies: limits.proxies, failures, uses, streams }
    }

    /// Event streams that are open, to end them.
    #[must_use]
    pub fn streams(&self) -> http::event_stream::Streams {
        self.streams.clone()
    }

    /// What callers may ask for.
    #[must_use]
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Recent calls with right keys, by key.
    #[must_use]
    pub fn uses(&self) -> &http::limits::Uses {
        &self.uses
    }
}

/// One route: method, path, what a caller must be allowed, and how it gets its handler.
pub struct Endpoint {
    /// Such as `GET`; a `GET` answers `HEAD` too.
    pub method: &'static str,
    /// Path with `{id}` in the places of ids.
    pub path: &'static str,
    /// What a key must have; `None` where no key is wanted.
    pub scope: Option<Scope>,
    handler: fn(Route) -> Route,
}

impl Endpoint {
    const fn new(
        scope: Scope,
        method: &'static str,
        path: &'static str,
        handler: fn(Route) -> Route,
    ) -> Self {
        Self { method, path, scope: Some(scope), handler }
    }

    const fn open(method: &'static str, path: &'static str, handler: fn(Route) -> Route) -> Self {
        Self { method, path, scope: None, handler }
    }
}

/// Every route there is.
pub const ROUTES: &[Endpoint] = &[
    Endpoint::new(Scope::Read, "GET", "/v1/overview", |r| r.to(overview::get)),
    Endpoint::new(Scope::Read, "GET", "/v1/webhooks", |r| r.to(webhooks::list)),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/webhooks", |r| r.to(webhooks::create)),
    Endpoint::new(Scope::Read, "GET", "/v1/webhooks/{id}", |r| r.to(webhooks::get)),
    Endpoint::new(Scope::Webhooks, "PATCH", "/v1/webhooks/{id}", |r| r.to(webhooks::update)),
    Endpoint::new(Scope::Webhooks, "DELETE", "/v1/webhooks/{id}", |r| r.to(webhooks::delete)),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/webhooks/{id}/rotate-secret", |r| {
        r.to(webhooks::rotate_secret)
    }),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/webhooks/{id}/test", |r| r.to(webhooks::test)),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/webhooks/{id}/pause", |r| r.to(webhooks::pause)),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/webhooks/{id}/resume", |r| r.to(webhooks::resume)),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/webhooks/{id}/enable", |r| r.to(webhooks::enable)),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/webhooks/{id}/snapshot", |r| r.to(webhooks::snapshot)),
    Endpoint::new(Scope::Read, "GET", "/v1/webhooks/{id}/lanes", |r| r.to(webhooks::work::lanes)),
    Endpoint::new(Scope::Read, "GET", "/v1/webhooks/{id}/attempts", |r| r.to(webhooks::work::attempts)),
    Endpoint::new(Scope::Read, "GET", "/v1/webhooks/{id}/outcomes", |r| r.to(webhooks::work::outcomes)),
    Endpoint::new(Scope::Read, "GET", "/v1/webhooks/{id}/secrets", |r| r.to(webhooks::work::secrets)),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/webhooks/{id}/recover", |r| r.to(recoveries::recover)),
    Endpoint::new(Scope::Read, "GET", "/v1/sources", |r| r.to(sources::list)),
    Endpoint::new(Scope::Sources, "POST", "/v1/sources", |r| r.to(sources::create)),
    // Before the path of one source, which fits it too.
    Endpoint::new(Scope::Sources, "POST", "/v1/sources/examinations", |r| {
        r.to(sources::examinations::create)
    }),
    Endpoint::new(Scope::Sources, "GET", "/v1/sources/examinations/{id}", |r| {
        r.to(sources::examinations::get)
    }),
    Endpoint::new(Scope::Read, "GET", "/v1/sources/{id}", |r| r.to(sources::get)),
    Endpoint::new(Scope::Sources, "PATCH", "/v1/sources/{id}", |r| r.to(sources::update)),
    Endpoint::new(Scope::Sources, "DELETE", "/v1/sources/{id}", |r| r.to(sources::delete)),
    Endpoint::new(Scope::Sources, "POST", "/v1/sources/{id}/refresh", |r| r.to(sources::refresh)),
    Endpoint::new(Scope::Read, "GET", "/v1/rejected-topics", |r| r.to(sources::rejected_topics::list)),
    Endpoint::new(Scope::Read, "GET", "/v1/connections", |r| r.to(connections::list)),
    Endpoint::new(Scope::Read, "GET", "/v1/connections/{id}", |r| r.to(connections::get)),
    Endpoint::new(Scope::Sources, "POST", "/v1/connections/{id}/terminate", |r| r.to(connections::terminate)),
    Endpoint::new(Scope::Sources, "POST", "/v1/connections/{id}/restart", |r| r.to(connections::restart)),
    Endpoint::new(Scope::Read, "GET", "/v1/agents", |r| r.to(agents::list)),
    // Before the path of one agent, which fits them too.
    Endpoint::new(Scope::Read, "GET", "/v1/agents/counts", |r| r.to(agents::counts)),
    Endpoint::new(Scope::Read, "GET", "/v1/agents/external-ids", |r| r.to(external_ids::list)),
    Endpoint::new(Scope::Webhooks, "PUT", "/v1/agents/external-ids", |r| r.to(external_ids::put)),
    Endpoint::new(Scope::Read, "GET", "/v1/agents/{id}", |r| r.to(agents::get)),
    Endpoint::new(Scope::Webhooks, "PATCH", "/v1/agents/{id}", |r| r.to(external_ids::update)),
    Endpoint::new(Scope::Sources, "DELETE", "/v1/agents/{id}/data", |r| r.to(erasures::erase)),
    Endpoint::new(Scope::Read, "GET", "/v1/erasures", |r| r.to(erasures::list)),
    Endpoint::new(Scope::Read, "GET", "/v1/erasures/{id}", |r| r.to(erasures::get)),
    Endpoint::new(Scope::Read, "GET", "/v1/events", |r| r.to(events::list)),
    Endpoint::new(Scope::Read, "GET", "/v1/events/{id}", |r| r.to(events::get)),
    Endpoint::new(Scope::Read, "GET", "/v1/deliveries", |r| r.to(deliveries::list)),
    // Before the path of one delivery, which fits it too.
    Endpoint::new(Scope::Webhooks, "POST", "/v1/deliveries/retry", |r| r.to(deliveries::retry_matching)),
    Endpoint::new(Scope::Read, "GET", "/v1/deliveries/{id}", |r| r.to(deliveries::get)),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/deliveries/{id}/retry", |r| r.to(deliveries::retry)),
    Endpoint::new(Scope::Read, "GET", "/v1/recoveries", |r| r.to(recoveries::list)),
    Endpoint::new(Scope::Read, "GET", "/v1/recoveries/{id}", |r| r.to(recoveries::get)),
    Endpoint::new(Scope::Webhooks, "POST", "/v1/recoveries/{id}/cancel", |r| r.to(recoveries::cancel)),
    Endpoint::new(Scope::Read, "GET", "/v1/explain", |r| r.to(explain::get)),
    Endpoint::new(Scope::Audit, "GET", "/v1/audit", |r| r.to(audit::list)),
    Endpoint::new(Scope::Audit, "GET", "/v1/audit/head", |r| r.to(audit::head)),
    Endpoint::new(Scope::Audit, "GET", "/v1/audit/export", |r| r.to(audit::export)),
    Endpoint::new(Scope::Audit, "GET", "/v1/audit/verifications", |r| r.to(audit::verifications::list)),
    Endpoint::new(Scope::Audit, "POST", "/v1/audit/verifications", |r| r.to(audit::verifications::create)),
    Endpoint::new(Scope::Audit, "GET", "/v1/audit/verifications/{id}", |r| r.to(audit::verifications::get)),
    Endpoint::new(Scope::Audit, "POST", "/v1/audit/verifications/{id}/cancel", |r| {
        r.to(audit::verifications::cancel)
    }),
    // After the fixed paths, which fit it too.
    Endpoint::new(Scope::Audit, "GET", "/v1/audit/{id}", |r| r.to(audit::get)),
    Endpoint::new(Scope::Audit, "GET", "/v1/quarantine", |r| r.to(audit::quarantine::list)),
    Endpoint::new(Scope::Audit, "GET", "/v1/quarantine/{id}", |r| r.to(audit::quarantine::get)),
    Endpoint::new(Scope::Read, "GET", "/v1/gaps", |r| r.to(gaps::list)),
    Endpoint::new(Scope::Read, "GET", "/v1/gaps/{id}", |r| r.to(gaps::get)),
    Endpoint::new(Scope::Admin, "GET", "/v1/api-keys", |r| r.to(api_keys::list)),
    Endpoint::new(Scope::Admin, "POST", "/v1/api-keys", |r| r.to(api_keys::create)),
    Endpoint::new(Scope::Admin, "GET", "/v1/api-keys/{id}", |r| r.to(api_keys::get)),
    Endpoint::new(Scope::Admin, "POST", "/v1/api-keys/{id}/revoke", |r| r.to(api_keys::revoke)),
    Endpoint::new(Scope::Admin, "GET", "/v1/configuration", |r| r.to(configuration::get)),
    Endpoint::new(Scope::Admin, "GET", "/v1/tenants", |r| r.to(tenants::list)),
    Endpoint::new(Scope::Admin, "POST", "/v1/tenants", |r| r.to(tenants::create)),
    Endpoint::new(Scope::Read, "POST", "/v1/console/login-links", |r| r.to(login_links::create)),
    Endpoint::open("GET", "/healthz", |r| r.to(health::health)),
    Endpoint::open("GET", "/readyz", |r| r.to(health::ready)),
    Endpoint::open("GET", "/metrics", |r| r.to(health::metrics)),
    Endpoint::open("GET", "/version", |r| r.to(health::version)),
    Endpoint::open("GET", "/openapi.yaml", |r| r.to(health::openapi)),
    Endpoint::open("GET", "/", |r| r.to(health::docs_redirect)),
    Endpoint::open("GET", "/docs", |r| r.to(health::docs_redirect)),
    Endpoint::open("GET", "/docs/{file:.*}", |r| r.to(health::docs)),
];

/// What wants a key begins with this.
const KEY_WANTED_BELOW: &str = "/v1";

/// Adds every route, and problem documents for all that is none.
pub fn configure(config: &mut ServiceConfig) {
    let mut guarded = web::scope(KEY_WANTED_BELOW);
    let mut paths: Vec<&str> = ROUTES.iter().map(|endpoint| endpoint.path).collect();
    paths.dedup(); // those of one path stand together
    for path in paths {
        match path.strip_prefix(KEY_WANTED_BELOW) {
            // Of each two, the last one wrapped is met first.
            Some(rest) => {
                let scoped = from_fn(move |request, next| http::auth::require_scope(path, request, next));
                guarded = guarded.service(
                    resource(path, rest).wrap(from_fn(http::idempotency::replay_or_run)).wrap(scoped),
                );
            }
            None => {
                config.service(resource(path, path));
            }
        }
    }
    let guarded = guarded.default_service(web::to(not_found));
    config.service(guarded.wrap(from_fn(http::auth::check)));
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

/// Longest piece of a body that is given to actix at once.
const PIECE_BYTES: usize = 32 * 1024;

/// How the log knows a request; problem documents name it.
#[derive(Clone, Debug)]
struct RequestId(String);

/// Outermost middleware: gives the request an id, writes that id into problem documents, sets the headers
/// that every response carries.
///
/// # Errors
/// Only what the inner service fails with.
pub async fn outermost<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let request_id = Uuid::now_v7().to_string();
    request.extensions_mut().insert(RequestId(request_id.clone()));
    let due = http::deadline::of(&request);
    let answer = tokio::select! {
        answer = next.call(request) => answer,
        () = due => {
            let mut told = ApiError::unavailable("no answer in time").respond(&request_id);
            set_default_headers(told.headers_mut(), &request_id);
            return Err(InternalError::from_response("no answer in time", told).into());
        }
    };
    let mut response = answer?.map_into_boxed_body();
    if let Some(error) = response.response().error() {
        let told = match error.as_error::<ApiError>() {
            Some(error) => {
                if let Some(cause) = error.cause() {
                    tracing::error!(%request_id, cause, "API call failed in its handler; answering with a problem");
                }
                error.respond(&request_id)
            }
            None => {
                tracing::error!(%request_id, cause = %error, "API call failed outside of its handler; answering 500");
                ApiError::internal(error).respond(&request_id)
            }
        };
        response = response.into_response(told);
    }
    let rate = response.request().extensions().get::<http::auth::RateHeaders>().cloned();
    for (name, value) in rate.into_iter().flat_map(http::auth::RateHeaders::each) {
        response.headers_mut().insert(name, value);
    }
    set_default_headers(response.headers_mut(), &request_id);
    Ok(response.map_body(|_, body| chunked(body)))
}

/// Sets the headers that every response carries.
fn set_default_headers(headers: &mut HeaderMap, request_id: &str) {
    for (name, value) in HEADERS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
}

/// Gives a long body in pieces: actix copies what it is given at once, however slowly the caller takes it.
fn chunked(body: BoxBody) -> BoxBody {
    let BodySize::Sized(length) = body.size() else {
        return body;
    };
    if usize::try_from(length).is_ok_and(|length| length <= PIECE_BYTES) {
        return body;
    }
    let bytes = match body.try_into_bytes() {
        Ok(bytes) => bytes,
        Err(body) => return body,
    };
    let pieces = stream::unfold(bytes, |mut rest| async move {
        let piece = rest.split_to(PIECE_BYTES.min(rest.len()));
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), rest))
    });
    BoxBody::new(SizedStream::new(length, Box::pin(pieces)))
}

#[cfg(test)]
mod tests;
