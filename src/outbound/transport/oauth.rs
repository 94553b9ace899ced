//! An access token by client credentials (RFC 6749, section 4.4), kept until shortly before it ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Uri};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::sync::watch;
use url::form_urlencoded;

use crate::domain::delivery::access::Auth;
use crate::domain::delivery::outcome::Outcome;
use crate::domain::delivery::reason::Failure;
use crate::outbound::redact::redact;
use crate::outbound::transport::guard::Guard;
use crate::outbound::transport::request_parts::{address, basic, hidden};
use crate::outbound::transport::wire::{ANSWER_READ_MAX, Reply, Wire};

/// Life of a token whose answer does not say it.
const LIFE_DEFAULT: Duration = Duration::from_secs(300);
/// A shorter life than this is not believed: we would do nothing but ask. A longer one is cut.
const LIFE_SHORTEST: Duration = Duration::from_secs(10);
const LIFE_LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Pause after a failure before the endpoint is asked again.
const REST: Duration = Duration::from_secs(1);
/// A token that was never accepted is not replaced for being refused while it is younger than this: another
/// one would be refused like it, and each POST would cost three requests.
const TRUSTED: Duration = Duration::from_secs(60);
/// Characters that are quoted of a refusal's code, and of its description.
const CODE_MAX: usize = 64;
const DESCRIPTION_MAX: usize = 180;

/// A token as it is sent.
#[derive(Clone)]
pub struct Token {
    /// `Bearer …`.
    pub header: HeaderValue,
    /// Counts the tokens of this cache.
    number: u64,
}

#[derive(Default)]
struct State {
    token: Option<Kept>,
    /// Where the token that is being asked for will be.
    under_way: Option<watch::Receiver<Option<Result<Token, Failure>>>>,
    /// Why there was none the last time, and how long the endpoint is not asked again.
    failed: Option<(Failure, Instant)>,
    /// Tokens issued so far.
    issued: u64,
}

struct Kept {
    token: Token,
    issued_at: Instant,
    refresh_at: Instant,
    ends_at: Instant,
    accepted: bool,
}

/// Caches one token for everybody who needs it. Clones share the cache.
#[derive(Clone)]
pub struct Tokens(Arc<TokenCache>);

struct TokenCache {
    wire: Wire,
    endpoint: Uri,
    /// Credentials, if they do not go into the form.
    authorization: Option<HeaderValue>,
    form: Bytes,
    /// What nothing that is quoted of an answer may show.
    secrets: Vec<Vec<u8>>,
    within: Duration,
    state: Mutex<State>,
}

#[derive(Deserialize)]
struct Issued {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// Why there is no token (RFC 6749, section 5.2).
#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

impl Tokens {
    /// `None` if no request can be made of it, or it is another kind of credentials. The endpoint has
    /// connections of its own.
    pub fn new(guard: Guard, tls: Arc<ClientConfig>, auth: &Auth, within: Duration) -> Option<Self> {
        let Auth::Oauth2 { token_url, client_id, client_secret, scope, audience, in_body } = auth else {
            return None;
        };
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", scope), ("audience", audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        // Section 2.3.1: both are encoded as in a form first. A blank as %20, which every decoder reads:
        // Authlib takes a + for a plus.
        let encoded = |text: &str| {
            form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
        };
        let (id, secret) = (encoded(client_id), encoded(client_secret.expose()));
        let authorization = basic(&id, &secret)?;
        let sent = authorization.as_bytes().strip_prefix(b"Basic ").unwrap_or_default().to_vec();
        let mut secrets = vec![sent];
        secrets.extend([client_id, client_secret.expose(), id.as_str(), secret.as_str()].map(Vec::from));
        let authorization = if *in_body {
            form.append_pair("client_id", client_id).append_pair("client_secret", client_secret.expose());
            None
        } else {
            Some(authorization)
        };
        let endpoint = address(token_url)?;
        Some(Self(Arc::new(TokenCache {
            wire: Wire::new(guard, tls, within, endpoint.clone()),
            endpoint,
            authorization,
            form: form.finish().into(),
            secrets,
            within,
            state: Mutex::default(),
        })))
    }

    /// A token that should be good for a while. One request at a time is made for it, and everybody who waits
    /// shares what comes of it.
    ///
    /// # Errors
    /// [`Outcome::TokenRefused`], and why there is none to be had now.
    pub async fn get(&self) -> Result<Token, Failure> {
        let mut issued = {
            let mut state = self.state();
            let now = Instant::now();
            let kept = state.token.as_ref().filter(|kept| kept.ends_at > now);
            let token = kept.map(|kept| kept.token.clone());
            let fresh = kept.is_some_and(|kept| kept.refresh_at > now);
            let resting = state.failed.clone().filter(|(_, until)| *until > now).map(|(failure, _)| failure);
            // One whose task died is none.
            let under_way = state.under_way.clone().filter(|issued| issued.has_changed().is_ok());
            let issued = match under_way {
                Some(issued) => Ok(issued),
                None if fresh => Err(no_token("the token endpoint is not asked")),
                None if resting.is_some() => Err(resting.unwrap_or(Outcome::TokenRefused.into())),
                None => {
                    let (tell, issued) = watch::channel(None);
                    state.under_way = Some(issued.clone());
                    tokio::spawn(self.clone().fetch(tell));
                    Ok(issued)
                }
            };
            // Nobody waits for a refresh that comes in good time.
            if let Some(token) = token {
                return Ok(token);
            }
            issued?
        };
        let told = issued.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
        told.unwrap_or_else(|| Err(Outcome::TokenRefused.into()))
    }

