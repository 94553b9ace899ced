//! Makes REST calls upstream and dials sockets, for both protocols.
//!
//! Adds what awc lacks: one deadline over the whole call, no redirects, a limit on the length of an answer.
//! Sockets have a client of their own, since an open one takes a place in its client's pool.

use std::sync::Arc;
use std::time::Duration;

use awc::error::{ConnectError, SendRequestError};
use awc::http::StatusCode;
use awc::http::header::{AUTHORIZATION, RETRY_AFTER};
use awc::{Client, ClientRequest, ClientResponse, Connector};
use bytes::BytesMut;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use url::Url;

use super::dialer::Dialer;
use super::protocol::{ErrorKind, Provisioned, Token, UpstreamError};
use super::socket::Socket;
use crate::config::EgressProxy;
use crate::domain::secret::Secret;
use crate::domain::webhook::target::TargetPolicy;
use crate::metrics::by_label::CounterBy;
use crate::tls;
use crate::tunnel::TunnelError;

/// The whole of one call, from the look-up of the host to the last byte of the answer. Shorter where tests
/// wait for it.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// Longest answer that is read: a page of 100 users with all their parts stays far below.
pub(super) const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Requests under way at once: more than a source ever makes.
const REQUESTS_MAX: usize = 64;
/// Lifetime of a token whose answer does not say: short, so that a silent default cannot outlast the truth.
pub(super) const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);
/// No platform issues longer tokens; a longer figure is cut.
pub(super) const LIFETIME_MAX: Duration = Duration::from_secs(48 * 3600);
/// A wait that the platform asks for beyond this is cut: its own client refuses to wait longer.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(180);
/// Longest token that is taken: it goes into the head of every request, and heads of 8 KiB are refused in
/// most places.
const TOKEN_CHARS_MAX: usize = 8192;
/// Shortest lifetime that is believed: a shorter one is over before the token could be used.
const LIFETIME_MIN_SECONDS: f64 = 1.0;
/// Longest error text of the platform that is kept.
const TEXT_CHARS_MAX: usize = 200;
/// Longest id of the platform that is taken; its own have 36 characters.
pub(super) const UPSTREAM_ID_CHARS_MAX: usize = 200;

/// Makes requests and dials sockets. Lives on one thread.
pub struct Rest {
    /// For requests.
    pub client: Client,
    sockets: Client,
    /// Counts calls by their outcome; `None`: nobody wants to know.
    calls: Option<CounterBy>,
}

/// Body of an answer with an error status.
#[derive(Default, Deserialize)]
struct ErrorAnswer {
    code: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<String>,
    expires_in: Option<f64>,
}

impl Rest {
    /// New clients that dial only what the policy allows; without a policy, everything. With a proxy, all
    /// goes through it.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        targets: Option<TargetPolicy>,
        proxy: Option<EgressProxy>,
        calls: Option<CounterBy>,
    ) -> Result<Self, rustls::Error> {
        let tls = Arc::new(tls::client_config()?);
        let dialer = Dialer::new(targets, proxy, CALL_WITHIN);
        let client = |connections| {
            let connector = Connector::new()
                .connector(dialer.clone())
                .rustls_0_23(tls.clone())
                .limit(connections)
                .timeout(CALL_WITHIN)
                .handshake_timeout(CALL_WITHIN);
            Client::builder().connector(connector).disable_redirects().timeout(CALL_WITHIN).finish()
        };
        // 0: no limit
        Ok(Self { client: client(REQUESTS_MAX), sockets: client(0), calls })
    }

    /// Opens the socket of a connection, if its address belongs to the source.
    ///
    /// # Errors
    /// If it does not, or the handshake fails.
    pub async fn dial(&self, provisioned: &Provisioned, api_url: &str) -> Result<Socket, UpstreamError> {
        if provisioned.socket_url.expose().is_empty() {
            return Err(bad("socket", "no address was given"));
        }
        let failed =
            |kind, status, what: &str| UpstreamError { kind, status, what: format!("socket: {what}") };
        let url = check_socket_url(provisioned.socket_url.expose(), api_url).ok_or_else(|| {
            let what = "the socket address is not on the source's host, or not protected".to_owned();
            UpstreamError { kind: ErrorKind::ForeignHost, status: None, what }
        })?;
        match timeout(CALL_WITHIN, self.sockets.ws(url.as_str()).connect()).await {
            Err(_) => Err(failed(ErrorKind::TimedOut, None, "no handshake in time")),
            Ok(Ok((_, framed))) => Ok(Socket::new(framed)),
            Ok(Err(awc::error::WsClientError::InvalidResponseStatus(status))) => {
                let kind = kind_of(status, None).unwrap_or(ErrorKind::Status);
                let what = format!("handshake refused with {}", status.as_u16());
                Err(failed(kind, Some(status.as_u16()), &what))
            }
            // The error's own text may quote what the peer sent.
            Ok(Err(awc::error::WsClientError::SendRequest(error))) => {
                Err(failed(ErrorKind::Transport, None, &why_unsent(&error, "no connection")))
            }
            Ok(Err(_)) => {
                Err(failed(ErrorKind::BadAnswer, None, "the handshake was not answered as it must be"))
            }
        }
    }

    /// Makes one call and reads its JSON answer.
    ///
    /// # Errors
    /// If it fails, or the answer is not what it must be.
    pub async fn call<T: DeserializeOwned>(
        &self,
        name: &'static str,
        request: ClientRequest,
        body: Vec<u8>,
    ) -> Result<T, UpstreamError> {
        read_json(name, &self.exchange(name, request, body).await?)
    }

    /// Makes one call; gives the body of a successful answer.
    ///
    /// # Errors
    /// If it fails or is refused.
    pub async fn exchange(
        &self,
        name: &'static str,
        request: ClientRequest,
        body: Vec<u8>,
    ) -> Result<BytesMut, UpstreamError> {
        let answer = exchange(name, request, body).await;
        if let Some(calls) = &self.calls {
            calls.of(answer.as_ref().map_or_else(UpstreamError::class, |_| "ok")).inc();
        }
        answer
    }
}

