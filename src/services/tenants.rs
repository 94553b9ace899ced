//! Tenants, for the operator alone.

use super::Result;
use super::caller::Caller;
use crate::domain::ids::TenantId;
use crate::store::access::tenants::Tenant;

/// A caller that was found to be the operator.
#[derive(Clone, Copy, Debug)]
pub struct Operator<'a>(&'a Caller);

impl Caller {
    /// Refuses everybody but the operator.
    ///
    /// # Errors
    /// [`ServiceError::OperatorOnly`](super::ServiceError::OperatorOnly) for others.
    pub fn operator(&self) -> Result<Operator<'_>> {
        self.principal.must_be_operator()?;
        Ok(Operator(self))
    }
}

impl Operator<'_> {
    /// A page of tenants, oldest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn tenants(&self, after: Option<TenantId>, limit: i64) -> Result<Vec<Tenant>> {
        Ok(self.0.services.whole_store.tenants(after, limit).await?)
    }

    /// Makes a tenant; [`check_plain_name`](crate::domain::access::api_key::check_plain_name) has seen its
    /// name.
    ///
    /// # Errors
    /// If the name is taken, or the database refuses.
    pub async fn create_tenant(&self, name: &str) -> Result<Tenant> {
        Ok(self.0.services.whole_store.create_tenant(name, self.0.principal.as_str()).await?)
    }
}
