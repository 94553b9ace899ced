//! One attempt: one POST, one deadline around everything, a bounded look at the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::header::{HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, SET_COOKIE};
use hyper::{Method, Request};
use rustls::ClientConfig;
use url::Url;

use super::redact::redact;
use crate::clock;
use crate::config::EgressProxy;
use crate::domain::delivery::access::Access;
use crate::domain::delivery::outcome::Outcome;
use crate::domain::delivery::reason::{Failure, Reason};
use crate::domain::delivery::retry_schedule::parse_retry_after;
use crate::domain::delivery::signature::Signer;
use crate::domain::webhook::target::TargetPolicy;
use crate::outbound::body::envelope::{self, Rendered};
use crate::outbound::transport::guard::{Guard, LookUp, ask_the_system};
pub use crate::outbound::transport::target::Target;
use crate::outbound::transport::wire::{ANSWER_READ_MAX, Reply};
use crate::tls;

/// Bytes of an answer's body that are kept.
const ANSWER_KEPT_MAX: usize = 4 * 1024;

/// Header lines of a refusal that are kept.
const HEAD_LINES_MAX: usize = 16;
/// Characters of each that are kept.
const HEAD_LINE_CHARS_MAX: usize = 200;

/// One POST to make.
#[derive(Clone, Debug)]
pub struct Post {
    /// Receiver.
    pub target: Target,
    /// Sent as `webhook-id`: that of the delivery, or of the batch.
    pub id: String,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// Body and the headers that describe it.
    pub rendered: Rendered,
    /// What signs it, the present keys first.
    pub keys: Arc<[Signer]>,
    /// Time of the attempt in Unix seconds.
    pub timestamp: i64,
}

/// Result of one attempt.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The answer, or what came instead.
    pub outcome: Outcome,
    /// Why, in words, where there is more to say than the outcome does.
    pub reason: Option<Reason>,
    /// A kept connection broke, and the POST was made again at once on a fresh one, as the same attempt.
    pub remade: bool,
    /// How long the attempt took.
    pub duration: Duration,
    /// The beginning of the answer's body, at most 4 KiB; of a refusal's without the webhook's secrets, for
    /// it is kept.
    pub excerpt: Vec<u8>,
    /// The first header lines of a refusal, without the webhook's secrets and without cookies.
    pub head: Vec<String>,
}

/// Makes attempts, each one POST.
#[derive(Clone)]
pub struct Poster {
    guard: Guard,
    tls: Arc<ClientConfig>,
}

impl Poster {
    /// A poster that reaches what the policy allows, by way of the proxy if there is one, and trusts what the
    /// system trusts.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(policy: TargetPolicy, proxy: Option<EgressProxy>) -> Result<Self, rustls::Error> {
        let poster = Self::with(policy, ask_the_system, tls::client_config()?);
        Ok(poster.through(proxy))
    }

    pub(super) fn through(self, proxy: Option<EgressProxy>) -> Self {
        Self { guard: self.guard.through(proxy), ..self }
    }

    pub(super) fn with(policy: TargetPolicy, look_up: LookUp, mut tls: ClientConfig) -> Self {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { guard: Guard::new(policy, look_up), tls: Arc::new(tls) }
    }

    /// A webhook's target: to be made once for each version of a webhook, and kept. `timeout` is the deadline
    /// of an attempt, from the first look-up to the last byte of the answer.
    #[must_use]
    pub fn target(&self, url: &str, access: &Access, timeout: Duration) -> Target {
        Target::new(&self.guard, &self.tls, url, access, timeout)
    }

    /// Makes one attempt. Always ends by its deadline; follows no redirect; inflates nothing.
    pub async fn post(&self, post: Post) -> Answer {
        let start = Instant::now();
        match ask(&post, ANSWER_READ_MAX).await {
            Ok(reply) => {
                let retry_after = retry_after_of(&reply.headers);
                let outcome = Outcome::Answered { status: reply.status, retry_after };
                let duration = start.elapsed();
                let (reason, remade) = (redirect(&post, &reply), reply.remade);
                let head = if outcome.is_success() { Vec::new() } else { head_lines(&post, &reply) };
                let excerpt = excerpt(&post, reply, outcome.is_success());
                Answer { outcome, reason, remade, duration, excerpt, head }
            }
            Err(Failure { outcome, reason, remade }) => {
                let (excerpt, head, duration) = (Vec::new(), Vec::new(), start.elapsed());
                Answer { outcome, reason, remade, duration, excerpt, head }
            }
        }
    }
}