    /// The receiver took it for good.
    pub fn accepted(&self, token: &Token) {
        if let Some(kept) = self.state().token.as_mut().filter(|kept| kept.token.number == token.number) {
            kept.accepted = true;
        }
    }

    /// The receiver refused this one. Says whether it makes sense to ask for another.
    pub fn drop_refused(&self, token: &Token) -> bool {
        let mut state = self.state();
        match &state.token {
            Some(kept) if kept.token.number == token.number => {
                let worn = kept.accepted || kept.issued_at.elapsed() > TRUSTED;
                if worn {
                    state.token = None;
                }
                worn
            }
            // Somebody else has dropped it already.
            _ => true,
        }
    }

    /// Runs as a task of its own: it goes on when the attempt that asked has run out of time.
    async fn fetch(self, tell: watch::Sender<Option<Result<Token, Failure>>>) {
        let issued = self.ask().await;
        let mut state = self.state();
        let now = Instant::now();
        state.under_way = None;
        state.failed = issued.as_ref().err().map(|failure| (failure.clone(), now + REST));
        let token = issued.map(|(header, life)| {
            state.issued += 1;
            let token = Token { header, number: state.issued };
            state.token = Some(Kept {
                token: token.clone(),
                issued_at: now,
                refresh_at: now + used_for(life),
                ends_at: now + life,
                accepted: false,
            });
            token
        });
        drop(state);
        tell.send_replace(Some(token));
    }

    async fn ask(&self) -> Result<(HeaderValue, Duration), Failure> {
        let mut request = Request::new(Full::new(self.0.form.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.0.endpoint.clone();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.0.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let deadline = (Instant::now() + self.0.within).into();
        let asked = self.0.wire.ask(request, deadline, ANSWER_READ_MAX).await;
        let reply = asked.map_err(|failure| {
            let why = failure.reason.as_ref().map_or("", |reason| reason.as_str());
            no_token(&format!("the token endpoint: {} {why}", failure.outcome.class()))
        })?;
        if reply.status != 200 {
            let why = self.refusal(&reply).map_or_else(String::new, |why| format!(": {why}"));
            return Err(no_token(&format!("the token endpoint answered {}{why}", reply.status)));
        }
        // Some servers refuse with 200.
        let unusable = || match self.refusal(&reply) {
            Some(why) => no_token(&format!("the token endpoint answered 200: {why}")),
            None => no_token("the token endpoint's answer holds no bearer token that can be used"),
        };
        if !reply.whole {
            return Err(unusable());
        }
        let issued: Issued = serde_json::from_slice(&reply.body).map_err(|_| unusable())?;
        let bearer = issued.token_type.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        if !bearer || issued.access_token.is_empty() {
            return Err(unusable());
        }
        let header = hidden(&format!("Bearer {}", issued.access_token)).ok_or_else(unusable)?;
        Ok((header, life(issued.expires_in.as_ref())))
    }

    /// The server's own words for a refusal: its code, and its description if there is one, without what is
    /// secret or breaks the line.
    fn refusal(&self, reply: &Reply) -> Option<String> {
        let Refusal { error, error_description } = serde_json::from_slice(&reply.body).ok()?;
        let quoted = |text: &str, longest: usize| {
            let shown = redact(text.as_bytes(), false, &self.0.secrets, text.len().saturating_mul(4));
            let printable = |c: char| if c.is_ascii_graphic() || c.is_alphanumeric() { c } else { ' ' };
            let shown: String = String::from_utf8_lossy(&shown).chars().map(printable).collect();
            shown.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(longest).collect::<String>()
        };
        let code = quoted(&error, CODE_MAX);
        let description = error_description.map(|text| quoted(&text, DESCRIPTION_MAX)).unwrap_or_default();
        if code.is_empty() {
            return None;
        }
        Some(if description.is_empty() { code } else { format!("{code}: {description}") })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_token(reason: &str) -> Failure {
    Failure::because(Outcome::TokenRefused, reason)
}

/// How long a token lives. Some servers write the number as a text.
fn life(told: Option<&serde_json::Value>) -> Duration {
    let seconds = match told {
        Some(serde_json::Value::Number(number)) => number.as_f64(),
        Some(serde_json::Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    match seconds {
        None => LIFE_DEFAULT,
        Some(seconds) if seconds <= 0.0 => LIFE_SHORTEST,
        Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or(LIFE_LONGEST),
    }
    .clamp(LIFE_SHORTEST, LIFE_LONGEST)
}

/// How long it is used before another is asked for: a tenth before its end, at least a minute, at most half
/// its life.
fn used_for(life: Duration) -> Duration {
    life - (life / 10).max(Duration::from_secs(60)).min(life / 2)
}

#[cfg(test)]
#[path = "oauth_tests.rs"]
mod tests;
