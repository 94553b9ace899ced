//! Effects of a change of a webhook's state on its open deliveries. There may be millions of them, so the
//! dispatchers' maintenance works in pieces, each a short transaction; the row in `webhook_work` outlives a
//! crash (docs/adr/0027).

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::audit::Kind;
use crate::domain::delivery::outcome::EndState;
use crate::domain::ids::WebhookId;
use crate::domain::webhook::state::WorkKind;
use crate::store::locks::{BEGIN_CYCLE, BEGIN_WRITING};
use crate::store::{Result, Store, with_timeout};

/// Deliveries of one piece: a claim that meets it waits some ten milliseconds.
const PIECE: u32 = 1000;
/// Deliveries that a piece wakes, each ten milliseconds after the one before; the next piece comes five
/// seconds later, so a receiver that is back gets a hundred a second besides new ones.
const WOKEN: u32 = 500;

/// One change of a webhook's open deliveries.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum WebhookWork<'a> {
    /// They end, for the principal or the bridge itself. The dispatcher ends those that it has leased.
    End(EndState, Option<&'a str>),
    /// Those that were suspended while it took none become due.
    Resume,
    /// Those that wait for their next attempt become due, one after the other.
    Wake,
}

/// Result of a call.
#[derive(Debug, Default)]
pub struct WorkDone {
    /// Something is left to do.
    pub more: bool,
    /// Deliveries that ended, by end state.
    pub ended: Vec<(EndState, u64)>,
    /// Deliveries that became due.
    pub due: u64,
    /// Lanes may have a first delivery now that nobody has woken.
    pub lanes: bool,
}

