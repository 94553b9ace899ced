//! What came back of POSTs, written down: deliveries end, wait, or go back; the next of each lane comes into our hands.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::delivery::outcome::{Disposition, EndState};
use crate::domain::ids::{DeliveryId, DispatcherId, EventId, WebhookId};
use crate::store::Result;
use crate::store::delivery::types::{Claimed, Cycle, Settlement, Work, format};

/// A state that ended for a newer one of its lane.
#[derive(Debug, Deserialize)]
struct GaveWay {
    webhook_id: WebhookId,
    lane: i64,
    position: i64,
    /// How many it stands for, itself among them.
    states: i32,
}

/// Settles, and adds to the cycle what came into our hands by it. Gives the deliveries that are in our hands no more, since
/// their webhook was removed or we were given up for dead: how they ended is told elsewhere.
pub(in crate::store) async fn settle(
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
               select d.place, d.delivery_id, d.webhook_id, d.lane, d.position, d.event_id, d.superseded,
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
               cross join lateral (
                   -- So that each is looked up: where the table was empty when it was analyzed last, a join would go
                   -- through all of it, and through all settlements for each of its rows.
                   select h.ctid as place, h.delivery_id, h.webhook_id, h.lane, h.position, h.event_id, h.superseded,
                          h.is_state
                   from delivery h
                   where h.delivery_id = s.delivery_id
                     and h.attempt = s.attempt
                     and h.leased_by = $10
                   offset 0) d
           ),
           waiting as (
               update delivery d
               set due_at = s.due_at,
                   leased_by = null,
                   attempt = d.attempt - case when s.went_back then 1 else 0 end,
                   goes_alone = d.goes_alone or (not s.went_back and d.batch_id is null),
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
               returning s.delivery_id, s.webhook_id, s.lane, s.position, s.event_id, s.superseded, s.attempt,
                         s.goes_on, s.gives_way, s.overtaken
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
               select webhook_id, lane, position, goes_on
               from ended
               union all
               select l.webhook_id, l.lane, 0, true
               from unnest($12::uuid[], $13::bigint[]) as l (webhook_id, lane)
           ),
           promoted as (
               update delivery d
               set leased_by = case when next.leaves then $10 end,
                   due_at = case when not next.leaves then greatest($11, d.not_before) end,
                   attempt = d.attempt + case when next.leaves then 1 else 0 end,
                   sent_at = case when next.leaves then coalesce(d.sent_at, $11) else d.sent_at end,
                   sent_format = case when not next.leaves or d.goes_alone then d.sent_format
                                      else (select format from webhook where webhook_id = d.webhook_id) end
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
               returning d.delivery_id, d.webhook_id, d.lane, d.attempt, d.superseded, d.sent_at, d.sent_format, d.event_id,
                         d.leased_by, d.position, d.is_state
           )
           select p.delivery_id as "delivery_id?: DeliveryId", p.webhook_id as "webhook_id?: WebhookId",
                  p.lane as "lane?", p.attempt as "attempt?", p.superseded as "superseded?", p.sent_at as "sent_at?",
                  p.sent_format as "sent_format?",
                  p.event_id as "event_id?: EventId", p.leased_by is not null as "held!",
                  w.version as "version?",
                  coalesce(w.mode = 'latest' and p.is_state, false) and exists (
                      select
                      from delivery n
                      where n.webhook_id = p.webhook_id
                        and n.lane = p.lane
                        and n.position > p.position
                        and n.is_state) as "newer!",
                  -- The rest is of the statement as a whole, and said in one row.
                  case when row_number() over () = 1 then (select count(*) from ended where overtaken) end as overtaken,
                  case when row_number() over () = 1 then (
                      select jsonb_agg(jsonb_build_object(
                          'webhook_id', e.webhook_id, 'lane', e.lane, 'position', e.position,
                          'states', e.superseded + 1))
                      from ended e
                      where e.overtaken or e.gives_way
                  ) end as "gave_way?: Json<Vec<GaveWay>>",
                  case when row_number() over () = 1 then array(
                      -- As sets: to look each up among the others would cost their square.
                      select unnest($1::uuid[])
                      except
                      select delivery_id
                      from settled
                  ) end as "lost?: Vec<DeliveryId>"
           from (select) as always
           left join promoted p on true
           left join webhook w on w.webhook_id = p.webhook_id"#,
        &column!(s => s.delivery_id) as _,
        &column!(s => s.attempt),
        &column!(s => due_at(s)) as _,
        &column!(s => matches!(s.disposition, Disposition::Returned(_))),
        &column!(s => s.status) as _,
        &column!(s => s.outcome) as _,
        &column!(s => s.goes_on),
        &column!(s => s.latest),
        &column!(s => s.disposition == Disposition::Ended(EndState::Superseded)),
        dispatcher as _,
        now,
        &work.lanes.iter().map(|(webhook, _)| *webhook).collect::<Vec<_>>() as _,
        &work.lanes.iter().map(|(_, lane)| *lane).collect::<Vec<_>>(),
    )
    .fetch_all(&mut *conn)
    .await?;
    let (mut lost, mut gave_way) = (HashSet::new(), Vec::new());
    for row in rows {
        cycle.superseded += row.overtaken.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        lost.extend(row.lost.into_iter().flatten());
        gave_way.extend(row.gave_way.into_iter().flat_map(|Json(states)| states));
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
            format: format(row.sent_format.as_deref()),
            event_id,
            event: None,
            newer: row.newer,
        });
    }
    count_superseded(conn, now, gave_way, &mut cycle.claimed).await?;
    Ok(lost)
}

