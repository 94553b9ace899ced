//! Webhooks: registered, changed and removed here, for `services/webhooks.rs` and the API.
//!
//! Read `rows` and `row_update` (columns to settings and back), `lifecycle` (pause, resume, enable, snapshot), `work` (effects
//! of a change of state on open deliveries, in pieces), `secrets` (signing secrets and their rotation), then
//! `quotas` (limits of a tenant).

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::session::choose_plan_by_values;
use super::transaction::once_committed;
use super::{Result, Store, StoreError, audit};
use crate::clock;
use crate::domain::access::tenant_quota::TenantQuota;
use crate::domain::audit::{Entry, Kind};
use crate::domain::delivery::access::Access;
use crate::domain::delivery::outcome::EndState;
use crate::domain::delivery::settings::Verification;
use crate::domain::delivery::signature::{SecretKind, SigningKey};
use crate::domain::ids::WebhookId;
use crate::domain::secret::MasterKey;
use crate::domain::webhook::state::{StateReason, WebhookState};
use crate::domain::webhook::{WebhookChanges, WebhookSettings, access_fields_changed};
use row_update::{RowUpdate, write};
pub use rows::{Webhook, WebhookFilter, WebhookHealth};
use rows::{page, read};
use secrets::{insert_secret, make_seed};
use work::WebhookWork;

pub(super) mod lifecycle;
pub(super) mod quotas;
pub(super) mod row_update;
pub(super) mod rows;
pub mod secrets;
pub(super) mod work;

/// Settings whose change may mend a receiver that failed: it is tried again at once.
const MAY_MEND: [&str; 4] = ["url", "headers", "auth", "client_certificate"];

/// State and reason of a webhook whose receiver has not been asked yet.
const UNVERIFIED: (WebhookState, Option<StateReason>) =
    (WebhookState::Unverified, Some(StateReason::VerificationPending));
/// State and reason of a webhook that gets deliveries.
const ACTIVE: (WebhookState, Option<StateReason>) = (WebhookState::Active, None);

/// A webhook to be registered.
#[derive(Debug)]
pub struct NewWebhook<'a> {
    /// Its settings; `url` must be set.
    pub changes: &'a WebhookChanges,
    /// Secret that signs its POSTs.
    pub secret: &'a SigningKey,
    /// Whether it is sent the present state of every agent that matches.
    pub snapshot: bool,
    /// Limits of its tenant.
    pub quota: TenantQuota,
}

