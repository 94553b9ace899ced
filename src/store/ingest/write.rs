//! Writes events and the deliveries that `domain/webhook/fan_out.rs` planned for them, in the transaction of
//! the caller, who holds the writers' lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::delivery::capacity::DispatchCapacity;
use crate::domain::ids::{DeliveryId, WebhookId};
use crate::domain::presence::{Detail, Event};
use crate::domain::webhook::fan_out::{NewEvent, Plan, PlannedDelivery, Wants, plan};
use crate::domain::webhook::filter_index::Filters;
use crate::domain::webhook::matching::Subscription;
use crate::store::delivery::direct_dispatch::{
    DirectDispatch, Handoff, Placement, Uncertain, direct_dispatches,
};
use crate::store::ingest::recent::{RecentWrites, Write};
use crate::store::types::column;
use crate::store::{Result, Store, audit};

/// Result of a write, and the messages to the dispatcher once it is committed.
#[derive(Default)]
pub(in crate::store) struct WriteResult {
    pub(in crate::store) deliveries: u64,
    pub(in crate::store) superseded: u64,
    /// Something is due and not leased, and not for want of room.
    is_due_unleased: bool,
    capacity: DispatchCapacity,
    messages: Vec<DirectDispatch>,
    events: Vec<Arc<Event>>,
    /// What is kept of it for a while.
    pub(super) kept: Write,
    /// Get the uncertain write if this is dropped before it was announced; `None` once it was.
    unannounced: Option<(Handoff, RecentWrites)>,
}

/// A plan to be written, and the dispatcher that may get leases by it.
pub(in crate::store) struct PlannedWrite {
    plan: Plan,
    capacity: DispatchCapacity,
    now: OffsetDateTime,
}

/// If this is dropped unannounced, its commit outcome is unknown: the dispatcher looks at the rows once it is
/// certain. It is kept: if it was committed, a failover may lose it, and if it was not, it is tried again and
/// found then.
impl Drop for WriteResult {
    fn drop(&mut self) {
        let Some((handoff, recent)) = self.unannounced.take() else { return };
        recent.keep(std::mem::take(&mut self.kept), Instant::now());
        let mut uncertain = Uncertain::default();
        for message in self.messages.drain(..) {
            match message {
                DirectDispatch::Blocked { webhook, lane } => drop(uncertain.lanes.insert((webhook, lane))),
                DirectDispatch::Leased(claimed) => {
                    uncertain.leased_at_insert.push((claimed.delivery_id, claimed.sent_at))
                }
                DirectDispatch::NoRoom { .. } | DirectDispatch::Batched { .. } => {}
            }
        }
        handoff.look_into(uncertain);
    }
}

impl Store {
    /// Plans a delivery for each webhook that wants these events.
    pub(in crate::store) fn plan_write(
        &self,
        events: &[NewEvent],
        filters: &Filters,
        wants: Wants,
        now: OffsetDateTime,
    ) -> PlannedWrite {
        let capacity = self.handoff.capacity();
        PlannedWrite { plan: plan(events, filters, wants, &capacity, now), capacity, now }
    }

    /// The same for events that are stored again: the dispatcher claims their deliveries, none is leased.
    pub(super) fn plan_write_again(
        &self,
        events: &[NewEvent],
        filters: &Filters,
        now: OffsetDateTime,
    ) -> PlannedWrite {
        let capacity = DispatchCapacity { room: 0, ..self.handoff.capacity() };
        PlannedWrite { plan: plan(events, filters, Subscription::wants, &capacity, now), capacity, now }
    }

    /// Writes events, their deliveries, and the audit entries of both. The caller holds the writers' lock,
    /// commits, and then calls [`announce`](Self::announce).
    pub(in crate::store) async fn write_events(
        &self,
        conn: &mut PgConnection,
        events: &[NewEvent],
        planned: PlannedWrite,
    ) -> Result<WriteResult> {
        if events.is_empty() {
            return Ok(WriteResult::default());
        }
        let PlannedWrite { mut plan, capacity, now } = planned;
        let mut messages = Vec::new();
        let mut superseded = plan.entries.len();
        for SupersededInLane { webhook_id, lane, deliveries, states } in
            supersede_waiting(conn, &plan, now).await?
        {
            superseded += deliveries;
            if !plan.add_superseded(webhook_id, lane, states) {
                messages.push(DirectDispatch::Blocked { webhook: webhook_id, lane });
            }
        }
        let placements = insert(conn, events, &plan, &capacity, now).await?;
        audit::write(conn, &plan.entries).await?;
        let kept = Write::of(events);
        let (more, events) = direct_dispatches(&plan, events, &placements, now);
        messages.extend(more);
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let deliveries = count(plan.deliveries.len());
        let is_due_unleased = plan.deliveries.iter().any(|planned| {
            planned.first
                && !planned.leased
                && !planned.batched
                && planned.due_at.is_some_and(|at| at <= now)
                && !planned.left
        });
        Ok(WriteResult {
            is_due_unleased,
            deliveries,
            superseded: count(superseded),
            capacity,
            messages,
            events,
            kept,
            unannounced: Some((self.handoff.clone(), self.recent.clone())),
        })
    }

