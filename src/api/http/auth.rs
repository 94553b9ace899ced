//! Who is calling: checked before a byte of the body is read. Wraps everything below `/v1`.

use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};

use crate::api::http::deadline;
use crate::api::http::limits::Counted;
use crate::api::http::problem::{ApiError, Code};
use crate::api::{ApiState, ROUTES};
use crate::clock;
use crate::domain::access::caller::throttled_as;
use crate::domain::ids::ApiKeyId;
use crate::services::api_keys;
use crate::services::caller::Caller;
use crate::services::principal::Principal;
use crate::store::access::authenticate::ActiveKey;
use crate::store::audit::request_origin::calling_from;

/// Wrong keys that one address may try within a minute before it is told to wait.
const FAILURES_MAX: u32 = 10;
/// Longest key that is looked at.
const KEY_BYTES_MAX: usize = 512;

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(request.extensions().get::<Self>().cloned().ok_or_else(unauthorized))
    }
}

/// Middleware: lets a request with a key in use pass and notes its [`Caller`].
///
/// A right key passes even from an address with many failures: behind a proxy all callers have one address,
/// and one caller with an old key must not lock out the others. Guessing is hopeless by the size of a key;
/// the 429 is there to be seen.
///
/// # Errors
/// Only what the inner service fails with.
pub async fn check<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let Some(state) = request.app_data::<web::Data<ApiState>>().cloned() else {
        let error = ApiError::internal("the API was built without its state");
        return Ok(request.error_response(error));
    };
    let address = address_of(&state, request.request());
    match look_up(&state, presented_key(&request)).await {
        Ok(Some(key)) => {
            let counted = state.uses.one_more(key.api_key_id, Instant::now());
            if counted.to_note {
                note_use(&state, key.api_key_id);
            }
            let refused = charge(&request, counted).err().or_else(|| encoded(&request));
            if let Some(error) = refused {
                return Ok(request.error_response(error));
            }
            request.extensions_mut().insert(Caller::new(Principal::of(key, address), state.services.clone()));
            let reads = request.method().is_safe();
            let answer = async move { Ok(next.call(request).await?.map_into_boxed_body()) };
            let answer = calling_from(address, answer);
            if reads { answer.await } else { deadline::to_its_end(answer).await }
        }
        Ok(None) => {
            let error = too_many_failures(&state, address, Instant::now()).unwrap_or_else(unauthorized);
            Ok(request.error_response(error))
        }
        Err(error) => Ok(request.error_response(error)),
    }
}

/// Counts a wrong key from this address; an error once there were too many within a minute.
pub fn too_many_failures(state: &ApiState, address: IpAddr, now: Instant) -> Option<ApiError> {
    let failures = state.failures.one_more(throttled_as(address), now);
    // Once a minute and address is enough for the log.
    if failures == FAILURES_MAX + 1 {
        tracing::warn!(%address, "many requests without a valid API key from one address; answering 429 to those");
    }
    (failures > FAILURES_MAX).then(|| {
        ApiError::new(Code::TooManyFailures, "Wait a minute, and use a key that is in use.")
            .with_header(header::RETRY_AFTER, "60")
    })
}

/// Middleware of one path: refuses a key that lacks the scope which the table of routes wants for the method.
/// Met before anything of the body is read, and before a kept answer is given again.
///
/// # Errors
/// Only what the inner service fails with.
pub async fn require_scope<B: MessageBody + 'static>(
    path: &'static str,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let method = if request.method() == "HEAD" { "GET" } else { request.method().as_str() };
    let endpoint = ROUTES.iter().find(|endpoint| endpoint.path == path && endpoint.method == method);
    // A method that the path does not know gets its 405 inside.
    if let Some(scope) = endpoint.and_then(|endpoint| endpoint.scope) {
        let allowed = match request.extensions().get::<Caller>() {
            Some(caller) => caller.principal.must_have(scope).map_err(ApiError::from),
            None => Err(unauthorized()),
        };
        if let Err(error) = allowed {
            return Ok(request.error_response(error));
        }
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// The caller's address; what a proxy tells counts only if the proxy is trusted.
pub fn address_of(state: &ApiState, request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    let lines = |name: HeaderName| request.headers().get_all(name).filter_map(|line| line.to_str().ok());
    state.proxies.caller(peer, lines(header::X_FORWARDED_FOR), lines(header::FORWARDED))
}

/// Notes that a key is in use, while its call goes on: nobody waits for it, and nothing is lost if it fails.
pub fn note_use(state: &web::Data<ApiState>, key: ApiKeyId) {
    let state = state.clone();
    actix_web::rt::spawn(async move {
        if let Err(error) = state.services.whole_store.note_key_used(key, clock::now()).await {
            tracing::debug!(%error, "failed to store when an API key was used last");
        }
    });
}

/// What the headers say of the key's limit; `api::outermost` writes them, so that no answer lacks them.
#[derive(Clone, Debug)]
pub(in crate::api) struct RateHeaders([(HeaderName, HeaderValue); 2]);

impl RateHeaders {
    pub(in crate::api) fn each(self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.0.into_iter()
    }
}

/// Notes what the headers shall say, and refuses a call too many. Names and forms are those of
/// draft-ietf-httpapi-ratelimit-headers-10.
fn charge(request: &ServiceRequest, counted: Counted) -> Result<(), ApiError> {
    let Some((rate, charged)) = counted.charged else {
        return Ok(());
    };
    let more_in = charged.more_in.as_millis().div_ceil(1000).max(1);
    let policy = format!("\"key\";q={};w={}", rate.calls, rate.per_seconds);
    let left = format!("\"key\";r={};t={more_in}", charged.left);
    let values = HeaderValue::from_str(&policy).ok().zip(HeaderValue::from_str(&left).ok());
    if let Some((policy, left)) = values {
        let names = (HeaderName::from_static("ratelimit-policy"), HeaderName::from_static("ratelimit"));
        request.extensions_mut().insert(RateHeaders([(names.0, policy), (names.1, left)]));
    }
    if charged.allowed {
        return Ok(());
    }
    let allows = format!("A key may make {} calls in {} seconds.", rate.calls, rate.per_seconds);
    Err(ApiError::new(Code::RateLimited, allows).with_header(header::RETRY_AFTER, &more_in.to_string()))
}

async fn look_up(state: &ApiState, key: Option<&[u8]>) -> Result<Option<ActiveKey>, ApiError> {
    match key {
        Some(key) => Ok(api_keys::look_up(&state.services, key).await?),
        None => Ok(None),
    }
}

fn presented_key(request: &ServiceRequest) -> Option<&[u8]> {
    let mut given = request.headers().get_all(header::AUTHORIZATION);
    let value = given.next()?;
    // Two of them: which one would count?
    if given.next().is_some() {
        return None;
    }
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty() && key.len() <= KEY_BYTES_MAX)
        .then_some(key.as_bytes())
}

/// Encoded bodies are refused, whatever the encoding: a small one can unfold to gigabytes.
fn encoded(request: &ServiceRequest) -> Option<ApiError> {
    request.headers().contains_key(header::CONTENT_ENCODING).then(|| {
        ApiError::new(Code::EncodingRefused, "Send the body without Content-Encoding.")
            .with_header(header::ACCEPT_ENCODING, "identity")
    })
}

/// The same for a missing, malformed, unknown, expired and revoked key.
fn unauthorized() -> ApiError {
    ApiError::new(Code::Unauthorized, "Send \"Authorization: Bearer <key>\" with a key that is in use.")
        .with_header(header::WWW_AUTHENTICATE, "Bearer realm=\"presence-bridge\"")
}
