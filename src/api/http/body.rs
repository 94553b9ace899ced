//! Reading a JSON body with nothing taken on trust: size, time, type, depth, repeated keys, unknown fields.
//!
//! Handlers take [`JsonBody`] and read its fields one by one; what is wrong is collected and told at once.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::api::http::body_reader::{check_media_type, media_type, read};
use crate::api::http::problem::{ApiError, Code};
use crate::api::http::strict_json;
use crate::clock;
use crate::domain::violation::{Violation, pointer_token as escape};

/// The fields of a body that is a JSON object, or of an object inside of it.
#[derive(Debug)]
pub struct JsonBody {
    fields: Map<String, Value>,
    violations: Vec<Violation>,
    /// The whole body as it came; empty for an object inside of it.
    raw: Bytes,
    /// Where the object stands: empty, or the path to it with a slash behind.
    at: String,
}

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            check_media_type(&request)?;
            Self::parse(read(&request, payload).await?.freeze())
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
                return JsonBody::parse(Bytes::from_static(b"{}")).map(Self);
            }
            check_media_type(&request)?;
            JsonBody::parse(bytes.freeze()).map(Self)
        })
    }
}

/// A body in one of two media types.
#[derive(Debug)]
pub enum JsonOrCsv {
    /// `application/json`
    Json(JsonBody),
    /// `text/csv`
    Csv(Bytes),
}

impl FromRequest for JsonOrCsv {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            if media_type(&request) == "text/csv" {
                return Ok(Self::Csv(read(&request, payload).await?.freeze()));
            }
            check_media_type(&request)?;
            JsonBody::parse(read(&request, payload).await?.freeze()).map(Self::Json)
        })
    }
}

impl JsonBody {
    fn parse(raw: Bytes) -> Result<Self, ApiError> {
        let value = strict_json::parse(&raw)
            .map_err(|error| ApiError::new(Code::InvalidJson, format!("The body is refused: {error}.")))?;
        let Value::Object(fields) = value else {
            return Err(ApiError::new(Code::InvalidJson, "The body is no JSON object."));
        };
        let mut violations = Vec::new();
        for (name, value) in &fields {
            find_nul(&escape(name), value, &mut violations);
        }
        Ok(Self { fields, violations, raw, at: String::new() })
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
        if self.take_null(name) {
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

    /// Takes a whole number that may be null: `Some(None)` says that it shall be cleared.
    pub fn integer_or_null(&mut self, name: &str) -> Option<Option<i32>> {
        if self.take_null(name) {
            return Some(None);
        }
        self.integer(name).map(Some)
    }

    /// Takes a list of whole numbers that may be null.
    pub fn integers_or_null(&mut self, name: &str) -> Option<Option<Vec<i32>>> {
        if self.take_null(name) {
            return Some(None);
        }
        let Value::Array(items) = self.fields.remove(name)? else {
            return self.wrong(name, "is no list");
        };
        let mut numbers = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            match item.as_i64().map(i32::try_from) {
                Some(Ok(number)) => numbers.push(number),
                _ => {
                    return self.wrong(&format!("{name}/{i}"), "is no whole number of the allowed size");
                }
            }
        }
        Some(Some(numbers))
    }

    /// Takes an object and reads its fields in the same way; what `read` leaves over is refused. `None` if it
    /// is not there or could not be read, which is then noted.
    pub fn object<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let Value::Object(fields) = self.fields.remove(name)? else {
            return self.wrong(name, "is no object");
        };
        let mut inner =
            Self { fields, violations: Vec::new(), raw: Bytes::new(), at: format!("{}{name}/", self.at) };
        let value = read(&mut inner);
        inner.refuse_the_rest();
        self.violations.append(&mut inner.violations);
        value
    }

    /// The same for an object that may be null: `Some(None)` says that it shall be cleared.
    pub fn object_or_null<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        if self.take_null(name) {
            return Some(None);
        }
        self.object(name, read).map(Some)
    }

    /// Takes all fields that are left, each of which must be a text.
    pub fn all_texts(&mut self) -> Vec<(String, String)> {
        let mut texts = Vec::with_capacity(self.fields.len());
        for (name, value) in std::mem::take(&mut self.fields) {
            match value {
                Value::String(text) => texts.push((name, text)),
                _ => self.wrong::<()>(&escape(&name), "is no string").unwrap_or_default(),
            }
        }
        texts
    }

    fn take_null(&mut self, name: &str) -> bool {
        let null = self.fields.get(name).is_some_and(Value::is_null);
        if null {
            self.fields.remove(name);
        }
        null
    }

    /// Takes true or false.
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.fields.remove(name)?;
        match value.as_bool() {
            Some(value) => Some(value),
            None => self.wrong(name, "is neither true nor false"),
        }
    }

    /// Takes a time.
    pub fn time(&mut self, name: &str) -> Option<OffsetDateTime> {
        let text = self.text(name)?;
        match clock::read_rfc3339(&text) {
            Some(time) => Some(time),
            None => self.wrong(name, "is no RFC 3339 time such as 2026-01-31T09:30:00Z"),
        }
    }

    /// Takes a time that may be null: `Some(None)` says that it shall be cleared.
    pub fn time_or_null(&mut self, name: &str) -> Option<Option<OffsetDateTime>> {
        if self.take_null(name) {
            return Some(None);
        }
        self.time(name).map(Some)
    }

    /// Takes an id.
    pub fn id(&mut self, name: &str) -> Option<Uuid> {
        let text = self.text(name)?;
        match Uuid::try_parse(&text) {
            Ok(id) => Some(id),
            Err(_) => self.wrong(name, "is no uuid"),
        }
    }

    /// Takes whatever is there.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name)
    }

    /// Takes a field of the body itself with all that is in it in the order in which it came, which a `Value`
    /// does not keep.
    pub fn in_order<T: DeserializeOwned>(&mut self, name: &str, or_it: &str) -> Option<T> {
        self.fields.remove(name)?;
        let fields: HashMap<String, &RawValue> = serde_json::from_slice(&self.raw).unwrap_or_default();
        match fields.get(name).and_then(|text| serde_json::from_str(text.get()).ok()) {
            Some(read) => Some(read),
            None => self.wrong(name, or_it),
        }
    }

    /// Notes what is wrong with a field.
    pub fn wrong<T>(&mut self, field: &str, what: &str) -> Option<T> {
        self.violations.push(Violation::new(format!("{}{field}", self.at), what));
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

    fn refuse_the_rest(&mut self) {
        for name in std::mem::take(&mut self.fields).keys() {
            self.wrong::<()>(&escape(name), "is not a field of this object");
        }
    }

    /// After all known fields were taken: everything that is wrong, the fields left over among it.
    ///
    /// # Errors
    /// If anything is wrong.
    pub fn finish(mut self, more: Vec<Violation>) -> Result<(), ApiError> {
        self.refuse_the_rest();
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

    /// The same with the fields as rules have found them: what is wrong with the body and what with its
    /// fields is told at once.
    ///
    /// # Errors
    /// If anything is wrong.
    pub fn finish_with<T>(self, checked: Result<T, Vec<Violation>>) -> Result<T, ApiError> {
        match checked {
            Ok(checked) => self.finish(Vec::new()).map(|()| checked),
            Err(violations) => {
                self.finish(violations.clone())?;
                Err(ApiError::fields(&violations))
            }
        }
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
