//! `tenant`: owners of sources, webhooks and keys. Called by `services/tenants.rs`, for the operator alone.

use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::TenantId;
use crate::store::{Result, Store, audit};

/// An owner of sources, webhooks and keys.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub tenant_id: TenantId,
    /// Name that the operator gave it.
    pub name: String,
    pub created_at: OffsetDateTime,
}

impl Store {
    /// A page of tenants, oldest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn tenants(&self, after: Option<TenantId>, limit: i64) -> Result<Vec<Tenant>> {
        Ok(sqlx::query_as!(
            Tenant,
            r#"select tenant_id as "tenant_id: TenantId", name, created_at
               from tenant
               where ($1::uuid is null or tenant_id > $1)
               order by tenant_id
               limit $2"#,
            after as _,
            limit,
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Makes a tenant.
    ///
    /// # Errors
    /// If the name is taken.
    pub async fn create_tenant(&self, name: &str, principal: &str) -> Result<Tenant> {
        let at = clock::now();
        let mut tx = self.begin().await?;
        let tenant = sqlx::query_as!(
            Tenant,
            r#"insert into tenant (tenant_id, name, created_at)
               values ($1, $2, $3)
               returning tenant_id as "tenant_id: TenantId", name, created_at"#,
            TenantId::generate() as _,
            name,
            at,
        )
        .fetch_one(&mut *tx)
        .await?;
        let mut entry = Entry::new(at, Kind::TenantCreated)
            .data("tenant_id", tenant.tenant_id.to_string())
            .data("name", name);
        entry.principal = Some(principal.to_owned());
        audit::write(&mut tx, &[entry]).await?;
        tx.commit().await?;
        Ok(tenant)
    }
}