/// What is given of an answer's body. A success is quoted nowhere, so nothing is searched in it.
fn excerpt(post: &Post, mut reply: Reply, is_success: bool) -> Vec<u8> {
    if is_success || reply.body.is_empty() {
        reply.body.truncate(ANSWER_KEPT_MAX);
        return reply.body;
    }
    redact(&reply.body, !reply.whole, &secrets(post, &reply), ANSWER_KEPT_MAX)
}

/// What is given of a refusal's head.
fn head_lines(post: &Post, reply: &Reply) -> Vec<String> {
    let shown = reply.headers.iter().filter(|(name, _)| **name != SET_COOKIE);
    let mut lines = Vec::new();
    for (name, value) in shown.take(HEAD_LINES_MAX) {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value.as_bytes());
        lines.push(b'\n');
    }
    let lines = redact(&lines, false, &secrets(post, reply), usize::MAX);
    let shorten = |line: &str| line.chars().take(HEAD_LINE_CHARS_MAX).collect();
    String::from_utf8_lossy(&lines).lines().map(shorten).collect()
}

/// What nothing that is kept of an answer may show.
fn secrets(post: &Post, reply: &Reply) -> Vec<Vec<u8>> {
    let mut secrets = post.target.secrets().to_vec();
    let bare =
        |token: &HeaderValue| token.as_bytes().strip_prefix(b"Bearer ").unwrap_or(token.as_bytes()).to_vec();
    secrets.extend(reply.tokens.iter().map(bare));
    secrets.extend(post.keys.iter().map(|key| key.secret().to_vec()));
    secrets
}

/// Where a redirect leads, by origin and path alone: a query may hold anything. Parts of our own path, which
/// may be a secret, are written as `…`.
fn redirect(post: &Post, reply: &Reply) -> Option<Reason> {
    if !(300..=399).contains(&reply.status) {
        return None;
    }
    let Some(location) = reply.headers.get(LOCATION) else {
        return Some(Reason::new("redirects nowhere: no Location"));
    };
    let own = Url::parse(&post.target.address()?.to_string()).ok()?;
    let leads_to = location.to_str().ok().and_then(|location| own.join(location).ok());
    let Some(to) = leads_to.filter(|to| matches!(to.scheme(), "http" | "https")) else {
        return Some(Reason::new("redirects to what is no address of a receiver"));
    };
    let ours: Vec<_> = own.path().split('/').filter(|part| !part.is_empty()).collect();
    let parts = to.path().split('/').map(|part| if ours.contains(&part) { "…" } else { part });
    let path = parts.collect::<Vec<_>>().join("/");
    let shown = format!("redirects to {}{path}", to.origin().ascii_serialization());
    let shown = redact(shown.as_bytes(), false, &secrets(post, reply), 4 * Reason::LONGEST);
    Some(Reason::new(&String::from_utf8_lossy(&shown)))
}

/// Sends a POST and reads the answer, of whose body it keeps at most `keep` bytes.
pub(super) async fn ask(post: &Post, keep: usize) -> Result<Reply, Failure> {
    let deadline = post.target.deadline();
    let mut request = Request::new(Full::new(post.rendered.body.clone()));
    *request.method_mut() = Method::POST;
    *request.headers_mut() =
        envelope::headers(&post.id, post.attempt, post.timestamp, &post.keys, &post.rendered);
    post.target.ask(request, deadline, keep).await
}

fn retry_after_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(text, clock::now())
}

#[cfg(test)]
#[path = "post_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "post_hostile_tests.rs"]
mod hostile_tests;

#[cfg(test)]
#[path = "post_tls_tests.rs"]
mod tls_tests;

#[cfg(test)]
#[path = "post_h2_tests.rs"]
mod h2_tests;

#[cfg(test)]
#[path = "post_access_tests.rs"]
mod access_tests;

#[cfg(test)]
#[path = "post_kept_tests.rs"]
mod kept_tests;

#[cfg(test)]
#[path = "post_reason_tests.rs"]
mod reason_tests;
