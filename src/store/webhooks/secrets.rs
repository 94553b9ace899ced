//! `webhook_secret`: secrets that sign a webhook's POSTs, made and replaced. Called by
//! `store/webhooks/mod.rs` and `api/resources/webhooks/mod.rs`.

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::clock;
use crate::domain::audit::Kind;
use crate::domain::delivery::signature::{SecretKind, SigningKey};
use crate::domain::ids::{WebhookId, WebhookSecretId};
use crate::domain::secret::MasterKey;
use crate::domain::webhook::SIGNING_SECRETS_MAX;
use crate::random;
use crate::store::webhooks::rows::{Webhook, read};
use crate::store::webhooks::{lock, webhook_entry};
use crate::store::{Result, Store, StoreError, audit};

/// A secret that signs, as far as it may be shown.
#[derive(Clone, Copy, Debug)]
pub struct SecretAge {
    /// What it makes.
    pub kind: SecretKind,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// Until when it signs; `None`: until it is replaced.
    pub expires_at: Option<OffsetDateTime>,
}

impl Store {
    /// The secrets that sign a webhook's POSTs, the present ones first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn webhook_secrets(&self, id: WebhookId) -> Result<Vec<SecretAge>> {
        Ok(sqlx::query_as!(
            SecretAge,
            r#"select kind as "kind: SecretKind", created_at, expires_at
               from webhook_secret
               where webhook_id = $1
                 and coalesce(expires_at > now(), true)
               order by expires_at desc nulls first, kind"#,
            id as _,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?)
    }

    /// Replaces the signing secret, and the `v1a` pair if there is one; the former ones sign on for
    /// `overlap`.
    ///
    /// # Errors
    /// If there is no such webhook, if too many former secrets still sign, or the database refuses.
    pub async fn rotate_webhook_secret(
        &self,
        id: WebhookId,
        secret: &SigningKey,
        overlap: Duration,
        master_key: &MasterKey,
        principal: &str,
    ) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        let has_seed = read(&mut tx, id).await?.has_seed();
        expire_secrets(&mut tx, id, now, now + overlap).await?;
        let signing = sqlx::query_scalar!(
            r#"select count(*) as "count!"
               from webhook_secret
               where webhook_id = $1
                 and kind = 'hmac'"#,
            id as _,
        )
        .fetch_one(&mut *tx)
        .await?;
        if signing >= SIGNING_SECRETS_MAX {
            return Err(StoreError::Conflict(format!(
                "{SIGNING_SECRETS_MAX} secrets of this webhook sign already; wait until a former one has expired"
            )));
        }
        insert_secret(&mut tx, id, SecretKind::Hmac, secret.bytes(), master_key, now).await?;
        if has_seed {
            make_seed(&mut tx, id, master_key, now).await?;
        }
        sqlx::query!(
            "update webhook
             set version = version + 1,
                 updated_at = $2
             where webhook_id = $1",
            id as _,
            now,
        )
        .execute(&mut *tx)
        .await?;
        let entry = webhook_entry(now, Kind::WebhookSecretRotated, id, principal)
            .data("overlap_seconds", overlap.whole_seconds());
        audit::write(&mut tx, &[entry]).await?;
        let webhook = read(&mut tx, id).await?;
        tx.commit().await?;
        // The former secret may have to stop signing at once.
        self.wake.deliveries_due();
        Ok(webhook)
    }
}

/// Lets the present secrets sign until a time, and removes those that have expired.
async fn expire_secrets(
    conn: &mut PgConnection,
    webhook: WebhookId,
    now: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<()> {
    sqlx::query!(
        "update webhook_secret
         set expires_at = $2
         where webhook_id = $1
           and expires_at is null",
        webhook as _,
        until,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "delete from webhook_secret
         where webhook_id = $1
           and expires_at <= $2",
        webhook as _,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes a pair for `v1a` signatures: 32 random bytes are its seed.
pub(in crate::store) async fn make_seed(
    conn: &mut PgConnection,
    webhook: WebhookId,
    master_key: &MasterKey,
    now: OffsetDateTime,
) -> Result<()> {
    insert_secret(conn, webhook, SecretKind::Ed25519, &random::bytes::<32>(), master_key, now).await
}

pub(in crate::store) async fn insert_secret(
    conn: &mut PgConnection,
    webhook: WebhookId,
    kind: SecretKind,
    secret: &[u8],
    master_key: &MasterKey,
    now: OffsetDateTime,
) -> Result<()> {
    let id = WebhookSecretId::generate();
    let sealed = master_key.seal(secret, id.0.as_bytes(), random::bytes());
    sqlx::query!(
        "insert into webhook_secret (webhook_secret_id, webhook_id, kind, sealed, created_at)
         values ($1, $2, $3, $4, $5)",
        id as _,
        webhook as _,
        kind as _,
        sealed,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
