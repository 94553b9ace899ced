//! Reading the bytes of a body, with limits on size and time that depend on the path. Called by
//! `api/http/body.rs` and `api/http/idempotency.rs`: there is no other reader.

use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::http::header;
use bytes::BytesMut;
use futures_util::StreamExt;

use crate::api::http::deadline::{self, BODY_WITHIN};
use crate::api::http::problem::{ApiError, Code};

/// Most bytes of a body.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The same of a source: 18,000 agents (domain/presence/source.rs) by their uuids are some 700 KB.
const SOURCE_BODY_BYTES_MAX: usize = 1024 * 1024;
const SOURCES: &str = "/v1/sources";
/// Where the console sends the same as a form.
const SOURCES_OF_CONSOLE: &str = "/console/sources";
/// The same of agents' ids in the CRM: 20,000 pairs (domain/external_ids.rs).
const EXTERNAL_IDS_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
const EXTERNAL_IDS: &str = "/v1/agents/external-ids";

/// The media type of a body without its parameters, in lower case.
pub(crate) fn media_type(request: &HttpRequest) -> String {
    let given =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Refuses what is not `application/json`.
pub(super) fn check_media_type(request: &HttpRequest) -> Result<(), ApiError> {
    if media_type(request) == "application/json" {
        return Ok(());
    }
    Err(ApiError::new(Code::UnsupportedMediaType, "Send the body with Content-Type: application/json.")
        .with_header(header::ACCEPT, "application/json"))
}

fn bytes_max(path: &str) -> usize {
    if path.starts_with(SOURCES) || path.starts_with(SOURCES_OF_CONSOLE) {
        SOURCE_BODY_BYTES_MAX
    } else if path == EXTERNAL_IDS {
        EXTERNAL_IDS_BODY_BYTES_MAX
    } else {
        BODY_BYTES_MAX
    }
}

/// Reads the whole body.
pub(crate) async fn read(request: &HttpRequest, mut payload: Payload) -> Result<BytesMut, ApiError> {
    let bytes_max = bytes_max(request.path());
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
    deadline::body_begins(request);
    let read = tokio::time::timeout(BODY_WITHIN, reading).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            Code::BodyTooSlow,
            format!("The body must arrive within {} seconds.", BODY_WITHIN.as_secs()),
        )
        .with_header(header::CONNECTION, "close"))
    });
    deadline::body_ends(request);
    read
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::new(Code::BodyTooLarge, format!("A body may have {bytes_max} bytes here."))
        .with_header(header::CONNECTION, "close")
}
