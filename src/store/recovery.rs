//! What a webhook missed, owed to it again: events of a time that it asks for, however many. Called by
//! `api/recovery.rs`.
//!
//! Read in chunks, opened lane by lane: each lane in a transaction of its own, which holds one agent's row and so
//! neither keeps the recorder waiting nor meets it crosswise. Asking again is harmless: what is open stays as it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;

use super::history::{Lane, open_delivery};
use super::webhook_rows::{Webhook, read};
use super::webhook_states::must_take_part;
use super::webhooks::{entry, lock};
use super::{Result, Store, StoreError, audit};
use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::delivery_settings::Mode;
use crate::domain::ids::{AgentId, DeliveryId, EventId, WebhookId};

/// Events looked at in one go.
const CHUNK: i64 = 1000;
/// How often a lane is tried in which a later delivery is being sent, and how long in between.
const TRIES: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);
/// Ends that can be made good.
const FAILED: [&str; 3] = ["dead", "expired", "webhook_disabled"];

/// What shall be owed again.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// To whom.
    pub webhook: WebhookId,
    /// Events that arrived at or after this time…
    pub since: OffsetDateTime,
    /// …and before this one.
    pub until: OffsetDateTime,
    /// Only what ended without success.
    pub only_failed: bool,
    /// Only these agents, by Genesys user id or by the CRM's own; empty: all.
    pub agents: Vec<String>,
}

/// How far it is.
#[derive(Debug, Default)]
pub struct Progress {
    recovered: AtomicU64,
    skipped: AtomicU64,
}

impl Progress {
    /// Deliveries that are owed again.
    #[must_use]
    pub fn recovered(&self) -> u64 {
        self.recovered.load(Ordering::Relaxed)
    }

    /// Deliveries that could not be opened, because a later one of their lane was being sent all the time.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }
}

/// One event that may be owed again.
#[derive(Clone, Debug)]
struct Missed {
    event_id: EventId,
    received_at: OffsetDateTime,
    position: i64,
    agent_key: i64,
    agent_id: Option<AgentId>,
}

/// The missed events of each lane, in order.
type Lanes = BTreeMap<i64, Vec<Missed>>;

/// Events that the webhook asks for, between two ends of a statement. The rule is that of `domain/explain/`.
macro_rules! missed {
    ($conn:expr, $wanted:expr, $webhook:expr, $after:expr, $select:literal, $end:literal) => {
        sqlx::query_as!(
            Missed,
            $select
                + r#"      event_id as "event_id: EventId", received_at, position, agent_key as "agent_key!",
                      agent_id as "agent_id: AgentId"
               from event
               where kind = 'presence.updated'
                 and received_at >= $1
                 and received_at < $2
                 and ($4::text[] = '{}' or agent_id = any ($4) or external_id = any ($4))
                 and ($5::text[] = '{}' or topic = any ($5))
                 and ($6::text[] = '{}' or presence = any ($6))
                 and ($7::uuid[] = '{}' or source_id = any ($7))
                 and ($8::text[] = '{}' or agent_id = any ($8) or external_id = any ($8))
                 "#
                + $end,
            $wanted.since,
            $wanted.until,
            $after,
            &$webhook.settings.agents,
            &$webhook.settings.topics,
            &$webhook.settings.presences,
            &$webhook.settings.sources as _,
            &$wanted.agents,
            CHUNK,
        )
        .fetch_all($conn)
        .await?
    };
}

impl Store {
    /// Owes a webhook again what it missed.
    ///
    /// # Errors
    /// If there is none, if it is disabled or unverified, or the database refuses; what was opened until then stays.
    pub async fn recover(&self, wanted: &Recovery, principal: &str, progress: &Progress) -> Result<()> {
        let webhook = self.begin_recovery(wanted, principal).await?;
        if !webhook.settings.events.iter().any(|kind| kind == "presence.updated") {
            return Ok(());
        }
        let latest = webhook.settings.delivery.mode == Mode::Latest;
        let mut after = 0;
        loop {
            let chunk = if latest {
                self.newest_of_each(wanted, &webhook, after).await?
            } else {
                self.events_after(wanted, &webhook, after).await?
            };
            let Some(last) = chunk.last() else {
                return Ok(());
            };
            after = if latest { last.agent_key } else { last.position };
            let mut lanes = Lanes::new();
            for missed in chunk {
                lanes.entry(missed.agent_key).or_default().push(missed);
            }
            self.open_lanes(wanted, latest, lanes, principal, progress).await?;
        }
    }

