//! What lists have in common: reading the query, paging by opaque cursors, writing times.

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::form_urlencoded;
use uuid::Uuid;

use crate::api::http::problem::{ApiError, Code};
use crate::clock;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 200;
/// Filters by text are never longer than what they could match.
const TEXT_CHARS_MAX: usize = 1000;
/// Many forget that a bare + in a query is a blank.
const A_TIME: &str = "RFC 3339 time such as 2026-01-31T09:30:00Z or 2026-01-31T10:30:00%2B01:00";

/// The query of a request. Take what is known; what is left over is refused.
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads the query.
    ///
    /// # Errors
    /// If a parameter repeats, is very long, or has NUL or broken UTF-8 in it.
    pub fn read(request: &HttpRequest) -> Result<Self, ApiError> {
        Self::parse(request.query_string())
    }

    /// Reads the text of a query.
    ///
    /// # Errors
    /// As [`Query::read`].
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()).into_owned() {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(50).collect();
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::parameter(&shown, "is given twice"));
            }
            // The parser puts U+FFFD where the bytes are no UTF-8.
            if value.contains(['\0', char::REPLACEMENT_CHARACTER]) || value.chars().count() > TEXT_CHARS_MAX {
                return Err(ApiError::parameter(&shown, "is no text that could match"));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// Takes a text.
    ///
    /// # Errors
    /// If it is empty.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let Some(at) = self.pairs.iter().position(|(known, _)| known == name) else {
            return Ok(None);
        };
        let (_, value) = self.pairs.swap_remove(at);
        if value.is_empty() {
            return Err(ApiError::parameter(name, "is empty"));
        }
        Ok(Some(value))
    }

    /// Takes an id.
    ///
    /// # Errors
    /// If it is no uuid.
    pub fn id(&mut self, name: &str) -> Result<Option<Uuid>, ApiError> {
        self.parsed(name, "is no uuid", |text| Uuid::try_parse(text).ok())
    }

    /// Takes an id, or a word that stands for none: `Some(None)`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn id_or_word(&mut self, name: &str, word: &str) -> Result<Option<Option<Uuid>>, ApiError> {
        self.parsed(name, &format!("is neither {word} nor a uuid"), |text| {
            if text == word { Some(None) } else { Uuid::try_parse(text).ok().map(Some) }
        })
    }

    /// Takes a number.
    ///
    /// # Errors
    /// If it is no whole number from 0.
    pub fn number(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        self.parsed(name, "is no whole number from 0", |text| text.parse().ok().filter(|n| *n >= 0))
    }

    /// Takes a time.
    ///
    /// # Errors
    /// If it is no RFC 3339 time.
    pub fn time(&mut self, name: &str) -> Result<Option<OffsetDateTime>, ApiError> {
        self.parsed(name, &format!("is no {A_TIME}"), clock::read_rfc3339)
    }

    /// Takes a time, or a word that stands for none: `Some(None)`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn time_or_word(
        &mut self,
        name: &str,
        word: &str,
    ) -> Result<Option<Option<OffsetDateTime>>, ApiError> {
        let what = format!("is neither {word} nor an {A_TIME}");
        self.parsed(
            name,
            &what,
            |text| {
                if text == word { Some(None) } else { clock::read_rfc3339(text).map(Some) }
            },
        )
    }

    /// Takes true or false.
    ///
    /// # Errors
    /// If it is neither.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.parsed(name, "is neither true nor false", |text| text.parse().ok())
    }

    /// Takes one word of a closed set.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn word(&mut self, name: &str, words: &[&str]) -> Result<Option<String>, ApiError> {
        let what = format!("is none of {}", words.join(", "));
        self.parsed(name, &what, |text| words.contains(&text).then(|| text.to_owned()))
    }

    /// Takes `limit` and `cursor`, and refuses what is left over. Call it last.
    ///
    /// # Errors
    /// If one of them is wrong, or a parameter is unknown.
    pub fn paging(mut self, list: List) -> Result<Paging, ApiError> {
        let limit = self
            .parsed("limit", "is not between 1 and 200", |text| {
                text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit))
            })?
            .unwrap_or(LIMIT_DEFAULT);
        let cursor = self.text("cursor")?;
        self.finish()?;
        let after = cursor.map(|cursor| list.read_cursor(&cursor)).transpose()?;
        Ok(Paging { list, limit, after })
    }

    /// Lets a parameter be known by a second name.
    ///
    /// # Errors
    /// If both names are given.
    pub fn rename(&mut self, second: &str, first: &str) -> Result<(), ApiError> {
        if self.pairs.iter().any(|(name, _)| name == second) {
            if self.pairs.iter().any(|(name, _)| name == first) {
                return Err(ApiError::parameter(second, &format!("is another name of {first}")));
            }
            for (name, _) in &mut self.pairs {
                if name == second {
                    first.clone_into(name);
                }
            }
        }
        Ok(())
    }

    /// Refuses what is left over. For paths that have no list.
    ///
    /// # Errors
    /// If a parameter is unknown.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(50).collect();
                Err(ApiError::parameter(&shown, "is not known here"))
            }
        }
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        what: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        self.text(name)?.map(|text| parse(&text).ok_or_else(|| ApiError::parameter(name, what))).transpose()
    }
}

