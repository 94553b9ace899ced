//! Asks a receiver whether it wants our POSTs, before it gets any: so that nobody can be flooded by being
//! registered.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use serde::Serialize;
use time::OffsetDateTime;

use super::post::{Post, Poster, Target, ask};
use crate::clock::rfc3339;
use crate::domain::delivery::outcome::Outcome;
use crate::domain::delivery::reason::{Failure, Reason};
use crate::domain::delivery::settings::Verification;
use crate::domain::delivery::signature::Signer;
use crate::outbound::body::envelope::Rendered;
use crate::outbound::transport::wire::{ANSWER_READ_MAX, Reply};

/// Who asks, in CloudEvents' handshake.
const ORIGIN: &str = "presence-bridge";
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: &str = "webhook-allowed-origin";
const ALLOWED_RATE: &str = "webhook-allowed-rate";

/// What a receiver allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// POSTs a minute; `None`: it sets no limit.
    pub per_minute: Option<u32>,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A stable word: the class of the outcome, `no_challenge`, or `origin_not_allowed`.
    pub word: &'static str,
    /// Why, where there is more to say.
    pub reason: Option<Reason>,
}

#[derive(Serialize)]
struct Challenge<'a> {
    r#type: &'static str,
    timestamp: String,
    data: ChallengeData<'a>,
}

#[derive(Serialize)]
struct ChallengeData<'a> {
    challenge: &'a str,
}

impl Poster {
    /// Asks in the way that the webhook is set to. `id` becomes the `webhook-id`; `challenge` is random, of
    /// letters and digits.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub async fn verify(
        &self,
        target: &Target,
        verification: Verification,
        id: &str,
        challenge: &str,
        keys: Arc<[Signer]>,
        timestamp: i64,
    ) -> Result<Allowed, Refusal> {
        match verification {
            Verification::None => Ok(Allowed::default()),
            Verification::Echo => {
                let rendered = rendered(challenge, timestamp);
                let post =
                    Post { target: target.clone(), id: id.to_owned(), attempt: 1, rendered, keys, timestamp };
                let reply = well(ask(&post, ANSWER_READ_MAX).await)?;
                let wanted = challenge.as_bytes();
                let echoed =
                    !wanted.is_empty() && reply.body.windows(wanted.len()).any(|part| part == wanted);
                if echoed {
                    Ok(Allowed::default())
                } else {
                    Err(Refusal { word: "no_challenge", reason: None })
                }
            }
            Verification::Options => {
                let mut request = Request::new(Full::new(Bytes::new()));
                *request.method_mut() = Method::OPTIONS;
                request.headers_mut().insert(REQUEST_ORIGIN, HeaderValue::from_static(ORIGIN));
                let reply = well(target.ask(request, target.deadline(), 0).await)?;
                allowed(&reply.headers).ok_or(Refusal { word: "origin_not_allowed", reason: None })
            }
        }
    }
}

fn rendered(challenge: &str, timestamp: i64) -> Rendered {
    let at = OffsetDateTime::from_unix_timestamp(timestamp).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let body = Challenge {
        r#type: "webhook.verification",
        timestamp: rfc3339(at),
        data: ChallengeData { challenge },
    };
    // Writing strings into memory cannot fail.
    let body = serde_json::to_vec(&body).unwrap_or_default().into();
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    Rendered { body, headers }
}

/// The answer if it is a good one, else what it is.
fn well(answer: Result<Reply, Failure>) -> Result<Reply, Refusal> {
    let reply = answer.map_err(|failure| refusal(failure.outcome, failure.reason))?;
    let outcome = Outcome::Answered { status: reply.status, retry_after: None };
    if outcome.is_success() { Ok(reply) } else { Err(refusal(outcome, None)) }
}

fn refusal(outcome: Outcome, reason: Option<Reason>) -> Refusal {
    Refusal { word: outcome.class(), reason }
}

fn allowed(headers: &HeaderMap) -> Option<Allowed> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let origin = text(ALLOWED_ORIGIN)?;
    if origin != "*" && !origin.eq_ignore_ascii_case(ORIGIN) {
        return None;
    }
    // Anything but a number, such as `*`, is no limit.
    let per_minute = text(ALLOWED_RATE).and_then(|rate| rate.parse().ok()).filter(|rate| *rate > 0);
    Some(Allowed { per_minute })
}
