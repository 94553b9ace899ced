//! Signs of life of dispatchers, and the release of leases that nobody serves any more.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::clock;
use crate::domain::ids::{DeliveryId, DispatcherId, WebhookId};
use crate::store::delivery::cycle::LEASE;
use crate::store::delivery::lanes::make_heads_due;
use crate::store::locks::{BEGIN_CYCLE, BEGIN_WRITING};
use crate::store::{Result, Store, session, with_long_timeout, with_timeout};

/// Lanes that one statement looks through.
const LANES: i64 = 2000;
/// Pages of the table that one statement reads for leases: some ten milliseconds.
const PAGES: i64 = 4096;

/// Webhook and lane after which a walk over all lanes goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneCursor(Uuid, i64);

/// Leases in a piece of the table.
#[derive(Debug)]
pub struct Leases {
    /// Leases of the dispatcher that asks, each with its attempt.
    pub ours: Vec<(DeliveryId, i32)>,
    /// Leases that were released because their dispatcher is gone.
    pub freed: u64,
    /// Page where the next piece begins; `None`: there is none.
    pub next: Option<i64>,
}

impl Store {
    /// A dispatcher gives a sign of life. False if it had been given up for dead: its deliveries may be
    /// leased to others.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn is_alive(&self, dispatcher: DispatcherId, now: OffsetDateTime) -> Result<bool> {
        with_timeout(async {
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

    /// Whether this is the oldest dispatcher that is alive: it alone serves the webhooks with a limit.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn is_leader(&self, dispatcher: DispatcherId, now: OffsetDateTime) -> Result<bool> {
        with_timeout(async {
            Ok(sqlx::query_scalar!(
                r#"select not exists (
                       select
                       from dispatcher
                       where dispatcher_id < $1
                         and alive_until >= $2) as "is_leader!""#,
                dispatcher as _,
                now,
            )
            .fetch_one(&self.pool)
            .await?)
        })
        .await
    }

    /// A dispatcher begins. Deliveries that are suspended though their webhook is active are resumed soon.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn begin_dispatcher(&self, dispatcher: DispatcherId, now: OffsetDateTime) -> Result<()> {
        with_timeout(async {
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

    /// Looks through the next lanes for heads that are neither leased nor due, which a crash between a commit
    /// and the message about it leaves, and makes them due. Returns where to go on (`None` at the end) and
    /// how many there were.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn wake_stranded(
        &self,
        from: LaneCursor,
        now: OffsetDateTime,
    ) -> Result<(Option<LaneCursor>, u64)> {
        with_timeout(async {
            let lanes = lane_heads(self.pipeline().await?, from).await?;
            let last = lanes.last().map(|lane| LaneCursor(lane.webhook_id.0, lane.lane));
            let (webhooks, stranded): (Vec<_>, Vec<_>) =
                lanes.iter().filter(|lane| lane.is_stranded).map(|lane| (lane.webhook_id, lane.lane)).unzip();
            if stranded.is_empty() {
                return Ok((last, 0));
            }
            let mut tx = self.pipeline().await?.begin_with(BEGIN_CYCLE).await?;
            let woken = make_heads_due(&mut tx, &webhooks, &stranded, Some(now)).await?;
            tx.commit().await?;
            Ok((last, woken))
        })
        .await
    }

    /// Ends dispatchers that have given no sign of life, and returns how many. [`leases_in`](Self::leases_in)
    /// releases their leases.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn end_the_dead(&self, now: OffsetDateTime) -> Result<u64> {
        with_timeout(async {
            let dead = sqlx::query!("delete from dispatcher where alive_until < $1", now);
            Ok(dead.execute(&self.pool).await?.rows_affected())
        })
        .await
    }

