//! From deliveries to POSTs and back: claim, lease, settle.
//!
//! ```text
//!            insert (events.rs)                    claim                         settle
//!  ── due now ──▶ [due] ───────────────▶ [leased: due_at = end of lease] ──▶ ended: row gone, audit entry stays
//!  ── behind ──▶ [blocked: due_at null] ◀── not the oldest of its lane   ──▶ retry: due_at = later
//!                     ▲                                                  │
//!                     └──── the oldest ended: the next becomes due ◀─────┘
//! ```
//!
//! Both happen in one short transaction, the cycle, under an advisory lock: "who is the oldest of this lane" can
//! then never be answered twice at once, in this process or another. Nothing is held while a POST is under way: the
//! lease is a time in `due_at` and ends by itself.

use std::collections::HashSet;

use bytes::Bytes;
use sqlx::{Postgres, Transaction};
use time::{Duration, OffsetDateTime};

use super::types::detail;
use super::{Result, Store, answered, audit};
use crate::domain::audit::Entry;
use crate::domain::delivery::EndState;
use crate::domain::ids::{AgentId, DeliveryId, EventId, SourceId, WebhookId};
use crate::domain::presence::{Event, EventKind, Origin};

/// How long a claim holds without being renewed: what a killed process had claimed is free after that.
pub const LEASE: Duration = Duration::seconds(8);

/// One delivery that this process may send now.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Its id, sent as `webhook-id`.
    pub delivery_id: DeliveryId,
    /// To whom.
    pub webhook_id: WebhookId,
    /// The webhook's version; address and secrets of another version must not be used.
    pub webhook_version: i64,
    /// Number of this attempt, from 1.
    pub attempt: i32,
    /// The webhook is gone: end it without a POST.
    pub webhook_gone: bool,
    /// The event owed.
    pub event_id: EventId,
    /// What to tell; `None` if the webhook or the event is gone.
    pub event: Option<Event>,
}

/// How an attempt leaves its delivery.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which.
    pub delivery_id: DeliveryId,
    /// The attempt that was claimed; a settlement of another attempt changes nothing.
    pub attempt: i32,
    /// Ended, or due again at a time.
    pub next: Next,
    /// HTTP status of the answer, if there was one.
    pub status: Option<i32>,
    /// Outcome class.
    pub outcome: &'static str,
}

/// What comes after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the row goes, its audit entry tells the end.
    Ended(EndState),
    /// Another attempt, not before this time.
    RetryAt(OffsetDateTime),
}

/// Limits of one claim.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// How many more deliveries this process can take.
    pub total: i64,
    /// How many lanes of one webhook may be under way side by side.
    pub per_webhook: i64,
    /// How many are under way now, for each webhook that has any.
    pub in_flight: Vec<(WebhookId, i64)>,
}

/// What a cycle found.
#[derive(Clone, Debug, Default)]
pub struct Cycle {
    /// To be sent.
    pub claimed: Vec<Claimed>,
    /// There may be more that is due and has room: run another cycle without waiting.
    pub more: bool,
}

impl Store {
    /// One cycle: settles what came back, frees the next of each lane that moved, claims what is due.
    ///
    /// # Errors
    /// If the database is away; nothing has changed then, unless the answer to the commit was lost: ask
    /// [`resolve_doubt`](Self::resolve_doubt) before the next cycle. Settlements, given again, find no row of theirs
    /// and change nothing.
    pub async fn dispatch_cycle(
        &self,
        now: OffsetDateTime,
        settlements: &[Settlement],
        entries: &[Entry],
        room: &Room,
    ) -> Result<Cycle> {
        answered(async {
            let mut tx = self.hot.begin_with("begin; select pg_advisory_xact_lock(7700452)").await?;
            if !settlements.is_empty() {
                settle(&mut tx, self, now, settlements).await?;
            }
            audit::write(&mut tx, entries).await?;
            let cycle =
                if room.total > 0 { claim(&mut tx, self, now, room).await? } else { Cycle::default() };
            tx.commit().await?;
            Ok(cycle)
        })
        .await
    }

