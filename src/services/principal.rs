//! Who is calling, and what they may do.

use std::net::IpAddr;

use time::OffsetDateTime;

use super::{Result, ServiceError};
use crate::domain::access::scope::Scope;
use crate::domain::access::tenant::TenantId;
use crate::domain::ids::ApiKeyId;
use crate::store::access::authenticate::ActiveKey;

/// The key that a caller uses, its tenant and rights, and from where it is used.
#[derive(Clone, Debug)]
pub struct Principal {
    key: ActiveKey,
    audited: String,
    address: IpAddr,
}

impl Principal {
    /// Whoever uses this key from this address.
    #[must_use]
    pub fn of(key: ActiveKey, address: IpAddr) -> Self {
        Self { audited: format!("api-key:{}", key.name), key, address }
    }

    /// Name in audit entries: `api-key:` and the key's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.audited
    }

    /// What people call the key.
    #[must_use]
    pub fn key_name(&self) -> &str {
        &self.key.name
    }

    /// Names of keys repeat, over tenants and over time; ids do not.
    #[must_use]
    pub fn key_id(&self) -> ApiKeyId {
        self.key.api_key_id
    }

    /// Tenant of the key.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.key.tenant_id
    }

    /// End of the key; `None` if it has none.
    #[must_use]
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        self.key.expires_at
    }

    /// Where the call comes from.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether it is the operator: an administrator of the tenant that a bridge begins with.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.tenant() == TenantId::DEFAULT && self.key.scopes.contains(&Scope::Admin)
    }

    /// The tenant whose keys this caller may administer; `None`: of every tenant.
    #[must_use]
    pub fn tenant_unless_operator(&self) -> Option<TenantId> {
        (!self.is_operator()).then(|| self.tenant())
    }

    /// Refuses everybody but the operator.
    ///
    /// # Errors
    /// [`ServiceError::OperatorOnly`] for others.
    pub fn must_be_operator(&self) -> Result<()> {
        if self.is_operator() {
            return Ok(());
        }
        Err(ServiceError::OperatorOnly(
            "This takes a key of the first tenant, the operator's, with the scope admin.",
        ))
    }

    /// Refuses a key without this right.
    ///
    /// # Errors
    /// [`ServiceError::MissingScope`].
    pub fn must_have(&self, scope: Scope) -> Result<()> {
        if self.key.scopes.contains(&scope) { Ok(()) } else { Err(ServiceError::MissingScope(scope)) }
    }
}