/// The address to dial, if it is on the source's own host (or a sibling host in its domain) and is not less
/// protected than the REST address.
fn check_socket_url(text: &str, api_url: &str) -> Option<Url> {
    let (url, api) = (Url::parse(text).ok()?, Url::parse(api_url).ok()?);
    let secure = url.scheme() == "wss" || (url.scheme() == "ws" && api.scheme() == "http");
    let (host, api_host) = (url.host_str()?, api.host_str()?);
    let domain = api_host.strip_prefix("api.").unwrap_or(api_host);
    // Sibling hosts of `api.` share our trust in its domain, unless that is a top-level one.
    let shared = api_host != domain && domain.contains('.');
    let own = host == api_host || (shared && host.ends_with(&format!(".{domain}")));
    let plain = url.username().is_empty() && url.password().is_none();
    (secure && own && plain).then_some(url)
}

/// Reads the answer to a request for a token.
///
/// # Errors
/// If it holds none that fits into a header.
pub fn read_token(answer: &[u8]) -> Result<Token, UpstreamError> {
    let answer: TokenAnswer = read_json("token", answer)?;
    let token = answer.access_token.filter(|token| is_header_safe(token) && token.len() <= TOKEN_CHARS_MAX);
    let secret = Secret::new(token.ok_or_else(|| bad("token", "no usable access_token"))?);
    // Missing, zero, negative or tiny: the answer does not say.
    let said = answer.expires_in.filter(|seconds| *seconds >= LIFETIME_MIN_SECONDS);
    let lifetime = said.map_or(LIFETIME_DEFAULT, |seconds| {
        Duration::try_from_secs_f64(seconds).unwrap_or(LIFETIME_MAX).min(LIFETIME_MAX)
    });
    Ok(Token { secret, lifetime })
}

/// The same request with a bearer token.
pub fn authorized(request: ClientRequest, token: &Secret) -> ClientRequest {
    request.insert_header((AUTHORIZATION, format!("Bearer {}", token.expose())))
}

/// Whether an id can be stored, shown and put into a path.
pub fn is_id(id: &str) -> bool {
    is_header_safe(id) && id.len() <= UPSTREAM_ID_CHARS_MAX
}

fn is_header_safe(token: &str) -> bool {
    !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic())
}

/// Reads JSON of a given shape.
///
/// # Errors
/// If it has another shape.
pub fn read_json<T: DeserializeOwned>(name: &'static str, answer: &[u8]) -> Result<T, UpstreamError> {
    serde_json::from_slice(answer).map_err(|_| bad(name, "not the JSON that it must be"))
}