    /// Asked after a cycle that failed, because its commit may have happened all the same: gives back at once what
    /// it claimed and nobody heard of (`known` is under way or waits to be settled), and says which of these entries
    /// are written, so that they are not written twice.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn resolve_doubt(
        &self,
        now: OffsetDateTime,
        known: &[DeliveryId],
        entries: &[Entry],
    ) -> Result<HashSet<(DeliveryId, OffsetDateTime)>> {
        let told: Vec<_> = entries.iter().filter_map(|e| Some((e.delivery_id?, e.at))).collect();
        answered(async {
            let mut tx = self.hot.begin_with("begin; select pg_advisory_xact_lock(7700452)").await?;
            sqlx::query!(
                "update delivery
                 set due_at = $3,
                     leased_by = null,
                     attempt = attempt - 1
                 where leased_by = $1
                   and due_at is not null
                   and delivery_id <> all ($2)",
                self.process as _,
                known as _,
                now,
            )
            .execute(&mut *tx)
            .await?;
            let written = sqlx::query!(
                r#"select l.delivery_id as "delivery_id!: DeliveryId", l.at
                   from unnest($1::uuid[], $2::timestamptz[]) as told (delivery_id, at)
                   join audit_log l on l.delivery_id = told.delivery_id and l.at = told.at"#,
                &told.iter().map(|(delivery, _)| *delivery).collect::<Vec<_>>() as _,
                &told.iter().map(|(_, at)| *at).collect::<Vec<_>>(),
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(written.into_iter().map(|row| (row.delivery_id, row.at)).collect())
        })
        .await
    }

    /// Keeps the leases of attempts that are still under way.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn renew_leases(&self, now: OffsetDateTime, deliveries: &[DeliveryId]) -> Result<()> {
        answered(async {
            sqlx::query!(
                "update delivery
             set due_at = $3
             where delivery_id = any ($1)
               and leased_by = $2",
                deliveries as _,
                self.process as _,
                now + LEASE,
            )
            .execute(&self.hot)
            .await?;
            Ok(())
        })
        .await
    }

    /// Gives back what was claimed and not finished, so that the next process need not wait for the lease.
    ///
    /// # Errors
    /// If the database is away; the leases end by themselves then.
    pub async fn release_leases(&self, now: OffsetDateTime) -> Result<u64> {
        answered(async {
            let released = sqlx::query!(
                "update delivery
             set due_at = $2,
                 leased_by = null
             where leased_by = $1
               and due_at is not null",
                self.process as _,
                now,
            )
            .execute(&self.hot)
            .await?;
            Ok(released.rows_affected())
        })
        .await
    }
}

/// Removes what ended, dates what is to be retried, and makes the next of each lane due.
async fn settle(
    tx: &mut Transaction<'static, Postgres>,
    store: &Store,
    now: OffsetDateTime,
    settlements: &[Settlement],
) -> Result<()> {
    let retry_at: Vec<Option<OffsetDateTime>> = settlements
        .iter()
        .map(|s| match s.next {
            Next::Ended(_) => None,
            Next::RetryAt(at) => Some(at),
        })
        .collect();
    sqlx::query!(
        "with settled as (
             select *
             from unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::int[], $5::text[])
                  as s (delivery_id, attempt, retry_at, status, outcome)
         ),
         retried as (
             update delivery d
             set due_at = s.retry_at,
                 leased_by = null,
                 last_status = s.status,
                 last_outcome = s.outcome
             from settled s
             where s.retry_at is not null
               and d.delivery_id = s.delivery_id
               and d.attempt = s.attempt
               and d.leased_by = $6
         ),
         ended as (
             delete from delivery d
             using settled s
             where s.retry_at is null
               and d.delivery_id = s.delivery_id
               and d.attempt = s.attempt
               and d.leased_by = $6
             returning d.webhook_id, d.lane, d.position
         )
         update delivery d
         set due_at = $7
         from ended e
         cross join lateral (
             select n.delivery_id
             from delivery n
             where n.webhook_id = e.webhook_id
               and n.lane = e.lane
               and n.position > e.position
             order by n.position
             limit 1
         ) next
         where d.delivery_id = next.delivery_id
           and d.due_at is null",
        &settlements.iter().map(|s| s.delivery_id).collect::<Vec<_>>() as _,
        &settlements.iter().map(|s| s.attempt).collect::<Vec<_>>(),
        &retry_at as _,
        &settlements.iter().map(|s| s.status).collect::<Vec<_>>() as _,
        &settlements.iter().map(|s| s.outcome).collect::<Vec<_>>() as _,
        store.process as _,
        now,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Leases what is due and first in its lane. Whatever is due and is not gets out of the way: blocked if it is not
