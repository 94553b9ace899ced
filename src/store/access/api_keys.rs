//! `api_key` as its administrators see it. Called by `services/api_keys.rs`; the look-up of every request is
//! in `store/access/authenticate.rs`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::access::api_key::BOOTSTRAP;
use crate::domain::access::scope::Scope;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{ApiKeyId, TenantId};
use crate::store::{Result, Store, StoreError, audit};

/// Keys in use that a tenant may have: the memory for their limits must stay small.
const IN_USE_MAX: i64 = 1000;

/// One key; never the key itself, which is not kept.
#[derive(Clone, Debug)]
pub struct ApiKey {
    pub api_key_id: ApiKeyId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Name that people call it.
    pub name: String,
    /// Names of scopes.
    pub scopes: Vec<String>,
    pub created_at: OffsetDateTime,
    /// End of its validity; `None`: never.
    pub expires_at: Option<OffsetDateTime>,
    /// Time of its revocation; `None` while it is in use.
    pub revoked_at: Option<OffsetDateTime>,
    /// Time of its last use, to the minute.
    pub last_used_at: Option<OffsetDateTime>,
}

impl ApiKey {
    /// Whether it comes from the environment.
    #[must_use]
    pub fn is_bootstrap(&self) -> bool {
        self.tenant_id == TenantId::DEFAULT && self.name == BOOTSTRAP
    }
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewApiKey<'a> {
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Name that people call it.
    pub name: &'a str,
    /// SHA-256 of it.
    pub hash: &'a [u8; 32],
    /// Rights of its caller.
    pub scopes: &'a [Scope],
    /// End of its validity; `None`: never.
    pub expires_at: Option<OffsetDateTime>,
}

