//! `console_session` and `console_login_link`: browsers that are logged in to the console. Called by
//! `services/sessions.rs`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::api_keys::set_tenant_of_entries;
use super::authenticate::{ActiveKey, ActiveKeyRow};
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{ApiKeyId, ConsoleSessionId, TenantId};
use crate::store::{Result, Store, audit};

/// Sessions that one key may have at once; the oldest end first.
const OF_ONE_KEY_MAX: i64 = 100;
/// Links of one key that are still unused; the oldest end first.
const LINKS_OF_ONE_KEY_MAX: i64 = 100;

impl Store {
    /// Begins a session of this key.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn start_console_session(
        &self,
        key: &ActiveKey,
        principal: &str,
        (at, ends_at): (OffsetDateTime, OffsetDateTime),
    ) -> Result<ConsoleSessionId> {
        let id = ConsoleSessionId::generate();
        let mut tx = self.begin().await?;
        sqlx::query!(
            "insert into console_session (session_id, api_key_id, started_at, ends_at) values ($1, $2, $3, $4)",
            id as _,
            key.api_key_id as _,
            at,
            ends_at,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "delete from console_session
             where session_id in (
                 select session_id from console_session
                 where api_key_id = $1
                 order by session_id desc
                 offset $2
                 for update skip locked)",
            key.api_key_id as _,
            OF_ONE_KEY_MAX,
        )
        .execute(&mut *tx)
        .await?;
        write(&mut tx, Kind::ConsoleLogin, (id, at), key.tenant_id, principal).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// The key of a session that has not ended, if the key is in use. One look-up by two primary keys.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn key_of_console_session(
        &self,
        id: ConsoleSessionId,
        at: OffsetDateTime,
    ) -> Result<Option<ActiveKey>> {
        let row = sqlx::query_as!(
            ActiveKeyRow,
            r#"select k.api_key_id as "api_key_id: ApiKeyId", k.tenant_id as "tenant_id: TenantId", k.name,
                      k.scopes, k.expires_at
               from console_session s
               join api_key k using (api_key_id)
               where s.session_id = $1
                 and s.ends_at > $2
                 and k.revoked_at is null
                 and (k.expires_at is null or k.expires_at > $2)"#,
            id as _,
            at,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(ActiveKey::from))
    }

    /// Ends a session; one that has ended stays so.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn end_console_session(
        &self,
        id: ConsoleSessionId,
        tenant: TenantId,
        principal: &str,
        at: OffsetDateTime,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let ended = sqlx::query!("delete from console_session where session_id = $1", id as _);
        if ended.execute(&mut *tx).await?.rows_affected() > 0 {
            write(&mut tx, Kind::ConsoleLogout, (id, at), tenant, principal).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Keeps the SHA-256 of a link that logs in once with this key.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn add_console_login_link(
        &self,
        hash: &[u8; 32],
        key: ApiKeyId,
        ends_at: OffsetDateTime,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query!(
            "insert into console_login_link (token_hash, api_key_id, ends_at) values ($1, $2, $3)",
            &hash[..],
            key as _,
            ends_at,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "delete from console_login_link
             where token_hash in (
                 select token_hash from console_login_link
                 where api_key_id = $1
                 order by ends_at desc
                 offset $2
                 for update skip locked)",
            key as _,
            LINKS_OF_ONE_KEY_MAX,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Uses up the link with this SHA-256; gives its key, if that is in use.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn use_console_login_link(
        &self,
        hash: &[u8; 32],
        at: OffsetDateTime,
    ) -> Result<Option<ActiveKey>> {
        let row = sqlx::query_as!(
            ActiveKeyRow,
            r#"with used as (
                   delete from console_login_link where token_hash = $1 and ends_at > $2 returning api_key_id
               )
               select k.api_key_id as "api_key_id: ApiKeyId", k.tenant_id as "tenant_id: TenantId", k.name,
                      k.scopes, k.expires_at
               from used
               join api_key k using (api_key_id)
               where k.revoked_at is null
                 and (k.expires_at is null or k.expires_at > $2)"#,
            &hash[..],
            at,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(ActiveKey::from))
    }

    /// Removes sessions and links that have ended by themselves; gives how many.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn forget_console_sessions(&self, at: OffsetDateTime) -> Result<u64> {
        let sessions = sqlx::query!("delete from console_session where ends_at <= $1", at);
        let links = sqlx::query!("delete from console_login_link where ends_at <= $1", at);
        let sessions = sessions.execute(&self.pool).await?.rows_affected();
        Ok(sessions + links.execute(&self.pool).await?.rows_affected())
    }
}

async fn write(
    conn: &mut PgConnection,
    kind: Kind,
    (id, at): (ConsoleSessionId, OffsetDateTime),
    tenant: TenantId,
    principal: &str,
) -> Result<()> {
    set_tenant_of_entries(conn, tenant).await?;
    let mut entry = Entry::new(at, kind).data("session_id", id.to_string());
    entry.principal = Some(principal.to_owned());
    audit::write(conn, &[entry]).await
}