/// the oldest of its lane, put off for good if its webhook is paused (resume brings it back).
async fn claim(
    tx: &mut Transaction<'static, Postgres>,
    store: &Store,
    now: OffsetDateTime,
    room: &Room,
) -> Result<Cycle> {
    let rows = sqlx::query!(
        r#"with recursive
           -- Each webhook that has anything dated, by one index descent each.
           dated (webhook_id) as (
               (select d.webhook_id
                from delivery d
                where d.due_at is not null
                order by d.webhook_id
                limit 1)
               union all
               select (select d.webhook_id
                       from delivery d
                       where d.due_at is not null
                         and d.webhook_id > p.webhook_id
                       order by d.webhook_id
                       limit 1)
               from dated p
               where p.webhook_id is not null
           ),
           busy as (
               select *
               from unnest($4::uuid[], $5::bigint[]) as b (webhook_id, in_flight)
           ),
           candidate as (
               select c.delivery_id, c.webhook_id, c.lane, c.position, c.due_at
               from dated
               left join busy on busy.webhook_id = dated.webhook_id
               cross join lateral (
                   select d.delivery_id, d.webhook_id, d.lane, d.position, d.due_at
                   from delivery d
                   where d.webhook_id = dated.webhook_id
                     and d.due_at <= $1
                   order by d.due_at
                   limit greatest($6 - coalesce(busy.in_flight, 0), 0)
               ) c
               where dated.webhook_id is not null
               order by c.due_at
               limit $7
           ),
           judged as (
               select c.delivery_id,
                      w.webhook_id is null or w.deleted_at is not null as gone,
                      coalesce(w.state, 'active') = 'paused' as paused,
                      exists (
                          select
                          from delivery o
                          where o.webhook_id = c.webhook_id
                            and o.lane = c.lane
                            and o.position < c.position) as behind,
                      coalesce(w.version, 0) as version
               from candidate c
               left join webhook w on w.webhook_id = c.webhook_id
           ),
           moved as (
               update delivery d
               set due_at = case when j.paused and not j.gone then 'infinity'
                                 when j.behind then null
                                 else $2::timestamptz
                            end,
                   leased_by = case when (j.gone or not j.paused) and not j.behind then $3::uuid end,
                   attempt = d.attempt + case when (j.gone or not j.paused) and not j.behind then 1 else 0 end
               from judged j
               where d.delivery_id = j.delivery_id
               returning d.delivery_id, d.webhook_id, d.attempt, d.event_id, d.event_received_at, d.leased_by,
                         d.position, j.gone, j.version
           )
           select m.delivery_id as "delivery_id!: DeliveryId",
                  m.webhook_id as "webhook_id!: WebhookId",
                  m.version as "version!",
                  m.attempt as "attempt!",
                  m.gone as "gone!",
                  m.leased_by is not null as "leased!",
                  m.event_id as "event_id!: EventId",
                  m.event_received_at as "received_at!",
                  m.position as "position!",
                  e.kind as "kind?",
                  e.source_id as "source_id?: SourceId",
                  e.source_name as "source_name?",
                  e.agent_id as "agent_id?: AgentId",
                  e.sequence as "sequence?",
                  e.topic as "topic?",
                  e.presence as "presence?",
                  e.previous as "previous?",
                  e.occurred_at as "occurred_at?",
                  e.origin as "origin?",
                  e.state as "state?",
                  e.raw as "raw?"
           from moved m
           left join event e
             on m.leased_by is not null
            and e.event_id = m.event_id
            and e.received_at = m.event_received_at
           order by m.position"#,
        now,
        now + LEASE,
        store.process as _,
        &room.in_flight.iter().map(|(webhook, _)| *webhook).collect::<Vec<_>>() as _,
        &room.in_flight.iter().map(|(_, count)| *count).collect::<Vec<_>>(),
        room.per_webhook,
        room.total,
    )
    .fetch_all(&mut **tx)
    .await?;
    let full = i64::try_from(rows.len()).is_ok_and(|moved| moved >= room.total);
    let mut cycle = Cycle { more: full, claimed: Vec::new() };
    for row in rows {
        if !row.leased {
            cycle.more = true; // it took a place that another may want
            continue;
        }
        let kind = row.kind.as_deref().filter(|_| !row.gone).and_then(EventKind::from_name);
        let event = kind.map(|kind| Event {
            event_id: row.event_id,
            kind,
            position: row.position,
            source: row.source_id.zip(row.source_name),
            agent_id: row.agent_id,
            sequence: row.sequence,
            topic: row.topic,
            presence: row.presence,
            previous: row.previous,
            occurred_at: row.occurred_at,
            received_at: row.received_at,
            origin: Origin::from_name(row.origin.as_deref().unwrap_or_default()),
            detail: row.state.and_then(|state| detail(kind, state)),
            raw: Bytes::from(row.raw.unwrap_or_default()),
        });
        cycle.claimed.push(Claimed {
            delivery_id: row.delivery_id,
            webhook_id: row.webhook_id,
            webhook_version: row.version,
            attempt: row.attempt,
            webhook_gone: row.gone,
            event_id: row.event_id,
            event,
        });
    }
    Ok(cycle)
}
