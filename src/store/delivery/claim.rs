//! What is due comes into a dispatcher's hands: retries, what nobody was told of, and what was too much before.

use std::collections::HashMap;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::delivery::settings::USUAL_CONCURRENCY;
use crate::domain::delivery::slots::Risk;
use crate::domain::ids::{DeliveryId, DispatcherId, EventId, WebhookId};
use crate::store::Result;
use crate::store::delivery::types::{Claimed, Cycle, Room, format};

/// Takes what is due and first in its lane. Whatever is due and is not gets out of the way: blocked if it is not the
/// oldest of its lane, put off for good if its webhook is paused or unverified (resume or a good answer brings it back).
///
/// A webhook whose circuit is open is passed over as a whole, however much it is owed: one look at its health.
pub(in crate::store) async fn claim(
    conn: &mut PgConnection,
    dispatcher: DispatcherId,
    now: OffsetDateTime,
    room: &Room,
    cycle: &mut Cycle,
) -> Result<()> {
    let rows = sqlx::query!(
        r#"with recursive
           -- Each webhook that has anything dated, by one index descent each.
           dated (webhook_id) as (
               (select d.webhook_id
                from delivery d
                where d.due_at is not null
                  and $6::uuid[] is null
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
           asked (webhook_id) as (
               select webhook_id from dated where webhook_id is not null
               union all
               select unnest($6::uuid[])
           ),
           -- Those that may be sent to. A webhook that is gone is among them: what it was owed must end.
           open as (
               select a.webhook_id, coalesce(w.version, 0) as version, w.state in ('paused', 'unverified') as paused,
                      w.mode = 'latest' as latest, w.batch_max_items is not null as batched, w.format,
                      -- 0: low (one that is gone or suspended takes no place for long), 1: suspect, 2: unproven.
                      case when w.state is distinct from 'active' then 0
                           else coalesce(b.risk, case when h.succeeded_at is null then 2
                                                      when h.failures > 0 then 1
                                                      else 0 end) end as risk,
                      greatest(
                          least(
                              case when h.failures >= 5 then 1 else coalesce(w.max_concurrency, $8) end
                                  - coalesce(b.held, 0),
                              coalesce(b.room, case when w.state is distinct from 'active' then $8
                                                when h.succeeded_at is null then $14::bigint
                                                else $11::bigint end)),
                          0) as room
               from asked a
               left join webhook w on w.webhook_id = a.webhook_id
               left join webhook_health h on h.webhook_id = a.webhook_id
               left join unnest($4::uuid[], $5::bigint[], $9::bigint[], $10::int[])
                   as b (webhook_id, held, room, risk) on b.webhook_id = a.webhook_id
               where (w.deleted_at is not null
                      or (coalesce(h.hold_until <= $1, true)
                          -- One that is limited is served by one dispatcher: domain/delivery/settings.rs says which are.
                          and ($7 or w.webhook_id is null
                               or (w.rate_limit_requests is null and w.max_concurrency >= $8))))
                 -- Whatever it is owed ends in pieces.
                 and not exists (
                     select
                     from webhook_work k
                     where k.webhook_id = a.webhook_id
                       and k.kind = 'end')
           ),
           candidate as (
               select c.place, c.delivery_id, c.webhook_id, c.lane, c.position, o.version, o.paused, o.latest,
                      o.format, o.room, c.is_state, c.due_at, c.batched, o.risk,
                      row_number() over (partition by o.risk, c.batched order by c.due_at) as nth
               from open o
               cross join lateral (
                   -- By its place (ctid) it is found again without a look at any other.
                   (select d.ctid as place, d.delivery_id, d.webhook_id, d.lane, d.position, d.due_at, d.is_state,
                           false as batched
                    from delivery d
                    where not o.batched
                      and d.webhook_id = o.webhook_id
                      and d.due_at <= $1
                      and d.batch_id is null
                    order by d.due_at
                    limit o.room)
                   union all
                   -- What was sent alone before its webhook took batches goes alone again.
                   (select d.ctid, d.delivery_id, d.webhook_id, d.lane, d.position, d.due_at, d.is_state, false
                    from delivery d
                    where o.batched
                      and d.webhook_id = o.webhook_id
                      and d.due_at <= $1
                      and d.goes_alone
                    order by d.position
                    limit o.room)
                   union all
                   -- One stands for all that may go in the next batch.
                   (select d.ctid, d.delivery_id, d.webhook_id, d.lane, d.position, d.due_at, d.is_state, true
                    from delivery d
                    where o.batched
                      and d.webhook_id = o.webhook_id
                      and d.due_at <= $1
                      and not d.goes_alone
                      and d.batch_id is null
                    order by d.due_at
                    limit 1)
                   union all
                   -- One for the batch that is to be tried again, whether its webhook still takes batches or not.
                   -- Whether it is due is asked afterwards: no plan shall look for it among all that is due.
                   (select *
                    from (
                        select d.ctid, d.delivery_id, d.webhook_id, d.lane, d.position, d.due_at, d.is_state, true
                        from delivery d
                        where d.webhook_id = o.webhook_id
                          and d.batch_id is not null
                        order by d.batch_id
                        limit 1) b
                    where b.due_at <= $1)
               ) c
           ),
           chosen as (
               select *
               from candidate
               where batched or risk = 0 or nth <= case risk when 1 then $12::bigint else $13::bigint end
               order by due_at
               limit $2
           ),
           judged as (
               select c.*,
                      exists (
                          select
                          from delivery o
                          where o.webhook_id = c.webhook_id
                            and o.lane = c.lane
                            and o.position < c.position) as behind,
                      c.latest and c.is_state and exists (
                          select
                          from delivery n
                          where n.webhook_id = c.webhook_id
                            and n.lane = c.lane
                            and n.position > c.position
                            and n.is_state) as newer
               from chosen c
           ),
           moved as (
               update delivery d
               set due_at = case when j.paused then 'infinity'::timestamptz end,
                   leased_by = case when not (coalesce(j.paused, false) or j.behind) then $3::uuid end,
                   attempt = d.attempt + case when coalesce(j.paused, false) or j.behind then 0 else 1 end,
                   sent_at = case when coalesce(j.paused, false) or j.behind then d.sent_at
                                  else coalesce(d.sent_at, $1) end,
                   sent_format = case when coalesce(j.paused, false) or j.behind or d.goes_alone then d.sent_format
                                      else j.format end
               from judged j
               where d.ctid = j.place
                 and not j.batched
               returning d.delivery_id, d.webhook_id, d.lane, d.attempt, d.superseded, d.sent_at, d.sent_format, d.event_id,
                         d.leased_by is not null as held, d.position, j.version, j.room,
                         coalesce(j.newer, false) as newer
           )
           select delivery_id as "delivery_id!: DeliveryId", webhook_id as "webhook_id!: WebhookId",
                  lane as "lane!", attempt as "attempt!", superseded as "superseded!", sent_at, sent_format,
                  event_id as "event_id!: EventId", held as "held!", version as "version!", newer as "newer!",
                  false as "batched!", position as "position!", room as "room!"
           from moved
           union all
           select delivery_id, webhook_id, lane, 0, 0, null, null, delivery_id, false, version, false, true, position, room
           from judged
           where batched
           order by 13"#,
        now,
        room.total,
        dispatcher as _,
        &room.known.iter().map(|known| known.webhook_id).collect::<Vec<_>>() as _,
        &room.known.iter().map(|known| known.held).collect::<Vec<_>>(),
        room.only.as_deref() as _,
        room.limited,
        i32::from(USUAL_CONCURRENCY),
        &room.known.iter().map(|known| known.room).collect::<Vec<_>>(),
        &room.known.iter().map(|known| level(known.risk)).collect::<Vec<_>>(),
        room.others,
        room.suspect,
        room.unproven,
        room.others_unproven,
    )
    .fetch_all(conn)
    .await?;
    cycle.more |= i64::try_from(rows.len()).is_ok_and(|moved| moved >= room.total);
    let mut taken = HashMap::new();
    for row in rows {
        if row.batched {
            cycle.batches_due.push(row.webhook_id);
            continue;
        }
        let taken = taken.entry(row.webhook_id).or_insert(0);
        *taken += 1;
        if *taken == row.room {
            cycle.filled.push(row.webhook_id);
        }
        if !row.held {
            cycle.more = true; // it took a place that another may want
            continue;
        }
        cycle.claimed.push(Claimed {
            delivery_id: row.delivery_id,
            webhook_id: row.webhook_id,
            webhook_version: row.version,
            lane: row.lane,
            attempt: row.attempt,
            superseded: row.superseded,
            sent_at: row.sent_at.unwrap_or(now),
            format: format(row.sent_format.as_deref()),
            event_id: row.event_id,
            event: None,
            newer: row.newer,
        });
    }
    Ok(())
}

/// A risk as the statement has it.
const fn level(risk: Risk) -> i32 {
    match risk {
        Risk::Low => 0,
        Risk::Suspect => 1,
        Risk::Unproven => 2,
    }
}
