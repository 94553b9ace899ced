//! API keys: found by what a caller presents, made, shown, revoked. A key never gives more than its maker
//! has, but the operator may give anything.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::caller::{Caller, Services};
use super::{Result, ServiceError};
use crate::clock;
use crate::domain::access::api_key::{PREFIX, check_expiry, check_name, read_scopes};
use crate::domain::access::scope::Scope;
use crate::domain::ids::{ApiKeyId, TenantId};
use crate::domain::violation::Violation;
use crate::random;
use crate::store::access::api_keys::{ApiKey, NewApiKey};
use crate::store::access::authenticate::ActiveKey;

/// How long the database may take to look a key up; a little more than it waits for a free connection.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(6);

/// The key with this text, if it is in use. Keys are looked up by hash, so that the time taken says nothing
/// about how near a guess was.
///
/// # Errors
/// If the database does not answer in time.
pub async fn look_up(services: &Services, key: &[u8]) -> Result<Option<ActiveKey>> {
    let hash = Sha256::digest(key).into();
    // A connection to the database that died in silence would hold the caller for minutes.
    match timeout(LOOK_UP_WITHIN, services.whole_store.key(&hash)).await {
        Ok(key) => Ok(key?),
        Err(_) => Err(ServiceError::TooSlow("the key could not be looked up in time")),
    }
}

/// Whether the caller's key is still in use.
///
/// # Errors
/// If the database does not answer.
pub async fn is_in_use(caller: &Caller) -> Result<bool> {
    Ok(caller.services.whole_store.key_is_in_use(caller.principal.key_id()).await?)
}

/// A page of keys of the caller's tenant; the operator may name another one.
///
/// # Errors
/// If somebody else names another tenant, or the database does not answer.
pub async fn list(
    caller: &Caller,
    tenant: Option<TenantId>,
    after: Option<ApiKeyId>,
    limit: i64,
) -> Result<Vec<ApiKey>> {
    let tenant = tenant_for(caller, tenant)?;
    Ok(caller.services.whole_store.api_keys(Some(tenant), after, limit).await?)
}

/// One key that the caller may administer.
///
/// # Errors
/// If there is none, or the database does not answer.
pub async fn get(caller: &Caller, id: ApiKeyId) -> Result<ApiKey> {
    Ok(caller.services.whole_store.api_key(id, caller.principal.tenant_unless_operator()).await?)
}

/// Fields of a key to be made, as given.
#[derive(Clone, Debug)]
pub struct ApiKeyInput {
    /// What people call it.
    pub name: String,
    /// Names of its rights.
    pub scopes: Vec<String>,
    /// `None`: the caller's.
    pub tenant: Option<TenantId>,
    /// `None`: never.
    pub expires_at: Option<OffsetDateTime>,
}

/// The same fields, found to be good.
#[derive(Clone, Debug)]
pub struct CheckedApiKey {
    name: String,
    scopes: Vec<Scope>,
    tenant: Option<TenantId>,
    expires_at: Option<OffsetDateTime>,
}

/// Holds the fields of a key to be made against the rules.
///
/// # Errors
/// Everything that is wrong.
pub fn check(caller: &Caller, input: ApiKeyInput) -> Result<CheckedApiKey, Vec<Violation>> {
    let ApiKeyInput { name, scopes, tenant, expires_at } = input;
    let bound = caller.principal.expires_at().filter(|_| !caller.principal.is_operator());
    let mut wrong: Vec<Violation> = check_name(&name).err().into_iter().collect();
    wrong.extend(check_expiry(expires_at, bound, clock::now()).err());
    match read_scopes(&scopes) {
        Ok(scopes) if wrong.is_empty() => Ok(CheckedApiKey { name, scopes, tenant, expires_at }),
        scopes => {
            wrong.extend(scopes.err().unwrap_or_default());
            Err(wrong)
        }
    }
}

/// Makes a key and gives it with its text, which is kept nowhere.
///
/// # Errors
/// If the caller may not give so much, there is no such tenant, the name is taken, or the database refuses.
pub async fn create(caller: &Caller, wanted: &CheckedApiKey) -> Result<(ApiKey, String)> {
    let principal = &caller.principal;
    // Before anything is looked up: whether another tenant is there or not is no matter of the caller's.
    let tenant_id = tenant_for(caller, wanted.tenant)?;
    if !principal.is_operator() {
        wanted.scopes.iter().try_for_each(|scope| principal.must_have(*scope))?;
    }
    let key = format!("{PREFIX}{}", BASE64URL.encode(random::bytes::<32>()));
    let new = NewApiKey {
        tenant_id,
        name: &wanted.name,
        hash: &Sha256::digest(key.as_bytes()).into(),
        scopes: &wanted.scopes,
        expires_at: wanted.expires_at,
    };
    let made = caller.services.whole_store.create_api_key(&new, principal.as_str()).await?;
    let made =
        made.ok_or_else(|| ServiceError::Invalid(vec![Violation::new("tenant_id", "is no tenant")]))?;
    Ok((made, key))
}

/// Revokes a key that the caller may administer. Takes effect with the next call: keys are looked up each
/// time.
///
/// # Errors
/// If there is none, it comes from the environment, or the database refuses.
pub async fn revoke(caller: &Caller, id: ApiKeyId) -> Result<ApiKey> {
    let (principal, store) = (&caller.principal, &caller.services.whole_store);
    Ok(store.revoke_api_key(id, principal.tenant_unless_operator(), principal.as_str()).await?)
}

/// The tenant that is named, which only for the operator may be another than the caller's.
fn tenant_for(caller: &Caller, named: Option<TenantId>) -> Result<TenantId> {
    let own = caller.principal.tenant();
    let tenant = named.unwrap_or(own);
    if tenant != own {
        caller.principal.must_be_operator()?;
    }
    Ok(tenant)
}
