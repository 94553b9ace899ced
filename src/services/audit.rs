//! The audit log, as far as more than a read is to it.

use super::caller::Caller;
use super::{Result, ServiceError};
use crate::domain::ids::TenantId;
use crate::store::audit::seals::LastSeal;

/// Newest seal of the log; `None` before the first. It covers the entries of every tenant, and so tells how
/// many there are: only the operator's tenant may see it.
///
/// # Errors
/// If another tenant asks, or the database does not answer.
pub async fn head(caller: &Caller) -> Result<Option<LastSeal>> {
    if caller.principal.tenant() != TenantId::DEFAULT {
        return Err(ServiceError::OperatorOnly(
            "The log is one for all tenants; its head is the operator's.",
        ));
    }
    Ok(caller.store.last_seal().await?)
}
