//! Writes events and what is owed for them: the plan of `domain/webhook/fan_out.rs`, in the transaction of whoever made it, which
//! holds the writers' lock.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::delivery::capacity::DispatchCapacity;
use crate::domain::ids::{DeliveryId, WebhookId};
use crate::domain::presence::{Detail, Event};
use crate::domain::webhook::fan_out::{NewEvent, Plan, Wants, plan};
use crate::domain::webhook::filter_index::Filters;
use crate::store::delivery::direct_dispatch::{DirectDispatch, Handoff, Uncertain, direct_dispatches};
use crate::store::{Result, Store, audit};

/// What was written, and what is to be said once it is committed.
#[derive(Default)]
pub(in crate::store) struct Written {
    pub(in crate::store) deliveries: u64,
    pub(in crate::store) superseded: u64,
    /// Something is due that went into nobody's hands, and whose webhook is not held.
    unhanded: bool,
    leave: DispatchCapacity,
    handed: Vec<DirectDispatch>,
    events: Vec<Arc<Event>>,
    /// Where the lanes go if this is dropped before it was announced; `None` once it was.
    unannounced: Option<Handoff>,
}

/// What is to be written, and into whose hands it may go.
pub(in crate::store) struct Intent {
    plan: Plan,
    leave: DispatchCapacity,
    now: OffsetDateTime,
}

/// Whoever drops this unannounced does not know whether it was committed: the dispatcher looks into it once that is
/// certain.
impl Drop for Written {
    fn drop(&mut self) {
        let Some(handoff) = self.unannounced.take() else { return };
        let mut uncertain = Uncertain::default();
        for handed in self.handed.drain(..) {
            match handed {
                DirectDispatch::Behind { webhook, lane } => drop(uncertain.lanes.insert((webhook, lane))),
                DirectDispatch::Delivery(claimed) => {
                    uncertain.born.push((claimed.delivery_id, claimed.sent_at))
                }
                DirectDispatch::Left { .. } | DirectDispatch::Collecting { .. } => {}
            }
        }
        handoff.look_into(uncertain);
    }
}

impl Store {
    /// Plans a delivery for each webhook that wants these events.
    pub(in crate::store) fn intend(
        &self,
        events: &[NewEvent],
        filters: &Filters,
        wants: Wants,
        now: OffsetDateTime,
    ) -> Intent {
        let leave = self.handoff.leave();
        Intent { plan: plan(events, filters, wants, &leave, now), leave, now }
    }

    /// Writes events, their deliveries, and the audit entries of both. The caller holds the writers' lock, commits, and then
    /// calls [`announce`](Self::announce).
    pub(in crate::store) async fn write_events(
        &self,
        conn: &mut PgConnection,
        events: &[NewEvent],
        intent: Intent,
    ) -> Result<Written> {
        if events.is_empty() {
            return Ok(Written::default());
        }
        let Intent { mut plan, leave, now } = intent;
        let mut handed = Vec::new();
        let mut superseded = plan.entries.len();
        for (webhook, lane, count, carried) in give_way(conn, &plan, now).await? {
            superseded += count;
            if !plan.add_superseded(webhook, lane, carried) {
                handed.push(DirectDispatch::Behind { webhook, lane });
            }
        }
        let written = insert(conn, events, &plan, &leave, now).await?;
        audit::write(conn, &plan.entries).await?;
        let (more, events) = direct_dispatches(&plan, events, &written, now);
        handed.extend(more);
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let deliveries = count(plan.deliveries.len());
        let unhanded = plan.deliveries.iter().any(|planned| {
            planned.first
                && !planned.handed
                && !planned.batched
                && planned.due_at.is_some_and(|at| at <= now)
                && !planned.left
        });
        Ok(Written {
            unhanded,
            deliveries,
            superseded: count(superseded),
            leave,
            handed,
            events,
            unannounced: Some(self.handoff.clone()),
        })
    }

    /// Tells the dispatcher of what is committed now.
    pub(in crate::store) async fn announce(&self, mut written: Written) {
        written.unannounced = None;
        let handed = std::mem::take(&mut written.handed);
        let leased = handed.iter().filter_map(|handed| match handed {
            DirectDispatch::Delivery(claimed) => Some((claimed.delivery_id, claimed.attempt)),
            DirectDispatch::Behind { .. }
            | DirectDispatch::Left { .. }
            | DirectDispatch::Collecting { .. } => None,
        });
        let leased: Vec<_> = leased.collect();
        if !self.handoff.hand_over(&written.leave, handed, &written.events)
            && let Some(dispatcher) = written.leave.dispatcher
            // If the database is away, they are free once the lease has ended.
            && let Err(error) = self.return_leases(dispatcher, &leased).await
        {
            tracing::warn!(%error, "deliveries of a dispatcher that is gone could not be freed yet");
        }
        if written.unhanded {
            self.wake.deliveries_due();
        }
    }
}

