//! Health of receivers: circuits, disabling, probes, and the notices about them.

use std::collections::HashSet;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::delivery::circuit::Circuit;
use crate::domain::delivery::outcome::EndState;
use crate::domain::delivery::reason::Reason;
use crate::domain::ids::WebhookId;
use crate::domain::presence::EventKind;
use crate::domain::webhook::state::DisableReason;
use crate::store::delivery::receiver_notices::{self, Why};
use crate::store::delivery::types::HealthChange;
use crate::store::webhooks::work::{self, WebhookWork};
use crate::store::{Result, Store, audit, with_timeout};

/// Time between probes of a disabled webhook; an unverified one is probed sooner.
const PROBE_EVERY: time::Duration = time::Duration::hours(1);
const VERIFY_EVERY: time::Duration = time::Duration::minutes(1);
/// How long a probe may take until another may begin.
const PROBE_WITHIN: time::Duration = time::Duration::minutes(2);
/// Probes that one call begins at most.
const PROBES_MAX: i64 = 20;

/// Writes circuits, in a cycle's transaction, without waiting for a lock. Returns the webhooks whose row was
/// locked, for the next cycle to write. Of a receiver that is back, deliveries that wait for their next
/// attempt become due soon.
pub(in crate::store) async fn write(
    conn: &mut PgConnection,
    changes: &[HealthChange],
    now: OffsetDateTime,
) -> Result<Vec<WebhookId>> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = changes.iter().map(|c| c.webhook_id).collect();
    let kept = sqlx::query_scalar!(
        r#"with kept as (
             update webhook_health h
             set failures = n.failures,
                 failing_since = n.failing_since,
                 hold_until = n.hold_until,
                 last_outcome = case when n.failures > 0 then coalesce(n.last_outcome, h.last_outcome) end,
                 last_reason = case when n.failures = 0 then null
                                    when n.last_outcome is null then h.last_reason
                                    else n.last_reason end,
                 succeeded_at = case when n.succeeds then coalesce(h.succeeded_at, $7) else h.succeeded_at end
             from unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::boolean[],
                         $8::boolean[], $9::text[])
                  as n (webhook_id, failures, failing_since, hold_until, last_outcome, is_back, succeeds,
                        last_reason)
             where h.webhook_id = n.webhook_id
               and h.webhook_id = any (array(
                   select webhook_id
                   from webhook_health
                   where webhook_id = any ($1)
                   for update skip locked))
             returning h.webhook_id, n.is_back
         ),
         woken as (
             insert into webhook_work (webhook_id, kind, asked_at)
             select webhook_id, 'wake', $7
             from kept
             where is_back
             on conflict do nothing
         )
         select webhook_id as "id: WebhookId"
         from kept"#,
        &ids as _,
        &changes.iter().map(|c| i32::try_from(c.circuit.failures).unwrap_or(i32::MAX)).collect::<Vec<_>>(),
        &changes.iter().map(|c| c.circuit.failing_since).collect::<Vec<_>>() as _,
        &changes.iter().map(|c| c.circuit.hold_until).collect::<Vec<_>>() as _,
        &changes.iter().map(|c| c.last_outcome).collect::<Vec<_>>() as _,
        &changes.iter().map(|c| c.is_back).collect::<Vec<_>>(),
        now,
        &changes.iter().map(|c| c.succeeds).collect::<Vec<_>>(),
        &changes.iter().map(|c| c.last_reason.as_ref().map(Reason::as_str)).collect::<Vec<_>>() as _,
    )
    .fetch_all(&mut *conn)
    .await?;
    let missed: Vec<_> = ids.into_iter().filter(|id| !kept.contains(id)).collect();
    if missed.is_empty() {
        return Ok(missed);
    }
    // Webhooks that are gone need no further try.
    Ok(sqlx::query_scalar!(
        r#"select webhook_id as "id: WebhookId" from webhook_health where webhook_id = any ($1)"#,
        &missed as _,
    )
    .fetch_all(conn)
    .await?)
}