async fn exchange(
    name: &'static str,
    request: ClientRequest,
    body: Vec<u8>,
) -> Result<BytesMut, UpstreamError> {
    let failed = |kind, what: &str| UpstreamError { kind, status: None, what: format!("{name}: {what}") };
    let whole = async {
        // Each call has a connection of its own: after a 100 or 103 awc puts one back whose real answer is
        // still to come, and the next call would be given it, such as another agent's socket address.
        let mut answer = request
            .force_close()
            .send_body(body)
            .await
            .map_err(|error| failed(ErrorKind::Transport, &why_unsent(&error, "no answer")))?;
        let status = answer.status();
        let retry_after =
            header(&answer, RETRY_AFTER.as_str()).or_else(|| header(&answer, "inin-ratelimit-reset"));
        let correlation = header(&answer, "inin-correlation-id");
        let read = read(&mut answer).await;
        match (kind_of(status, retry_after.as_deref()), read) {
            (None, Some(read)) => Ok(read),
            (None, None) => Err(failed(ErrorKind::BadAnswer, "the answer broke off or is too long")),
            (Some(kind), read) => {
                let said: ErrorAnswer = serde_json::from_slice(&read.unwrap_or_default()).unwrap_or_default();
                let mut what = format!("{name}: status {}", status.as_u16());
                // The platform's own message stays out: it may repeat secrets.
                for (label, text) in [("code", said.code.or(said.error)), ("correlation", correlation)] {
                    if let Some(text) = text {
                        what.push_str(&format!(", {label} {}", clean(&text)));
                    }
                }
                Err(UpstreamError { kind, status: Some(status.as_u16()), what })
            }
        }
    };
    timeout(CALL_WITHIN, whole)
        .await
        .unwrap_or_else(|_| Err(failed(ErrorKind::TimedOut, "no answer in time")))
}

/// What became of a request without an answer: the proxy's part in it, or else these words. The error's own
/// text may quote what the peer sent.
fn why_unsent(error: &SendRequestError, otherwise: &str) -> String {
    let SendRequestError::Connect(ConnectError::Io(error)) = error else { return otherwise.to_owned() };
    let proxy = error.get_ref().and_then(|inner| inner.downcast_ref::<TunnelError>());
    proxy.map_or_else(|| otherwise.to_owned(), TunnelError::to_string)
}

/// Reads the body up to the limit; `None` if it is longer or breaks off.
async fn read<S>(answer: &mut ClientResponse<S>) -> Option<BytesMut>
where
    ClientResponse<S>: futures_util::Stream<Item = Result<bytes::Bytes, awc::error::PayloadError>> + Unpin,
{
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.next().await {
        let chunk = chunk.ok()?;
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

fn header<S>(answer: &ClientResponse<S>, name: &str) -> Option<String> {
    answer.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// What a status means; `None` for success.
fn kind_of(status: StatusCode, wait: Option<&str>) -> Option<ErrorKind> {
    Some(match status.as_u16() {
        200..=299 => return None,
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Forbidden,
        409 | 422 => ErrorKind::Limit,
        429 => {
            let seconds = wait.and_then(|text| text.trim().parse::<u64>().ok());
            ErrorKind::RateLimited(seconds.map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX)))
        }
        _ => ErrorKind::Status,
    })
}

/// Text of an untrusted peer, safe for a log line.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

/// Error about an answer that lacks something.
pub fn bad(name: &'static str, what: &str) -> UpstreamError {
    UpstreamError { kind: ErrorKind::BadAnswer, status: None, what: format!("{name}: {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sources_own_hosts_are_dialled() {
        const PUBLIC: &str = "https://api.mypurecloud.de";
        for url in ["wss://api.mypurecloud.de/ws/1", "wss://streaming.mypurecloud.de:443/ws/1"] {
            assert!(check_socket_url(url, PUBLIC).is_some(), "{url}");
        }
        for url in [
            "ws://api.mypurecloud.de/ws/1",
            "https://api.mypurecloud.de/ws/1",
            "wss://mypurecloud.de.evil.example/ws",
            "wss://evilmypurecloud.de/ws",
            "wss://user@api.mypurecloud.de/ws",
            "rubbish",
            "",
        ] {
            assert!(check_socket_url(url, PUBLIC).is_none(), "{url}");
        }
        assert!(check_socket_url("ws://127.0.0.1:9090/ws/1", "http://127.0.0.1:9090").is_some());
        assert!(check_socket_url("ws://127.0.0.2:9090/ws/1", "http://127.0.0.1:9090").is_none());
        let foreign = check_socket_url("wss://foreign.com/ws", "https://api.com");
        assert!(foreign.is_none(), "a top-level domain is nobody's own");
    }
}
