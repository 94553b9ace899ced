//! Dispatchers that live, and what becomes of what a dead one held.

use time::OffsetDateTime;
use uuid::Uuid;

use super::deliveries::{BEGIN_CYCLE, LEASE};
use super::events::BEGIN_WRITING;
use super::{Result, Store, answered, answered_in_a_minute, audit};
use crate::clock;
use crate::domain::ids::{DeliveryId, DispatcherId, EventId, WebhookId};

/// Lanes that are looked through in one statement.
const LANES: i64 = 2000;

/// The last lane that was looked through: of which webhook, and which.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneCursor(Uuid, i64);

impl Store {
    /// A sign of life of a dispatcher. False if it had been given up for dead: what it held is in other hands.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn is_alive(&self, dispatcher: DispatcherId, now: OffsetDateTime) -> Result<bool> {
        answered(async {
            let renewed = sqlx::query!(
                "update dispatcher
                 set alive_until = $2
                 where dispatcher_id = $1",
                dispatcher as _,
                now + LEASE,
            )
            .execute(&self.pool)
            .await?;
            Ok(renewed.rows_affected() > 0)
        })
        .await
    }

    /// Whether no dispatcher that is alive is older: that one alone serves the webhooks that are limited.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn is_eldest(&self, dispatcher: DispatcherId, now: OffsetDateTime) -> Result<bool> {
        answered(async {
            Ok(sqlx::query_scalar!(
                r#"select not exists (
                       select
                       from dispatcher
                       where dispatcher_id < $1
                         and alive_until >= $2) as "eldest!""#,
                dispatcher as _,
                now,
            )
            .fetch_one(&self.pool)
            .await?)
        })
        .await
    }

    /// A dispatcher begins. What is suspended though its webhook is active is resumed soon.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn begin_dispatcher(&self, dispatcher: DispatcherId, now: OffsetDateTime) -> Result<()> {
        answered(async {
            sqlx::query!(
                "insert into dispatcher (dispatcher_id, alive_until, process_id) values ($1, $2, $3)",
                dispatcher as _,
                now + LEASE,
                self.process as _,
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await?;
        self.resume_forgotten(now).await
    }

    /// Looks through the next lanes for those whose first delivery nobody holds and nothing wakes, which a crash between a
    /// commit and the word about it leaves, and makes it due. Gives where to go on (`None` at the end) and how many there were.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn wake_stranded(
        &self,
        from: LaneCursor,
        now: OffsetDateTime,
    ) -> Result<(Option<LaneCursor>, u64)> {
        answered(async {
            // One descent into the index for each lane, however much stands in it.
            let lanes = sqlx::query!(
                r#"with recursive walk (number, webhook_id, lane) as (
                       select 0::bigint, $1::uuid, $2::bigint
                       union all
                       select w.number + 1, next.webhook_id, next.lane
                       from walk w
                       cross join lateral (
                           select d.webhook_id, d.lane
                           from delivery d
                           where (d.webhook_id, d.lane) > (w.webhook_id, w.lane)
                           order by d.webhook_id, d.lane
                           limit 1) next
                       where w.number < $3
                   )
                   select w.webhook_id as "webhook_id!: WebhookId", w.lane as "lane!", h.stranded as "stranded!"
                   from walk w
                   cross join lateral (
                       select d.due_at is null and d.leased_by is null as stranded
                       from delivery d
                       where d.webhook_id = w.webhook_id
                         and d.lane = w.lane
                       order by d.position
                       limit 1) h
                   where w.number > 0
                   order by w.number"#,
                from.0,
                from.1,
                LANES,
            )
            .fetch_all(&self.hot)
            .await?;
            let last = lanes.last().map(|lane| LaneCursor(lane.webhook_id.0, lane.lane));
            let (webhooks, stranded): (Vec<_>, Vec<_>) =
                lanes.iter().filter(|lane| lane.stranded).map(|lane| (lane.webhook_id, lane.lane)).unzip();
            if stranded.is_empty() {
                return Ok((last, 0));
            }
            let mut tx = self.hot.begin_with(BEGIN_CYCLE).await?;
            let woken = sqlx::query!(
                "update delivery d
                 set due_at = greatest($3, d.not_before)
                 from unnest($1::uuid[], $2::bigint[]) as l (webhook_id, lane)
                 cross join lateral (
                     select h.ctid as place
                     from delivery h
                     where h.webhook_id = l.webhook_id
                       and h.lane = l.lane
                     order by h.position
                     limit 1) first
                 where d.ctid = first.place
                   and d.due_at is null
                   and d.leased_by is null",
                &webhooks as _,
                &stranded,
                now,
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok((last, woken.rows_affected()))
        })
        .await
    }

    /// Frees what dispatchers hold that have given no sign of life or have ended, each with an audit entry: whether the POST was
    /// made is not known. Says how many rows there were.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn free_of_the_dead(&self, now: OffsetDateTime) -> Result<u64> {
        answered_in_a_minute(async {
            let dead = sqlx::query_scalar!(
                r#"with recursive holder (id) as (
                       (select leased_by
                        from delivery
                        where leased_by is not null
                        order by leased_by
                        limit 1)
                       union all
                       select (select d.leased_by
                               from delivery d
                               where d.leased_by > h.id
                               order by d.leased_by
                               limit 1)
                       from holder h
                       where h.id is not null
                   )
                   select dispatcher_id as "id!: DispatcherId"
                   from dispatcher
                   where alive_until < $1
                   union all
                   -- A transaction may be committed after the dispatcher that it leased to has ended or was found dead.
                   select h.id
                   from holder h
                   where h.id is not null
                     and not exists (select from dispatcher d where d.dispatcher_id = h.id)"#,
                now,
            )
            .fetch_all(&self.pool)
            .await?;
            if dead.is_empty() {
                return Ok(0);
            }
            let mut tx = self.pool.begin_with(BEGIN_CYCLE).await?;
            audit::allow_a_minute(&mut tx).await?;
            let freed = sqlx::query!(
                "with freed as (
                     update delivery
                     set due_at = $2,
                         leased_by = null
                     where leased_by = any ($1)
                     returning delivery_id, webhook_id, lane, event_id, attempt
                 )
                 insert into audit_log (
                     at, kind, level, webhook_id, agent_id, event_id, delivery_id, attempt, outcome)
                 select $2, 'ATTEMPT_LOST', 'WARN', f.webhook_id, a.agent_id, f.event_id, f.delivery_id, f.attempt,
                        'unknown'
                 from freed f
                 left join agent a on a.agent_key = f.lane",
                &dead as _,
                now,
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!("delete from dispatcher where dispatcher_id = any ($1)", &dead as _)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(freed.rows_affected())
        })
        .await
    }

    /// Gives back everything that a dispatcher holds that has ended in this process: as if it had never been claimed, but for
    /// what was under way and not answered. Whether that was taken is not known.
    ///
    /// # Errors
    /// If the database is away; then it is free once its lease has ended.
    pub async fn end_dispatcher(&self, dispatcher: DispatcherId, under_way: &[DeliveryId]) -> Result<()> {
        answered(async {
            let mut tx = self.pool.begin_with(BEGIN_CYCLE).await?;
            sqlx::query!(
                "with freed as (
                     update delivery
                     set due_at = $2,
                         leased_by = null,
                         attempt = greatest(attempt - case when delivery_id = any ($3) then 0 else 1 end, 0)
                     where leased_by = $1
                     returning delivery_id, webhook_id, lane, event_id, attempt
                 )
                 insert into audit_log (
                     at, kind, level, webhook_id, agent_id, event_id, delivery_id, attempt, outcome)
                 select $2, 'ATTEMPT_LOST', 'WARN', f.webhook_id, a.agent_id, f.event_id, f.delivery_id, f.attempt,
                        'unknown'
                 from freed f
                 left join agent a on a.agent_key = f.lane
                 where f.delivery_id = any ($3)",
                dispatcher as _,
                clock::now(),
                under_way as _,
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!("delete from dispatcher where dispatcher_id = $1", dispatcher as _)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Deliveries that a dispatcher holds according to the database, each with its attempt.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn leases_of(&self, dispatcher: DispatcherId) -> Result<Vec<(DeliveryId, i32)>> {
        answered(async {
            let rows = sqlx::query!(
                r#"select delivery_id as "delivery_id: DeliveryId", attempt
                   from delivery
                   where leased_by = $1"#,
                dispatcher as _,
            )
            .fetch_all(&self.hot)
            .await?;
            Ok(rows.into_iter().map(|row| (row.delivery_id, row.attempt)).collect())
        })
        .await
    }

    /// Gives back deliveries that a dispatcher holds without having been told of them, as if these attempts of them had never
    /// begun. Says how many it still held.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn return_leases(&self, dispatcher: DispatcherId, leased: &[(DeliveryId, i32)]) -> Result<u64> {
        answered(async {
            let mut tx = self.pool.begin_with(BEGIN_CYCLE).await?;
            let returned = sqlx::query!(
                "update delivery d
                 set due_at = now(),
                     leased_by = null,
                     attempt = d.attempt - 1,
                     -- No POST was made.
                     sent_at = case when d.attempt > 1 then d.sent_at end,
                     sent_format = case when d.attempt > 1 then d.sent_format end
                 from unnest($2::uuid[], $3::int[]) as n (delivery_id, attempt)
                 where d.delivery_id = n.delivery_id
                   and d.attempt = n.attempt
                   and d.leased_by = $1",
                dispatcher as _,
                &leased.iter().map(|(delivery, _)| *delivery).collect::<Vec<_>>() as _,
                &leased.iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(),
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(returned.rows_affected())
        })
        .await
    }

    /// Waits until every writer of events that is under way now has ended: what it wrote is committed then, or is not.
    ///
    /// # Errors
    /// If the database is away, or one of them does not end in time.
    pub async fn writers_ended(&self) -> Result<()> {
        self.ended(BEGIN_WRITING).await
    }

    /// Waits until whoever has begun with this lock, a writer or a cycle, has ended: once we have it, they have.
    pub(super) async fn ended(&self, begin: &'static str) -> Result<()> {
        answered(async { Ok(self.pool.begin_with(begin).await?.commit().await?) }).await
    }

    /// Makes due what a dispatcher holds of these events from birth: nobody was told of it, because the answer to a commit was
    /// lost. What came into its hands since, it knows of.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn free_untold(&self, events: &[EventId]) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        answered(async {
            let mut tx = self.pool.begin_with(BEGIN_CYCLE).await?;
            sqlx::query!(
                "update delivery
                 set due_at = now(),
                     attempt = attempt - 1,
                     leased_by = null
                 where leased_by is not null
                   and attempt = 1
                   and sent_at = created_at
                   and event_id = any ($1)",
                events as _,
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }
}