/// Ends the waiting deliveries that give way. Says for each lane how many ended, and how many states they stood for.
async fn give_way(
    conn: &mut PgConnection,
    plan: &Plan,
    now: OffsetDateTime,
) -> Result<Vec<(WebhookId, i64, usize, i32)>> {
    if plan.gives_way.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"with gone as (
               delete from delivery d
               using (
                   select o.place, n.by_id
                   from unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::uuid[])
                        as n (webhook_id, lane, dwelling_at, by_id)
                   cross join lateral (
                       select o.ctid as place
                       from delivery o
                       where o.webhook_id = n.webhook_id
                         and o.lane = n.lane
                         and o.is_state
                         and o.leased_by is null
                         and o.batch_id is null
                         and (n.dwelling_at is null or (o.attempt = 0 and o.not_before > n.dwelling_at))
                       -- One that is being taken at this moment is as good as sent.
                       for update skip locked) o
               ) gives
               where d.ctid = gives.place
               returning d.delivery_id, d.webhook_id, d.lane, d.event_id, d.attempt, d.superseded, gives.by_id
           ),
           entries as (
               insert into audit_log (
                   at, kind, webhook_id, agent_id, event_id, delivery_id, attempt, outcome, end_state, data)
               select $5, 'DELIVERY_ENDED', g.webhook_id, a.agent_id, g.event_id, g.delivery_id,
                      nullif(g.attempt, 0), 'superseded', 'superseded',
                      jsonb_strip_nulls(jsonb_build_object('superseded_by', g.by_id))
               from gone g
               left join agent a on a.agent_key = g.lane
           )
           select webhook_id as "webhook_id!: WebhookId", lane as "lane!", count(*) as "count!",
                  sum(superseded + 1)::int as "carried!"
           from gone
           group by webhook_id, lane"#,
        &plan.gives_way.iter().map(|g| g.webhook_id).collect::<Vec<_>>() as _,
        &plan.gives_way.iter().map(|g| g.lane).collect::<Vec<_>>(),
        &plan.gives_way.iter().map(|g| g.dwelling_at).collect::<Vec<_>>() as _,
        &plan.gives_way.iter().map(|g| g.to).collect::<Vec<_>>() as _,
        now,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.webhook_id, row.lane, usize::try_from(row.count).unwrap_or(0), row.carried))
        .collect())
}

