//! Who looks: a browser that is logged in. The middleware asks the database for its session on every request,
//! so that a logout and a revoked key count at once; and it refuses a write that another site's page sends.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::cookie::{Cookie, SameSite};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use url::{Url, form_urlencoded};

use super::view::{Visitor, wants_events};
use super::{ROOT, frame};
use crate::api::ApiState;
use crate::api::http::auth::{address_of, note_use};
use crate::api::http::deadline;
use crate::api::http::problem::{ApiError, Code};
use crate::services::caller::Caller;
use crate::services::principal::Principal;
use crate::services::sessions;
use crate::store::audit::request_origin::calling_from;

const COOKIE: &str = "bridge_console";

/// How long a browser stays logged in.
#[derive(Clone, Copy, Debug)]
pub struct SessionLength(pub Duration);

/// Middleware: lets a browser with a session pass and notes its caller; sends others to the login.
///
/// # Errors
/// Only what the inner service fails with.
pub async fn let_in<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let reads = request.method().is_safe();
    if !reads && !is_of_this_site(request.headers()) {
        let error = ApiError::new(Code::CrossSite, "Send this form from a page of this console.");
        return Ok(request.into_response(frame::refused(&error)));
    }
    let Some(state) = request.app_data::<web::Data<ApiState>>().cloned() else {
        return Ok(
            request.error_response(ApiError::internal("the console was built without the API's state"))
        );
    };
    let address = address_of(&state, request.request());
    let known = match look_up(&state, request.request(), address).await {
        Ok(known) => known,
        Err(error) => return Ok(request.into_response(frame::refused(&error))),
    };
    let Some(known) = known else {
        let answer = if wants_events(request.request()) {
            HttpResponse::Unauthorized().finish()
        } else {
            asked_first(request.request())
        };
        return Ok(request.into_response(answer));
    };
    let key = known.caller.principal.key_id();
    let counted = state.uses().one_more(key, Instant::now());
    if counted.to_note {
        note_use(&state, key);
    }
    if counted.charged.is_some_and(|(_, charged)| !charged.allowed) {
        let error = ApiError::new(Code::RateLimited, "This key makes more calls than it may; wait a little.");
        return Ok(request.into_response(frame::refused(&error)));
    }
    request.extensions_mut().insert(known);
    let answer = async move { Ok(next.call(request).await?.map_into_boxed_body()) };
    let answer = calling_from(address, answer);
    if reads { answer.await } else { deadline::to_its_end(answer).await }
}

/// Whoever is not logged in is asked for a key first, and then sees the page that was asked for.
fn asked_first(request: &HttpRequest) -> HttpResponse {
    let asked = request.uri().path_and_query().map_or(ROOT, |address| address.as_str());
    // The cookie is not sent when a link elsewhere leads here. It is when our own page leads on.
    if is_from_elsewhere(request.headers()) {
        return frame::leading_on(asked);
    }
    let next: String = if request.method().is_safe() && asked != ROOT {
        format!("?next={}", form_urlencoded::byte_serialize(asked.as_bytes()).collect::<String>())
    } else {
        String::new()
    };
    HttpResponse::SeeOther().insert_header((header::LOCATION, format!("{ROOT}/login{next}"))).finish()
}

async fn look_up(
    state: &ApiState,
    request: &HttpRequest,
    address: IpAddr,
) -> Result<Option<Visitor>, ApiError> {
    let services = state.services();
    let named = request.cookie(COOKIE).and_then(|cookie| sessions::named_by(services, cookie.value()));
    let Some(session) = named else { return Ok(None) };
    let key = sessions::key_of(services, session).await?;
    Ok(key.map(|key| Visitor { caller: Caller::new(Principal::of(key, address), services.clone()), session }))
}

/// Whether a link of another site has led here.
pub fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let has = |name: &str, value: &str| headers.get(name).is_some_and(|it| it == value);
    has("sec-fetch-site", "cross-site") && has("sec-fetch-mode", "navigate")
}

/// Whether a write comes from one of our own pages. Browsers say so where they find the site secure, and
/// name the page's origin in any case; another site can write neither.
pub fn is_of_this_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (text("sec-fetch-site"), text("origin"), text("host")) {
        (Some(site), ..) => site == "same-origin",
        (None, Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, its)| its == host),
        _ => false,
    }
}

/// The cookie that holds a session, or takes it away if `value` is empty. `Secure` where the page was had by
/// TLS: the browser names the origin, whatever stands between.
pub fn cookie(request: &HttpRequest, value: String, lasts: Duration) -> Cookie<'static> {
    let origin = request.headers().get(header::ORIGIN).and_then(|value| value.to_str().ok());
    let by_tls = origin.and_then(|origin| Url::parse(origin).ok()).is_some_and(|url| url.scheme() == "https");
    let lasts = actix_web::cookie::time::Duration::try_from(lasts).unwrap_or_default();
    Cookie::build(COOKIE, value)
        .path(ROOT)
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(by_tls)
        .max_age(lasts)
        .finish()
}
