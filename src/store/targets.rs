//! Where a webhook's POSTs go and what signs them, opened for the dispatcher.

use time::OffsetDateTime;

use super::{Result, Store, StoreError, answered};
use crate::domain::ids::{WebhookId, WebhookSecretId};
use crate::domain::secret::MasterKey;
use crate::domain::signature::SigningKey;

/// Where a webhook's POSTs go and what signs them.
#[derive(Clone, Debug)]
pub struct WebhookTarget {
    /// Version of the webhook that this belongs to.
    pub version: i64,
    /// Address, as registered.
    pub url: String,
    /// Keys with the time they stop signing (`None`: the present one), present one first.
    pub keys: Vec<(SigningKey, Option<OffsetDateTime>)>,
}

impl Store {
    /// Address and signing keys of a webhook.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if it is gone, [`StoreError::Corrupt`] if a secret does not open.
    pub async fn webhook_target(
        &self,
        webhook_id: WebhookId,
        now: OffsetDateTime,
        master_key: &MasterKey,
    ) -> Result<WebhookTarget> {
        answered(async {
        let rows = sqlx::query!(
            r#"select w.url, w.version, s.webhook_secret_id as "secret_id: WebhookSecretId", s.sealed, s.expires_at
               from webhook w
               join webhook_secret s on s.webhook_id = w.webhook_id
               where w.webhook_id = $1
                 and w.deleted_at is null
                 and (s.expires_at is null or s.expires_at > $2)
               order by s.expires_at desc nulls first, s.created_at desc"#,
            webhook_id as _,
            now,
        )
        .fetch_all(&self.hot)
        .await?;
        let mut target = None;
        for row in rows {
            let corrupt = |what: String| StoreError::Corrupt {
                table: "webhook_secret",
                column: "sealed",
                row: row.secret_id.to_string(),
                what,
            };
            let bytes = master_key
                .open(&row.sealed, row.secret_id.0.as_bytes())
                .map_err(|e| corrupt(e.to_string()))?;
            let key = SigningKey::from_bytes(&bytes).map_err(|e| corrupt(e.to_string()))?;
            target
                .get_or_insert(WebhookTarget {
                    version: row.version,
                    url: row.url,
                    keys: Vec::new(),
                })
                .keys
                .push((key, row.expires_at));
        }
        target.ok_or(StoreError::NotFound("webhook"))
        })
        .await
    }
}
