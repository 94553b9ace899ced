//! What a page or an action gets: who looks, from where, and what the address says.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use uuid::Uuid;

use super::Result;
use crate::api::http::page::Query;
use crate::api::http::problem::ApiError;
use crate::domain::access::scope::Scope;
use crate::domain::ids::ConsoleSessionId;
use crate::services::caller::Caller;

/// A browser that is logged in, as the middleware notes it.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Who looks.
    pub caller: Caller,
    /// The session it happens in.
    pub session: ConsoleSessionId,
}

/// One look at a page.
#[derive(Clone, Debug)]
pub struct View {
    /// Who looks.
    pub caller: Caller,
    /// The session it happens in.
    pub session: ConsoleSessionId,
    /// The address without the query, such as `/console/board`.
    pub path: String,
    query: String,
    segment: Option<String>,
    /// What an action has just done, in a sentence.
    pub notice: Option<String>,
}

impl FromRequest for View {
    type Error = ApiError;
    type Future = Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

impl View {
    fn of(request: &HttpRequest) -> Result<Self> {
        let lost = || ApiError::internal("a page outside of the middleware that knows its caller");
        let Visitor { caller, session } = request.extensions().get::<Visitor>().cloned().ok_or_else(lost)?;
        let segment = request.match_info().iter().next().map(|_| crate::api::http::page::path_text(request));
        Ok(Self {
            caller,
            session,
            path: request.path().to_owned(),
            query: request.query_string().to_owned(),
            segment: segment.transpose()?,
            notice: super::notice::brought_by(request),
        })
    }

    /// Whether the caller has this right: without it, what needs it is not shown.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.caller.principal.must_have(scope).is_ok()
    }

    /// The query, without fields that were left empty: forms send those too.
    ///
    /// # Errors
    /// As [`Query::parse`].
    pub fn query(&self) -> Result<Query> {
        let is_empty = |pair: &&str| pair.split_once('=').is_none_or(|(_, value)| value.is_empty());
        let given = self.query.split('&').filter(|pair| !is_empty(pair));
        Query::parse(&given.collect::<Vec<_>>().join("&"))
    }

    /// The value of one query parameter, as it was given; empty if there is none. To fill forms again.
    #[must_use]
    pub fn given(&self, name: &str) -> String {
        let mut pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    }

    /// This address with another value of a query parameter; `None`: without it. Whatever is changed, the
    /// list begins at its start, unless it is the `cursor`.
    #[must_use]
    pub fn with(&self, name: &str, value: Option<&str>) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (known, given) in url::form_urlencoded::parse(self.query.as_bytes()) {
            if known != name && known != "cursor" && !given.is_empty() {
                query.append_pair(&known, &given);
            }
        }
        if let Some(value) = value {
            query.append_pair(name, value);
        }
        match query.finish() {
            query if query.is_empty() => self.path.clone(),
            query => format!("{}?{query}", self.path),
        }
    }

    /// The same look with the fields of a form as its query, so that what reads the one reads the other.
    #[must_use]
    pub fn asking(mut self, fields: &[(String, String)]) -> Self {
        self.query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self
    }

    /// The whole address.
    #[must_use]
    pub fn address(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }

    /// The `{id}` of the path.
    ///
    /// # Errors
    /// 404 if it is no uuid.
    pub fn id(&self) -> Result<Uuid> {
        Uuid::try_parse(self.text()?).map_err(|_| ApiError::not_found())
    }

    /// The `{id}` of the path as text.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn text(&self) -> Result<&str> {
        self.segment.as_deref().ok_or_else(ApiError::not_found)
    }
}

/// Whether a browser's event source asks, and not a person.
#[must_use]
pub fn wants_events(request: &HttpRequest) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.starts_with("text/event-stream"))
}
