//! Commands of a webhook's owner: pause, resume, enable, snapshot. Called by `api/resources/webhooks/mod.rs`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::Kind;
use crate::domain::ids::WebhookId;
use crate::domain::webhook::state::{StateReason, WebhookState};
use crate::store::webhooks::rows::{Webhook, must_take_part, read};
use crate::store::webhooks::work::{self, WebhookWork};
use crate::store::webhooks::{lock, set_probe, webhook_entry};
use crate::store::{Result, Store, StoreError, audit};

impl Store {
    /// Pauses a webhook: the dispatcher suspends its deliveries as it claims them.
    ///
    /// # Errors
    /// If there is none, if it is disabled or unverified, or the database refuses.
    pub async fn pause_webhook(&self, id: WebhookId, principal: &str) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        must_take_part(&read(&mut tx, id).await?)?;
        if set_state(&mut tx, id, WebhookState::Paused, now).await? {
            audit::write(&mut tx, &[webhook_entry(now, Kind::WebhookPaused, id, principal)]).await?;
        }
        let webhook = read(&mut tx, id).await?;
        tx.commit().await?;
        Ok(webhook)
    }

    /// Resumes a webhook: deliveries that were suspended or wait for their next attempt become due soon.
    ///
    /// # Errors
    /// If there is none, if it is disabled or unverified, or the database refuses.
    pub async fn resume_webhook(&self, id: WebhookId, principal: &str) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        must_take_part(&read(&mut tx, id).await?)?;
        let changed = set_state(&mut tx, id, WebhookState::Active, now).await?;
        work::request(&mut tx, id, WebhookWork::Resume, now).await?;
        work::request(&mut tx, id, WebhookWork::Wake, now).await?;
        if changed {
            audit::write(&mut tx, &[webhook_entry(now, Kind::WebhookResumed, id, principal)]).await?;
        }
        let webhook = read(&mut tx, id).await?;
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok(webhook)
    }

    /// Lets a disabled webhook take part again, as if its receiver had never failed, and sends it a snapshot.
    /// Of an unverified one the receiver is asked again. An active one stays as it is.
    ///
    /// # Errors
    /// If there is none, if it is paused, or the database refuses.
    pub async fn enable_webhook(&self, id: WebhookId, principal: &str) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        let before = read(&mut tx, id).await?;
        match before.state {
            WebhookState::Active => return Ok(before),
            WebhookState::Paused => return Err(StoreError::Conflict("it is paused; resume it".to_owned())),
            WebhookState::Unverified => {
                set_probe(&mut tx, id, Some(now)).await?;
                sqlx::query!(
                    "update webhook
                     set state_reason = $2,
                         updated_at = $3
                     where webhook_id = $1",
                    id as _,
                    StateReason::VerificationPending as _,
                    now,
                )
                .execute(&mut *tx)
                .await?;
            }
            WebhookState::Disabled => {
                set_state(&mut tx, id, WebhookState::Active, now).await?;
                // `noticed` stays: who was told that it fails is told with its next success that it has
                // recovered.
                sqlx::query!(
                    "insert into webhook_health (webhook_id)
                     values ($1)
                     on conflict (webhook_id) do update
                     set failures = 0,
                         failing_since = null,
                         hold_until = null,
                         probe_at = null,
                         last_outcome = null,
                         last_reason = null",
                    id as _,
                )
                .execute(&mut *tx)
                .await?;
                ask_snapshot(&mut tx, id).await?;
                work::request(&mut tx, id, WebhookWork::Wake, now).await?;
            }
        }
        let entry =
            webhook_entry(now, Kind::WebhookEnabled, id, principal).data("from", before.state.as_str());
        audit::write(&mut tx, &[entry]).await?;
        let webhook = read(&mut tx, id).await?;
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok(webhook)
    }

    /// Asks for a snapshot: the present state of every agent that matches.
    ///
    /// # Errors
    /// If there is none, if it is disabled or unverified, or the database refuses.
    pub async fn request_snapshot(&self, id: WebhookId, principal: &str) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        must_take_part(&read(&mut tx, id).await?)?;
        ask_snapshot(&mut tx, id).await?;
        audit::write(&mut tx, &[webhook_entry(now, Kind::SnapshotRequested, id, principal)]).await?;
        let webhook = read(&mut tx, id).await?;
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok(webhook)
    }
}

/// Whether the state became another one.
async fn set_state(
    conn: &mut PgConnection,
    id: WebhookId,
    state: WebhookState,
    now: OffsetDateTime,
) -> Result<bool> {
    let changed = sqlx::query!(
        "update webhook
         set state = $2,
             state_reason = null,
             version = version + 1,
             updated_at = $3
         where webhook_id = $1
           and state <> $2",
        id as _,
        state as _,
        now,
    )
    .execute(conn)
    .await?;
    Ok(changed.rows_affected() > 0)
}

/// A snapshot that is under way starts over.
async fn ask_snapshot(conn: &mut PgConnection, id: WebhookId) -> Result<()> {
    sqlx::query!("update webhook set snapshot_next = 0 where webhook_id = $1", id as _).execute(conn).await?;
    Ok(())
}