/// Writes work down in the transaction of the change of state.
pub(in crate::store) async fn request(
    conn: &mut PgConnection,
    webhook: WebhookId,
    work: WebhookWork<'_>,
    now: OffsetDateTime,
) -> Result<()> {
    let (kind, end, principal) = match work {
        WebhookWork::End(end, principal) => (WorkKind::End, Some(end.as_str()), principal),
        WebhookWork::Resume => (WorkKind::Resume, None, None),
        WebhookWork::Wake => (WorkKind::Wake, None, None),
    };
    sqlx::query!(
        "insert into webhook_work (webhook_id, kind, end_state, principal, asked_at)
         values ($1, $2, $3, $4, $5)
         on conflict on constraint webhook_work_pkey do update
         set end_state = excluded.end_state,
             principal = excluded.principal,
             writers_ended = false,
             last_lane = default,
             last_position = default,
             ended = default,
             asked_at = excluded.asked_at",
        webhook as _,
        kind as _,
        end,
        principal,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

impl Store {
    /// Does pieces of work for the time `within`, the one that waited longest first.
    ///
    /// # Errors
    /// If the database is unavailable; finished pieces stay.
    pub async fn work_on_webhooks(&self, within: Duration) -> Result<WorkDone> {
        let by = Instant::now() + within;
        let mut done = WorkDone::default();
        self.wait_for_writers().await?;
        while self.run_piece(&mut done).await? {
            if Instant::now() >= by {
                done.more = true;
                break;
            }
        }
        Ok(done)
    }

    /// Resumes deliveries that are suspended although their webhook is active, as a crash may leave them.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn resume_forgotten(&self, now: OffsetDateTime) -> Result<()> {
        with_timeout(async {
            sqlx::query!(
                "insert into webhook_work (webhook_id, kind, asked_at)
                 select w.webhook_id, 'resume', $1
                 from webhook w
                 where w.deleted_at is null
                   and w.state = 'active'
                   and exists (
                       select
                       from delivery d
                       where d.webhook_id = w.webhook_id
                         and d.due_at = 'infinity')
                 on conflict do nothing",
                now,
            )
            .execute(self.pipeline().await?)
            .await?;
            Ok(())
        })
        .await
    }

    /// Waits for writers and cycles that began before a change of state was committed: they may still go by
    /// the old one.
    async fn wait_for_writers(&self) -> Result<()> {
        // Work that was asked for earlier may be committed later: only rows seen here were committed before
        // the wait.
        let asked = with_timeout(async {
            Ok(sqlx::query!(
                r#"select webhook_id as "webhook: WebhookId", kind, asked_at
                   from webhook_work
                   where not writers_ended"#,
            )
            .fetch_all(&self.pool)
            .await?)
        })
        .await?;
        if asked.is_empty() {
            return Ok(());
        }
        for begin in [BEGIN_WRITING, BEGIN_CYCLE] {
            self.ended(begin).await?;
        }
        with_timeout(async {
            sqlx::query!(
                "update webhook_work k
                 set writers_ended = true
                 from unnest($1::uuid[], $2::text[], $3::timestamptz[]) as n (webhook_id, kind, asked_at)
                 where k.webhook_id = n.webhook_id
                   and k.kind = n.kind
                   and k.asked_at = n.asked_at",
                &asked.iter().map(|row| row.webhook).collect::<Vec<_>>() as _,
                &asked.iter().map(|row| row.kind.clone()).collect::<Vec<_>>(),
                &asked.iter().map(|row| row.asked_at).collect::<Vec<_>>(),
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    /// Does one piece; false if there is none to do.
    async fn run_piece(&self, done: &mut WorkDone) -> Result<bool> {
        self.with_patience(async {
            let mut tx = self.pipeline().await?.begin().await?;
            let Some(work) = sqlx::query!(
                r#"select k.webhook_id as "webhook: WebhookId", k.kind as "kind: WorkKind", k.end_state, k.asked_at,
                          coalesce(w.state = 'active' and w.deleted_at is null, false) as "active!"
                   from webhook_work k
                   left join webhook w on w.webhook_id = k.webhook_id
                   where k.writers_ended
                     -- A receiver that is back gets no more at once; a dispatcher settles what it has leased.
                     and coalesce(k.worked_at < clock_timestamp() - case
                             when k.kind = 'wake' then interval '5 seconds'
                             when k.kind = 'end' and k.last_lane < 0 then interval '1 second'
                             else interval '0' end, true)
                   order by k.worked_at nulls first
                   limit 1
                   for update of k skip locked"#,
            )
            .fetch_optional(&mut *tx)
            .await?
            else {
                return Ok(false);
            };
            let left = match work.kind {
                WorkKind::End => {
                    let known = |end: &EndState| work.end_state.as_deref() == Some(end.as_str());
                    let end = EndState::ALL.into_iter().find(known).unwrap_or(EndState::WebhookGone);
                    let (ended, left) = end_piece(&mut tx, work.webhook, end).await?;
                    done.ended.push((end, ended));
                    // Later deliveries stood behind those that have ended: nobody else knows that they are
                    // first now.
                    done.lanes |= !left;
                    left
                }
                // Paused or disabled again: the claim suspends what is due.
                _ if !work.active => false,
                WorkKind::Resume => {
                    let due = resume_piece(&mut tx, work.webhook, work.asked_at).await?;
                    done.due += due;
                    due >= PIECE.into()
                }
                WorkKind::Wake => {
                    let due = wake_piece(&mut tx, work.webhook).await?;
                    done.due += due;
                    due >= WOKEN.into()
                }
            };
            close_piece(&mut tx, work.webhook, work.kind, left).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }
}

/// Keeps the work for another piece if some is left, and removes it otherwise.
async fn close_piece(conn: &mut PgConnection, webhook: WebhookId, kind: WorkKind, left: bool) -> Result<()> {
    if left {
        sqlx::query!(
            "update webhook_work set worked_at = clock_timestamp() where webhook_id = $1 and kind = $2",
            webhook as _,
            kind as _,
        )
        .execute(conn)
        .await?;
    } else {
        sqlx::query!(
            "delete from webhook_work where webhook_id = $1 and kind = $2",
            webhook as _,
            kind as _,
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// Ends the next deliveries that nobody has leased, each with its audit entry. Gives their number, and
/// whether there may be more: those that were leased or locked just then are met in another round through all
/// lanes, unless they have ended.
async fn end_piece(conn: &mut PgConnection, webhook: WebhookId, end: EndState) -> Result<(u64, bool)> {
    let piece = sqlx::query!(
        r#"with picked as (
             select d.ctid as place, d.lane, d.position
             from webhook_work k
             cross join lateral (
                 select d.ctid, d.lane, d.position
                 from delivery d
                 where d.webhook_id = k.webhook_id
                   and (d.lane, d.position) > (k.last_lane, k.last_position)
                   and d.leased_by is null
                   and d.created_at <= k.asked_at
                 order by d.lane, d.position
                 limit $4
                 for update skip locked) d
             where k.webhook_id = $1
               and k.kind = 'end'
         ),
         gone as (
             delete from delivery
             where ctid = any (array(select place from picked))
             returning delivery_id, event_id, lane, attempt),
         entries as (
             insert into audit_log (
                 at, kind, webhook_id, event_id, delivery_id, agent_id, attempt, end_state, principal)
             select clock_timestamp(), $2, $1, g.event_id, g.delivery_id, a.agent_id, nullif(g.attempt, 0), $3,
                    (select principal from webhook_work where webhook_id = $1 and kind = 'end')
             from gone g
             left join agent a on a.agent_key = g.lane),
         last as (
             select lane, position
             from picked
             order by lane desc, position desc
             limit 1)
         update webhook_work k
         set last_lane = coalesce((select lane from last), -1),
             last_position = coalesce((select position from last), 0),
             ended = case when exists (select from last) then k.ended + (select count(*) from gone) else 0 end
         where k.webhook_id = $1
           and k.kind = 'end'
         returning (select count(*) from gone) as "ended!",
                   exists (select from last) or exists (
                       select
                       from delivery d
                       where d.webhook_id = k.webhook_id
                         and d.created_at <= k.asked_at) as "more!""#,
        webhook as _,
        Kind::DeliveryEnded.as_str(),
        end.as_str(),
        i64::from(PIECE),
    )
    .fetch_one(conn)
    .await?;
    Ok((u64::try_from(piece.ended).unwrap_or(0), piece.more))
}

/// Makes suspended deliveries due, all at the same time: batches take them in the order of their events.
async fn resume_piece(conn: &mut PgConnection, webhook: WebhookId, asked_at: OffsetDateTime) -> Result<u64> {
    let due = sqlx::query!(
        "update delivery
         set due_at = $2
         where ctid = any (array(
             select ctid
             from delivery
             where webhook_id = $1
               and due_at = 'infinity'
             limit $3
             for update skip locked))",
        webhook as _,
        asked_at,
        i64::from(PIECE),
    )
    .execute(conn)
    .await?;
    Ok(due.rows_affected())
}

/// Makes deliveries due that wait for their next attempt, earlier than their schedule says and never later. A
/// batch stays together.
async fn wake_piece(conn: &mut PgConnection, webhook: WebhookId) -> Result<u64> {
    let due = sqlx::query!(
        "update delivery d
         set due_at = now() + case when d.batch_id is null then w.number else 0 end * interval '10 milliseconds'
         from (
             select c.place, row_number() over (order by c.due_at) as number
             from (
                 select o.ctid as place, o.due_at
                 from delivery o
                 where o.webhook_id = $1
                   and o.due_at > now() + $2::bigint * interval '10 milliseconds'
                   and o.due_at < 'infinity'
                   and coalesce(o.not_before <= now(), true)
                   -- What waits for its first batch waits for that.
                   and (o.attempt > 0 or o.batch_id is not null
                        or not exists (
                            select
                            from webhook h
                            where h.webhook_id = $1
                              and h.batch_max_items is not null))
                 order by o.due_at
                 limit $2::bigint
                 for update skip locked
             ) c
         ) w
         where d.ctid = w.place",
        webhook as _,
        i64::from(WOKEN),
    )
    .execute(conn)
    .await?;
    Ok(due.rows_affected())
}