    /// Tells the dispatcher of the write, which is committed now.
    pub(in crate::store) async fn announce(&self, mut written: WriteResult) {
        written.unannounced = None;
        self.recent.keep(std::mem::take(&mut written.kept), Instant::now());
        let messages = std::mem::take(&mut written.messages);
        let leased = messages.iter().filter_map(|message| match message {
            DirectDispatch::Leased(claimed) => Some((claimed.delivery_id, claimed.attempt)),
            DirectDispatch::Blocked { .. }
            | DirectDispatch::NoRoom { .. }
            | DirectDispatch::Batched { .. } => None,
        });
        let leased: Vec<_> = leased.collect();
        if !self.handoff.hand_over(&written.capacity, messages, &written.events)
            && let Some(dispatcher) = written.capacity.dispatcher
            // If the database is unavailable, the leases end in time.
            && let Err(error) = self.return_leases(dispatcher, &leased).await
        {
            tracing::warn!(%error, "failed to return leases of a dispatcher that has ended; they expire by themselves");
        }
        if written.is_due_unleased {
            self.wake.deliveries_due();
        }
    }
}

/// Waiting deliveries of one lane that a newer state superseded.
struct SupersededInLane {
    webhook_id: WebhookId,
    lane: i64,
    deliveries: usize,
    /// How many states these deliveries stood for.
    states: i32,
}

/// Ends the waiting deliveries that the plan supersedes.
async fn supersede_waiting(
    conn: &mut PgConnection,
    plan: &Plan,
    now: OffsetDateTime,
) -> Result<Vec<SupersededInLane>> {
    let lanes = &plan.superseded_lanes;
    if lanes.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_file!(
        "src/store/sql/supersede_waiting.sql",
        &column(lanes, |lane| lane.webhook_id) as _,
        &column(lanes, |lane| lane.lane),
        &column(lanes, |lane| lane.debounced_at) as _,
        &column(lanes, |lane| lane.to) as _,
        now,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| SupersededInLane {
            webhook_id: row.webhook_id,
            lane: row.lane,
            deliveries: usize::try_from(row.count).unwrap_or(0),
            states: row.states,
        })
        .collect())
}

/// Inserts events, deliveries and the audit entries of the events. Returns the placement of each delivery.
async fn insert(
    conn: &mut PgConnection,
    events: &[NewEvent],
    plan: &Plan,
    capacity: &DispatchCapacity,
    now: OffsetDateTime,
) -> Result<HashMap<DeliveryId, Placement>> {
    let deliveries = &plan.deliveries;
    let event_of = |planned: &PlannedDelivery| events.get(planned.event).map(|new| &new.event);
    let rows = sqlx::query_file!(
        "src/store/sql/insert_events.sql",
        &column(events, |new| new.event.event_id) as _,
        &column(events, |new| new.event.received_at),
        &column(events, |new| new.event.position),
        &column(events, |new| new.event.kind.as_str()) as _,
        &column(events, |new| new.event.source.as_ref().map(|(id, _)| *id)) as _,
        &column(events, |new| new.event.source.as_ref().map(|(_, name)| name.as_str())) as _,
        &column(events, |new| new.connection_id) as _,
        &column(events, |new| new.agent_key),
        &column(events, |new| new.event.agent_id.as_ref()) as _,
        &column(events, |new| new.event.external_id.as_deref()) as _,
        &column(events, |new| new.event.sequence) as _,
        &column(events, |new| new.event.topic.as_deref()) as _,
        &column(events, |new| new.event.presence.as_deref()) as _,
        &column(events, |new| new.event.previous.as_deref()) as _,
        &column(events, |new| new.event.occurred_at) as _,
        &column(events, |new| new.event.raw.as_ref()) as _,
        &column(events, |new| new.event.origin.as_str()) as _,
        &column(events, |new| new.event.detail.as_ref().and_then(state_column)) as _,
        &plan.deliveries_per_event,
        &column(deliveries, |planned| planned.delivery_id) as _,
        &column(deliveries, |planned| planned.webhook_id) as _,
        &column(deliveries, |planned| planned.lane),
        &column(deliveries, |planned| event_of(planned).map_or(0, |event| event.position)),
        &column(deliveries, |planned| planned.event_id) as _,
        &column(deliveries, |planned| event_of(planned).map_or(now, |event| event.received_at)),
        &column(deliveries, |planned| planned.due_at) as _,
        &column(deliveries, |planned| planned.leased),
        &column(deliveries, |planned| planned.first),
        &column(deliveries, |planned| planned.batched),
        &column(deliveries, |planned| planned.not_before) as _,
        &column(deliveries, |planned| planned.superseded),
        &column(deliveries, |planned| planned.is_state),
        &column(deliveries, |planned| planned.format.as_str()) as _,
        now,
        capacity.dispatcher as _,
        &column(events, |new| new.event.committed_at) as _,
    )
    .fetch_all(conn)
    .await?;
    let placement = |is_leased, has_no_due_time| match (is_leased, has_no_due_time) {
        (true, _) => Placement::Leased,
        (false, true) => Placement::Blocked,
        (false, false) => Placement::Due,
    };
    Ok(rows.into_iter().map(|row| (row.delivery_id, placement(row.is_leased, row.has_no_due_time))).collect())
}

/// An event's particulars as they stand in column `state`.
fn state_column(detail: &Detail) -> Option<Json<Box<RawValue>>> {
    let text = match detail {
        Detail::Agent(state) => serde_json::value::to_raw_value(state),
        Detail::Source(notice) => serde_json::value::to_raw_value(notice),
        Detail::Gap(notice) => serde_json::value::to_raw_value(notice),
        Detail::Webhook(notice) => serde_json::value::to_raw_value(notice),
        Detail::Failover(notice) => serde_json::value::to_raw_value(notice),
    };
    text.ok().map(Json)
}
