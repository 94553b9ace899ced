//! From deliveries to POSTs and back: the words, and the one short transaction of a dispatcher, the cycle.
//!
//! ```text
//!                    ┌──────────── handed over at birth (written.rs) ─────────────┐
//!                    │                                                            ▼
//!  event ─▶ insert ──┼─▶ [due: due_at] ─────────── claim.rs ───────────────▶ [held: leased_by] ─▶ settle.rs
//!                    │      ▲      ▲                                              ▲   │   │
//!                    │      │      └────────────── retry later ───────────────────┼───┘   └──▶ ended: row gone,
//!                    ▼      │                                                     │            audit entry stays
//!            [blocked: neither] ──── the older one of its lane ended ─────────────┘
//! ```
//!
//! Inside a lane only the oldest may be due or held. A cycle runs under an advisory lock: "who is the oldest of this lane"
//! can then never be answered twice at once, in this process or another. Nothing is held open while a POST is under
//! way: a row in a dispatcher's hands is free again when that dispatcher has given no sign of life for [`LEASE`].

use std::collections::HashSet;

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{DeliveryId, DispatcherId};
use crate::store::delivery::types::{Claimed, Cycle, Work};
use crate::store::delivery::{claim, receiver_health, settle};
use crate::store::event_rows::read_events;
use crate::store::locks::BEGIN_CYCLE;
use crate::store::{Result, Store, audit, with_timeout};

/// How long a dispatcher counts as alive without a sign of life: what a killed process held is free after that.
pub const LEASE: Duration = Duration::seconds(6);

impl Store {
    /// One cycle: settles what came back, takes the next of each lane that moved, claims what is due.
    ///
    /// # Errors
    /// If the database is away; nothing has changed then, unless the answer to the commit was lost: ask
    /// [`reconcile_after_unknown_commit`](Self::reconcile_after_unknown_commit) before the next cycle. Settlements, given again, find no row of theirs
    /// and change nothing.
    pub async fn settle_and_claim(
        &self,
        dispatcher: DispatcherId,
        now: OffsetDateTime,
        work: &Work,
    ) -> Result<Cycle> {
        with_timeout(async {
            let mut tx = self.pipeline_pool.begin_with(BEGIN_CYCLE).await?;
            // Health before deliveries, as everybody locks them, or two would wait for each other.
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

    /// Gives each claimed delivery its event: one that was written a moment ago is still in memory.
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

    /// Asked after a cycle that failed, because its commit may have happened all the same: gives back at once what
    /// it took and nobody heard of (`known` is in the caller's hands or waits to be settled), and says which of these
    /// entries are written, so that they are not written twice. What was handed over at its birth, or went into a batch, is left
    /// alone: the word about it may be on its way.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn reconcile_after_unknown_commit(
        &self,
        dispatcher: DispatcherId,
        now: OffsetDateTime,
        known: &[DeliveryId],
        entries: &[Entry],
    ) -> Result<HashSet<(DeliveryId, OffsetDateTime)>> {
        let told: Vec<_> = entries.iter().filter_map(|e| Some((e.delivery_id?, e.at))).collect();
        with_timeout(async {
            let mut tx = self.pipeline_pool.begin_with(BEGIN_CYCLE).await?;
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

/// Entries without what they say of the end of these deliveries, which ended otherwise or have not ended: a delivery has
/// one end.
fn without_ends(entries: &[Entry], lost: &HashSet<DeliveryId>) -> Vec<Entry> {
    let is_lost = |entry: &Entry| entry.delivery_id.is_some_and(|id| lost.contains(&id));
    let mut left = entries.to_vec();
    left.retain(|entry| entry.kind != Kind::DeliveryEnded || !is_lost(entry));
    for entry in left.iter_mut().filter(|entry| is_lost(entry)) {
        entry.end_state = None;
    }
    left
}