impl Store {
    /// Webhooks whose present address has accepted a POST.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn proven_webhooks(&self) -> Result<HashSet<WebhookId>> {
        with_timeout(async {
            let ids = sqlx::query_scalar!(
                r#"select webhook_id as "id: WebhookId" from webhook_health where succeeded_at is not null"#,
            );
            Ok(ids.fetch_all(self.pipeline().await?).await?.into_iter().collect())
        })
        .await
    }

    /// A webhook's receiver has failed several times in a row: the webhooks that ask for it get one notice.
    /// The next cycle writes `circuit`.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn webhook_fails(
        &self,
        id: WebhookId,
        circuit: &Circuit,
        outcome: &str,
        reason: Option<&Reason>,
        now: OffsetDateTime,
    ) -> Result<()> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            let noticed =
                sqlx::query_scalar!("select noticed from webhook_health where webhook_id = $1", id as _);
            if noticed.fetch_optional(&mut *tx).await? == Some(true) {
                return Ok(()); // the usual case, which needs no lock
            }
            let told = receiver_notices::lock(&mut tx, EventKind::WebhookFailing, id).await?;
            let first = sqlx::query!(
                "insert into webhook_health as h
                     (webhook_id, failures, failing_since, last_outcome, last_reason, noticed)
                 select webhook_id, $2, $3, $4, $5, true
                 from webhook
                 where webhook_id = $1
                   and deleted_at is null
                 on conflict (webhook_id) do update
                 set failures = greatest(h.failures, excluded.failures),
                     failing_since = coalesce(h.failing_since, excluded.failing_since),
                     last_outcome = excluded.last_outcome,
                     last_reason = excluded.last_reason,
                     noticed = true
                 where not h.noticed",
                id as _,
                i32::try_from(circuit.failures).unwrap_or(i32::MAX),
                circuit.failing_since,
                outcome,
                reason.map(Reason::as_str),
            )
            .execute(&mut *tx)
            .await?;
            if first.rows_affected() > 0 {
                let mut entry =
                    Entry::new(now, Kind::WebhookFailing).level(Level::Warn).data("outcome", outcome);
                if let Some(reason) = reason {
                    entry = entry.data("reason", reason.as_str());
                }
                audit::write(&mut tx, &[about(entry, id)]).await?;
                let why = Why { word: Some(outcome), detail: reason.map(Reason::as_str) };
                receiver_notices::tell(&mut tx, EventKind::WebhookFailing, id, why, now, &told).await?;
            }
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// A failing webhook takes deliveries again: the webhooks that got a notice of its failing get one of
    /// that, too.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn webhook_succeeds(&self, id: WebhookId, now: OffsetDateTime) -> Result<()> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            let told = receiver_notices::lock(&mut tx, EventKind::WebhookRecovered, id).await?;
            recovered(&mut tx, id, now, &told).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Disables a webhook: it gets no more deliveries, and its open ones end soon. One that was failing is
    /// probed from time to time. False if it takes no deliveries already.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn disable_webhook(
        &self,
        id: WebhookId,
        reason: DisableReason,
        now: OffsetDateTime,
    ) -> Result<bool> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            let told = receiver_notices::lock(&mut tx, EventKind::WebhookDisabled, id).await?;
            let changed = sqlx::query!(
                "update webhook
                 set state = 'disabled',
                     state_reason = $2,
                     snapshot_next = null,
                     version = version + 1,
                     updated_at = $3
                 where webhook_id = $1
                   and deleted_at is null
                   and state in ('active', 'paused')",
                id as _,
                reason.as_str(),
                now,
            )
            .execute(&mut *tx)
            .await?;
            if changed.rows_affected() == 0 {
                return Ok(false);
            }
            sqlx::query!(
                "insert into webhook_health (webhook_id, noticed, probe_at)
                 values ($1, true, $2)
                 on conflict (webhook_id) do update
                 set noticed = true,
                     probe_at = excluded.probe_at",
                id as _,
                (reason == DisableReason::Failing).then_some(now + PROBE_EVERY),
            )
            .execute(&mut *tx)
            .await?;
            work::request(&mut tx, id, WebhookWork::End(EndState::WebhookDisabled, None), now).await?;
            let entry =
                Entry::new(now, Kind::WebhookDisabled).level(Level::Error).data("reason", reason.as_str());
            audit::write(&mut tx, &[about(entry, id)]).await?;
            let why = Why { word: Some(reason.as_str()), detail: None };
            receiver_notices::tell(&mut tx, EventKind::WebhookDisabled, id, why, now, &told).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Disabled and unverified webhooks to be probed now. Until the probe may be over no other process gets
    /// them.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn begin_probes(&self, now: OffsetDateTime) -> Result<Vec<WebhookId>> {
        with_timeout(async {
            Ok(sqlx::query_scalar!(
                r#"update webhook_health h
                   set probe_at = $2
                   from (
                       select h.webhook_id
                       from webhook_health h
                       join webhook w on w.webhook_id = h.webhook_id
                       where h.probe_at <= $1
                         and w.deleted_at is null
                         and w.state in ('disabled', 'unverified')
                       order by h.probe_at
                       limit $3
                       for update of h skip locked) due
                   where h.webhook_id = due.webhook_id
                   returning h.webhook_id as "id: WebhookId""#,
                now,
                now + PROBE_WITHIN,
                PROBES_MAX,
            )
            .fetch_all(&self.pool)
            .await?)
        })
        .await
    }

    /// Writes the result of a probe: a webhook that is well is active again, and one that was disabled gets a
    /// snapshot.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn end_probe(
        &self,
        id: WebhookId,
        entry: Entry,
        is_well: bool,
        now: OffsetDateTime,
    ) -> Result<()> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            let outcome = entry.outcome;
            let reason = entry.data.get("reason").and_then(|reason| reason.as_str()).map(str::to_owned);
            audit::write(&mut tx, &[about(entry, id)]).await?;
            if is_well {
                enable(&mut tx, id, now).await?;
            } else {
                sqlx::query!(
                    "update webhook_health h
                     set probe_at = case when w.state = 'unverified' then $2::timestamptz else $3::timestamptz end,
                         last_outcome = $4,
                         last_reason = $5
                     from webhook w
                     where h.webhook_id = $1
                       and w.webhook_id = h.webhook_id",
                    id as _,
                    now + VERIFY_EVERY,
                    now + PROBE_EVERY,
                    outcome,
                    reason,
                )
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await?;
            Ok(())
        })
        .await?;
        self.wake.deliveries_due();
        Ok(())
    }
}

