//! `recovery`: requests to deliver again what a webhook missed, and how far each one is.
//!
//! `services/recoveries.rs` makes them, the API shows them, `actors/dispatch/maintenance.rs` claims them, and
//! `store/recovery/worker.rs` does the work.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Kind, Level};
use crate::domain::delivery::recovery::{RecoveryFailure, RecoveryState};
use crate::domain::delivery::settings::Mode;
use crate::domain::ids::{DispatcherId, RecoveryId, SourceId, WebhookId};
use crate::store::session::choose_plan_by_values;
use crate::store::webhooks::rows::{must_take_part, read};
use crate::store::webhooks::work::{self, WebhookWork};
use crate::store::webhooks::{lock, webhook_entry};
use crate::store::{Result, Store, StoreError, audit, with_timeout};

/// Events that shall be delivered again.
#[derive(Clone, Debug)]
pub struct RecoveryRequest {
    /// Receiver of the deliveries.
    pub webhook: WebhookId,
    /// Events that arrived at or after this time…
    pub since: OffsetDateTime,
    /// …and before this one.
    pub until: OffsetDateTime,
    /// Only what ended without success.
    pub only_failed: bool,
    /// Deliveries whose last end is one of these, whatever the webhook's filters say; `None`: events that
    /// its filters ask for.
    pub states: Option<Vec<String>>,
    /// Only of this source; with `states` alone.
    pub source: Option<SourceId>,
    /// Only these agents, by Genesys user id or by the CRM's own; empty: all.
    pub agents: Vec<String>,
}

/// A request as the API shows it.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub recovery_id: RecoveryId,
    /// Receiver of the deliveries.
    pub webhook_id: WebhookId,
    /// Events that arrived at or after this time…
    pub since: OffsetDateTime,
    /// …and before this one.
    pub until: OffsetDateTime,
    /// Only what ended without success.
    pub only_failed: bool,
    /// Only deliveries whose last end is one of these; `None`: events that the webhook's filters ask for.
    pub states: Option<Vec<String>>,
    /// Only of this source.
    pub source_id: Option<SourceId>,
    /// Only these agents; empty: all.
    pub agents: Vec<String>,
    /// Deliveries that were opened.
    pub recovered: i64,
    /// Deliveries that could not be opened, because a later one of their lane was being sent all the time.
    pub skipped: i64,
    /// When it was asked for.
    pub requested_at: OffsetDateTime,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<OffsetDateTime>,
    /// Cause of an early end; `None` if it runs or is done.
    pub reason: Option<RecoveryFailure>,
}

/// Restricts a list; a field that is `None` lets every request pass.
#[derive(Clone, Debug, Default)]
pub struct RecoveryFilter {
    /// Only this one.
    pub recovery: Option<RecoveryId>,
    /// Only to this webhook.
    pub webhook: Option<WebhookId>,
    /// Only in this state.
    pub state: Option<RecoveryState>,
}

impl Recovery {
    /// Derived from its end and its reason.
    #[must_use]
    pub fn state(&self) -> RecoveryState {
        match (&self.ended_at, &self.reason) {
            (None, _) => RecoveryState::Running,
            (Some(_), None) => RecoveryState::Done,
            (Some(_), Some(_)) => RecoveryState::Failed,
        }
    }
}

impl Store {
    /// Writes a request down and wakes the dispatcher, which runs it.
    ///
    /// # Errors
    /// If there is no such webhook, if it is disabled or unverified, if another request for it runs, or the
    /// database refuses.
    pub async fn request_recovery(&self, request: &RecoveryRequest, principal: &str) -> Result<Recovery> {
        let mut tx = self.begin().await?;
        lock(&mut tx, request.webhook).await?;
        let recovery = insert(&mut tx, request, principal).await?;
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok(recovery)
    }