/// Inserts events, deliveries and the audit entries of the events. Says of each delivery whether it is in the
/// dispatcher's hands, and whether it stands behind another.
///
/// Of several deliveries of one plan for one lane only the first can be due; it is, unless an older one is open there.
async fn insert(
    conn: &mut PgConnection,
    events: &[NewEvent],
    plan: &Plan,
    leave: &DispatchCapacity,
    now: OffsetDateTime,
) -> Result<HashMap<DeliveryId, (bool, bool)>> {
    macro_rules! event {
        ($n:ident => $value:expr) => {
            events.iter().map(|$n| $value).collect::<Vec<_>>()
        };
    }
    macro_rules! delivery {
        ($d:ident => $value:expr) => {
            plan.deliveries.iter().map(|$d| $value).collect::<Vec<_>>()
        };
    }
    let of = |index: usize| events.get(index).map(|new| &new.event);
    let rows = sqlx::query!(
        r#"with new_event as (
               insert into event (
                   event_id, received_at, position, kind, source_id, source_name, connection_id, agent_key, agent_id,
                   external_id, sequence, topic, presence, previous, occurred_at, raw, origin, state, committed_at)
               select n.*, $32
               from unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::text[], $5::uuid[], $6::text[],
                           $7::uuid[], $8::bigint[], $9::text[], $10::text[], $11::bigint[], $12::text[],
                           $13::text[], $14::text[], $15::timestamptz[], $16::bytea[], $17::text[], $18::jsonb[]) as n
           ),
           entries as (
               insert into audit_log (at, kind, source_id, connection_id, agent_id, event_id, data)
               select $32, 'EVENT_RECEIVED', n.source_id, n.connection_id, n.agent_id, n.event_id,
                      jsonb_build_object('sequence', n.sequence, 'deliveries', n.owed)
               from unnest($1::uuid[], $4::text[], $5::uuid[], $7::uuid[], $9::text[], $11::bigint[], $19::bigint[])
                    as n (event_id, kind, source_id, connection_id, agent_id, sequence, owed)
               where n.kind = 'presence.updated'
           )
           insert into delivery (
               delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at, leased_by, attempt,
               sent_at, sent_format, not_before, superseded, is_state, created_at)
           select d.delivery_id, d.webhook_id, d.lane, d.position, d.event_id, d.received_at,
                  case when d.handed and h.leads then null
                       when h.leads or d.batched then coalesce(d.due_at, 'infinity') end,
                  case when d.handed and h.leads then $33::uuid end,
                  case when d.handed and h.leads then 1 else 0 end,
                  case when d.handed and h.leads then $32 end,
                  case when d.handed and h.leads then d.format end,
                  d.not_before, d.superseded, d.is_state, $32
           from unnest($20::uuid[], $21::uuid[], $22::bigint[], $23::bigint[], $24::uuid[], $25::timestamptz[],
                       $26::timestamptz[], $27::boolean[], $28::boolean[], $29::boolean[], $30::timestamptz[],
                       $31::int[], $34::boolean[], $35::text[])
                as d (delivery_id, webhook_id, lane, position, event_id, received_at, due_at, handed, is_first,
                      batched, not_before, superseded, is_state, format)
           cross join lateral (
               -- `exists` would be answered for all rows at once, from a hash of the whole table, and once for each place
               -- that names it; this looks into one lane, once.
               select d.is_first and (
                   select true
                   from delivery o
                   where o.webhook_id = d.webhook_id
                     and o.lane = d.lane
                   limit 1) is null as leads
               offset 0
           ) h
           returning delivery_id as "delivery_id: DeliveryId", leased_by is not null as "handed!",
                     due_at is null as "undated!""#,
        &event!(n => n.event.event_id) as _,
        &event!(n => n.event.received_at),
        &event!(n => n.event.position),
        &event!(n => n.event.kind.as_str()) as _,
        &event!(n => n.event.source.as_ref().map(|(id, _)| *id)) as _,
        &event!(n => n.event.source.as_ref().map(|(_, name)| name.as_str())) as _,
        &event!(n => n.connection_id) as _,
        &event!(n => n.agent_key),
        &event!(n => n.event.agent_id.as_ref()) as _,
        &event!(n => n.event.external_id.as_deref()) as _,
        &event!(n => n.event.sequence) as _,
        &event!(n => n.event.topic.as_deref()) as _,
        &event!(n => n.event.presence.as_deref()) as _,
        &event!(n => n.event.previous.as_deref()) as _,
        &event!(n => n.event.occurred_at) as _,
        &event!(n => n.event.raw.as_ref()) as _,
        &event!(n => n.event.origin.as_str()) as _,
        &event!(n => n.event.detail.as_ref().and_then(written)) as _,
        &plan.owed,
        &delivery!(d => d.delivery_id) as _,
        &delivery!(d => d.webhook_id) as _,
        &delivery!(d => d.lane),
        &delivery!(d => of(d.event).map_or(0, |event| event.position)),
        &delivery!(d => d.event_id) as _,
        &delivery!(d => of(d.event).map_or(now, |event| event.received_at)),
        &delivery!(d => d.due_at) as _,
        &delivery!(d => d.handed),
        &delivery!(d => d.first),
        &delivery!(d => d.batched),
        &delivery!(d => d.not_before) as _,
        &delivery!(d => d.superseded),
        now,
        leave.dispatcher as _,
        &delivery!(d => d.is_state),
        &delivery!(d => d.format.as_str()) as _,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.delivery_id, (row.handed, row.undated && !row.handed))).collect())
}

/// An event's particulars as column `state` has them.
fn written(detail: &Detail) -> Option<Json<Box<RawValue>>> {
    let text = match detail {
        Detail::Agent(state) => serde_json::value::to_raw_value(state),
        Detail::Source(notice) => serde_json::value::to_raw_value(notice),
        Detail::Gap(notice) => serde_json::value::to_raw_value(notice),
        Detail::Webhook(notice) => serde_json::value::to_raw_value(notice),
    };
    text.ok().map(Json)
}
