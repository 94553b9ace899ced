//! `Idempotency-Key`: a write that is asked for twice is carried out once, and answered twice in the same
//! way. Wraps every path below `/v1`, inside of `api/http/auth.rs`.

use actix_web::body::{BoxBody, MessageBody, to_bytes};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::api::http::body_reader;
use crate::api::http::problem::{ApiError, Code};
use crate::api::{ApiState, ROUTES, RequestId};
use crate::services::caller::Caller;
use crate::store::StoreError;
use crate::store::access::idempotency::{IdempotentCall, Reserved, StoredAnswer};
use crate::store::transaction::{self, Uncommitted};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEY_CHARS_MAX: usize = 255;

/// An answer as it is kept. Bodies of ours are texts.
#[derive(Serialize, Deserialize)]
struct Kept {
    headers: Vec<(String, String)>,
    body: String,
}

/// Middleware: answers a repeated write with what was answered first.
///
/// # Errors
/// Only what the inner service fails with.
pub async fn replay_or_run<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    if !request.headers().contains_key(KEY) || !is_write(&request) {
        return Ok(next.call(request).await?.map_into_boxed_body());
    }
    let (state, call) = match prepare(&mut request).await {
        Ok(prepared) => prepared,
        Err(error) => return Ok(request.error_response(error)),
    };
    match state.services.whole_store.reserve_call(&call, &state.services.master_key).await {
        Ok(Reserved::New(reserved_at)) => carry_out(state, call, reserved_at, request, next).await,
        Ok(Reserved::Answered(status, answer)) => {
            let told = replay(status, &answer);
            Ok(request.into_response(told.unwrap_or_else(HttpResponse::from_error)))
        }
        Ok(Reserved::UnderWay) => {
            let error = ApiError::new(
                Code::Conflict,
                "The first call with this Idempotency-Key is still under way; ask again.",
            );
            Ok(request.error_response(error.with_header(header::RETRY_AFTER, "1")))
        }
        Ok(Reserved::Reused) => Ok(request.error_response(ApiError::new(
            Code::IdempotencyKeyReused,
            "This Idempotency-Key was used for another request; choose a new one.",
        ))),
        Err(error) => Ok(request.error_response(ApiError::from(error))),
    }
}

/// Whether this is a write that there is. What is none (404, 405) is told so whatever its key was used for.
fn is_write(request: &ServiceRequest) -> bool {
    let writes = [Method::POST, Method::PATCH, Method::PUT, Method::DELETE].contains(request.method());
    let known = |pattern: String| {
        ROUTES.iter().any(|route| route.path == pattern && route.method == request.method().as_str())
    };
    writes && request.match_pattern().is_some_and(known)
}

/// Reads the key and the body, and gives the body back to whoever reads it next.
async fn prepare(request: &mut ServiceRequest) -> Result<(web::Data<ApiState>, IdempotentCall), ApiError> {
    let state = request
        .app_data::<web::Data<ApiState>>()
        .cloned()
        .ok_or_else(|| ApiError::internal("the API was built without its state"))?;
    let (tenant, principal) = request
        .extensions()
        .get::<Caller>()
        // By id: a new key may have the name of a former one.
        .map(|caller| (caller.principal.tenant(), caller.principal.key_id().to_string()))
        .ok_or_else(|| ApiError::internal("the caller is not known"))?;
    let key = Sha256::digest(key_of(request)?).into();
    let payload = request.take_payload();
    let body = body_reader::read(request.request(), payload).await?.freeze();
    let mut hash = Sha256::new();
    // Each part with its length in front, so that none can pass for a piece of another.
    let target = request.uri().path_and_query().map(|target| target.as_str()).unwrap_or_default();
    for part in [request.method().as_str().as_bytes(), target.as_bytes(), &body] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    request.set_payload(payload_of(body));
    Ok((state, IdempotentCall { tenant, principal, key, request: hash.finalize().into() }))
}

