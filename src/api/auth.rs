//! Who is calling: checked before a byte of the body is read. Wraps everything below `/v1`.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use sha2::{Digest, Sha256};

use super::ApiState;
use super::problem::{ApiError, Code};
use crate::domain::tenant::TenantId;
use crate::store::keys::Key;

/// Wrong keys that one address may try within [`WINDOW`] before it is told to wait.
const FAILURES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once; whoever fills this gains nothing but that everybody is forgotten.
const ADDRESSES_MAX: usize = 10_000;
/// How long the database may take to look a key up; a little more than it waits for a free connection.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(6);
/// Longest key that is looked at.
const KEY_BYTES_MAX: usize = 512;

/// Who called: the key, its tenant, and what it lets its caller do.
#[derive(Clone, Debug)]
pub struct Principal {
    audited: String,
    tenant: TenantId,
}

impl Principal {
    fn of(key: &Key) -> Self {
        Self { audited: format!("api-key:{}", key.name), tenant: key.tenant_id }
    }

    /// As audit entries name it: `api-key:` and the key's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.audited
    }

    /// Whose key it was.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }
}

impl FromRequest for Principal {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(request.extensions().get::<Self>().cloned().ok_or_else(unauthorized))
    }
}

/// Wrong keys of late, by address.
#[derive(Debug, Default)]
pub struct Failures {
    by_address: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Failures {
    /// Counts one more; returns how many there were lately.
    fn one_more(&self, address: IpAddr, now: Instant) -> u32 {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if by_address.len() >= ADDRESSES_MAX {
            by_address.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
            if by_address.len() >= ADDRESSES_MAX {
                by_address.clear();
            }
        }
        let (since, count) = by_address.entry(address).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count
    }
}

/// Middleware: lets a request with a key in use pass and notes its [`Principal`].
///
/// Keys are looked up by hash, so that the time taken says nothing about how near a guess was. A right key passes
/// even from an address with many failures: behind a proxy all callers have one address, and one caller with an
/// old key must not lock out the others. Guessing is hopeless by the size of a key; the 429 is there to be seen.
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
    match look_up(&state, presented_key(&request)).await {
        Ok(Some(key)) => {
            if let Some(error) = encoded(&request) {
                return Ok(request.error_response(error));
            }
            request.extensions_mut().insert(Principal::of(&key));
            Ok(next.call(request).await?.map_into_boxed_body())
        }
        Ok(None) => {
            let address = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
            let failures = state.failures.one_more(address, Instant::now());
            // Once a minute and address is enough for the log.
            if failures == FAILURES_MAX + 1 {
                tracing::warn!(%address, "many requests without a valid API key");
            }
            let error = if failures > FAILURES_MAX {
                ApiError::new(Code::TooManyFailures, "Wait a minute, and use a key that is in use.")
                    .with_header(header::RETRY_AFTER, "60")
            } else {
                unauthorized()
            };
            Ok(request.error_response(error))
        }
        Err(error) => Ok(request.error_response(error)),
    }
}

async fn look_up(state: &ApiState, key: Option<&[u8]>) -> Result<Option<Key>, ApiError> {
    let Some(key) = key else {
        return Ok(None);
    };
    let hash = Sha256::digest(key).into();
    // A connection to the database that died in silence would hold the caller for minutes.
    match tokio::time::timeout(LOOK_UP_WITHIN, state.whole_store.key(&hash)).await {
        Ok(key) => Ok(key?),
        Err(_) => Err(ApiError::unavailable("the key could not be looked up in time")),
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

/// The same for a missing, malformed, unknown and revoked key.
fn unauthorized() -> ApiError {
    ApiError::new(Code::Unauthorized, "Send \"Authorization: Bearer <key>\" with a key that is in use.")
        .with_header(header::WWW_AUTHENTICATE, "Bearer realm=\"presence-bridge\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_address_and_forgotten_after_a_minute() {
        let failures = Failures::default();
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let start = Instant::now();
        for nth in 1..=11 {
            assert_eq!(failures.one_more(here, start), nth);
        }
        assert_eq!(failures.one_more(there, start), 1);
        assert_eq!(failures.one_more(here, start + WINDOW), 1);
    }
}