    /// Reads the leases in the next piece of the table, and releases those of dispatchers that do not exist,
    /// each with an audit entry: whether the POST was made is not known. Such a dispatcher has died or ended;
    /// a transaction that leases to it may be committed even later.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn leases_in(
        &self,
        dispatcher: DispatcherId,
        from_page: i64,
        now: OffsetDateTime,
    ) -> Result<Leases> {
        with_long_timeout(async {
            let pages = sqlx::query_scalar!(
                r#"select pg_relation_size('delivery') / current_setting('block_size')::bigint as "pages!""#
            )
            .fetch_one(&self.pool)
            .await?;
            let rows = sqlx::query!(
                r#"select delivery_id as "delivery_id: DeliveryId", attempt, leased_by as "leased_by!: DispatcherId"
                   from delivery
                   where ctid >= format('(%s,0)', $1::bigint)::tid
                     and ctid < format('(%s,0)', $1::bigint + $2::bigint)::tid
                     and leased_by is not null"#,
                from_page,
                PAGES,
            )
            .fetch_all(&self.pool)
            .await?;
            let (ours, others): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|row| row.leased_by == dispatcher);
            let others: Vec<_> = others.into_iter().map(|row| row.delivery_id).collect();
            Ok(Leases {
                ours: ours.into_iter().map(|row| (row.delivery_id, row.attempt)).collect(),
                freed: self.release_ownerless(&others, now).await?,
                next: Some(from_page + PAGES).filter(|next| *next < pages),
            })
        })
        .await
    }

    /// Releases those of these leases whose dispatcher does not exist. A dispatcher has its row before
    /// anything is leased to it.
    async fn release_ownerless(&self, deliveries: &[DeliveryId], now: OffsetDateTime) -> Result<u64> {
        if deliveries.is_empty() {
            return Ok(0);
        }
        let orphaned = sqlx::query_scalar!(
            r#"select delivery_id as "delivery_id: DeliveryId"
               from delivery d
               where delivery_id = any ($1)
                 and leased_by is not null
                 and not exists (select from dispatcher where dispatcher_id = d.leased_by)"#,
            deliveries as _,
        )
        .fetch_all(&self.pool)
        .await?;
        if orphaned.is_empty() {
            return Ok(0);
        }
        let mut tx = self.pool.begin_with(BEGIN_CYCLE).await?;
        session::allow_a_minute(&mut tx).await?;
        let freed = release_lost(&mut tx, &orphaned, now).await?;
        tx.commit().await?;
        Ok(freed)
    }

    /// A dispatcher ends. It releases POSTs under way without an answer: whether the receiver got them is not
    /// known. Its other leases are released by the next dispatcher that reads them.
    ///
    /// # Errors
    /// If the database is unavailable; then its leases end in time.
    pub async fn end_dispatcher(&self, dispatcher: DispatcherId, under_way: &[DeliveryId]) -> Result<()> {
        with_timeout(async {
            let mut tx = self.pool.begin_with(BEGIN_CYCLE).await?;
            sqlx::query!("delete from dispatcher where dispatcher_id = $1", dispatcher as _)
                .execute(&mut *tx)
                .await?;
            release_lost(&mut tx, under_way, clock::now()).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Returns deliveries that are leased to a dispatcher which was not told of them, as if these attempts
    /// had never begun. One that it has sent all the same, whose settlement a failover lost, keeps its bytes.
    /// Says how many were still leased.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn return_leases(&self, dispatcher: DispatcherId, leased: &[(DeliveryId, i32)]) -> Result<u64> {
        let ids: Vec<_> = leased.iter().map(|(delivery, _)| *delivery).collect();
        let sent = self.recent.have_been_sent(&ids);
        with_timeout(async {
            let mut tx = self.pool.begin_with(BEGIN_CYCLE).await?;
            let returned = sqlx::query!(
                "update delivery d
                 set due_at = now(),
                     leased_by = null,
                     attempt = d.attempt - 1,
                     sent_at = case when d.attempt > 1 or n.sent then d.sent_at end
                 from unnest($2::uuid[], $3::int[], $4::bool[]) as n (delivery_id, attempt, sent)
                 where d.delivery_id = n.delivery_id
                   and d.attempt = n.attempt
                   and d.leased_by = $1",
                dispatcher as _,
                &ids as _,
                &leased.iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(),
                &sent,
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(returned.rows_affected())
        })
        .await
    }

    /// Waits until every writer of events that is under way now has ended: its commit outcome is certain
    /// then.
    ///
    /// # Errors
    /// If the database is unavailable, or a writer does not end in time.
    pub async fn writers_ended(&self) -> Result<()> {
        self.ended(BEGIN_WRITING).await
    }

    /// Waits until every transaction that took this lock before has ended.
    pub(in crate::store) async fn ended(&self, begin: &'static str) -> Result<()> {
        with_timeout(async { Ok(self.pool.begin_with(begin).await?.commit().await?) }).await
    }

    /// Makes due what was leased at insert, at these times, by transactions that no dispatcher was told of. A
    /// dispatcher knows of what was leased to it since.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn release_unannounced(
        &self,
        leased_at_insert: &[(DeliveryId, OffsetDateTime)],
    ) -> Result<u64> {
        if leased_at_insert.is_empty() {
            return Ok(0);
        }
        with_timeout(async {
            let mut tx = self.pool.begin_with(BEGIN_CYCLE).await?;
            let freed = sqlx::query!(
                "update delivery d
                 set due_at = now(),
                     attempt = 0,
                     leased_by = null,
                     sent_at = null
                 from unnest($1::uuid[], $2::timestamptz[]) as n (delivery_id, inserted_at)
                 where d.delivery_id = n.delivery_id
                   and d.created_at = n.inserted_at
                   and d.sent_at = n.inserted_at
                   and d.attempt = 1
                   and d.leased_by is not null",
                &leased_at_insert.iter().map(|(delivery, _)| *delivery).collect::<Vec<_>>() as _,
                &leased_at_insert.iter().map(|(_, at)| *at).collect::<Vec<_>>(),
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(freed.rows_affected())
        })
        .await
    }
}

/// A lane with open deliveries.
struct LaneHead {
    webhook_id: WebhookId,
    lane: i64,
    /// Its first delivery is neither leased nor has a due time.
    is_stranded: bool,
}

/// Reads the next lanes and the first delivery of each.
async fn lane_heads(pool: &PgPool, from: LaneCursor) -> Result<Vec<LaneHead>> {
    // One descent into the index for each lane, however much stands in it.
    let lanes = sqlx::query_as!(
        LaneHead,
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
           select w.webhook_id as "webhook_id!: WebhookId", w.lane as "lane!", h.is_stranded as "is_stranded!"
           from walk w
           cross join lateral (
               select d.due_at is null and d.leased_by is null as is_stranded
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
    );
    Ok(lanes.fetch_all(pool).await?)
}

/// Releases those of these leases whose dispatcher does not exist, each with an audit entry: whether the POST
/// was made is not known. Says how many there were.
async fn release_lost(
    conn: &mut PgConnection,
    deliveries: &[DeliveryId],
    now: OffsetDateTime,
) -> Result<u64> {
    let freed = sqlx::query!(
        "with freed as (
             update delivery d
             set due_at = $2,
                 leased_by = null,
                 goes_alone = batch_id is null
             where delivery_id = any ($1)
               and leased_by is not null
               and not exists (select from dispatcher where dispatcher_id = d.leased_by)
             returning delivery_id, webhook_id, lane, event_id, attempt
         )
         insert into audit_log (
             at, kind, level, webhook_id, agent_id, event_id, delivery_id, attempt, outcome)
         select $2, 'ATTEMPT_LOST', 'WARN', f.webhook_id, a.agent_id, f.event_id, f.delivery_id, f.attempt,
                'unknown'
         from freed f
         left join agent a on a.agent_key = f.lane",
        deliveries as _,
        now,
    )
    .execute(conn)
    .await?;
    Ok(freed.rows_affected())
}
