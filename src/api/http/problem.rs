//! What a caller is told when something is not as asked for: RFC 9457 problem documents, one type for all of
//! them.
//!
//! Handlers and middleware return [`ApiError`]; nothing else leaves the API as an error. What the caller sees
//! and what only the operator may see are two fields of it; `api::outermost` logs the second under the
//! request's id.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};

use crate::domain::violation::Violation;
use crate::services::ServiceError;
use crate::store::StoreError;

/// Seconds after which a caller may ask again while the database is unavailable.
const RETRY_AFTER_S: &str = "5";

macro_rules! codes {
    ($($variant:ident = $name:literal, $status:ident, $title:literal;)+) => {
        /// What is the matter, for programs. The names are part of the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $(#[doc = $title] $variant,)+ }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As callers see it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }
        }
    };
}

codes! {
    InvalidJson = "invalid_json", BAD_REQUEST, "The body is not the JSON we read";
    InvalidParameter = "invalid_parameter", BAD_REQUEST, "A query parameter is wrong";
    InvalidHeader = "invalid_header", BAD_REQUEST, "A header is wrong";
    InvalidCsv = "invalid_csv", BAD_REQUEST, "The body is not the CSV we read";
    InvalidCursor = "invalid_cursor", BAD_REQUEST, "The cursor is not one of this list";
    Unauthorized = "unauthorized", UNAUTHORIZED, "No valid API key";
    MissingScope = "missing_scope", FORBIDDEN, "The API key may not do this";
    CrossSite = "cross_site", FORBIDDEN, "The form comes from another site";
    OperatorOnly = "operator_only", FORBIDDEN, "Only the operator may do this";
    NotFound = "not_found", NOT_FOUND, "There is no such thing";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The path does not know this method";
    BodyTooSlow = "body_too_slow", REQUEST_TIMEOUT, "The body did not arrive in time";
    Conflict = "conflict", CONFLICT, "The present state does not allow it";
    NameTaken = "name_taken", CONFLICT, "The name is taken";
    AmbiguousAgent = "ambiguous_agent", CONFLICT, "Several sources know an agent of this id";
    QuotaExceeded = "quota_exceeded", CONFLICT, "The tenant may not have so much";
    IdempotencyKeyReused = "idempotency_key_reused", CONFLICT, "The Idempotency-Key was used for another request";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body is not application/json";
    EncodingRefused = "encoding_refused", UNSUPPORTED_MEDIA_TYPE, "Encoded bodies are not read";
    InvalidFields = "invalid_fields", UNPROCESSABLE_ENTITY, "A field breaks a rule";
    TooManyFailures = "too_many_failures", TOO_MANY_REQUESTS, "Too many wrong API keys from this address";
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "The API key makes more calls than it may";
    TooManyStreams = "too_many_streams", TOO_MANY_REQUESTS, "Too many event streams are open";
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something went wrong on our side";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "The database does not answer";
}

/// One error as the caller sees it.
#[derive(Debug)]
pub struct ApiError {
    code: Code,
    detail: String,
    errors: Vec<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<String>,
}

