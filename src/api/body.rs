//! Reading a JSON body with nothing taken on trust: size, time, type, depth, repeated keys, unknown fields.
//!
//! Handlers take [`JsonBody`] and read its fields one by one; what is wrong is collected and told at once.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest};
use bytes::BytesMut;
use futures_util::StreamExt;
use serde_json::{Map, Value};

use super::problem::{ApiError, Code};
use super::strict_json;
use crate::domain::violation::Violation;

/// Most bytes of a body.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The same of a source: 18,000 agents (domain/source.rs) by their uuids are some 700 KB.
const SOURCE_BODY_BYTES_MAX: usize = 1024 * 1024;
const SOURCES: &str = "/v1/sources";
/// How long a body may take to arrive; actix has no limit of its own.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// The fields of a body that is a JSON object.
#[derive(Debug)]
pub struct JsonBody {
    fields: Map<String, Value>,
    violations: Vec<Violation>,
}

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            check_media_type(&request)?;
            Self::parse(&read(&request, payload).await?)
        })
    }
}

/// The same, where the body may be left out: nothing sent is `{}`.
#[derive(Debug)]
pub struct OptionalJsonBody(pub JsonBody);

impl FromRequest for OptionalJsonBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let bytes = read(&request, payload).await?;
            if bytes.is_empty() {
                return JsonBody::parse(b"{}").map(Self);
            }
            check_media_type(&request)?;
            JsonBody::parse(&bytes).map(Self)
        })
    }
}

impl JsonBody {
    fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let value = strict_json::parse(bytes)
            .map_err(|error| ApiError::new(Code::InvalidJson, format!("The body is refused: {error}.")))?;
        let Value::Object(fields) = value else {
            return Err(ApiError::new(Code::InvalidJson, "The body is no JSON object."));
        };
        let mut violations = Vec::new();
        for (name, value) in &fields {
            find_nul(&escape(name), value, &mut violations);
        }
        Ok(Self { fields, violations })
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.fields.remove(name)? {
            Value::String(text) => Some(text),
            _ => self.wrong(name, "is no string"),
        }
    }

    /// Takes a text that may be null: `Some(None)` says that it shall be cleared.
    pub fn text_or_null(&mut self, name: &str) -> Option<Option<String>> {
        if self.fields.get(name).is_some_and(Value::is_null) {
            self.fields.remove(name);
            return Some(None);
        }
        self.text(name).map(Some)
    }

    /// Takes a list of texts.
    pub fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let Value::Array(items) = self.fields.remove(name)? else {
            return self.wrong(name, "is no list");
        };
        let mut texts = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text),
                _ => return self.wrong(&format!("{name}/{i}"), "is no string"),
            }
        }
        Some(texts)
    }

    /// Takes a whole number.
    pub fn integer(&mut self, name: &str) -> Option<i32> {
        let value = self.fields.remove(name)?;
        match value.as_i64().map(i32::try_from) {
            Some(Ok(number)) => Some(number),
            _ => self.wrong(name, "is no whole number of the allowed size"),
        }
    }

    /// Takes true or false.
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.fields.remove(name)?;
        match value.as_bool() {
            Some(value) => Some(value),
            None => self.wrong(name, "is neither true nor false"),
        }
    }

    /// Takes whatever is there.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name)
    }

    /// Notes what is wrong with a field.
    pub fn wrong<T>(&mut self, field: &str, what: &str) -> Option<T> {
        self.violations.push(Violation::new(field, what));
        None
    }

    /// Notes that a field which must be given is missing.
    pub fn must_be_given(&mut self, names: &[&str]) {
        for name in names {
            if !self.fields.contains_key(*name) {
                self.wrong::<()>(name, "is missing");
            }
        }
    }

    /// After all known fields were taken: everything that is wrong, the fields left over among it.
    ///
    /// # Errors
    /// If anything is wrong.
    pub fn finish(mut self, more: Vec<Violation>) -> Result<(), ApiError> {
        for name in self.fields.keys() {
            self.violations.push(Violation::new(escape(name), "is not a field of this object"));
        }
        for violation in more {
            // What has the wrong type or is missing was told already; the rules would only repeat it.
            if !self.violations.iter().any(|known| known.field == violation.field) {
                self.violations.push(violation);
            }
        }
        if self.violations.is_empty() {
            return Ok(());
        }
        Err(ApiError::fields(&self.violations))
    }
}

/// Postgres keeps no NUL in a text, and no text of ours needs one.
fn find_nul(at: &str, value: &Value, found: &mut Vec<Violation>) {
    if at.contains('\0') {
        found.push(Violation::new(at.replace('\0', ""), "has NUL in its name"));
    }
    match value {
        Value::String(text) if text.contains('\0') => found.push(Violation::new(at, "has NUL in it")),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                find_nul(&format!("{at}/{i}"), item, found);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                find_nul(&format!("{at}/{}", escape(name)), value, found);
            }
        }
        _ => {}
    }
}

/// A name as RFC 6901 writes it in a pointer.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn check_media_type(request: &HttpRequest) -> Result<(), ApiError> {
    let given =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(Code::UnsupportedMediaType, "Send the body with Content-Type: application/json.")
        .with_header(header::ACCEPT, "application/json"))
}

async fn read(request: &HttpRequest, mut payload: Payload) -> Result<BytesMut, ApiError> {
    let bytes_max = if request.path().starts_with(SOURCES) { SOURCE_BODY_BYTES_MAX } else { BODY_BYTES_MAX };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| usize::try_from(bytes).map_or(true, |bytes| bytes > bytes_max)) {
        return Err(too_large(bytes_max));
    }
    let reading = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk
                .map_err(|_| ApiError::new(Code::InvalidJson, "The body broke off or is framed wrongly."))?;
            if body.len() + chunk.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    tokio::time::timeout(BODY_WITHIN, reading).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            Code::BodyTooSlow,
            format!("The body must arrive within {} seconds.", BODY_WITHIN.as_secs()),
        )
        .with_header(header::CONNECTION, "close"))
    })
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::new(Code::BodyTooLarge, format!("A body may have {bytes_max} bytes here."))
        .with_header(header::CONNECTION, "close")
}
