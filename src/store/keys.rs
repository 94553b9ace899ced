//! `api_key`: who may call. `api/auth.rs` asks on every request; `app.rs` sets the bootstrap key at start.

use super::{Result, Store};
use crate::domain::ids::{ApiKeyId, TenantId};
use crate::domain::scope::Scope;

/// A key in use.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its id.
    pub api_key_id: ApiKeyId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// What people call it.
    pub name: String,
    /// What it lets its caller do.
    pub scopes: Vec<Scope>,
}

/// Name of the key that comes from the environment.
const BOOTSTRAP: &str = "bootstrap";

impl Store {
    /// The key with this SHA-256, if it is in use.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn key(&self, hash: &[u8; 32]) -> Result<Option<Key>> {
        let row = sqlx::query!(
            r#"select api_key_id as "api_key_id: ApiKeyId", tenant_id as "tenant_id: TenantId", name, scopes
               from api_key
               where key_hash = $1
                 and revoked_at is null
                 and (expires_at is null or expires_at > now())"#,
            &hash[..],
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| Key {
            api_key_id: row.api_key_id,
            tenant_id: row.tenant_id,
            name: row.name,
            scopes: row.scopes.iter().filter_map(|name| Scope::named(name)).collect(),
        }))
    }

    /// Lets the key with this SHA-256 in as the bootstrap key; a former bootstrap key is revoked.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn set_bootstrap_key(&self, hash: &[u8; 32]) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query!(
            "update api_key
             set revoked_at = now()
             where tenant_id = $1
               and name = $2
               and key_hash <> $3
               and revoked_at is null",
            TenantId::DEFAULT as _,
            BOOTSTRAP,
            &hash[..],
        )
        .execute(&mut *tx)
        .await?;
        // A key that was in use before may come back: its row is still there, revoked.
        sqlx::query!(
            "insert into api_key (api_key_id, tenant_id, name, key_hash, scopes)
             values ($1, $2, $3, $4, $5)
             on conflict (key_hash) do update
             set tenant_id = excluded.tenant_id,
                 name = excluded.name,
                 scopes = excluded.scopes,
                 expires_at = null,
                 revoked_at = null",
            ApiKeyId::generate() as _,
            TenantId::DEFAULT as _,
            BOOTSTRAP,
            &hash[..],
            &Scope::ALL.map(|scope| scope.as_str().to_owned()),
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}
