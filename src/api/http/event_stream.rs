//! Server-sent events: answers that go on until the caller leaves, its key ends, or the bridge stops. Used
//! by the REST API and the console.
//!
//! The body is pulled: an event is asked for when the connection takes bytes, so a slow caller makes nothing
//! pile up. One that takes nothing is cut by `api/http/connection.rs`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::api::ApiState;
use crate::api::http::connection::Hangup;
use crate::api::http::problem::{ApiError, Code};
use crate::domain::ids::ApiKeyId;
use crate::metrics::Metrics;
use crate::services::caller::Caller;
use crate::services::{ServiceError, api_keys};

/// Streams that callers of one key may have open.
pub const STREAMS_OF_ONE: usize = 48;
/// Streams that this process has open at most.
pub const STREAMS_MAX: usize = 256;

/// A caller hears this often that the stream is alive, and so does every proxy between.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// No event is given if the caller's right to it was last verified longer ago: a revoked key gets none after
/// 5 s.
pub(super) const VERIFY_EVERY: Duration = Duration::from_secs(3);
/// How long one verification may take.
const VERIFY_WITHIN: Duration = Duration::from_millis(1500);
/// When a verification that got no answer is repeated; nothing is given until then.
const VERIFY_AGAIN: Duration = Duration::from_secs(1);
/// Seconds after which a caller that was refused may ask again.
const RETRY_AFTER_S: &str = "10";
/// First bytes of each stream: in how many milliseconds a caller comes again after the end.
const OPENING: &[u8] = b"retry: 3000\n\n";
/// A comment.
const HEARTBEAT: &[u8] = b":\n\n";

/// One event. With empty `data` it only moves the place from which the caller resumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What the caller sends as `Last-Event-ID` to go on behind this event.
    pub id: Option<String>,
    /// What kind of event it is; `None`: `message`.
    pub name: Option<&'static str>,
    /// May have several lines.
    pub data: String,
}

impl Event {
    fn to_bytes(&self) -> Bytes {
        let mut text = String::with_capacity(self.data.len() + 128);
        let mut field = |name: &str, value: &str| {
            for part in [name, ": ", value, "\n"] {
                text.push_str(part);
            }
        };
        if let Some(id) = self.id.as_deref().filter(|id| !id.contains(['\0', '\r', '\n'])) {
            field("id", id);
        }
        if let Some(name) = self.name {
            field("event", name);
        }
        if !self.data.is_empty() {
            // A lone CR ends a line as well.
            self.data.replace("\r\n", "\n").split(['\n', '\r']).for_each(|line| field("data", line));
        }
        text.push('\n');
        text.into()
    }
}

/// Streams that are open, by key. Clones share them.
#[derive(Clone, Debug)]
pub struct Streams {
    by_key: Arc<Mutex<HashMap<ApiKeyId, usize>>>,
    stopping: watch::Sender<bool>,
    metrics: Metrics,
}

/// Place of one stream; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    key: ApiKeyId,
    among: Streams,
}

impl Streams {
    /// None is open.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { by_key: Arc::default(), stopping: watch::Sender::new(false), metrics }
    }

    /// Ends every stream, and each later one right after it began.
    pub fn end(&self) {
        self.stopping.send_replace(true);
    }

    pub(super) fn one_more(&self, key: ApiKeyId) -> Result<Place, ApiError> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let of_all: usize = by_key.values().sum();
        let of_one = by_key.get(&key).copied().unwrap_or_default();
        if of_one >= STREAMS_OF_ONE || of_all >= STREAMS_MAX {
            self.metrics.event_streams_refused.inc();
            let allows = format!(
                "A key may have {STREAMS_OF_ONE} event streams open, and all callers together {STREAMS_MAX}."
            );
            return Err(
                ApiError::new(Code::TooManyStreams, allows).with_header(header::RETRY_AFTER, RETRY_AFTER_S)
            );
        }
        by_key.insert(key, of_one + 1);
        self.metrics.event_streams_open.inc();
        Ok(Place { key, among: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_key = self.among.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = by_key.get_mut(&self.key) {
            *open -= 1;
            if *open == 0 {
                by_key.remove(&self.key);
            }
        }
        self.among.metrics.event_streams_open.dec();
    }
}

