//! The REST half of protocol `realtime`, and the dialling of its sockets.
//!
//! awc with what it lacks put around it: one deadline over the whole call, no redirects, a limit on what is read of
//! an answer. Sockets have a client of their own, since an open one holds a place in its client's pool.

use std::time::Duration;

use awc::http::StatusCode;
use awc::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use awc::{Client, ClientRequest, ClientResponse, Connector};
use bytes::BytesMut;
use futures_util::{FutureExt, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use url::Url;
use url::form_urlencoded::Serializer;

use super::wire;
use crate::domain::secret::Secret;
use crate::genesys::protocol::{ErrorKind, Frame, Provisioned, Step, Token, Upstream, UpstreamError, Wanted};
use crate::genesys::socket::Socket;
use crate::tls;

/// The whole of one call, from the look-up of the host to the last byte of the answer. Shorter where tests wait for it.
const CALL_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Requests under way at once: more than a source ever makes.
const REQUESTS_MAX: usize = 64;
/// Lifetime of a token whose answer does not say: short, so that a silent default cannot outlast the truth.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);
/// No platform issues longer tokens; a longer figure is cut.
const LIFETIME_MAX: Duration = Duration::from_secs(48 * 3600);
/// A `Retry-After` beyond this is cut: the platform's own client refuses to wait longer.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(180);
/// Longest error text of the platform that is kept.
const TEXT_CHARS_MAX: usize = 200;
/// Longest id of the platform that is taken; its own have 36 characters.
const UPSTREAM_ID_CHARS_MAX: usize = 200;

/// Where and as whom.
#[derive(Clone, Debug)]
pub struct RealtimeSettings {
    /// REST address without a slash at its end.
    pub api_url: String,
    /// Address that issues tokens, likewise.
    pub login_url: String,
    /// OAuth client id.
    pub client_id: String,
    /// OAuth client secret.
    pub client_secret: Secret,
}

/// Speaks protocol `realtime` with one source. Lives on one thread.
pub struct Realtime {
    settings: RealtimeSettings,
    rest: Client,
    sockets: Client,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<String>,
    expires_in: Option<f64>,
}

#[derive(Deserialize)]
struct UserAnswer {
    id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionRequest<'a> {
    user_id: &'a str,
    topics: &'a [String],
    heartbeat_interval: u128,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionAnswer {
    ws_url: Option<String>,
    // A listing may call it plainly an id, as the platform does elsewhere.
    #[serde(alias = "id")]
    connection_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ListAnswer {
    Page { entities: Vec<ConnectionAnswer> },
    Plain(Vec<ConnectionAnswer>),
}

#[derive(Default, Deserialize)]
struct ErrorAnswer {
    code: Option<String>,
    error: Option<String>,
}

impl Realtime {
    /// A client for one source.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(settings: RealtimeSettings) -> Result<Self, rustls::Error> {
        let tls = std::sync::Arc::new(tls::client_config()?);
        let client = |connections| {
            let connector = Connector::new()
                .rustls_0_23(tls.clone())
                .limit(connections)
                .timeout(CALL_WITHIN)
                .handshake_timeout(CALL_WITHIN);
            Client::builder().connector(connector).disable_redirects().timeout(CALL_WITHIN).finish()
        };
        let (rest, sockets) = (client(REQUESTS_MAX), client(0)); // 0: no limit
        Ok(Self { settings, rest, sockets })
    }

    fn connections_url(&self) -> String {
        format!("{}/api/v2/realtime/connections", self.settings.api_url)
    }

    /// The address to dial, if it is on the source's own host (or a host beside it in its domain) and is not less
    /// protected than the REST address.
    fn judge_socket_url(&self, text: &str) -> Option<Url> {
        let (url, api) = (Url::parse(text).ok()?, Url::parse(&self.settings.api_url).ok()?);
        let secure = url.scheme() == "wss" || (url.scheme() == "ws" && api.scheme() == "http");
        let (host, api_host) = (url.host_str()?, api.host_str()?);
        let domain = api_host.strip_prefix("api.").unwrap_or(api_host);
        // Hosts beside `api.` share our trust in its domain, unless that is a top-level one.
        let shared = api_host != domain && domain.contains('.');
        let own = host == api_host || (shared && host.ends_with(&format!(".{domain}")));
        let plain = url.username().is_empty() && url.password().is_none();
        (secure && own && plain).then_some(url)
    }
}

impl Upstream for Realtime {
    fn token(&self) -> Step<'_, Token> {
        async move {
            let form = Serializer::new(String::new())
                .append_pair("client_id", &self.settings.client_id)
                .append_pair("client_secret", self.settings.client_secret.expose())
                .append_pair("grant_type", "client_credentials")
                .finish();
            let request = self
                .rest
                .post(format!("{}/api/v2/oauth/token", self.settings.login_url))
                .insert_header((CONTENT_TYPE, "application/x-www-form-urlencoded"));
            let answer: TokenAnswer = call("token", request, form.into_bytes()).await?;
            let token = answer.access_token.filter(|token| is_header_safe(token));
            let secret = Secret::new(token.ok_or_else(|| bad("token", "no usable access_token"))?);
            // Missing, zero, negative: the answer does not say.
            let said = answer.expires_in.filter(|seconds| *seconds > 0.0);
            let lifetime = said.map_or(LIFETIME_DEFAULT, |seconds| {
                Duration::try_from_secs_f64(seconds).unwrap_or(LIFETIME_MAX).min(LIFETIME_MAX)
            });
            Ok(Token { secret, lifetime })
        }
        .boxed_local()
    }

    fn verify<'a>(&'a self, token: &'a Secret) -> Step<'a, String> {
        async move {
            let request = self.rest.get(format!("{}/api/v2/users/me", self.settings.api_url));
            let answer: UserAnswer = call("users/me", authorized(request, token), Vec::new()).await?;
            answer.id.filter(|id| !id.is_empty()).ok_or_else(|| bad("users/me", "no id"))
        }
        .boxed_local()
    }

    fn provision<'a>(&'a self, token: &'a Secret, wanted: &'a Wanted) -> Step<'a, Provisioned> {
        async move {
            let body = ConnectionRequest {
                user_id: &wanted.agent_id,
                topics: &wanted.topics,
                heartbeat_interval: wanted.heartbeat_interval.as_millis(),
            };
            let body =
                serde_json::to_vec(&body).map_err(|_| bad("connections", "request cannot be written"))?;
            let request = authorized(self.rest.post(self.connections_url()), token)
                .insert_header((CONTENT_TYPE, "application/json"));
            let answer: ConnectionAnswer = call("connections", request, body).await?;
            let upstream_id = answer.connection_id.filter(|id| is_id(id));
            Ok(Provisioned {
                upstream_id: upstream_id.ok_or_else(|| bad("connections", "no usable connectionId"))?,
                // Without an address the connection exists all the same: dialling fails, and it is deleted.
                socket_url: Secret::new(answer.ws_url.unwrap_or_default()),
            })
        }
        .boxed_local()
    }

    fn list<'a>(&'a self, token: &'a Secret) -> Step<'a, Vec<String>> {
        async move {
            let request = authorized(self.rest.get(self.connections_url()), token);
            let (ListAnswer::Page { entities } | ListAnswer::Plain(entities)) =
                call("list of connections", request, Vec::new()).await?;
            Ok(entities.into_iter().filter_map(|connection| connection.connection_id).collect())
        }
        .boxed_local()
    }

    fn delete<'a>(&'a self, token: &'a Secret, upstream_id: &'a str) -> Step<'a, ()> {
        async move {
            let id: String = url::form_urlencoded::byte_serialize(upstream_id.as_bytes()).collect();
            let request = authorized(self.rest.delete(format!("{}/{id}", self.connections_url())), token);
            match exchange("delete", request, Vec::new()).await {
                Ok(_) => Ok(()),
                Err(error) if error.status == Some(404) => Ok(()),
                Err(error) => Err(error),
            }
        }
        .boxed_local()
    }

    fn dial<'a>(&'a self, provisioned: &'a Provisioned) -> Step<'a, Socket> {
        async move {
            if provisioned.socket_url.expose().is_empty() {
                return Err(bad("connections", "no wsUrl"));
            }
            let url =
                self.judge_socket_url(provisioned.socket_url.expose()).ok_or_else(|| UpstreamError {
                    kind: ErrorKind::ForeignHost,
                    status: None,
                    what: "the socket address is not on the source's host, or not protected".to_owned(),
                })?;
            let failed =
                |kind, status, what: &str| UpstreamError { kind, status, what: format!("socket: {what}") };
            match timeout(CALL_WITHIN, self.sockets.ws(url.as_str()).connect()).await {
                Err(_) => Err(failed(ErrorKind::TimedOut, None, "no handshake in time")),
                Ok(Ok((_, framed))) => Ok(Socket::new(framed)),
                Ok(Err(awc::error::WsClientError::InvalidResponseStatus(status))) => {
                    let kind = kind_of(status, None).unwrap_or(ErrorKind::Status);
                    Err(failed(
                        kind,
                        Some(status.as_u16()),
                        &format!("handshake refused with {}", status.as_u16()),
                    ))
                }
                // The error's own text may quote what the peer sent.
                Ok(Err(awc::error::WsClientError::SendRequest(_))) => {
                    Err(failed(ErrorKind::Transport, None, "no connection"))
                }
                Ok(Err(_)) => {
                    Err(failed(ErrorKind::BadAnswer, None, "the handshake was not answered as it must be"))
                }
            }
        }
        .boxed_local()
    }

    fn read(&self, text: &str) -> Frame {
        wire::read(text)
    }
}