fn key_of(request: &ServiceRequest) -> Result<Vec<u8>, ApiError> {
    let mut given = request.headers().get_all(KEY);
    let key = given.next().map(HeaderValue::as_bytes).unwrap_or_default();
    let visible = key.iter().all(u8::is_ascii_graphic);
    if given.next().is_some() || key.is_empty() || key.len() > KEY_CHARS_MAX || !visible {
        return Err(ApiError::new(
            Code::InvalidHeader,
            format!("Send one Idempotency-Key of 1 to {KEY_CHARS_MAX} visible ASCII characters, or none."),
        ));
    }
    Ok(key.to_vec())
}

fn payload_of(body: Bytes) -> Payload {
    let chunks: Vec<Result<Bytes, PayloadError>> = vec![Ok(body)];
    Payload::Stream { payload: Box::pin(stream::iter(chunks)) }
}

/// Carries a call out and commits what it writes together with its answer, if that is one that stays true.
async fn carry_out<B: MessageBody + 'static>(
    state: web::Data<ApiState>,
    call: IdempotentCall,
    reserved_at: OffsetDateTime,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let (answered, written) = transaction::in_one(next.call(request)).await;
    let status = answered.as_ref().map_or(StatusCode::INTERNAL_SERVER_ERROR, ServiceResponse::status);
    // An error that is none of ours becomes a 500 in `outermost`.
    let foreign = answered.as_ref().is_ok_and(|response| {
        response.response().error().is_some_and(|error| error.as_error::<ApiError>().is_none())
    });
    if status.is_server_error() || foreign {
        // First of all nothing of it is there.
        drop(written);
        free(&state, &call, reserved_at).await;
        return Ok(answered?.map_into_boxed_body());
    }
    let (request, response) = answered?.into_parts();
    let told = response.error().and_then(|error| error.as_error::<ApiError>());
    let response = match told {
        // Written here rather than by `outermost`, so that what is kept is what was told.
        Some(error) => {
            let request_id = request.extensions().get::<RequestId>().map(|id| id.0.clone());
            error.respond(&request_id.unwrap_or_default())
        }
        None => response.map_into_boxed_body(),
    };
    let (head, body) = response.into_parts();
    let body = to_bytes(body).await.map_err(|_| ApiError::internal("an answer of ours could not be read"))?;
    let headers = head.headers().iter();
    let kept = Kept {
        headers: headers
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let kept = serde_json::to_vec(&kept).map_err(ApiError::internal)?;
    let answer = StoredAnswer { status: status.as_u16(), kept: &kept };
    if let Err(error) = keep(&state, &call, reserved_at, answer, written).await {
        free(&state, &call, reserved_at).await;
        return Ok(ServiceResponse::from_err(ApiError::from(error), request).map_into_boxed_body());
    }
    Ok(ServiceResponse::new(request, head.set_body(body).map_into_boxed_body()))
}

/// Commits what the call has written, and its answer with it. That of a call that wrote nothing may be lost.
async fn keep(
    state: &ApiState,
    call: &IdempotentCall,
    reserved_at: OffsetDateTime,
    answer: StoredAnswer<'_>,
    written: Result<Option<Uncommitted>, StoreError>,
) -> Result<(), StoreError> {
    let written = written?;
    let wrote = written.is_some();
    let kept = state
        .services
        .whole_store
        .keep_answer(call, reserved_at, answer, &state.services.master_key, written)
        .await;
    kept.or_else(|error| {
        if wrote {
            return Err(error);
        }
        tracing::warn!(%error, "failed to store the answer for its Idempotency-Key; a repeat runs again");
        Ok(())
    })
}

/// Frees the key of a call that left nothing. One whose commit went unanswered and is done after all has its
/// answer: it stays.
async fn free(state: &ApiState, call: &IdempotentCall, reserved_at: OffsetDateTime) {
    if let Err(error) = state.services.whole_store.free_call(call, reserved_at).await {
        tracing::warn!(%error, "failed to free an Idempotency-Key; it expires in a minute");
    }
}

fn replay(status: u16, answer: &[u8]) -> Result<HttpResponse, ApiError> {
    let status = StatusCode::from_u16(status).map_err(ApiError::internal)?;
    let kept: Kept =
        serde_json::from_slice(answer).map_err(|_| ApiError::internal("a kept answer does not read"))?;
    let mut response = HttpResponse::build(status);
    for (name, value) in kept.headers {
        response.append_header((name, value));
    }
    response.insert_header((REPLAYED, "true"));
    Ok(response.body(kept.body))
}
