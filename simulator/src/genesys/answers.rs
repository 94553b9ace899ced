//! Refusals in the two shapes of Genesys Cloud: its API's error document, and OAuth's.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use uuid::Uuid;

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// OAuth's body (`error`, `error_description`) instead of the API's.
    oauth: bool,
    retry_after: Option<String>,
    /// Body that replaces both.
    body: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), oauth: false, retry_after: None, body: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad.request", message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "bad.credentials", "Invalid login credentials.")
    }

    pub(super) fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "missing.permissions",
            "Unable to perform the requested action. You are missing the following scope: presence:read",
        )
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not.found", message)
    }

    pub(super) fn gone(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "gone", message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "general.conflict", message)
    }

    pub(super) fn media_type() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported.media.type", "Send application/json.")
    }

    pub(super) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable.entity", message)
    }

    /// OAuth's refusal of a token request (RFC 6749 section 5.2).
    pub(super) fn oauth(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self { oauth: true, ..Self::new(status, code, message) }
    }

    /// Refusal that a test or a person asked for.
    pub(super) fn asked_for(status: StatusCode, retry_after: Option<String>, body: Option<String>) -> Self {
        let code = match status.as_u16() {
            401 => "bad.credentials",
            403 => "missing.permissions",
            409 => "general.conflict",
            422 => "unprocessable.entity",
            429 => "too.many.requests.retry.after",
            503 => "service.unavailable",
            _ => "simulated.fault",
        };
        Self {
            retry_after,
            body,
            ..Self::new(status, code, "The simulator was told to refuse this request.")
        }
    }

    /// The same refusal as the token route would say it.
    pub(super) const fn into_oauth(mut self) -> Self {
        self.oauth = true;
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = self.body.unwrap_or_else(|| {
            if self.oauth {
                json!({"error": self.code, "error_description": self.message}).to_string()
            } else {
                json!({
                    "message": self.message,
                    "code": self.code,
                    "status": self.status.as_u16(),
                    "contextId": Uuid::new_v4(),
                    "details": [],
                    "errors": [],
                })
                .to_string()
            }
        });
        let mut response = (self.status, body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(retry_after) = self.retry_after.and_then(|value| HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(header::RETRY_AFTER, retry_after);
        }
        response
    }
}