/// Which list a cursor belongs to, so that one list does not take another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `/v1/webhooks`
    Webhooks,
    /// `/v1/sources`
    Sources,
    /// `/v1/connections`
    Connections,
    /// `/v1/agents`
    Agents,
    /// `/v1/events`
    Events,
    /// The same with the newest first.
    EventsNewestFirst,
    /// `/v1/deliveries`
    Deliveries,
    /// `/v1/recoveries`
    Recoveries,
    /// `/v1/erasures`
    Erasures,
    /// `/v1/audit`
    Audit,
    /// `/v1/gaps`
    Gaps,
    /// `/v1/quarantine`
    Quarantine,
    /// `/v1/rejected-topics`
    RejectedTopics,
    /// `/v1/agents/external-ids`
    ExternalIds,
    /// `/v1/api-keys`
    ApiKeys,
    /// `/v1/tenants`
    Tenants,
    /// `/v1/audit/verifications`
    Verifications,
}

/// Where in a list to read on: behind a row id, a number, or an id and a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A row id.
    Id(Uuid),
    /// A number that orders the list; not negative.
    Number(i64),
    /// An id, and a text within it.
    Pair(Uuid, String),
}

impl List {
    /// Every one.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) const ALL: [Self; 17] = [
        Self::Webhooks,
        Self::Sources,
        Self::Connections,
        Self::Agents,
        Self::Events,
        Self::EventsNewestFirst,
        Self::Deliveries,
        Self::Recoveries,
        Self::Erasures,
        Self::Audit,
        Self::Gaps,
        Self::Quarantine,
        Self::RejectedTopics,
        Self::ExternalIds,
        Self::ApiKeys,
        Self::Tenants,
        Self::Verifications,
    ];

    fn tag(self) -> u8 {
        match self {
            Self::Webhooks => b'w',
            Self::Sources => b's',
            Self::Connections => b'c',
            Self::Agents => b'a',
            Self::Events => b'e',
            Self::EventsNewestFirst => b'n',
            Self::Deliveries => b'd',
            Self::Recoveries => b'o',
            Self::Erasures => b'p',
            Self::Audit => b'l',
            Self::Gaps => b'g',
            Self::Quarantine => b'q',
            Self::RejectedTopics => b'r',
            Self::ExternalIds => b'x',
            Self::ApiKeys => b'k',
            Self::Tenants => b't',
            Self::Verifications => b'v',
        }
    }

    /// The cursor for what comes behind `place`.
    #[must_use]
    pub fn cursor(self, place: Place) -> String {
        let mut bytes = vec![self.tag()];
        match place {
            Place::Id(id) => bytes.extend_from_slice(id.as_bytes()),
            Place::Number(number) => bytes.extend_from_slice(&number.to_be_bytes()),
            Place::Pair(id, text) => {
                bytes.extend_from_slice(id.as_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        BASE64URL.encode(bytes)
    }

    pub(crate) fn read_cursor(self, cursor: &str) -> Result<Place, ApiError> {
        let place = BASE64URL.decode(cursor).ok().and_then(|bytes| {
            let (tag, rest) = bytes.split_first()?;
            if *tag != self.tag() {
                return None;
            }
            match self {
                Self::Agents
                | Self::Events
                | Self::EventsNewestFirst
                | Self::Audit
                | Self::RejectedTopics => {
                    let number = i64::from_be_bytes(rest.try_into().ok()?);
                    (number >= 0).then_some(Place::Number(number))
                }
                // Named one by one, so that a new list has to say which it is.
                Self::Webhooks
                | Self::Sources
                | Self::Connections
                | Self::Deliveries
                | Self::Recoveries
                | Self::Erasures
                | Self::Gaps
                | Self::ApiKeys
                | Self::Tenants
                | Self::Verifications
                | Self::Quarantine => Uuid::from_slice(rest).ok().map(Place::Id),
                Self::ExternalIds => {
                    let (id, text) = rest.split_first_chunk::<16>()?;
                    let text = std::str::from_utf8(text).ok().filter(|text| !text.contains('\0'))?;
                    Some(Place::Pair(Uuid::from_bytes(*id), text.to_owned()))
                }
            }
        });
        place.ok_or_else(|| {
            ApiError::new(Code::InvalidCursor, "Pass next_cursor of a page of this list, unchanged.")
        })
    }
}

/// Which page is asked for.
#[derive(Clone, Debug)]
pub struct Paging {
    list: List,
    limit: usize,
    after: Option<Place>,
}

impl Paging {
    /// The id behind which to read on; `None` from the start.
    #[must_use]
    pub fn after_id(&self) -> Option<Uuid> {
        match self.after {
            Some(Place::Id(id)) => Some(id),
            _ => None,
        }
    }

    /// The number behind which to read on; `None` from the start.
    #[must_use]
    pub fn after_number(&self) -> Option<i64> {
        match self.after {
            Some(Place::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// The id and the text behind which to read on; `None` from the start.
    #[must_use]
    pub fn after_pair(&self) -> Option<(Uuid, &str)> {
        match &self.after {
            Some(Place::Pair(id, text)) => Some((*id, text)),
            _ => None,
        }
    }

    /// Most items of the page.
    #[must_use]
    pub fn limit(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX)
    }

    /// Rows to read: one more than are shown, to know whether there is another page.
    #[must_use]
    pub fn rows(&self) -> i64 {
        i64::try_from(self.limit + 1).unwrap_or(i64::MAX)
    }

    /// The page as a response. `place` says where a row stands.
    pub fn respond<T, V: Serialize>(
        &self,
        rows: Vec<T>,
        place: impl Fn(&T) -> Place,
        view: impl Fn(&T) -> V,
    ) -> HttpResponse {
        self.respond_so_far(rows, None, place, view)
    }

    /// The same if it was not looked any further than `stopped_at`: unless the page is full, it goes on
    /// there.
    pub fn respond_so_far<T, V: Serialize>(
        &self,
        rows: Vec<T>,
        stopped_at: Option<Place>,
        place: impl Fn(&T) -> Place,
        view: impl Fn(&T) -> V,
    ) -> HttpResponse {
        let (rows, next) = self.page(rows, stopped_at, place);
        let items: Vec<V> = rows.iter().map(view).collect();
        HttpResponse::Ok().json(json!({"items": items, "next_cursor": next}))
    }

    /// The rows of the page without the one too many, and the cursor of the next page; `stopped_at` as
    /// above.
    pub fn page<T>(
        &self,
        mut rows: Vec<T>,
        stopped_at: Option<Place>,
        place: impl Fn(&T) -> Place,
    ) -> (Vec<T>, Option<String>) {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next =
            rows.last().filter(|_| more).map(place).or(stopped_at).map(|place| self.list.cursor(place));
        (rows, next)
    }
}

/// A time as callers see it.
#[must_use]
pub fn at(time: OffsetDateTime) -> String {
    // Fails only beyond the year 9999, which no row of ours has.
    time.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap_or_default()
}

/// A time that may be missing.
#[must_use]
pub fn maybe_at(time: Option<OffsetDateTime>) -> Option<String> {
    time.map(at)
}

/// The `{id}` of the path.
///
/// # Errors
/// 404 if it is no uuid: nothing can be there.
pub fn path_id(request: &HttpRequest) -> Result<Uuid, ApiError> {
    Uuid::try_parse(&path_text(request)?).map_err(|_| ApiError::not_found())
}

/// The `{id}` of the path as text, percent-decoded.
///
/// # Errors
/// 404 if it is no UTF-8 or has control characters in it, NUL among them.
pub fn path_text(request: &HttpRequest) -> Result<String, ApiError> {
    let decoded = web::Path::<String>::from_request(request, &mut Payload::None).into_inner();
    decoded
        .ok()
        .map(web::Path::into_inner)
        .filter(|text| !text.chars().any(char::is_control))
        .ok_or_else(ApiError::not_found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went_and_only_to_its_list() {
        let id = Place::Id(Uuid::now_v7());
        let cursor = List::Gaps.cursor(id.clone());
        assert_eq!(List::Gaps.read_cursor(&cursor).unwrap(), id);
        assert!(List::Webhooks.read_cursor(&cursor).is_err());
        let number = Place::Number(7);
        let cursor = List::Events.cursor(number.clone());
        assert_eq!(List::Events.read_cursor(&cursor).unwrap(), number);
        assert!(List::Audit.read_cursor(&cursor).is_err());
        let cursor = List::RejectedTopics.cursor(number.clone());
        assert_eq!(List::RejectedTopics.read_cursor(&cursor).unwrap(), number);
        let pair = Place::Pair(Uuid::now_v7(), "Zoë".to_owned());
        let cursor = List::ExternalIds.cursor(pair.clone());
        assert_eq!(List::ExternalIds.read_cursor(&cursor).unwrap(), pair);
    }

    #[test]
    fn junk_is_no_cursor() {
        let negative = BASE64URL.encode([&b"e"[..], &(-1_i64).to_be_bytes()].concat());
        for junk in ["", "x", "====", "ZQ", "💥", negative.as_str(), &"A".repeat(9000)] {
            assert!(List::Events.read_cursor(junk).is_err(), "{junk}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_cursor_of_two_lists_and_what_is_read_is_written_the_same(
            tag in proptest::sample::select(List::ALL.map(List::tag).into_iter().chain([b'?']).collect::<Vec<_>>()),
            rest in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let cursor = BASE64URL.encode([&[tag], &rest[..]].concat());
            let read: Vec<_> =
                List::ALL.iter().filter_map(|list| Some((list, list.read_cursor(&cursor).ok()?))).collect();
            prop_assert!(read.len() <= 1);
            for (list, place) in read {
                prop_assert_eq!(list.cursor(place), cursor.clone());
            }
        }

        #[test]
        fn any_text_in_place_of_a_cursor_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = List::ExternalIds.read_cursor(&text);
        }
    }
}
