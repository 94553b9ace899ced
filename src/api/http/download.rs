//! Answers of many lines that are made while the caller takes them. Used by the REST API and the console.
//! They have places among the event streams (`api/http/event_stream.rs`), and end like them: when the caller
//! leaves, its key ends, or the bridge stops. An end before the last line cuts the connection, so that nobody
//! takes a part for the whole.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::time::{Instant, timeout};

use crate::api::http::event_stream::{Place, VERIFY_EVERY, begin, ended};
use crate::api::http::problem::ApiError;
use crate::domain::ids::ApiKeyId;
use crate::services::ServiceError;
use crate::services::audit::{self, ExportInput};
use crate::services::caller::Caller;

/// How long one verification of the caller's right may take.
const VERIFY_WITHIN: Duration = Duration::from_secs(5);

/// Answers with sealed entries of the audit log, for as long as `still_valid` says so.
///
/// # Errors
/// If the caller may not see so much, too many streams are open, or the database does not answer.
pub(crate) async fn audit_log<V>(
    request: &HttpRequest,
    caller: &Caller,
    wanted: ExportInput,
    still_valid: V,
) -> Result<HttpResponse, ApiError>
where
    V: AsyncFn() -> Result<bool, ServiceError> + 'static,
{
    let pages = audit::export(caller, wanted).await?;
    let lines = pages.map(|page| {
        let mut lines = Vec::new();
        for row in page? {
            // Fails for nothing that an entry holds.
            if serde_json::to_writer(&mut lines, &row).is_ok() {
                lines.push(b'\n');
            }
        }
        Ok(Bytes::from(lines))
    });
    answer_while(request, caller.principal.key_id(), "audit.ndjson", lines, still_valid)
}

/// Answers with these lines of JSON as a file of this name, for as long as `still_valid` says so.
///
/// # Errors
/// 429 if the key, or the process, has as many streams open as it may.
fn answer_while<V>(
    request: &HttpRequest,
    key: ApiKeyId,
    file_name: &str,
    lines: impl Stream<Item = Result<Bytes, ServiceError>> + 'static,
    still_valid: V,
) -> Result<HttpResponse, ApiError>
where
    V: AsyncFn() -> Result<bool, ServiceError> + 'static,
{
    let (place, mut response) = begin(request, key, "application/x-ndjson")?;
    response.insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file_name}\"")));
    if request.method() == Method::HEAD {
        return Ok(response.finish());
    }
    let ended = Box::pin(ended(&place, request));
    let open = Open { lines: Box::pin(lines), still_valid, verified: Instant::now(), ended, _place: place };
    let pieces = stream::unfold(Some(open), |open| async move {
        let mut open = open?;
        match open.next().await {
            Ok(piece) => Some((Ok(piece?), Some(open))),
            Err(cut) => Some((Err(cut), None)),
        }
    });
    Ok(response.streaming(Box::pin(pieces)))
}

/// An answer that is open.
struct Open<L, V, F> {
    lines: Pin<Box<L>>,
    still_valid: V,
    /// When the caller's right was last verified.
    verified: Instant,
    ended: Pin<Box<F>>,
    _place: Place,
}

impl<L, V, F> Open<L, V, F>
where
    L: Stream<Item = Result<Bytes, ServiceError>>,
    V: AsyncFn() -> Result<bool, ServiceError>,
    F: Future<Output = ()>,
{
    /// What is written next; `None` at the end.
    ///
    /// # Errors
    /// If the answer is to be cut.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        tokio::select! {
            biased;
            () = &mut self.ended => Err(io::ErrorKind::ConnectionAborted.into()),
            next = next_piece(&mut self.lines, &self.still_valid, &mut self.verified) => next,
        }
    }
}

async fn next_piece<V>(
    lines: &mut Pin<Box<impl Stream<Item = Result<Bytes, ServiceError>>>>,
    still_valid: &V,
    verified: &mut Instant,
) -> io::Result<Option<Bytes>>
where
    V: AsyncFn() -> Result<bool, ServiceError>,
{
    loop {
        let Some(piece) = lines.next().await else { return Ok(None) };
        let piece = piece.map_err(|error| {
            tracing::warn!(%error, "failed to read what a caller downloads; cutting the answer");
            io::Error::from(io::ErrorKind::BrokenPipe)
        })?;
        if verified.elapsed() >= VERIFY_EVERY {
            let valid = timeout(VERIFY_WITHIN, still_valid()).await;
            if !matches!(valid, Ok(Ok(true))) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            *verified = Instant::now();
        }
        if !piece.is_empty() {
            return Ok(Some(piece));
        }
    }
}