/// Answers with these events, for as long as the caller's key is in use.
///
/// # Errors
/// 429 if the key, or the process, has as many streams open as it may.
pub fn answer(
    request: &HttpRequest,
    caller: &Caller,
    events: impl Stream<Item = Event> + 'static,
) -> Result<HttpResponse, ApiError> {
    let (key, caller) = (caller.principal.key_id(), caller.clone());
    answer_while(request, key, events, async move || api_keys::is_in_use(&caller).await)
}

/// The same for as long as `still_valid` says so, which is asked every few seconds. While it fails the
/// stream is silent.
///
/// # Errors
/// As [`answer`].
pub fn answer_while<V>(
    request: &HttpRequest,
    key: ApiKeyId,
    events: impl Stream<Item = Event> + 'static,
    still_valid: V,
) -> Result<HttpResponse, ApiError>
where
    V: AsyncFn() -> Result<bool, ServiceError> + 'static,
{
    let (place, mut response) = begin(request, key, "text/event-stream")?;
    if request.method() == Method::HEAD {
        return Ok(response.finish());
    }
    let ended = ended(&place, request);
    let now = Instant::now();
    let (verify_at, heartbeat_at) = (now + VERIFY_EVERY, now + HEARTBEAT_EVERY);
    let source = Source { events: Box::pin(events), still_valid, verify_at, heartbeat_at };
    let open = Open { source, ended: Box::pin(ended), _place: place };
    let rest = stream::unfold(open, |mut open| async move { Some((open.next().await?, open)) });
    let opening = stream::once(async { Bytes::from_static(OPENING) });
    Ok(response.streaming(Box::pin(opening.chain(rest).map(Ok::<_, Infallible>))))
}

/// The place of an answer that goes on, and its head.
///
/// # Errors
/// As [`answer`].
pub(super) fn begin(
    request: &HttpRequest,
    key: ApiKeyId,
    media_type: &str,
) -> Result<(Place, HttpResponseBuilder), ApiError> {
    let Some(state) = request.app_data::<web::Data<ApiState>>() else {
        return Err(ApiError::internal("the API was built without its state"));
    };
    let place = state.streams.one_more(key)?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, media_type))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        // Nothing is left of the connection when the answer ends: a stop need not wait for it.
        .force_close();
    Ok((place, response))
}

/// Waits until a stream has to end whatever its events are.
pub(super) fn ended(place: &Place, request: &HttpRequest) -> impl Future<Output = ()> + use<> {
    let mut stopping = place.among.stopping.subscribe();
    let hangup = request.conn_data::<Hangup>().cloned();
    async move {
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => {}
            () = hung_up => {}
        }
    }
}

/// A stream that is open.
struct Open<E, V, F> {
    source: Source<E, V>,
    ended: Pin<Box<F>>,
    _place: Place,
}

impl<E, V, F> Open<E, V, F>
where
    E: Stream<Item = Event>,
    V: AsyncFn() -> Result<bool, ServiceError>,
    F: Future<Output = ()>,
{
    /// What is written next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = &mut self.ended => None,
            bytes = self.source.next() => bytes,
        }
    }
}

/// What a stream is made of.
struct Source<E, V> {
    events: Pin<Box<E>>,
    still_valid: V,
    verify_at: Instant,
    heartbeat_at: Instant,
}

