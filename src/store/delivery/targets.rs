//! Address, settings and signing keys of a webhook, opened for the dispatcher.

use time::OffsetDateTime;

use crate::domain::delivery::access::Access;
use crate::domain::delivery::circuit::Circuit;
use crate::domain::delivery::settings::{DeliverySettings, Verification};
use crate::domain::delivery::signature::{SecretKind, SigningKey};
use crate::domain::ids::{TenantId, WebhookId, WebhookSecretId};
use crate::domain::secret::MasterKey;
use crate::domain::webhook::state::WebhookState;
use crate::store::webhooks::rows::{open_seed, read};
use crate::store::{Result, Store, StoreError, with_timeout};

/// Address, settings and signing keys of a webhook.
#[derive(Clone, Debug)]
pub struct WebhookTarget {
    /// Version of the webhook with these settings.
    pub version: i64,
    /// Address, as registered.
    pub url: String,
    pub settings: DeliverySettings,
    /// Authentication at the receiver.
    pub access: Access,
    /// `active`, `paused`, `disabled` or `unverified`.
    pub state: WebhookState,
    /// Recent failures of its receiver.
    pub circuit: Circuit,
    /// Its present address has accepted a POST.
    pub is_proven: bool,
    pub tenant_id: TenantId,
    /// A notice of its failing was sent to the webhooks that ask for it.
    pub noticed: bool,
    pub verification: Verification,
    /// Keys of `v1` signatures, each with the time when it stops signing (`None`: the present one), present
    /// one first. Empty if the webhook does not want them.
    pub keys: Vec<(SigningKey, Option<OffsetDateTime>)>,
    /// Seeds of `v1a` signatures, in the same order.
    pub ed25519: Vec<(Seed, Option<OffsetDateTime>)>,
}

/// Seed of an ed25519 pair; its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed(pub [u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(…)")
    }
}

impl Store {
    /// Address, settings and signing keys of a webhook.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if it is gone, [`StoreError::Corrupt`] if something sealed does not open.
    pub async fn webhook_target(
        &self,
        webhook_id: WebhookId,
        now: OffsetDateTime,
        master_key: &MasterKey,
    ) -> Result<WebhookTarget> {
        with_timeout(async {
            let mut conn = self.pipeline().await?.acquire().await?;
            // The row first: after a rotation in between the keys are newer than the version, and the target
            // is read again.
            let webhook = read(&mut conn, webhook_id).await?;
            let access = webhook.access(master_key)?;
            let rows = sqlx::query!(
                r#"select webhook_secret_id as "secret_id: WebhookSecretId", kind as "kind: SecretKind", sealed,
                          expires_at
                   from webhook_secret
                   where webhook_id = $1
                     and (expires_at is null or expires_at > $2)
                   order by expires_at desc nulls first, created_at desc"#,
                webhook_id as _,
                now,
            )
            .fetch_all(&mut *conn)
            .await?;
            let wanted = webhook.settings.signatures;
            let mut target = WebhookTarget {
                version: webhook.version,
                url: webhook.settings.url,
                settings: webhook.settings.delivery,
                access,
                state: webhook.state,
                is_proven: webhook.health.is_proven,
                tenant_id: webhook.tenant_id,
                noticed: webhook.health.noticed,
                circuit: Circuit {
                    failures: u32::try_from(webhook.health.failures).unwrap_or(0),
                    failing_since: webhook.health.failing_since,
                    hold_until: webhook.health.hold_until,
                },
                verification: webhook.settings.verification,
                keys: Vec::new(),
                ed25519: Vec::new(),
            };
            for row in rows {
                if row.kind == SecretKind::Ed25519 {
                    if wanted.v1a {
                        let seed = open_seed(row.secret_id, &row.sealed, master_key)?;
                        target.ed25519.push((Seed(seed), row.expires_at));
                    }
                } else if wanted.v1 {
                    let key = open_key(row.secret_id, &row.sealed, master_key)?;
                    target.keys.push((key, row.expires_at));
                }
            }
            // Removed since the row was read: nothing is sent without a signature.
            if target.keys.is_empty() && target.ed25519.is_empty() {
                return Err(StoreError::NotFound("webhook"));
            }
            Ok(target)
        })
        .await
    }
}

fn open_key(id: WebhookSecretId, sealed: &[u8], master_key: &MasterKey) -> Result<SigningKey> {
    let corrupt = |what: String| StoreError::Corrupt {
        table: "webhook_secret",
        column: "sealed",
        row: id.to_string(),
        what,
    };
    let bytes = master_key.open(sealed, id.0.as_bytes()).map_err(|e| corrupt(e.to_string()))?;
    SigningKey::from_bytes(&bytes).map_err(|e| corrupt(e.to_string()))
}
