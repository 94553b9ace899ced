//! `api_key`: who may call. `api/auth.rs` asks on every request; `app.rs` sets the bootstrap key at start.

use super::{Result, Store};
use crate::domain::ids::ApiKeyId;

/// Name of the key that comes from the environment.
const BOOTSTRAP: &str = "bootstrap";

impl Store {
    /// Name of the key with this SHA-256, if it is in use.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn key_name(&self, hash: &[u8; 32]) -> Result<Option<String>> {
        let name = sqlx::query_scalar!(
            "select name
             from api_key
             where key_hash = $1
               and revoked_at is null",
            &hash[..],
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(name)
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
             where name = $1
               and key_hash <> $2
               and revoked_at is null",
            BOOTSTRAP,
            &hash[..],
        )
        .execute(&mut *tx)
        .await?;
        // A key that was in use before may come back: its row is still there, revoked.
        sqlx::query!(
            "insert into api_key (api_key_id, name, key_hash)
             values ($1, $2, $3)
             on conflict (key_hash) do update
             set name = excluded.name,
                 revoked_at = null",
            ApiKeyId::generate() as _,
            BOOTSTRAP,
            &hash[..],
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}