    /// The same for several webhooks, at once: a request for each of those that may have one, in their order,
    /// or why it may not.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn request_recoveries(
        &self,
        requests: &[RecoveryRequest],
        principal: &str,
    ) -> Result<Vec<Result<Recovery, String>>> {
        let mut tx = self.begin().await?;
        let mut all = Vec::with_capacity(requests.len());
        for request in requests {
            let inserted = match lock(&mut tx, request.webhook).await {
                Ok(()) => insert(&mut tx, request, principal).await,
                Err(error) => Err(error),
            };
            all.push(match inserted {
                Ok(recovery) => Ok(recovery),
                Err(StoreError::Conflict(why)) => Err(why),
                Err(StoreError::NotFound(_)) => Err("it was removed meanwhile".to_owned()),
                Err(error) => return Err(error),
            });
        }
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok(all)
    }

    /// Ends a running request for its owner; deliveries that it has opened by then stay open.
    ///
    /// # Errors
    /// If there is none, if it has ended, or the database refuses.
    pub async fn cancel_recovery(&self, id: RecoveryId, principal: &str) -> Result<()> {
        if self.end(id, None, Some(RecoveryFailure::Cancelled), Some(principal)).await? {
            return Ok(());
        }
        self.recovery(id).await?;
        Err(StoreError::Conflict("it has ended".to_owned()))
    }

    /// Ends a request that this dispatcher has claimed.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn end_recovery(
        &self,
        dispatcher: DispatcherId,
        id: RecoveryId,
        reason: Option<RecoveryFailure>,
    ) -> Result<()> {
        self.end(id, Some(dispatcher), reason, None).await.map(|_| ())
    }

    /// False if it did not run, or another dispatcher has claimed it.
    async fn end(
        &self,
        id: RecoveryId,
        dispatcher: Option<DispatcherId>,
        reason: Option<RecoveryFailure>,
        principal: Option<&str>,
    ) -> Result<bool> {
        let now = clock::now();
        with_timeout(async {
            let mut tx = self.begin().await?;
            let ended = sqlx::query!(
                r#"update recovery
                   set ended_at = $3,
                       reason = $4
                   where recovery_id = $1
                     and ($2::uuid is null or held_by = $2)
                     and ended_at is null
                   returning webhook_id as "webhook_id: WebhookId", principal, recovered, skipped"#,
                id as _,
                dispatcher as _,
                now,
                reason as _,
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(ended) = ended else { return Ok(false) };
            let level = if reason.is_none() { Level::Info } else { Level::Warn };
            let principal = principal.unwrap_or(&ended.principal);
            let mut entry = webhook_entry(now, Kind::RecoveryEnded, ended.webhook_id, principal)
                .level(level)
                .data("recovery", id.to_string())
                .data("recovered", ended.recovered)
                .data("skipped", ended.skipped);
            entry.outcome = Some(reason.map_or(RecoveryState::Done.as_str(), RecoveryFailure::as_str));
            audit::write(&mut tx, &[entry]).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    /// A page of requests, newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn recoveries(
        &self,
        filter: &RecoveryFilter,
        before: Option<RecoveryId>,
        limit: i64,
    ) -> Result<Vec<Recovery>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let rows = sqlx::query_as!(
            Recovery,
            r#"select recovery_id as "recovery_id: RecoveryId", webhook_id as "webhook_id: WebhookId", since, until,
                      only_failed, states, source_id as "source_id: SourceId", agents, recovered, skipped, requested_at, ended_at,
                      reason as "reason: RecoveryFailure"
               from recovery
               where ($1::uuid is null or recovery_id = $1)
                 and ($2::uuid is null or webhook_id = $2)
                 and ($3::text is null or $3 <> 'running' or ended_at is null)
                 and ($3::text is null or $3 <> 'done' or (ended_at is not null and reason is null))
                 and ($3::text is null or $3 <> 'failed' or reason is not null)
                 and ($4::uuid is null or recovery_id < $4)
               order by recovery_id desc
               limit $5"#,
            filter.recovery as _,
            filter.webhook as _,
            filter.state.map(RecoveryState::as_str),
            before as _,
            limit,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// One request.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn recovery(&self, id: RecoveryId) -> Result<Recovery> {
        let only = RecoveryFilter { recovery: Some(id), ..RecoveryFilter::default() };
        let rows = self.recoveries(&only, None, 1).await?;
        rows.into_iter().next().ok_or(StoreError::NotFound("recovery"))
    }

    /// Claims running requests that no live dispatcher works on: first those of the tenants with the fewest
    /// claimed requests. The dispatcher already works on `known`; a row that names it but is not among them
    /// was claimed in an answer that was lost, and is claimed again.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn take_recoveries(
        &self,
        dispatcher: DispatcherId,
        known: &[RecoveryId],
        now: OffsetDateTime,
        at_most: i64,
    ) -> Result<Vec<RecoveryId>> {
        with_timeout(async {
            Ok(sqlx::query_scalar!(
                r#"update recovery
                   set held_by = $1
                   where recovery_id = any (array(
                       select r.recovery_id
                       from recovery r
                       join webhook w on w.webhook_id = r.webhook_id
                       where r.ended_at is null
                         and r.recovery_id <> all ($2)
                         and (r.held_by = $1
                              or not exists (
                                  select
                                  from dispatcher d
                                  where d.dispatcher_id = r.held_by
                                    and d.alive_until >= $3))
                       order by (
                           select count(*)
                           from recovery h
                           join webhook o on o.webhook_id = h.webhook_id
                           where h.ended_at is null
                             and h.held_by is not null
                             and o.tenant_id = w.tenant_id), r.recovery_id
                       limit $4
                       for update of r skip locked))
                   returning recovery_id as "recovery_id: RecoveryId""#,
                dispatcher as _,
                known as _,
                now,
                at_most,
            )
            .fetch_all(&self.pool)
            .await?)
        })
        .await
    }

    /// Forgets requests that ended before this time.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn forget_recoveries(&self, before: OffsetDateTime) -> Result<u64> {
        with_timeout(async {
            let gone = sqlx::query!("delete from recovery where ended_at < $1", before)
                .execute(&mut *self.begin().await?)
                .await?;
            Ok(gone.rows_affected())
        })
        .await
    }
}

