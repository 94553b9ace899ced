//! `webhook` and `webhook_secret`: registered, changed, removed. Called by `api/webhooks.rs`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Result, Store, StoreError, audit};
use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{SourceId, WebhookId, WebhookSecretId};
use crate::domain::secret::MasterKey;
use crate::domain::signature::SigningKey;
use crate::domain::webhook::{FORMER_SECRET_SIGNS_ON, SIGNING_SECRETS_MAX, WebhookChanges};
use crate::random;

/// A registered webhook, without its secrets.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its id.
    pub webhook_id: WebhookId,
    /// Where POSTs go.
    pub url: String,
    /// Free text.
    pub description: String,
    /// Only these Genesys user ids; empty: all.
    pub agents: Vec<String>,
    /// Only these topics; empty: all.
    pub topics: Vec<String>,
    /// Only changes to these system presences; empty: all.
    pub presences: Vec<String>,
    /// Only these sources; empty: all.
    pub sources: Vec<SourceId>,
    /// Kinds of event it is sent.
    pub events: Vec<String>,
    /// `active` or `paused`.
    pub state: String,
    /// Counts changes.
    pub version: i64,
    /// Until when a former secret signs too; `None` if none does.
    pub former_secrets_expire_at: Option<OffsetDateTime>,
    /// When it was registered.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
}

impl Store {
    /// A page of webhooks, oldest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn webhooks(&self, after: Option<WebhookId>, limit: i64) -> Result<Vec<Webhook>> {
        let webhooks = sqlx::query_as!(
            Webhook,
            r#"select w.webhook_id as "webhook_id: WebhookId", url, description, agents, topics, presences,
                      sources as "sources: Vec<SourceId>", events, state, version,
                      (select max(expires_at) from webhook_secret s
                       where s.webhook_id = w.webhook_id and expires_at > now()) as former_secrets_expire_at,
                      created_at, updated_at
               from webhook w
               where deleted_at is null
                 and ($1::uuid is null or webhook_id > $1)
               order by webhook_id
               limit $2"#,
            after as _,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(webhooks)
    }

