//! What is for the operator alone: tenants, and what the process runs with.

use super::Result;
use super::caller::{Caller, Configuration};
use crate::domain::ids::TenantId;
use crate::store::access::tenants::Tenant;
use crate::store::views::server_facts::ServerFacts;

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

impl<'a> Operator<'a> {
    /// What this process was started with, and its database.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn configuration(&self) -> Result<(&'a Configuration, ServerFacts)> {
        let facts = self.0.services.whole_store.server_facts().await?;
        Ok((&self.0.services.configuration, facts))
    }

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