/// Writes a request down for a webhook whose row is locked.
async fn insert(conn: &mut PgConnection, request: &RecoveryRequest, principal: &str) -> Result<Recovery> {
    let (now, id) = (clock::now(), RecoveryId::generate());
    let webhook = read(conn, request.webhook).await?;
    must_take_part(&webhook)?;
    let running = sqlx::query_scalar!(
        r#"select recovery_id as "id: RecoveryId" from recovery where webhook_id = $1 and ended_at is null"#,
        request.webhook as _,
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(running) = running {
        return Err(StoreError::Conflict(format!(
            "its recovery {running} is running; wait for it or cancel it"
        )));
    }
    let recovery = sqlx::query_as!(
        Recovery,
        r#"insert into recovery (
               recovery_id, webhook_id, since, until, only_failed, states, source_id, agents, newest_only, principal,
               requested_at)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
           returning recovery_id as "recovery_id: RecoveryId", webhook_id as "webhook_id: WebhookId", since, until,
                     only_failed, states, source_id as "source_id: SourceId", agents, recovered, skipped, requested_at,
                     ended_at, reason as "reason: RecoveryFailure""#,
        id as _,
        request.webhook as _,
        request.since,
        request.until,
        request.only_failed,
        request.states.as_deref(),
        request.source as _,
        &request.agents,
        webhook.settings.delivery.mode == Mode::Latest,
        principal,
        now,
    )
    .fetch_one(&mut *conn)
    .await?;
    work::request(conn, request.webhook, WebhookWork::Wake, now).await?;
    let mut entry = webhook_entry(now, Kind::RecoveryRequested, request.webhook, principal)
        .data("recovery", id.to_string())
        .data("since", request.since.to_string())
        .data("until", request.until.to_string())
        .data("only_failed", request.only_failed)
        .data("agents", request.agents.len());
    if let Some(states) = &request.states {
        entry = entry.data("states", states.as_slice());
    }
    audit::write(conn, &[entry]).await?;
    Ok(recovery)
}