    /// One webhook.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn webhook(&self, id: WebhookId) -> Result<Webhook> {
        read(&mut *self.pool.acquire().await?, id).await
    }

    /// Registers a webhook; `changes.url` must be set.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn create_webhook(
        &self,
        changes: &WebhookChanges,
        secret: &SigningKey,
        master_key: &MasterKey,
        principal: &str,
    ) -> Result<Webhook> {
        let (id, now) = (WebhookId::generate(), clock::now());
        let mut tx = self.begin().await?;
        sqlx::query!(
            "insert into webhook (
                 webhook_id, url, description, agents, topics, presences, sources, created_at, updated_at, events)
             values ($1, $2, coalesce($3, ''), coalesce($4::text[], '{}'), coalesce($5::text[], '{}'), coalesce($6::text[], '{}'),
                     coalesce($7::uuid[], '{}'), $8, $8, coalesce($9::text[], '{presence.updated}'))",
            id as _,
            changes.url.as_ref().map(url::Url::as_str),
            changes.description.as_deref(),
            changes.agents.as_deref(),
            changes.topics.as_deref(),
            changes.presences.as_deref(),
            changes.sources.as_deref() as _,
            now,
            changes.events.as_deref(),
        )
        .execute(&mut *tx)
        .await?;
        insert_secret(&mut tx, id, secret, master_key, now).await?;
        audit::write(&mut tx, &[entry(now, Kind::WebhookCreated, id, principal)]).await?;
        let webhook = read(&mut tx, id).await?;
        tx.commit().await?;
        Ok(webhook)
    }

    /// Changes a webhook. A change that changes nothing is neither counted nor written down.
    ///
    /// # Errors
    /// If there is none, or the database refuses.
    pub async fn update_webhook(
        &self,
        id: WebhookId,
        changes: &WebhookChanges,
        principal: &str,
    ) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        let before = read(&mut tx, id).await?;
        let changed = changed_fields(&before, changes);
        if changed.is_empty() {
            return Ok(before);
        }
        sqlx::query!(
            "update webhook
             set url = coalesce($2, url),
                 description = coalesce($3, description),
                 agents = coalesce($4, agents),
                 topics = coalesce($5, topics),
                 presences = coalesce($6, presences),
                 sources = coalesce($7, sources),
                 events = coalesce($9, events),
                 version = version + 1,
                 updated_at = $8
             where webhook_id = $1",
            id as _,
            changes.url.as_ref().map(url::Url::as_str),
            changes.description.as_deref(),
            changes.agents.as_deref(),
            changes.topics.as_deref(),
            changes.presences.as_deref(),
            changes.sources.as_deref() as _,
            now,
            changes.events.as_deref(),
        )
        .execute(&mut *tx)
        .await?;
        let told = entry(now, Kind::WebhookUpdated, id, principal).data("fields", changed);
        audit::write(&mut tx, &[told]).await?;
        let webhook = read(&mut tx, id).await?;
        tx.commit().await?;
        Ok(webhook)
    }

    /// Replaces the signing secret; the former one signs on for [`FORMER_SECRET_SIGNS_ON`].
    ///
    /// # Errors
    /// If there is no such webhook, if too many former secrets still sign, or the database refuses.
    pub async fn rotate_webhook_secret(
        &self,
        id: WebhookId,
        secret: &SigningKey,
        master_key: &MasterKey,
        principal: &str,
    ) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        sqlx::query!(
            "delete from webhook_secret
             where webhook_id = $1
               and expires_at <= $2",
            id as _,
            now,
        )
        .execute(&mut *tx)
        .await?;
        let signing = sqlx::query_scalar!(
            r#"select count(*) as "count!" from webhook_secret where webhook_id = $1"#,
            id as _,
        )
        .fetch_one(&mut *tx)
        .await?;
        if signing >= SIGNING_SECRETS_MAX {
            return Err(StoreError::Conflict(format!(
                "{SIGNING_SECRETS_MAX} secrets of this webhook sign already; wait until a former one has expired"
            )));
        }
        sqlx::query!(
            "update webhook_secret
             set expires_at = $2
             where webhook_id = $1
               and expires_at is null",
            id as _,
            now + FORMER_SECRET_SIGNS_ON,
        )
        .execute(&mut *tx)
        .await?;
        insert_secret(&mut tx, id, secret, master_key, now).await?;
        raise_version(&mut tx, id, now).await?;
        audit::write(&mut tx, &[entry(now, Kind::WebhookSecretRotated, id, principal)]).await?;
        let webhook = read(&mut tx, id).await?;
        tx.commit().await?;
        Ok(webhook)
    }

    /// Pauses a webhook: the dispatcher parks its deliveries when it meets them.
    ///
    /// # Errors
    /// If there is none, or the database refuses.
    pub async fn pause_webhook(&self, id: WebhookId, principal: &str) -> Result<Webhook> {
        self.set_state(id, "paused", Kind::WebhookPaused, principal).await
    }

    /// Resumes a webhook: what was parked is due at once.
    ///
    /// # Errors
    /// If there is none, or the database refuses.
    pub async fn resume_webhook(&self, id: WebhookId, principal: &str) -> Result<Webhook> {
        self.set_state(id, "active", Kind::WebhookResumed, principal).await
    }

    async fn set_state(&self, id: WebhookId, state: &str, kind: Kind, principal: &str) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        let changed = sqlx::query!(
            "update webhook
             set state = $2,
                 version = version + 1,
                 updated_at = $3
             where webhook_id = $1
               and state <> $2",
            id as _,
            state,
            now,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if kind == Kind::WebhookResumed {
            // Not only when the state changed: a claim that still saw the pause may have parked rows since.
            sqlx::query!(
                "update delivery
                 set due_at = now()
                 where webhook_id = $1
                   and due_at = 'infinity'",
                id as _,
            )
            .execute(&mut *tx)
            .await?;
        }
        if changed > 0 {
            audit::write(&mut tx, &[entry(now, kind, id, principal)]).await?;
        }
        let webhook = read(&mut tx, id).await?;
        tx.commit().await?;
        Ok(webhook)
    }

    /// Removes a webhook: its secrets are destroyed and what it is still owed ends, each with its audit entry.
    /// A POST under way finds its delivery gone when it is settled. Returns how many deliveries ended.
    ///
    /// # Errors
    /// If there is none, or the database refuses.
    pub async fn delete_webhook(&self, id: WebhookId, principal: &str) -> Result<u64> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        audit::allow_a_minute(&mut tx).await?;
        lock(&mut tx, id).await?;
        sqlx::query!(
            "update webhook
             set deleted_at = $2,
                 version = version + 1,
                 updated_at = $2
             where webhook_id = $1",
            id as _,
            now,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!("delete from webhook_secret where webhook_id = $1", id as _).execute(&mut *tx).await?;
        let ended = audit::end_deliveries_of(&mut tx, id, now, principal).await?;
        let told = entry(now, Kind::WebhookDeleted, id, principal).data("deliveries_ended", ended);
        audit::write(&mut tx, &[told]).await?;
        tx.commit().await?;
        Ok(ended)
    }
}