    /// Writes down that it was asked for, and reads the filters that count.
    async fn begin_recovery(&self, wanted: &Recovery, principal: &str) -> Result<Webhook> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, wanted.webhook).await?;
        let webhook = read(&mut tx, wanted.webhook).await?;
        must_take_part(&webhook)?;
        let told = entry(now, Kind::RecoveryRequested, wanted.webhook, principal)
            .data("since", wanted.since.to_string())
            .data("until", wanted.until.to_string())
            .data("only_failed", wanted.only_failed)
            .data("agents", wanted.agents.len());
        audit::write(&mut tx, &[told]).await?;
        tx.commit().await?;
        Ok(webhook)
    }

    /// The next events that the webhook asks for, in order.
    async fn events_after(&self, wanted: &Recovery, webhook: &Webhook, after: i64) -> Result<Vec<Missed>> {
        let mut tx = self.begin().await?;
        audit::allow_a_minute(&mut tx).await?;
        let missed = missed!(
            &mut *tx,
            wanted,
            webhook,
            after,
            "select",
            "and position > $3 order by position limit $9"
        );
        tx.commit().await?;
        Ok(missed)
    }

    /// The newest event of each of the next agents: in mode `latest` the others have given way to it.
    async fn newest_of_each(&self, wanted: &Recovery, webhook: &Webhook, after: i64) -> Result<Vec<Missed>> {
        let mut tx = self.begin().await?;
        audit::allow_a_minute(&mut tx).await?;
        let missed = missed!(
            &mut *tx,
            wanted,
            webhook,
            after,
            "select distinct on (agent_key)",
            "and agent_key > $3 order by agent_key, position desc limit $9"
        );
        tx.commit().await?;
        Ok(missed)
    }

    /// Opens what can be opened; a lane in which something later is being sent is tried again for a while.
    async fn open_lanes(
        &self,
        wanted: &Recovery,
        latest: bool,
        mut lanes: Lanes,
        principal: &str,
        progress: &Progress,
    ) -> Result<()> {
        for tries in 1..=TRIES {
            let mut busy = Lanes::new();
            for (lane, missed) in lanes {
                match self.open_lane(wanted, latest, lane, &missed, principal).await {
                    Ok(opened) => {
                        progress.recovered.fetch_add(opened, Ordering::Relaxed);
                    }
                    Err(error) if comes_right(&error) && tries < TRIES => {
                        busy.insert(lane, missed);
                    }
                    Err(StoreError::Conflict(_)) => {
                        let skipped = u64::try_from(missed.len()).unwrap_or_default();
                        progress.skipped.fetch_add(skipped, Ordering::Relaxed);
                    }
                    Err(error) => return Err(error),
                }
            }
            self.wake.deliveries_due();
            if busy.is_empty() {
                break;
            }
            lanes = busy;
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        Ok(())
    }

    /// Opens the missed deliveries of one lane, all or none; says how many.
    async fn open_lane(
        &self,
        wanted: &Recovery,
        latest: bool,
        lane: i64,
        missed: &[Missed],
        principal: &str,
    ) -> Result<u64> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        // Always in this order: agent, webhook, delivery.
        sqlx::query!("select agent_key from agent where agent_key = $1 for update", lane)
            .fetch_optional(&mut *tx)
            .await?;
        lock(&mut tx, wanted.webhook).await?;
        let ids: Vec<DeliveryId> =
            missed.iter().map(|missed| DeliveryId::of(missed.event_id, wanted.webhook)).collect();
        let known = sqlx::query!(
            r#"select exists (select from delivery d where d.delivery_id = wanted.id) as "open!",
                      (select l.end_state
                       from audit_log l
                       where l.delivery_id = wanted.id
                         and l.end_state is not null
                       order by l.audit_id desc
                       limit 1) as end_state
               from unnest($1::uuid[]) with ordinality as wanted (id, place)
               order by wanted.place"#,
            &ids as _,
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut told = Vec::new();
        for ((missed, id), known) in missed.iter().zip(&ids).zip(known) {
            let failed = known.end_state.as_deref().is_some_and(|end| FAILED.contains(&end));
            if known.open || (wanted.only_failed && !failed) {
                continue;
            }
            if latest && is_overtaken(&mut tx, wanted.webhook, missed).await? {
                continue;
            }
            let at = Lane { webhook: wanted.webhook, lane };
            open_delivery(&mut tx, at, *id, missed.event_id, missed.received_at, missed.position, now)
                .await?;
            let mut retried = Entry::new(now, Kind::DeliveryRetried).data("recovery", true);
            retried.webhook_id = Some(wanted.webhook);
            retried.event_id = Some(missed.event_id);
            retried.delivery_id = Some(*id);
            retried.agent_id.clone_from(&missed.agent_id);
            retried.principal = Some(principal.to_owned());
            told.push(retried);
        }
        audit::write(&mut tx, &told).await?;
        tx.commit().await?;
        Ok(u64::try_from(told.len()).unwrap_or_default())
    }
}

/// Whether it may go well the next time: something later of the lane is being sent, or somebody else was in the way.
fn comes_right(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict(_))
        || matches!(error.constraint(), Some("delivery_pkey" | "delivery_lane_idx"))
        || error.is_away()
}

/// Whether the lane has delivered, or still owes, something newer.
async fn is_overtaken(conn: &mut sqlx::PgConnection, webhook: WebhookId, missed: &Missed) -> Result<bool> {
    let overtaken = sqlx::query_scalar!(
        r#"select exists (
                      select from delivery d
                      where d.webhook_id = $1
                        and d.lane = $2
                        and d.position > $3)
                  or exists (
                      select from audit_log l
                      join event e on e.event_id = l.event_id
                      where l.webhook_id = $1
                        and l.agent_id = $4
                        and l.at >= $5
                        and l.end_state = 'delivered'
                        and e.agent_key = $2
                        and e.position > $3) as "overtaken!""#,
        webhook as _,
        missed.agent_key,
        missed.position,
        missed.agent_id.as_ref() as _,
        missed.received_at,
    )
    .fetch_one(conn)
    .await?;
    Ok(overtaken)
}
