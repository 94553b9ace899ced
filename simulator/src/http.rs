//! Small JSON client for the program and the tests; plain HTTP, one deadline per request.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(15);
const BODY_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// Client of one API.
#[derive(Clone)]
pub struct Api {
    base: String,
    bearer: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without bearer and headers: it may end up in a log.
        formatter.debug_struct("Api").field("base", &self.base).finish_non_exhaustive()
    }
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// Body as JSON; `Null` when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Body as text, shortened, for messages.
    #[must_use]
    pub fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(400).collect()
    }
}

/// No answer came; in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable(pub String);

impl fmt::Display for Unreachable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

impl Api {
    /// Client for a base URL such as `http://127.0.0.1:8080`.
    #[must_use]
    pub fn new(base: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { base: base.trim_end_matches('/').to_owned(), bearer: None, headers: Vec::new(), client }
    }

    /// The same client, with a bearer token on every request.
    #[must_use]
    pub fn with_bearer(mut self, bearer: &str) -> Self {
        self.bearer = Some(bearer.to_owned());
        self
    }

    /// The same client, with one more header on every request; what cannot be a header is left out.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.extend(name.parse().ok().zip(value.parse().ok()));
        self
    }

    /// # Errors
    /// When no answer came.
    pub async fn get(&self, path: &str) -> Result<Reply, Unreachable> {
        self.send(Method::GET, path, None).await
    }

    /// # Errors
    /// When no answer came.
    pub async fn delete(&self, path: &str) -> Result<Reply, Unreachable> {
        self.send(Method::DELETE, path, None).await
    }

    /// # Errors
    /// When no answer came.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply, Unreachable> {
        self.post_text(path, "application/json", body.to_string()).await
    }

    /// # Errors
    /// When no answer came.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Reply, Unreachable> {
        self.send(Method::PATCH, path, Some(("application/json", body.to_string()))).await
    }

    /// Posts a body of any type.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn post_text(&self, path: &str, kind: &str, body: String) -> Result<Reply, Unreachable> {
        self.send(Method::POST, path, Some((kind, body))).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, String)>,
    ) -> Result<Reply, Unreachable> {
        let failed = |why: String| Unreachable(format!("{method} {}{path}: {why}", self.base));
        let mut request = Request::builder().method(&method).uri(format!("{}{path}", self.base));
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = body.map(|(kind, body)| (request.headers_mut(), kind, body));
        let body = match body {
            Some((headers, kind, body)) => {
                if let Some((headers, kind)) = headers.zip(kind.parse().ok()) {
                    headers.insert(CONTENT_TYPE, kind);
                }
                Bytes::from(body)
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(|error| failed(error.to_string()))?;
        let exchange = async {
            let response =
                self.client.request(request).await.map_err(|error| failed(format!("{error:?}")))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, BODY_LIMIT_BYTES)
                .collect()
                .await
                .map_err(|error| failed(error.to_string()))?;
            Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
        };
        tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| failed("no answer in time".into()))?
    }
}