/// Makes a disabled or unverified webhook active, with a clean record and a snapshot on its way.
async fn enable(conn: &mut PgConnection, id: WebhookId, now: OffsetDateTime) -> Result<()> {
    let told = receiver_notices::lock(conn, EventKind::WebhookRecovered, id).await?;
    let changed = sqlx::query!(
        "update webhook
         set state = 'active',
             state_reason = null,
             snapshot_next = case when state = 'disabled' then 0 else snapshot_next end,
             version = version + 1,
             updated_at = $2
         where webhook_id = $1
           and deleted_at is null
           and state in ('disabled', 'unverified')",
        id as _,
        now,
    )
    .execute(&mut *conn)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(());
    }
    recovered(conn, id, now, &told).await?;
    // Deliveries from before its receiver had to be verified again.
    work::request(conn, id, WebhookWork::Resume, now).await?;
    work::request(conn, id, WebhookWork::Wake, now).await?;
    sqlx::query!(
        "update webhook_health
         set failures = 0,
             failing_since = null,
             hold_until = null,
             probe_at = null,
             last_outcome = null,
             last_reason = null
         where webhook_id = $1",
        id as _,
    )
    .execute(&mut *conn)
    .await?;
    audit::write(conn, &[about(Entry::new(now, Kind::WebhookEnabled), id)]).await
}

/// Writes the notices of a recovery, if there was one of the webhook's failing.
async fn recovered(
    conn: &mut PgConnection,
    id: WebhookId,
    now: OffsetDateTime,
    told: &[WebhookId],
) -> Result<()> {
    let noticed = sqlx::query!(
        "update webhook_health
         set noticed = false
         where webhook_id = $1
           and noticed",
        id as _,
    )
    .execute(&mut *conn)
    .await?;
    if noticed.rows_affected() > 0 {
        audit::write(conn, &[about(Entry::new(now, Kind::WebhookRecovered), id)]).await?;
        receiver_notices::tell(conn, EventKind::WebhookRecovered, id, Why::default(), now, told).await?;
    }
    Ok(())
}

fn about(mut entry: Entry, id: WebhookId) -> Entry {
    entry.webhook_id = Some(id);
    entry
}
