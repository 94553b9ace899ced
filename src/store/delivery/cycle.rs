//! Cycle: the one short transaction in which a dispatcher writes results and claims what is due. States of a
//! delivery:
//!
//! ```text
//!                  ┌──────────── leased at insert (write.rs) ────────────┐
//!                  │                                                     ▼
//!  event ─▶ insert ┼─▶ [due: due_at] ─────── claim.rs ──────▶ [leased: leased_by] ─▶ settle.rs
//!                  │      ▲      ▲                                       ▲   │   │
//!                  │      │      └─────────── retry later ───────────────┼───┘   └──▶ ended: row gone,
//!                  ▼      │                                              │            audit entry stays
//!          [blocked: neither] ── the older one of its lane ended ────────┘
//! ```
//!
//! Inside a lane only the oldest delivery may be due or leased. A cycle runs under an advisory lock, so that
//! no two transactions decide at once which one that is, in this process or another. No transaction stays
//! open while a POST is under way: a lease ends when its dispatcher has given no sign of life for [`LEASE`].

use std::collections::HashSet;

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{DeliveryId, DispatcherId};
use crate::store::delivery::types::{Claimed, Cycle, Work};
use crate::store::delivery::{claim, receiver_health, settle};
use crate::store::event_rows::read_events;
use crate::store::locks::BEGIN_CYCLE;
use crate::store::{Result, Store, audit};

/// How long after its last sign of life a dispatcher counts as alive; then its leases end.
pub const LEASE: Duration = Duration::seconds(6);

impl Store {
    /// Settles results, leases the next delivery of each lane that advanced, and claims what is due.
    ///
    /// # Errors
    /// If the database is unavailable; nothing has changed then, unless the answer to the commit was lost:
    /// ask [`reconcile_after_unknown_commit`](Self::reconcile_after_unknown_commit) before the next cycle.
    /// The same settlements, given again, change nothing.
    pub async fn settle_and_claim(
        &self,
        dispatcher: DispatcherId,
        now: OffsetDateTime,
        work: &Work,
    ) -> Result<Cycle> {
        // What was sent before a failover must have its bytes again before it is claimed.
        self.settle().await?;
        self.with_patience(async {
            let mut tx = self.begin_settled(BEGIN_CYCLE).await?;
            // Health before deliveries, the order in which every transaction locks them.
            let health_left = receiver_health::write(&mut tx, &work.health, now).await?;
            let mut cycle = Cycle { health_left, ..Cycle::default() };
            let mut lost = HashSet::new();
            if !work.settlements.is_empty() || !work.lanes.is_empty() {
                lost = settle::settle(&mut tx, dispatcher, now, work, &mut cycle).await?;
            }
            if lost.is_empty() {
                audit::write(&mut tx, &work.entries).await?;
            } else {
                audit::write(&mut tx, &without_ends(&work.entries, &lost)).await?;
            }
            if work.room.total > 0 {
                let started = std::time::Instant::now();
                claim::claim(&mut tx, dispatcher, now, &work.room, &mut cycle).await?;
                cycle.claim_took = Some(started.elapsed());
            }
            self.add_events(&mut tx, &mut cycle.claimed).await?;
            tx.commit().await?;
            Ok(cycle)
        })
        .await
    }

    /// Adds its event to each claimed delivery: one that was written a moment ago is still in memory.
    pub(in crate::store) async fn add_events(
        &self,
        conn: &mut PgConnection,
        claimed: &mut [Claimed],
    ) -> Result<()> {
        let mut missing = Vec::new();
        for claimed in claimed.iter_mut() {
            claimed.event = self.handoff.recent_event(claimed.event_id);
            if claimed.event.is_none() {
                missing.push(claimed.event_id);
            }
        }
        let read = read_events(conn, &missing).await?;
        for claimed in claimed.iter_mut().filter(|claimed| claimed.event.is_none()) {
            claimed.event = read.get(&claimed.event_id).cloned();
        }
        Ok(())
    }

    /// Makes up for a failed cycle, whose commit may have happened all the same. It releases what that cycle
    /// leased: all that is leased to the dispatcher but `known`, which the caller has or is about to settle.
    /// Deliveries that were leased at insert or in a batch stay: the message about them may be on its way.
    /// Returns those of the entries that are written, so that they are not written twice.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn reconcile_after_unknown_commit(
        &self,
        dispatcher: DispatcherId,
        now: OffsetDateTime,
        known: &[DeliveryId],
        entries: &[Entry],
    ) -> Result<HashSet<(DeliveryId, OffsetDateTime)>> {
        let told: Vec<_> = entries.iter().filter_map(|e| Some((e.delivery_id?, e.at))).collect();
        self.with_patience(async {
            let mut tx = self.pipeline().await?.begin_with(BEGIN_CYCLE).await?;
            sqlx::query!(
                "update delivery
                 set due_at = $3,
                     leased_by = null,
                     attempt = attempt - 1
                 where leased_by = $1
                   and delivery_id <> all ($2)
                   and batch_id is null
                   and not (attempt = 1 and sent_at = created_at)",
                dispatcher as _,
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
}

/// Entries without the ends of lost deliveries, which ended otherwise or have not ended: a delivery has one
/// end.
fn without_ends(entries: &[Entry], lost: &HashSet<DeliveryId>) -> Vec<Entry> {
    let is_lost = |entry: &Entry| entry.delivery_id.is_some_and(|id| lost.contains(&id));
    let mut left = entries.to_vec();
    left.retain(|entry| entry.kind != Kind::DeliveryEnded || !is_lost(entry));
    for entry in left.iter_mut().filter(|entry| is_lost(entry)) {
        entry.end_state = None;
        // The person that an answer may quote can have been erased since the lease was lost.
        entry.data.remove("answer");
        entry.data.remove("answer_head");
    }
    left
}