impl ApiError {
    /// An error with a sentence for people.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), headers: Vec::new(), cause: None }
    }

    /// Something of ours failed: the caller is told nothing, the log everything.
    pub fn internal(cause: impl fmt::Display) -> Self {
        let mut error = Self::new(Code::Internal, "The log of the bridge knows more under this request_id.");
        error.cause = Some(cause.to_string());
        error
    }

    /// The database cannot be asked now; asking again may help.
    pub fn unavailable(cause: impl fmt::Display) -> Self {
        let mut error = Self::new(Code::Unavailable, "The database does not answer; ask again.")
            .with_header(header::RETRY_AFTER, RETRY_AFTER_S);
        error.cause = Some(cause.to_string());
        error
    }

    /// What only the operator may see.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// What is the matter, in a few words.
    #[must_use]
    pub fn title(&self) -> &'static str {
        self.code.title()
    }

    /// A sentence for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Each thing that is wrong with the request, as the problem document lists it: `detail`, and `pointer` or
    /// `parameter`.
    #[must_use]
    pub fn errors(&self) -> &[Value] {
        &self.errors
    }

    /// When it may be asked again, if that can be said.
    #[must_use]
    pub fn retry_after(&self) -> Option<&HeaderValue> {
        self.headers.iter().find(|(name, _)| *name == header::RETRY_AFTER).map(|(_, value)| value)
    }

    /// Nothing at this path; also for ids that are no ids.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "Nothing is found at this path.")
    }

    /// Fields of the body that break a rule.
    #[must_use]
    pub fn fields(violations: &[Violation]) -> Self {
        let mut error = Self::new(
            Code::InvalidFields,
            match violations.len() {
                1 => "1 field breaks a rule; see errors.".to_owned(),
                n => format!("{n} fields break a rule; see errors."),
            },
        );
        error.errors = violations
            .iter()
            .map(|v| json!({"pointer": format!("/{}", v.field), "detail": v.what}))
            .collect();
        error
    }

    /// The same error with everything that is wrong.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<Value>) -> Self {
        self.errors = errors;
        self
    }

    /// A query parameter that is wrong.
    #[must_use]
    pub fn parameter(name: &str, what: &str) -> Self {
        let mut error = Self::new(Code::InvalidParameter, format!("Query parameter {name} {what}."));
        error.errors = vec![json!({"parameter": name, "detail": what})];
        error
    }

    /// The same error with a header. A value that no header can carry is left out.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// The error as a response; `request_id` is how the log knows it.
    #[must_use]
    pub fn respond(&self, request_id: &str) -> HttpResponse {
        let mut document = json!({
            "type": format!("urn:presence-bridge:problem:{}", self.code.as_str()),
            "title": self.code.title(),
            "status": self.code.status().as_u16(),
            "code": self.code.as_str(),
            "detail": self.detail,
            "request_id": request_id,
        });
        if let (false, Some(fields)) = (self.errors.is_empty(), document.as_object_mut()) {
            fields.insert("errors".to_owned(), Value::Array(self.errors.clone()));
        }
        let mut response = HttpResponse::build(self.code.status());
        response.insert_header((header::CONTENT_TYPE, "application/problem+json"));
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.clone()));
        }
        response.body(document.to_string())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    /// `api::outermost` writes the response again, with the request's id in it.
    fn error_response(&self) -> HttpResponse {
        self.respond("")
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Invalid(violations) => Self::fields(&violations),
            ServiceError::OperatorOnly(why) => Self::new(Code::OperatorOnly, why),
            ServiceError::MissingScope(scope) => {
                Self::new(Code::MissingScope, format!("This takes a key with the scope {scope}."))
            }
            ServiceError::AmbiguousAgent => {
                Self::new(Code::AmbiguousAgent, "Say which source is meant: add ?source=<id of the source>.")
            }
            ServiceError::NoSource => Self::new(Code::NotFound, "There is no source."),
            ServiceError::TooSlow(what) => Self::unavailable(what),
            ServiceError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if let StoreError::NotFound(what) = error {
            return Self::new(Code::NotFound, format!("There is no such {what}."));
        }
        if let StoreError::Conflict(detail) = error {
            return Self::new(Code::Conflict, sentence(&detail));
        }
        if let StoreError::QuotaExceeded(detail) = error {
            return Self::new(Code::QuotaExceeded, sentence(&detail));
        }
        match error.constraint() {
            Some("source_name_unique") => {
                return Self::new(Code::NameTaken, "Another source has this name.");
            }
            Some("api_key_name_unique") => {
                return Self::new(Code::NameTaken, "Another key in use has this name; revoke it first.");
            }
            Some("tenant_name_unique") => {
                return Self::new(Code::NameTaken, "Another tenant has this name.");
            }
            Some("delivery_pkey" | "delivery_lane_idx") => {
                return Self::new(Code::Conflict, "Somebody else opened the delivery at the same time.");
            }
            _ => {}
        }
        if error.is_transient() {
            return Self::unavailable(error);
        }
        Self::internal(error)
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), chars.as_str())
}
