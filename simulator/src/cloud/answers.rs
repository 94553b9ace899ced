//! A call as its handler sees it, and what it may answer.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use uuid::Uuid;

pub(super) type Answer = Result<Response, Refused>;

/// A refusal: status and code.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) oauth: bool,
}

pub(super) fn refuse(status: StatusCode, code: &str) -> Refused {
    Refused { status, code: code.to_owned(), headers: Vec::new(), oauth: false }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = if self.oauth {
            json!({"error": self.code, "description": "refused", "error_description": "refused"})
        } else {
            json!({
                "status": self.status.as_u16(), "code": self.code, "message": "refused by the simulator",
                "messageParams": {}, "contextId": Uuid::new_v4(), "details": [], "errors": [],
            })
        };
        let mut response = json_answer(self.status, &body);
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

pub(super) fn json_answer(status: StatusCode, body: &Value) -> Response {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Client and token of a request, and its query.
pub(super) struct Caller {
    pub(super) client: String,
    pub(super) token: String,
    pub(super) query: Vec<(String, String)>,
}

impl Caller {
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter, given several times or with commas.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let values = self.query.iter().filter(|(key, _)| key == name).flat_map(|(_, value)| value.split(','));
        values.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect()
    }
}
