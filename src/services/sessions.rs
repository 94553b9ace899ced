//! Browsers in the console: logged in with an API key, or by a link that a key made. The cookie names its
//! session and its end, sealed; what counts is the session's row, at every process.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Result;
use super::caller::{Caller, Services};
use super::principal::Principal;
use crate::clock;
use crate::domain::ids::ConsoleSessionId;
use crate::random;
use crate::store::StoreError;
use crate::store::access::authenticate::ActiveKey;

/// How long a login link may wait for its use.
const LINK_LIVES: Duration = Duration::from_secs(10 * 60);
/// What a cookie is sealed for.
const BOUND_TO: &[u8] = b"console session";

/// A link that logs a browser in once.
#[derive(Debug)]
pub struct LoginLink {
    /// What it holds: 43 characters of base64url.
    pub token: String,
    pub ends_at: OffsetDateTime,
}

/// Makes a link that logs in once as this caller.
///
/// # Errors
/// If this process has no console, or the database refuses.
pub async fn make_link(caller: &Caller) -> Result<LoginLink> {
    if !caller.services.has_console {
        let why = "this bridge has no console: BRIDGE_CONSOLE is off";
        return Err(StoreError::Conflict(why.into()).into());
    }
    let token = BASE64URL.encode(random::bytes::<32>());
    let ends_at = clock::now() + LINK_LIVES;
    let store = &caller.services.whole_store;
    store.add_console_login_link(&hash(&token), caller.principal.key_id(), ends_at).await?;
    Ok(LoginLink { token, ends_at })
}

/// Uses a link up; gives the key that made it, if link and key still count.
///
/// # Errors
/// If the database refuses.
pub async fn use_link(services: &Services, token: &str) -> Result<Option<ActiveKey>> {
    Ok(services.whole_store.use_console_login_link(&hash(token), clock::now()).await?)
}

/// Begins a session that lasts `lasts`, or as long as its key; gives the value of its cookie.
///
/// # Errors
/// If the database refuses.
pub async fn start(
    services: &Services,
    key: &ActiveKey,
    principal: &Principal,
    lasts: Duration,
) -> Result<String> {
    let at = clock::now();
    let ends_at = key.expires_at.map_or(at + lasts, |expires_at| expires_at.min(at + lasts));
    let id = services.whole_store.start_console_session(key, principal.as_str(), (at, ends_at)).await?;
    let plain = [id.0.as_bytes().as_slice(), &ends_at.unix_timestamp().to_be_bytes()].concat();
    Ok(BASE64URL.encode(services.master_key.seal(&plain, BOUND_TO, random::bytes())))
}

/// The session that a cookie names, if we made it and it has not ended by its own word.
#[must_use]
pub fn named_by(services: &Services, cookie: &str) -> Option<ConsoleSessionId> {
    let sealed = BASE64URL.decode(cookie).ok()?;
    let plain = services.master_key.open(&sealed, BOUND_TO).ok()?;
    let (id, ends_at) = plain.split_first_chunk::<16>()?;
    let ends_at = i64::from_be_bytes(ends_at.try_into().ok()?);
    (ends_at > clock::now().unix_timestamp()).then(|| ConsoleSessionId(Uuid::from_bytes(*id)))
}

/// The key of a session, if both count.
///
/// # Errors
/// If the database does not answer.
pub async fn key_of(services: &Services, id: ConsoleSessionId) -> Result<Option<ActiveKey>> {
    Ok(services.whole_store.key_of_console_session(id, clock::now()).await?)
}

/// Whether the caller's session has neither ended nor lost its key.
///
/// # Errors
/// If the database does not answer.
pub async fn is_open(caller: &Caller, id: ConsoleSessionId) -> Result<bool> {
    Ok(key_of(&caller.services, id).await?.is_some())
}

/// Ends a session of this caller.
///
/// # Errors
/// If the database refuses.
pub async fn end(caller: &Caller, id: ConsoleSessionId) -> Result<()> {
    let (tenant, principal) = (caller.principal.tenant(), caller.principal.as_str());
    Ok(caller.services.whole_store.end_console_session(id, tenant, principal, clock::now()).await?)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