/// Waits for other changes of the webhook and keeps them out until the transaction ends.
pub(super) async fn lock(conn: &mut PgConnection, id: WebhookId) -> Result<()> {
    sqlx::query_scalar!(
        r#"select webhook_id as "webhook_id: WebhookId"
           from webhook
           where webhook_id = $1
             and deleted_at is null
           for update"#,
        id as _,
    )
    .fetch_optional(conn)
    .await?
    .map(|_| ())
    .ok_or(StoreError::NotFound("webhook"))
}

async fn read(conn: &mut PgConnection, id: WebhookId) -> Result<Webhook> {
    sqlx::query_as!(
        Webhook,
        r#"select w.webhook_id as "webhook_id: WebhookId", url, description, agents, topics, presences,
                  sources as "sources: Vec<SourceId>", events, state, version,
                  (select max(expires_at) from webhook_secret s
                   where s.webhook_id = w.webhook_id and expires_at > now()) as former_secrets_expire_at,
                  created_at, updated_at
           from webhook w
           where webhook_id = $1
             and deleted_at is null"#,
        id as _,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("webhook"))
}

async fn insert_secret(
    conn: &mut PgConnection,
    webhook: WebhookId,
    secret: &SigningKey,
    master_key: &MasterKey,
    now: OffsetDateTime,
) -> Result<()> {
    let id = WebhookSecretId::generate();
    let sealed = master_key.seal(secret.bytes(), id.0.as_bytes(), random::bytes());
    sqlx::query!(
        "insert into webhook_secret (webhook_secret_id, webhook_id, sealed, created_at)
         values ($1, $2, $3, $4)",
        id as _,
        webhook as _,
        sealed,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn raise_version(conn: &mut PgConnection, id: WebhookId, now: OffsetDateTime) -> Result<()> {
    sqlx::query!(
        "update webhook
         set version = version + 1,
             updated_at = $2
         where webhook_id = $1",
        id as _,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn entry(now: OffsetDateTime, kind: Kind, id: WebhookId, principal: &str) -> Entry {
    let mut entry = Entry::new(now, kind);
    entry.webhook_id = Some(id);
    entry.principal = Some(principal.to_owned());
    entry
}

/// Names of the fields that would differ; the audit entry carries names, because an address may hold a secret.
fn changed_fields(before: &Webhook, changes: &WebhookChanges) -> Vec<&'static str> {
    fn differs<T: PartialEq>(now: &T, wanted: Option<&T>) -> bool {
        wanted.is_some_and(|wanted| wanted != now)
    }
    [
        ("url", changes.url.as_ref().is_some_and(|url| url.as_str() != before.url)),
        ("description", differs(&before.description, changes.description.as_ref())),
        ("agents", differs(&before.agents, changes.agents.as_ref())),
        ("topics", differs(&before.topics, changes.topics.as_ref())),
        ("presences", differs(&before.presences, changes.presences.as_ref())),
        ("sources", differs(&before.sources, changes.sources.as_ref())),
        ("events", differs(&before.events, changes.events.as_ref())),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}