fn authorized(request: ClientRequest, token: &Secret) -> ClientRequest {
    request.insert_header((AUTHORIZATION, format!("Bearer {}", token.expose())))
}

/// Whether an id can be stored, shown and put into a path.
fn is_id(id: &str) -> bool {
    is_header_safe(id) && id.len() <= UPSTREAM_ID_CHARS_MAX
}

fn is_header_safe(token: &str) -> bool {
    !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic())
}

/// Makes one call and reads its JSON answer.
async fn call<T: DeserializeOwned>(
    name: &'static str,
    request: ClientRequest,
    body: Vec<u8>,
) -> Result<T, UpstreamError> {
    let answer = exchange(name, request, body).await?;
    serde_json::from_slice(&answer).map_err(|_| bad(name, "not the JSON that it must be"))
}

/// Makes one call; gives the body of a successful answer.
async fn exchange(
    name: &'static str,
    request: ClientRequest,
    body: Vec<u8>,
) -> Result<BytesMut, UpstreamError> {
    let failed = |kind, what: &str| UpstreamError { kind, status: None, what: format!("{name}: {what}") };
    let whole = async {
        // Each call has a connection of its own: after a 100 or 103 awc puts one back whose real answer is still to
        // come, and the next call would be given it, such as another agent's socket address.
        let mut answer = request
            .force_close()
            .send_body(body)
            .await
            .map_err(|_| failed(ErrorKind::Transport, "no answer"))?;
        let status = answer.status();
        let (retry_after, correlation) =
            (header(&answer, RETRY_AFTER.as_str()), header(&answer, "inin-correlation-id"));
        let read = read(&mut answer).await;
        match (kind_of(status, retry_after.as_deref()), read) {
            (None, Some(read)) => Ok(read),
            (None, None) => Err(failed(ErrorKind::BadAnswer, "the answer broke off or is too long")),
            (Some(kind), read) => {
                let said: ErrorAnswer = serde_json::from_slice(&read.unwrap_or_default()).unwrap_or_default();
                let mut what = format!("{name}: status {}", status.as_u16());
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
fn kind_of(status: StatusCode, retry_after: Option<&str>) -> Option<ErrorKind> {
    Some(match status.as_u16() {
        200..=299 => return None,
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Forbidden,
        409 | 422 => ErrorKind::Limit,
        429 => {
            let seconds = retry_after.and_then(|text| text.trim().parse::<u64>().ok());
            ErrorKind::RateLimited(seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)))
        }
        _ => ErrorKind::Status,
    })
}

/// Words of a stranger, fit for a log line.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

fn bad(name: &'static str, what: &str) -> UpstreamError {
    UpstreamError { kind: ErrorKind::BadAnswer, status: None, what: format!("{name}: {what}") }
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