impl Store {
    /// A page of keys of one tenant, or of all, oldest first; those that were revoked among them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn api_keys(
        &self,
        tenant: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: i64,
    ) -> Result<Vec<ApiKey>> {
        Ok(sqlx::query_as!(
            ApiKey,
            r#"select api_key_id as "api_key_id: ApiKeyId", tenant_id as "tenant_id: TenantId", name, scopes,
                      created_at, expires_at, revoked_at, last_used_at
               from api_key
               where ($1::uuid is null or tenant_id = $1)
                 and ($2::uuid is null or api_key_id > $2)
               order by api_key_id
               limit $3"#,
            tenant as _,
            after as _,
            limit,
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// One key of a tenant, or of any.
    ///
    /// # Errors
    /// If there is none.
    pub async fn api_key(&self, id: ApiKeyId, tenant: Option<TenantId>) -> Result<ApiKey> {
        sqlx::query_as!(
            ApiKey,
            r#"select api_key_id as "api_key_id: ApiKeyId", tenant_id as "tenant_id: TenantId", name, scopes,
                      created_at, expires_at, revoked_at, last_used_at
               from api_key
               where api_key_id = $1
                 and ($2::uuid is null or tenant_id = $2)"#,
            id as _,
            tenant as _,
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound("API key"))
    }

    /// Makes a key; `None` if there is no such tenant.
    ///
    /// # Errors
    /// If a key in use has the name, or the tenant has too many.
    pub async fn create_api_key(&self, new: &NewApiKey<'_>, principal: &str) -> Result<Option<ApiKey>> {
        let at = clock::now();
        let mut tx = self.begin().await?;
        // One after the other for each tenant, so that the count holds.
        let tenant = sqlx::query_scalar!(
            r#"select tenant_id as "tenant_id: TenantId" from tenant where tenant_id = $1 for update"#,
            new.tenant_id as _,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if tenant.is_none() {
            return Ok(None);
        }
        set_tenant_of_entries(&mut tx, new.tenant_id).await?;
        free_expired_name(&mut tx, new, at).await?;
        refuse_if_full(&mut tx, new.tenant_id, at).await?;
        let scopes: Vec<String> = new.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
        let key = sqlx::query_as!(
            ApiKey,
            r#"insert into api_key (api_key_id, tenant_id, name, key_hash, scopes, created_at, expires_at)
               values ($1, $2, $3, $4, $5, $6, $7)
               returning api_key_id as "api_key_id: ApiKeyId", tenant_id as "tenant_id: TenantId", name, scopes,
                         created_at, expires_at, revoked_at, last_used_at"#,
            ApiKeyId::generate() as _,
            new.tenant_id as _,
            new.name,
            &new.hash[..],
            &scopes,
            at,
            new.expires_at,
        )
        .fetch_one(&mut *tx)
        .await?;
        audit::write(&mut tx, &[entry(Kind::ApiKeyCreated, &key, principal)]).await?;
        tx.commit().await?;
        Ok(Some(key))
    }

    /// Revokes a key of a tenant, or of any, and gives it; one that is revoked already stays as it is.
    ///
    /// # Errors
    /// If there is none, or it comes from the environment.
    pub async fn revoke_api_key(
        &self,
        id: ApiKeyId,
        tenant: Option<TenantId>,
        principal: &str,
    ) -> Result<ApiKey> {
        let mut tx = self.begin().await?;
        let mut key = sqlx::query_as!(
            ApiKey,
            r#"select api_key_id as "api_key_id: ApiKeyId", tenant_id as "tenant_id: TenantId", name, scopes,
                      created_at, expires_at, revoked_at, last_used_at
               from api_key
               where api_key_id = $1
                 and ($2::uuid is null or tenant_id = $2)
               for update"#,
            id as _,
            tenant as _,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::NotFound("API key"))?;
        set_tenant_of_entries(&mut tx, key.tenant_id).await?;
        if key.revoked_at.is_some() {
            return Ok(key);
        }
        if key.is_bootstrap() {
            return Err(StoreError::Conflict(
                "this key comes from the environment of the process: set another BRIDGE_API_KEY there, or remove \
                 api.key from its data directory, and restart it"
                    .to_owned(),
            ));
        }
        key.revoked_at = sqlx::query_scalar!(
            "update api_key set revoked_at = $2 where api_key_id = $1 returning revoked_at",
            id as _,
            clock::now(),
        )
        .fetch_one(&mut *tx)
        .await?;
        audit::write(&mut tx, &[entry(Kind::ApiKeyRevoked, &key, principal)]).await?;
        tx.commit().await?;
        Ok(key)
    }
}

fn entry(kind: Kind, key: &ApiKey, principal: &str) -> Entry {
    let mut entry = Entry::new(clock::now(), kind)
        .data("api_key_id", key.api_key_id.to_string())
        .data("tenant_id", key.tenant_id.to_string())
        .data("name", key.name.as_str())
        .data("scopes", key.scopes.clone())
        .data("expires_at", key.expires_at.map(|at| at.to_string()));
    entry.principal = Some(principal.to_owned());
    entry
}

/// Revokes a key of the same name that has expired: it does not keep its name.
async fn free_expired_name(conn: &mut PgConnection, new: &NewApiKey<'_>, at: OffsetDateTime) -> Result<()> {
    sqlx::query!(
        "update api_key
         set revoked_at = expires_at
         where tenant_id = $1
           and name = $2
           and revoked_at is null
           and expires_at <= $3",
        new.tenant_id as _,
        new.name,
        at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn refuse_if_full(conn: &mut PgConnection, tenant: TenantId, at: OffsetDateTime) -> Result<()> {
    let in_use = sqlx::query_scalar!(
        r#"select count(*) as "count!"
           from api_key
           where tenant_id = $1
             and revoked_at is null
             and (expires_at is null or expires_at > $2)"#,
        tenant as _,
        at,
    )
    .fetch_one(conn)
    .await?;
    if in_use >= IN_USE_MAX {
        return Err(StoreError::Conflict(format!("there are {IN_USE_MAX} keys in use, which is the most")));
    }
    Ok(())
}

/// Assigns the audit entries of this transaction to the tenant: they name neither a source nor a webhook of
/// it.
pub(super) async fn set_tenant_of_entries(conn: &mut PgConnection, tenant: TenantId) -> Result<()> {
    sqlx::query_scalar!("select set_config('bridge.tenant', $1, true)", tenant.to_string())
        .fetch_one(conn)
        .await?;
    Ok(())
}