impl<E: Stream<Item = Event>, V: AsyncFn() -> Result<bool, ServiceError>> Source<E, V> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let bytes = tokio::select! {
                biased;
                () = sleep_until(self.verify_at) => None,
                () = sleep_until(self.heartbeat_at) => Some(Bytes::from_static(HEARTBEAT)),
                event = self.events.next() => Some(event?.to_bytes()),
            };
            if let Some(bytes) = bytes {
                self.heartbeat_at = Instant::now() + HEARTBEAT_EVERY;
                return Some(bytes);
            }
            match timeout(VERIFY_WITHIN, (self.still_valid)()).await {
                Ok(Ok(true)) => self.verify_at = Instant::now() + VERIFY_EVERY,
                Ok(Ok(false)) => return None,
                // Nothing is given before it has been verified.
                Ok(Err(_)) | Err(_) => sleep(VERIFY_AGAIN).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_line_by_line() {
        let event = Event {
            id: Some("abc".to_owned()),
            name: Some("change"),
            data: "one\r\ntwo\rthree\n".to_owned(),
        };
        let expected = "id: abc\nevent: change\ndata: one\ndata: two\ndata: three\ndata: \n\n";
        assert_eq!(event.to_bytes(), expected);
        let place = Event { id: Some("abc".to_owned()), ..Event::default() };
        assert_eq!(place.to_bytes(), "id: abc\n\n");
        let forged = Event { id: Some("a\ndata: b".to_owned()), data: "c".to_owned(), ..Event::default() };
        assert_eq!(forged.to_bytes(), "data: c\n\n");
    }

    #[test]
    fn a_key_and_the_process_have_their_share_of_streams_and_get_places_back() {
        let metrics = Metrics::new();
        let streams = Streams::new(metrics.clone());
        let of = |key: ApiKeyId, number: usize| -> Vec<Place> {
            (0..number).filter_map(|_| streams.one_more(key).ok()).collect()
        };
        let first = ApiKeyId::generate();
        let mut held = of(first, STREAMS_OF_ONE + 1);
        assert_eq!((held.len(), metrics.event_streams_refused.get()), (STREAMS_OF_ONE, 1));
        held.truncate(STREAMS_OF_ONE - 1);
        assert!(streams.one_more(first).is_ok(), "a place that was given back");
        let others: Vec<_> = (0..STREAMS_MAX).flat_map(|_| of(ApiKeyId::generate(), 1)).collect();
        assert_eq!(held.len() + others.len(), STREAMS_MAX);
        drop((held, others));
        assert_eq!(metrics.event_streams_open.get(), 0);
        assert!(streams.by_key.lock().is_ok_and(|open| open.is_empty()), "nothing is remembered");
    }

    /// Timers may fire a millisecond late.
    fn past() -> Instant {
        Instant::now() - Duration::from_millis(10)
    }

    fn source(
        answers: Vec<Option<bool>>,
    ) -> Source<impl Stream<Item = Event>, impl AsyncFn() -> Result<bool, ServiceError>> {
        let answers = Mutex::new(answers.into_iter());
        let event = Event { data: "secret".to_owned(), ..Event::default() };
        Source {
            events: Box::pin(stream::iter([event])),
            still_valid: async move || {
                let answer = answers.lock().unwrap_or_else(PoisonError::into_inner).next().flatten();
                answer.ok_or(ServiceError::TooSlow("no answer"))
            },
            verify_at: past(),
            heartbeat_at: Instant::now() + HEARTBEAT_EVERY,
        }
    }

    #[tokio::test]
    async fn nothing_is_given_before_the_right_to_it_was_verified() {
        assert_eq!(source(vec![Some(false)]).next().await, None);
        assert_eq!(source(vec![None, Some(false)]).next().await, None);
        let mut valid = source(vec![None, Some(true)]);
        assert_eq!(valid.next().await.as_deref(), Some(b"data: secret\n\n".as_slice()));
        assert_eq!(valid.next().await, None, "the events have ended");
    }

    #[tokio::test]
    async fn a_quiet_stream_says_that_it_is_alive() {
        let mut quiet = source(vec![Some(true)]);
        quiet.heartbeat_at = past();
        quiet.verify_at = Instant::now() + VERIFY_EVERY;
        assert_eq!(quiet.next().await.as_deref(), Some(HEARTBEAT));
        assert!(quiet.heartbeat_at > Instant::now() + HEARTBEAT_EVERY / 2);
    }
}
