//! How long a call may take, and how long its caller waits: a database that went silent must keep neither
//! callers nor the connections that they hold, and a write that takes long must not be cut off because its
//! caller was answered.

use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::{HttpMessage, HttpRequest};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::http::problem::ApiError;
use crate::store::LONG_STEP_WITHIN;

/// How long a caller waits once the whole request is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a body may take to arrive; actix has no limit of its own.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Until when the caller waits. Lies with the request, so that whoever reads the body can move it.
struct AnswerBy(watch::Sender<Instant>);

/// Notes when an answer is due for a request, and gives what ends when that has passed.
pub(in crate::api) fn of(request: &ServiceRequest) -> impl Future<Output = ()> + use<> {
    let (due, mut seen) = watch::channel(Instant::now() + ANSWER_WITHIN);
    request.extensions_mut().insert(AnswerBy(due));
    async move {
        loop {
            let at = *seen.borrow_and_update();
            tokio::select! {
                () = sleep_until(at) => return,
                Ok(()) = seen.changed() => {}
            }
        }
    }
}

/// The body is awaited from now on.
pub(super) fn body_begins(request: &HttpRequest) {
    move_to(request, BODY_WITHIN + ANSWER_WITHIN);
}

/// The body is there.
pub(super) fn body_ends(request: &HttpRequest) {
    move_to(request, ANSWER_WITHIN);
}

fn move_to(request: &HttpRequest, from_now: Duration) {
    if let Some(by) = request.extensions().get::<AnswerBy>() {
        by.0.send_replace(Instant::now() + from_now);
    }
}

/// Carries a write out in a task of its own: it comes to its end, and its answer is kept for its
/// `Idempotency-Key`, even if the caller has gone or was told that it takes too long, but no longer than the
/// longest step of the database. A caller that gave up is the one that asks again.
///
/// # Errors
/// Only what the write fails with.
pub(crate) async fn to_its_end(
    write: impl Future<Output = Result<ServiceResponse<BoxBody>, actix_web::Error>> + 'static,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let done = tokio::task::spawn_local(timeout(LONG_STEP_WITHIN, write)).await;
    match done {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(ApiError::unavailable("no end in time").into()),
        Err(error) => Err(ApiError::internal(error).into()),
    }
}