impl Store {
    /// A page of webhooks, oldest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn webhooks(
        &self,
        filter: &WebhookFilter,
        after: Option<WebhookId>,
        limit: i64,
    ) -> Result<Vec<Webhook>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        page(&mut tx, filter, after, limit).await
    }

    /// One webhook.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn webhook(&self, id: WebhookId) -> Result<Webhook> {
        read(&mut *self.begin().await?, id).await
    }

    /// Registers a webhook.
    ///
    /// # Errors
    /// If the settings contradict each other, if it is more than the tenant may have, or the database
    /// refuses.
    pub async fn create_webhook(
        &self,
        new: &NewWebhook<'_>,
        master_key: &MasterKey,
        principal: &str,
    ) -> Result<Webhook> {
        let (id, now) = (WebhookId::generate(), clock::now());
        let settings = new.changes.over(&WebhookSettings::default());
        settings.check().map_err(|violation| StoreError::Conflict(violation.to_string()))?;
        let access = new.changes.access.over(&Access::default());
        let asks = settings.verification != Verification::None;
        let (state, state_reason) = if asks { UNVERIFIED } else { ACTIVE };
        let mut tx = self.begin().await?;
        // `write` below raises the version to 1.
        sqlx::query!(
            "insert into webhook (webhook_id, url, state, version, created_at, updated_at, snapshot_next)
             values ($1, $2, $3, 0, $4, $4, $5)",
            id as _,
            settings.url,
            state as _,
            now,
            new.snapshot.then_some(0_i64),
        )
        .execute(&mut *tx)
        .await?;
        let update = RowUpdate { settings: &settings, access: &access, state, state_reason, now };
        write(&mut tx, id, master_key, &update).await?;
        set_probe(&mut tx, id, asks.then_some(now)).await?;
        insert_secret(&mut tx, id, SecretKind::Hmac, new.secret.bytes(), master_key, now).await?;
        if settings.signatures.v1a {
            make_seed(&mut tx, id, master_key, now).await?;
        }
        audit::write(&mut tx, &[webhook_entry(now, Kind::WebhookCreated, id, principal)]).await?;
        let webhook = read(&mut tx, id).await?;
        quotas::check(&mut tx, id, new.quota).await?;
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok(webhook)
    }

    /// Changes a webhook. A change that changes nothing is neither counted nor written down. Another address,
    /// or another kind of verification, must be verified again.
    ///
    /// # Errors
    /// If there is none, if it is not at the `expected` version any more, if the settings would contradict each
    /// other, if filters grow to more than the tenant may have, or the database refuses.
    pub async fn update_webhook(
        &self,
        (id, expected): (WebhookId, Option<i64>),
        changes: &WebhookChanges,
        quota: TenantQuota,
        master_key: &MasterKey,
        principal: &str,
    ) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        let before = read(&mut tx, id).await?;
        must_be_at(&before, expected)?;
        let access_before = before.access(master_key)?;
        let settings = changes.over(&before.settings);
        settings.check().map_err(|violation| StoreError::Conflict(violation.to_string()))?;
        let access = changes.access.over(&access_before);
        let mut changed = before.settings.fields_changed_by(&settings);
        changed.extend(access_fields_changed(&access_before, &access));
        if changed.is_empty() {
            return Ok(before);
        }
        let asks = settings.verification != Verification::None
            && (changed.contains(&"url") || changed.contains(&"verification"));
        let lets = settings.verification == Verification::None && before.state == WebhookState::Unverified;
        let (state, state_reason) = if asks {
            UNVERIFIED
        } else if lets {
            ACTIVE
        } else {
            (before.state, before.state_reason)
        };
        let update = RowUpdate { settings: &settings, access: &access, state, state_reason, now };
        write(&mut tx, id, master_key, &update).await?;
        if asks || lets {
            set_probe(&mut tx, id, asks.then_some(now)).await?;
        }
        if lets {
            work::request(&mut tx, id, WebhookWork::Resume, now).await?;
        }
        if changed.iter().any(|field| MAY_MEND.contains(field)) {
            forget_failures(&mut tx, id, changed.contains(&"url")).await?;
            work::request(&mut tx, id, WebhookWork::Wake, now).await?;
        }
        if settings.signatures.v1a && !before.has_seed() {
            make_seed(&mut tx, id, master_key, now).await?;
        }
        let entry = webhook_entry(now, Kind::WebhookUpdated, id, principal).data("fields", changed);
        audit::write(&mut tx, &[entry]).await?;
        let webhook = read(&mut tx, id).await?;
        if settings.filter_items() > before.settings.filter_items() {
            quotas::check(&mut tx, id, quota).await?;
        }
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok(webhook)
    }

    /// Removes a webhook: its secrets are destroyed, no POST to it begins any more, and its pending
    /// deliveries end soon, each with its audit entry. A POST under way ends as it is answered.
    ///
    /// # Errors
    /// If there is none, or the database refuses.
    pub async fn delete_webhook(&self, id: WebhookId, principal: &str) -> Result<()> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        sqlx::query!(
            "update webhook
             set deleted_at = $2,
                 access_sealed = null,
                 snapshot_next = null,
                 version = version + 1,
                 updated_at = $2
             where webhook_id = $1",
            id as _,
            now,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!("delete from webhook_secret where webhook_id = $1", id as _).execute(&mut *tx).await?;
        sqlx::query!("delete from webhook_health where webhook_id = $1", id as _).execute(&mut *tx).await?;
        work::request(&mut tx, id, WebhookWork::End(EndState::WebhookGone, Some(principal)), now).await?;
        audit::write(&mut tx, &[webhook_entry(now, Kind::WebhookDeleted, id, principal)]).await?;
        tx.commit().await?;
        self.wake.deliveries_due();
        let handoff = self.handoff.clone();
        once_committed(move || handoff.remove(id));
        Ok(())
    }
}

/// Whoever changes what somebody else has changed meanwhile would undo that.
fn must_be_at(webhook: &Webhook, expected: Option<i64>) -> Result<()> {
    match expected.filter(|expected| *expected != webhook.version) {
        None => Ok(()),
        Some(expected) => Err(StoreError::Conflict(format!(
            "it was changed meanwhile: it is at version {}, not {expected}",
            webhook.version
        ))),
    }
}

/// Forgets the failures of a receiver that may be mended; another receiver has yet to show that it accepts
/// anything.
async fn forget_failures(conn: &mut PgConnection, id: WebhookId, another_receiver: bool) -> Result<()> {
    sqlx::query!(
        "update webhook_health
         set failures = 0,
             failing_since = null,
             hold_until = null,
             succeeded_at = case when $2 then null else succeeded_at end
         where webhook_id = $1",
        id as _,
        another_receiver,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Waits for other changes of the webhook and keeps them out until the transaction ends.
pub(super) async fn lock(conn: &mut PgConnection, id: WebhookId) -> Result<()> {
    sqlx::query_scalar!(
        r#"select webhook_id as "webhook_id: WebhookId"
           from webhook
           where webhook_id = $1
             and coalesce(tenant_id = tenant_asking(), true)
             and deleted_at is null
           for update"#,
        id as _,
    )
    .fetch_optional(conn)
    .await?
    .map(|_| ())
    .ok_or(StoreError::NotFound("webhook"))
}

/// Sets when the dispatcher asks the receiver next, in a row that need not be there.
pub(super) async fn set_probe(
    conn: &mut PgConnection,
    id: WebhookId,
    probe_at: Option<OffsetDateTime>,
) -> Result<()> {
    sqlx::query!(
        "insert into webhook_health (webhook_id, probe_at)
         values ($1, $2)
         on conflict (webhook_id) do update
         set probe_at = excluded.probe_at",
        id as _,
        probe_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) fn webhook_entry(now: OffsetDateTime, kind: Kind, id: WebhookId, principal: &str) -> Entry {
    let mut entry = Entry::new(now, kind);
    entry.webhook_id = Some(id);
    entry.principal = Some(principal.to_owned());
    entry
}
