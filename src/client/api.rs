//! Calls of the REST API, and what it answers.

use std::fmt;
use std::io::BufReader;
use std::thread::sleep;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body, BodyReader};
use url::Url;

use crate::client::transport::{self, Deadlines, reason};
use crate::domain::secret::Secret;

/// For a call with its answer; recovering answers after some seconds.
const CALL_WITHIN: Duration = Duration::from_secs(60);
/// A stream sends a sign of life every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Times that a reading call is made again when the bridge asks for it.
const AGAIN: u32 = 5;
/// Longest wait before that.
const WAIT_MAX: u64 = 30;

const JSON: &str = "application/json";

/// Parameters of a query: name and value.
pub type Query = Vec<(&'static str, String)>;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer.
    #[error("{url} does not answer: {reason}")]
    Unreachable {
        /// Address of the bridge.
        url: String,
        /// Why, for people.
        reason: String,
    },
    /// The bridge refused.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// Something else answered.
    #[error("{url} answered {status}, and not as the API does; is it the address of a bridge?")]
    NotTheApi {
        /// What was asked.
        url: String,
        /// HTTP status of the answer.
        status: u16,
    },
}

/// An RFC 9457 problem document.
#[derive(Debug, Deserialize)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// What it is, for programs.
    pub code: String,
    /// What it is, for people.
    pub title: String,
    /// More of it.
    pub detail: String,
    /// Every field that is wrong.
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

/// A field or parameter that is wrong.
#[derive(Debug, Deserialize)]
pub struct FieldError {
    pointer: Option<String>,
    line: Option<u64>,
    parameter: Option<String>,
    detail: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pointer, self.line, &self.parameter) {
            (Some(name), ..) | (None, None, Some(name)) => write!(f, "{name}: {}", self.detail),
            (None, Some(line), _) => write!(f, "line {line}: {}", self.detail),
            (None, None, None) => f.write_str(&self.detail),
        }
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {}):", self.title, self.status, self.code)?;
        if self.errors.is_empty() {
            write!(f, " {}", self.detail)?;
        }
        for (place, error) in self.errors.iter().enumerate() {
            let before = if place > 0 { ";" } else { "" };
            write!(f, "{before} {error}")?;
        }
        Ok(())
    }
}

/// An answer of the API: its JSON as it came, empty if there is none.
#[derive(Debug)]
pub struct Answer(String);

impl Answer {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// As a value; null without a body.
    #[must_use]
    pub fn value(&self) -> Value {
        // `Api` has looked at it.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// A body to send.
pub enum Content<'a> {
    /// Goes as JSON.
    Json(&'a Value),
    /// Goes as CSV.
    Csv(String),
}

/// A bridge and the key to it.
pub struct Api {
    base: Url,
    key: Secret,
    calls: Agent,
    streams: Agent,
}

impl Api {
    /// The bridge at this address.
    #[must_use]
    pub fn new(base: Url, key: Secret) -> Self {
        let calls = transport::agent(&base, &Deadlines { whole: Some(CALL_WITHIN), silence: CALL_WITHIN });
        let streams = transport::agent(&base, &Deadlines { whole: None, silence: SILENCE_MAX });
        Self { base, key, calls, streams }
    }

    /// Its address.
    #[must_use]
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Reads. If the bridge is busy, or this key has called too often, it waits as long as it is told.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn get(&self, path: &[&str], query: &Query) -> Result<Answer, ApiError> {
        let mut left = AGAIN;
        loop {
            let response = self.send(&self.calls, Method::GET, &self.url(path, query), None)?;
            match wait_of(response.status().as_u16(), response.headers()).filter(|_| left > 0) {
                Some(wait) => sleep(wait),
                None => return self.answer(response),
            }
            left -= 1;
        }
    }

    /// Writes with POST.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn post(&self, path: &[&str], body: Option<&Value>) -> Result<Answer, ApiError> {
        self.write(Method::POST, path, &Query::new(), body.map(Content::Json))
    }

    /// Changes with PATCH.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn patch(&self, path: &[&str], query: &Query, body: &Value) -> Result<Answer, ApiError> {
        self.write(Method::PATCH, path, query, Some(Content::Json(body)))
    }

    /// Puts.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn put(&self, path: &[&str], query: &Query, body: Content<'_>) -> Result<Answer, ApiError> {
        self.write(Method::PUT, path, query, Some(body))
    }

    /// Removes.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn delete(&self, path: &[&str]) -> Result<(), ApiError> {
        self.write(Method::DELETE, path, &Query::new(), None).map(drop)
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn stream(&self, path: &[&str], query: &Query) -> Result<BufReader<BodyReader<'static>>, ApiError> {
        let url = self.url(path, query);
        let response = self.send(&self.streams, Method::GET, &url, None)?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if response.status().is_success() && kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Ok(BufReader::new(response.into_body().into_reader()));
        }
        let status = response.status().as_u16();
        match self.answer(response) {
            Err(error) => Err(error),
            Ok(_) => Err(ApiError::NotTheApi { url: shown(&url), status }),
        }
    }

    fn write(
        &self,
        method: Method,
        path: &[&str],
        query: &Query,
        body: Option<Content<'_>>,
    ) -> Result<Answer, ApiError> {
        self.answer(self.send(&self.calls, method, &self.url(path, query), body)?)
    }

    fn url(&self, path: &[&str], query: &Query) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn send(
        &self,
        agent: &Agent,
        method: Method,
        url: &Url,
        body: Option<Content<'_>>,
    ) -> Result<Response<Body>, ApiError> {
        let request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(AUTHORIZATION, format!("Bearer {}", self.key.expose()));
        let unreachable =
            |error: ureq::Error| ApiError::Unreachable { url: shown(&self.base), reason: reason(&error) };
        let (kind, text) = match body {
            Some(Content::Json(value)) => (JSON, value.to_string()),
            Some(Content::Csv(text)) => ("text/csv", text),
            None => {
                let request = request.body(()).map_err(|error| unreachable(error.into()))?;
                return agent.run(request).map_err(unreachable);
            }
        };
        let request = request.header(CONTENT_TYPE, kind).body(text);
        agent.run(request.map_err(|error| unreachable(error.into()))?).map_err(unreachable)
    }

    /// What is said if an answer is none of the API's.
    pub(in crate::client) fn not_the_api(&self, status: u16) -> ApiError {
        ApiError::NotTheApi { url: shown(&self.base), status }
    }

    fn answer(&self, response: Response<Body>) -> Result<Answer, ApiError> {
        let status = response.status();
        let read = response.into_body().into_with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text =
            read.map_err(|error| ApiError::Unreachable { url: shown(&self.base), reason: reason(&error) })?;
        let is_json = text.is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        if status.is_success() && is_json {
            return Ok(Answer(text));
        }
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => Err(problem.into()),
            Err(_) => Err(self.not_the_api(status.as_u16())),
        }
    }
}

/// How long the bridge asks to wait with the next call.
fn wait_of(status: u16, headers: &HeaderMap) -> Option<Duration> {
    let after = || headers.get(RETRY_AFTER)?.to_str().ok()?.parse::<u64>().ok();
    [429, 503]
        .contains(&status)
        .then(after)
        .flatten()
        .map(|wait| Duration::from_secs(wait.clamp(1, WAIT_MAX)))
}

/// An address without a password.
#[must_use]
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if !url.username().is_empty() || url.password().is_some() {
        // Such an address has a host, so this works.
        let _ = url.set_password(None);
        let _ = url.set_username("…");
    }
    url.set_query(None);
    url.to_string().trim_end_matches('/').to_owned()
}
