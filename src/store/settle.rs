//! What came back of POSTs, written down: deliveries end, wait, or go back; the next of each lane comes into our hands.

use std::collections::HashSet;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::Result;
use super::deliveries::{Claimed, Cycle, Next, Settlement, Work};
use crate::domain::delivery::EndState;
use crate::domain::ids::{DeliveryId, DispatcherId, EventId, WebhookId};

/// Settles, and adds to the cycle what came into our hands by it. Gives the deliveries that are in our hands no more, since
/// their webhook was removed or we were given up for dead: how they ended is told elsewhere.
pub(super) async fn settle(
    conn: &mut PgConnection,
    dispatcher: DispatcherId,
    now: OffsetDateTime,
    work: &Work,
    cycle: &mut Cycle,
) -> Result<HashSet<DeliveryId>> {
    macro_rules! column {
        ($s:ident => $value:expr) => {
            work.settlements.iter().map(|$s| $value).collect::<Vec<_>>()
        };
    }
    let rows = sqlx::query!(
        r#"with settled as (
               -- Rows are found once by their id, and from then on by their place (ctid).
               select d.ctid as place, d.delivery_id, d.webhook_id, d.lane, d.position, d.event_id, d.superseded as carried,
                      s.attempt, s.due_at, s.went_back, s.status, s.outcome, s.goes_on, s.gives_way,
                      -- A state that is to be tried again, but a newer one of its lane is there already.
                      s.latest and d.is_state and s.due_at is not null and exists (
                          select
                          from delivery n
                          where n.webhook_id = d.webhook_id
                            and n.lane = d.lane
                            and n.position > d.position
                            and n.is_state) as overtaken
               from unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::boolean[], $5::int[], $6::text[],
                           $7::boolean[], $8::boolean[], $9::boolean[])
                    as s (delivery_id, attempt, due_at, went_back, status, outcome, goes_on, latest, gives_way)
               join delivery d
                 on d.delivery_id = s.delivery_id
                and d.attempt = s.attempt
                and d.leased_by = $10
           ),
           waiting as (
               update delivery d
               set due_at = s.due_at,
                   leased_by = null,
                   attempt = d.attempt - case when s.went_back then 1 else 0 end,
                   last_status = case when s.went_back then d.last_status else s.status end,
                   last_outcome = case when s.went_back then d.last_outcome else s.outcome end
               from settled s
               where s.due_at is not null
                 and not s.overtaken
                 and d.ctid = s.place
           ),
           ended as (
               delete from delivery d
               using settled s
               where (s.due_at is null or s.overtaken)
                 and d.ctid = s.place
               returning s.delivery_id, s.webhook_id, s.lane, s.position, s.event_id, s.carried, s.attempt, s.goes_on,
                         s.gives_way, s.overtaken
           ),
           entries as (
               insert into audit_log (
                   at, kind, webhook_id, agent_id, event_id, delivery_id, attempt, outcome, end_state)
               select $11, 'DELIVERY_ENDED', e.webhook_id, a.agent_id, e.event_id, e.delivery_id, e.attempt,
                      'superseded', 'superseded'
               from ended e
               left join agent a on a.agent_key = e.lane
               where e.overtaken
           ),
           moved as (
               select webhook_id, lane, position, goes_on,
                      case when overtaken or gives_way then carried + 1 else 0 end as carried
               from ended
               union all
               select l.webhook_id, l.lane, 0, true, 0
               from unnest($12::uuid[], $13::bigint[]) as l (webhook_id, lane)
           ),
           promoted as (
               update delivery d
               set leased_by = case when next.leaves then $10 end,
                   due_at = case when not next.leaves then greatest($11, d.not_before) end,
                   attempt = d.attempt + case when next.leaves then 1 else 0 end,
                   sent_at = case when next.leaves then coalesce(d.sent_at, $11) else d.sent_at end,
                   -- Of one that was sent before, the body says already how many there were.
                   superseded = d.superseded + case when d.sent_at is null then m.carried else 0 end
               from moved m
               cross join lateral (
                   -- It leaves at once if its lane goes on and it has lasted long enough.
                   select n.ctid as place, m.goes_on and coalesce(n.not_before <= $11, true) as leaves
                   from delivery n
                   where n.webhook_id = m.webhook_id
                     and n.lane = m.lane
                     and n.position > m.position
                   order by n.position
                   limit 1
               ) next
               where d.ctid = next.place
                 and d.due_at is null
                 and d.leased_by is null
               returning d.delivery_id, d.webhook_id, d.lane, d.attempt, d.superseded, d.sent_at, d.event_id,
                         d.leased_by, d.position, d.is_state
           )
           select p.delivery_id as "delivery_id?: DeliveryId", p.webhook_id as "webhook_id?: WebhookId",
                  p.lane as "lane?", p.attempt as "attempt?", p.superseded as "superseded?", p.sent_at as "sent_at?",
                  p.event_id as "event_id?: EventId", p.leased_by is not null as "held!",
                  w.version as "version?",
                  coalesce(w.mode = 'latest' and p.is_state, false) and exists (
                      select
                      from delivery n
                      where n.webhook_id = p.webhook_id
                        and n.lane = p.lane
                        and n.position > p.position
                        and n.is_state) as "newer!",
                  (select count(*) from ended where overtaken) as "overtaken!",
                  array(
                      -- As sets: to look each up among the others would cost their square.
                      select unnest($1::uuid[])
                      except
                      select delivery_id
                      from settled
                  ) as "lost!: Vec<DeliveryId>"
           from (select) as always
           left join promoted p on true
           left join webhook w on w.webhook_id = p.webhook_id"#,
        &column!(s => s.delivery_id) as _,
        &column!(s => s.attempt),
        &column!(s => due_at(s)) as _,
        &column!(s => matches!(s.next, Next::Back(_))),
        &column!(s => s.status) as _,
        &column!(s => s.outcome) as _,
        &column!(s => s.goes_on),
        &column!(s => s.latest),
        &column!(s => s.next == Next::Ended(EndState::Superseded)),
        dispatcher as _,
        now,
        &work.lanes.iter().map(|(webhook, _)| *webhook).collect::<Vec<_>>() as _,
        &work.lanes.iter().map(|(_, lane)| *lane).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    let lost = rows.first().map(|row| row.lost.iter().copied().collect()).unwrap_or_default();
    cycle.superseded = rows.first().map_or(0, |row| u64::try_from(row.overtaken).unwrap_or(0));
    for row in rows {
        let (Some(delivery_id), Some(webhook_id), Some(event_id)) =
            (row.delivery_id, row.webhook_id, row.event_id)
        else {
            continue;
        };
        if !row.held {
            cycle.more = true; // it is due, but not in our hands
            continue;
        }
        cycle.claimed.push(Claimed {
            delivery_id,
            webhook_id,
            webhook_version: row.version.unwrap_or(0),
            lane: row.lane.unwrap_or(0),
            attempt: row.attempt.unwrap_or(1),
            superseded: row.superseded.unwrap_or(0),
            sent_at: row.sent_at.unwrap_or(now),
            event_id,
            event: None,
            newer: row.newer,
        });
    }
    Ok(lost)
}

/// When it is due again; `None` if it has ended.
fn due_at(settlement: &Settlement) -> Option<OffsetDateTime> {
    match settlement.next {
        Next::Ended(_) => None,
        Next::RetryAt(at) | Next::Back(at) => Some(at),
    }
}
