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
use std::sync::Arc;

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::{Entry, Kind};
use crate::domain::delivery::circuit::Circuit;
use crate::domain::delivery::outcome::Disposition;
use crate::domain::delivery::settings::Format;
use crate::domain::delivery::slots::Risk;
use crate::domain::ids::{DeliveryId, DispatcherId, EventId, WebhookId};
use crate::domain::presence::Event;
use crate::store::delivery::{claim, receiver_health, settle};
use crate::store::{Result, Store, audit, with_timeout};

/// How long a dispatcher counts as alive without a sign of life: what a killed process held is free after that.
pub const LEASE: Duration = Duration::seconds(6);

/// Begins a cycle, one at a time in whatever process.
pub(in crate::store) const BEGIN_CYCLE: &str = "begin; select pg_advisory_xact_lock(7700452)";

/// One delivery in this dispatcher's hands.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Its id, sent as `webhook-id`.
    pub delivery_id: DeliveryId,
    /// To whom.
    pub webhook_id: WebhookId,
    /// The webhook's version at that time; settings of an older one must not be used.
    pub webhook_version: i64,
    /// `agent_key` of its agent, or 0.
    pub lane: i64,
    /// Number of this attempt, from 1.
    pub attempt: i32,
    /// Older states that gave way to it.
    pub superseded: i32,
    /// When its first POST began.
    pub sent_at: OffsetDateTime,
    /// What that looked like.
    pub format: Format,
    /// The event owed.
    pub event_id: EventId,
    /// What to tell; `None` if it must be read, or is gone.
    pub event: Option<Arc<Event>>,
    /// A newer state waits behind it, and its webhook wants only the latest: end it without a POST.
    pub newer: bool,
}

impl Claimed {
    /// An audit entry of level INFO about this delivery.
    #[must_use]
    pub fn entry(&self, at: OffsetDateTime, kind: Kind) -> Entry {
        let mut entry = Entry::for_delivery(at, kind, self.webhook_id, self.event_id, self.delivery_id);
        entry.agent_id = self.event.as_ref().and_then(|event| event.agent_id.clone());
        entry
    }
}

/// How an attempt leaves its delivery.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which.
    pub delivery_id: DeliveryId,
    /// The attempt that was claimed; a settlement of another attempt changes nothing.
    pub attempt: i32,
    /// Whether it ended, or when it is due again.
    pub disposition: Disposition,
    /// HTTP status of the answer, if there was one.
    pub status: Option<i32>,
    /// Outcome class.
    pub outcome: &'static str,
    /// The next of its lane may come into our hands at once.
    pub goes_on: bool,
    /// Its webhook wants only the latest: instead of being tried again it gives way to a newer state.
    pub latest: bool,
}

/// How a webhook's receiver has been, to be kept.
#[derive(Clone, Debug)]
pub struct HealthChange {
    /// Whose.
    pub webhook_id: WebhookId,
    /// Its circuit.
    pub circuit: Circuit,
    /// Outcome class of the last failure.
    pub last_outcome: Option<&'static str>,
    /// It accepts POSTs: from now on it is a proven one.
    pub succeeds: bool,
    /// It takes POSTs again after it did not: what waits for its next attempt need not wait.
    pub is_back: bool,
}

/// What a dispatcher knows of a webhook.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Which.
    pub webhook_id: WebhookId,
    /// How many of its deliveries the dispatcher holds.
    pub held: i64,
    /// How many more it may take.
    pub room: i64,
    /// How likely it is that it keeps its places for long.
    pub risk: Risk,
}

/// What a dispatcher may take.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// How many more deliveries it takes; 0: do not claim.
    pub total: i64,
    /// How many of them of all webhooks that fail or are slow.
    pub suspect: i64,
    /// How many of them of all webhooks that have never accepted a POST.
    pub unproven: i64,
    /// What is known of those that have anything in its hands.
    pub known: Vec<Known>,
    /// How many of any other webhook.
    pub others: i64,
    /// The same of one that has never accepted a POST.
    pub others_unproven: i64,
    /// Claim for these alone; `None`: for all.
    pub only: Option<Vec<WebhookId>>,
    /// Those with a limit are among them.
    pub limited: bool,
}

/// Everything that a cycle writes and asks.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// What came back.
    pub settlements: Vec<Settlement>,
    /// Audit entries of the same attempts.
    pub entries: Vec<Entry>,
    /// How receivers have been.
    pub health: Vec<HealthChange>,
    /// Lanes whose first delivery nobody may know of.
    pub lanes: Vec<(WebhookId, i64)>,
    /// What may be claimed.
    pub room: Room,
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

impl Work {
    /// Notes how a receiver has been, in place of what was noted before.
    pub fn note(&mut self, mut change: HealthChange) {
        let former = self.health.iter().find(|known| known.webhook_id == change.webhook_id);
        change.is_back |= former.is_some_and(|known| known.is_back);
        self.health.retain(|known| known.webhook_id != change.webhook_id);
        self.health.push(change);
    }

    /// Whether there is nothing to write and nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settlements.is_empty()
            && self.entries.is_empty()
            && self.health.is_empty()
            && self.lanes.is_empty()
            && self.room.total <= 0
    }
}

/// What a cycle found.
#[derive(Clone, Debug, Default)]
pub struct Cycle {
    /// In our hands now, to be sent.
    pub claimed: Vec<Claimed>,
    /// There may be more that is due and has room: claim again without waiting.
    pub more: bool,
    /// Webhooks of which as much was claimed as there was room for.
    pub filled: Vec<WebhookId>,
    /// Webhooks that take batches and have some due.
    pub batches_due: Vec<WebhookId>,
    /// Deliveries that gave way to newer ones instead of being tried again.
    pub superseded: u64,
    /// Webhooks whose health could not be kept, because somebody had their row locked.
    pub health_left: Vec<WebhookId>,
    /// How long the claim took; `None` if there was none.
    pub claim_took: Option<std::time::Duration>,
}

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
        let read = crate::store::views::events::read_events(conn, &missing).await?;
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

/// Reads column `sent_format`.
pub(in crate::store) fn format(word: Option<&str>) -> Format {
    word.and_then(Format::from_name).unwrap_or_default()
}