/// Adds to the next state of each lane how many gave way to it.
///
/// Which one that is may change under our eyes: a writer of events puts a newer one in its place. The statement waits for
/// that writer and changes nothing then; the next one sees what it wrote.
async fn count_superseded(
    conn: &mut PgConnection,
    now: OffsetDateTime,
    mut gave_way: Vec<GaveWay>,
    claimed: &mut [Claimed],
) -> Result<()> {
    while !gave_way.is_empty() {
        let rows = sqlx::query!(
            r#"with heir as (
                   select g.number, g.states, next.place
                   from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::int[])
                        with ordinality as g (webhook_id, lane, position, states, number)
                   cross join lateral (
                       select n.ctid as place
                       from delivery n
                       where n.webhook_id = g.webhook_id
                         and n.lane = g.lane
                         and n.position > g.position
                         and n.is_state
                         -- The body of one that was sent before says already how many there were.
                         and coalesce(n.sent_at = $5, true)
                       order by n.position
                       limit 1) next
               ),
               told as (
                   update delivery d
                   set superseded = d.superseded + h.states
                   from heir h
                   where d.ctid = h.place
                   returning h.number, d.delivery_id, d.superseded
               )
               select number as "number!", delivery_id as "delivery_id?: DeliveryId", superseded as "superseded?"
               from told
               union all
               select number, null, null
               from (select number from heir except select number from told) missed"#,
            &gave_way.iter().map(|state| state.webhook_id).collect::<Vec<_>>() as _,
            &gave_way.iter().map(|state| state.lane).collect::<Vec<_>>(),
            &gave_way.iter().map(|state| state.position).collect::<Vec<_>>(),
            &gave_way.iter().map(|state| state.states).collect::<Vec<_>>(),
            now,
        )
        .fetch_all(&mut *conn)
        .await?;
        let (mut told, mut missed) = (HashMap::new(), HashSet::new());
        for row in rows {
            match row.delivery_id.zip(row.superseded) {
                Some((delivery, superseded)) => told.insert(delivery, superseded).is_none(),
                None => missed.insert(row.number),
            };
        }
        for claimed in claimed.iter_mut() {
            claimed.superseded = told.get(&claimed.delivery_id).copied().unwrap_or(claimed.superseded);
        }
        let numbered = (1_i64..).zip(gave_way);
        gave_way = numbered.filter(|(number, _)| missed.contains(number)).map(|(_, state)| state).collect();
    }
    Ok(())
}

/// When it is due again; `None` if it has ended.
fn due_at(settlement: &Settlement) -> Option<OffsetDateTime> {
    match settlement.disposition {
        Disposition::Ended(_) => None,
        Disposition::RetryAt(at) | Disposition::Returned(at) => Some(at),
    }
}
