//! `api_key`: look-up of a request's key, on every request, and the bootstrap key, which `app.rs` sets at the
//! start.

use time::OffsetDateTime;

use crate::clock;
use crate::domain::access::api_key::BOOTSTRAP;
use crate::domain::access::scope::Scope;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{ApiKeyId, TenantId};
use crate::store::{Result, Store, audit};

/// A key in use.
#[derive(Clone, Debug)]
pub struct ActiveKey {
    pub api_key_id: ApiKeyId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Name that people call it.
    pub name: String,
    /// Rights of its caller.
    pub scopes: Vec<Scope>,
    /// End of its validity; `None`: never.
    pub expires_at: Option<OffsetDateTime>,
}

/// The same as its columns hold it.
pub(super) struct ActiveKeyRow {
    pub api_key_id: ApiKeyId,
    pub tenant_id: TenantId,
    pub name: String,
    pub scopes: Vec<String>,
    pub expires_at: Option<OffsetDateTime>,
}

impl From<ActiveKeyRow> for ActiveKey {
    fn from(row: ActiveKeyRow) -> Self {
        Self {
            api_key_id: row.api_key_id,
            tenant_id: row.tenant_id,
            name: row.name,
            scopes: row.scopes.iter().filter_map(|name| Scope::named(name)).collect(),
            expires_at: row.expires_at,
        }
    }
}

/// Origin of a bootstrap key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// Set by the operator, for every process.
    Configured,
    /// Made by a process that has none.
    Generated,
}

/// Precision of a key's last use: its row must not change with every call.
pub const USE_NOTED_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

impl Store {
    /// Key with this SHA-256, if it is in use.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn key(&self, hash: &[u8; 32]) -> Result<Option<ActiveKey>> {
        let row = sqlx::query_as!(
            ActiveKeyRow,
            r#"select api_key_id as "api_key_id: ApiKeyId", tenant_id as "tenant_id: TenantId", name, scopes,
                      expires_at
               from api_key
               where key_hash = $1
                 and revoked_at is null
                 and (expires_at is null or expires_at > now())"#,
            &hash[..],
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(ActiveKey::from))
    }

    /// Whether a key is in use.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn key_is_in_use(&self, key: ApiKeyId) -> Result<bool> {
        let in_use = sqlx::query_scalar!(
            r#"select exists (select
                              from api_key
                              where api_key_id = $1
                                and revoked_at is null
                                and (expires_at is null or expires_at > now())) as "in_use!""#,
            key as _,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(in_use)
    }

    /// Notes that a key was used, unless somebody noted it within the last minute.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn note_key_used(&self, key: ApiKeyId, at: OffsetDateTime) -> Result<()> {
        sqlx::query!(
            "update api_key
             set last_used_at = $2
             where api_key_id = $1
               and (last_used_at is null or last_used_at < $2::timestamptz - make_interval(secs => $3))",
            key as _,
            at,
            USE_NOTED_EVERY.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Makes the key with this SHA-256 the bootstrap key, and revokes a former one. A generated key counts
    /// for its process alone, and leaves those of other live processes in use.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn set_bootstrap_key(&self, hash: &[u8; 32], origin: KeyOrigin) -> Result<()> {
        let mut tx = self.begin_in_turn().await?;
        let former = sqlx::query_scalar!(
            r#"update api_key
               set revoked_at = now()
               where tenant_id = $1
                 and name = $2
                 and key_hash <> $3
                 and revoked_at is null
                 and ($4 or recorded_by is null or not process_lives(recorded_by))
               returning api_key_id as "api_key_id: ApiKeyId""#,
            TenantId::DEFAULT as _,
            BOOTSTRAP,
            &hash[..],
            origin == KeyOrigin::Configured,
        )
        .fetch_all(&mut *tx)
        .await?;
        // A key that was in use before may come back: its row is still there, revoked.
        let taken = sqlx::query_scalar!(
            r#"insert into api_key (api_key_id, tenant_id, name, key_hash, scopes)
               values ($1, $2, $3, $4, $5)
               on conflict (key_hash) do update
               set tenant_id = excluded.tenant_id,
                   name = excluded.name,
                   scopes = excluded.scopes,
                   expires_at = null,
                   revoked_at = null
               where api_key.tenant_id <> excluded.tenant_id
                  or api_key.name <> excluded.name
                  or api_key.scopes <> excluded.scopes
                  or api_key.expires_at is not null
                  or api_key.revoked_at is not null
               returning api_key_id as "api_key_id: ApiKeyId""#,
            ApiKeyId::generate() as _,
            TenantId::DEFAULT as _,
            BOOTSTRAP,
            &hash[..],
            &Scope::ALL.map(|scope| scope.as_str().to_owned()),
        )
        .fetch_optional(&mut *tx)
        .await?;
        sqlx::query!(
            "update api_key set recorded_by = $2 where key_hash = $1",
            &hash[..],
            self.process as _,
        )
        .execute(&mut *tx)
        .await?;
        let entry = |kind, key: ApiKeyId| {
            let entry = Entry::new(clock::now(), kind).data("api_key_id", key.to_string());
            entry.data("name", BOOTSTRAP).data("tenant_id", TenantId::DEFAULT.to_string())
        };
        let revoked = former.into_iter().map(|key| entry(Kind::ApiKeyRevoked, key));
        let entries: Vec<Entry> = revoked.chain(taken.map(|key| entry(Kind::ApiKeyCreated, key))).collect();
        audit::write(&mut tx, &entries).await?;
        tx.commit().await?;
        Ok(())
    }
}
