//! Where one webhook's POSTs go, and all that its receiver asks for: its own connections, headers and
//! credentials.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName};
use hyper::{Request, Uri};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::domain::delivery::access::{Access, Auth};
use crate::domain::delivery::outcome::Outcome;
use crate::domain::delivery::reason::Failure;
use crate::outbound::transport::guard::Guard;
use crate::outbound::transport::oauth::Tokens;
use crate::outbound::transport::request_parts::{address, basic, hidden};
use crate::outbound::transport::wire::{Reply, Wire};
use crate::tls::Identity;

const UNAUTHORIZED: u16 = 401;
/// Shorter values of an address's query, and shorter parts of its path, are words such as `json` and `hooks`.
const VALUE_MIN: usize = 8;
const PART_MIN: usize = 16;

/// Where a webhook's POSTs go. Made once and kept: it holds the connections, which no other webhook shares or
/// waits for, and the access token. Clones are the same target.
#[derive(Clone)]
pub struct Target(Arc<Parts>);

struct Parts {
    /// `None` if no request can be made of what was registered: every attempt says so then.
    way: Option<Way>,
    timeout: Duration,
    /// What no answer of the receiver may show when it is kept.
    secrets: Vec<Vec<u8>>,
}

struct Way {
    address: Uri,
    wire: Wire,
    /// The receiver's own headers, and credentials that do not change.
    headers: HeaderMap,
    /// Credentials that change: OAuth tokens.
    tokens: Option<Tokens>,
}

impl fmt::Debug for Target {
    /// An address may hold a secret, and everything else is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target(…)")
    }
}

impl Target {
    pub(in crate::outbound) fn new(
        guard: &Guard,
        tls: &Arc<ClientConfig>,
        url: &str,
        access: &Access,
        timeout: Duration,
    ) -> Self {
        let way = Way::new(guard, tls, url, access, timeout);
        let mut secrets = secrets(access);
        secrets.extend(secrets_in(url));
        Self(Arc::new(Parts { way, timeout, secrets }))
    }

    /// What the receiver is shown of its secrets; access tokens come with each [`Reply`].
    pub(in crate::outbound) fn secrets(&self) -> &[Vec<u8>] {
        &self.0.secrets
    }

    /// When a request that begins now must have ended.
    pub(in crate::outbound) fn deadline(&self) -> Instant {
        Instant::now() + self.0.timeout
    }

    /// Asks with everything that the receiver wants to see; a header of the request wins over one of the
    /// receiver's own. Always ends by the deadline. Keeps at most `keep` bytes of the answer's body.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(in crate::outbound) async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
        keep: usize,
    ) -> Result<Reply, Failure> {
        let way = self.0.way.as_ref().ok_or(Outcome::NotBuilt)?;
        way.ask(request, deadline, keep).await
    }

    /// Its address; `None` if it was none.
    pub(in crate::outbound) fn address(&self) -> Option<&Uri> {
        self.0.way.as_ref().map(|way| &way.address)
    }
}

impl Way {
    fn new(
        guard: &Guard,
        tls: &Arc<ClientConfig>,
        url: &str,
        access: &Access,
        timeout: Duration,
    ) -> Option<Self> {
        let tls = match &access.client_certificate {
            None => tls.clone(),
            Some(certificate) => {
                let identity = Identity::from_pem(&certificate.chain, certificate.key.expose()).ok()?;
                Arc::new(identity.shown_by(tls))
            }
        };
        let address = address(url)?;
        let wire = Wire::new(guard.clone(), tls.clone(), timeout, address.clone());
        let mut headers = HeaderMap::with_capacity(access.headers.len() + 1);
        for (name, value) in &access.headers {
            headers.insert(HeaderName::try_from(name).ok()?, hidden(value.expose())?);
        }
        let mut tokens = None;
        match &access.auth {
            Auth::None => {}
            Auth::Basic { username, password } => {
                headers.insert(AUTHORIZATION, basic(username, password.expose())?);
            }
            Auth::Bearer { token } => {
                headers.insert(AUTHORIZATION, hidden(&format!("Bearer {}", token.expose()))?);
            }
            Auth::Scheme { scheme, credentials } => {
                headers.insert(AUTHORIZATION, hidden(&format!("{scheme} {}", credentials.expose()))?);
            }
            Auth::Oauth2 { .. } => tokens = Some(Tokens::new(guard.clone(), tls, &access.auth, timeout)?),
        }
        Some(Self { address, wire, headers, tokens })
    }

    async fn ask(
        &self,
        mut request: Request<Full<Bytes>>,
        deadline: Instant,
        keep: usize,
    ) -> Result<Reply, Failure> {
        *request.uri_mut() = self.address.clone();
        let ours = std::mem::replace(request.headers_mut(), self.headers.clone());
        request.headers_mut().extend(ours);
        let Some(tokens) = &self.tokens else {
            return self.wire.ask(request, deadline, keep).await;
        };
        // By the same deadline, so that it is the token that is told to be missing.
        let get = async || {
            let late =
                || Failure::because(Outcome::TokenRefused, "the token endpoint did not answer in time");
            timeout_at(deadline, tokens.get()).await.unwrap_or_else(|_| Err(late()))
        };
        let token = get().await?;
        request.headers_mut().insert(AUTHORIZATION, token.header.clone());
        let mut reply = self.wire.ask(request.clone(), deadline, keep).await?;
        reply.tokens.push(token.header.clone());
        if reply.status != UNAUTHORIZED {
            tokens.accepted(&token);
            return Ok(reply);
        }
        if !tokens.drop_refused(&token) {
            return Ok(reply);
        }
        let renewed = get().await?;
        request.headers_mut().insert(AUTHORIZATION, renewed.header.clone());
        let mut reply = self.wire.ask(request, deadline, keep).await?;
        reply.tokens.extend([token.header, renewed.header]);
        Ok(reply)
    }
}

/// Parts of an address that may be secrets: values of its query, and parts of its path that are too long for
/// a word. An error page likes to name what it could not do.
fn secrets_in(url: &str) -> Vec<Vec<u8>> {
    let Ok(url) = Url::parse(url) else { return Vec::new() };
    let values =
        url.query_pairs().map(|(_, value)| value.into_owned()).filter(|value| value.len() >= VALUE_MIN);
    let parts = url.path().split('/').filter(|part| part.len() >= PART_MIN).map(str::to_owned);
    values.chain(parts).map(String::into_bytes).collect()
}

/// Every secret of a webhook that is not the signature's, as it is sent and as its owner wrote it.
fn secrets(access: &Access) -> Vec<Vec<u8>> {
    let mut secrets: Vec<String> =
        access.headers.iter().map(|(_, value)| value.expose().to_owned()).collect();
    match &access.auth {
        Auth::None => {}
        Auth::Basic { username, password } => secrets.extend([
            password.expose().to_owned(),
            BASE64.encode(format!("{username}:{}", password.expose())),
        ]),
        Auth::Bearer { token } => secrets.push(token.expose().to_owned()),
        Auth::Scheme { credentials, .. } => {
            let whole = credentials.expose();
            secrets.push(whole.to_owned());
            // As in `Token token="…"`, of which a receiver may repeat the inner part alone.
            secrets
                .extend(whole.split('"').skip(1).step_by(2).filter(|part| part.len() > 3).map(str::to_owned));
        }
        Auth::Oauth2 { client_secret, .. } => secrets.push(client_secret.expose().to_owned()),
    }
    secrets.into_iter().map(String::into_bytes).collect()
}
