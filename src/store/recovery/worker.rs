//! Runs recoveries: opens deliveries of the events that a webhook missed, however many there are.
//! `actors/dispatch/recovery.rs` calls it for the requests that it has claimed
//! (`store/recovery/requests.rs`).
//!
//! The worker reads events in chunks (`store/recovery/missed_events.rs`) and opens them lane by lane in small
//! pieces. Each piece is a transaction of its own that holds one agent's row, so it neither keeps the
//! recorder waiting nor meets it crosswise. Doing a chunk again is harmless: open deliveries stay as they
//! are, and those that have ended since the request are left out.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::delivery::outcome::EndState;
use crate::domain::delivery::recovery::RecoveryFailure;
use crate::domain::ids::{DeliveryId, DispatcherId, RecoveryId, SourceId, TenantId, WebhookId};
use crate::domain::presence::EventKind;
use crate::domain::webhook::state::WebhookState;
use crate::store::delivery::reopen::{LaneDelivery, open_delivery};
use crate::store::recovery::missed_events::{Job, MissedEvent};
use crate::store::webhooks::lock;
use crate::store::{Result, Store, StoreError, audit, with_timeout};

/// Deliveries opened in one transaction.
const PIECE: usize = 50;
/// Tries of a lane in which a later delivery is being sent, and the wait between them.
const TRIES: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);
/// Ends without success.
const FAILED: [EndState; 3] = [EndState::Dead, EndState::Expired, EndState::WebhookDisabled];

/// Missed events of each lane, in order.
type Lanes = BTreeMap<i64, Vec<MissedEvent>>;

impl Store {
    /// Opens the deliveries of the next chunk. False if there is no more to do for this dispatcher: the
    /// request has ended, or another dispatcher has claimed it.
    ///
    /// # Errors
    /// If the database is unavailable or refuses; what was opened until then stays, and the next call goes on
    /// from there.
    pub async fn recover_some(&self, dispatcher: DispatcherId, id: RecoveryId) -> Result<bool> {
        let Some(job) = self.job(dispatcher, id).await? else { return Ok(false) };
        // Reads as the webhook's tenant, which sees no event of another one.
        let theirs = self.for_tenant(job.tenant);
        let webhook = match with_timeout(theirs.webhook(job.webhook_id)).await {
            Ok(webhook) => webhook,
            Err(StoreError::NotFound(_)) => {
                self.end_recovery(dispatcher, id, Some(RecoveryFailure::WebhookGone)).await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let hindrance = match webhook.state {
            WebhookState::Disabled => Some(RecoveryFailure::WebhookDisabled),
            WebhookState::Unverified => Some(RecoveryFailure::WebhookUnverified),
            WebhookState::Active | WebhookState::Paused => None,
        };
        let wanted = webhook.settings.events.iter().any(|kind| kind == EventKind::PresenceUpdated.as_str());
        let chunk = match &job.states {
            _ if hindrance.is_some() => None,
            Some(states) => theirs.ended_chunk(&job, states).await?,
            None if wanted => match self.look_ahead(&job).await? {
                Some(through) => Some((through, theirs.missed_events(&job, &webhook, through).await?)),
                None => None,
            },
            None => None,
        };
        let Some((through, chunk)) = chunk else {
            self.end_recovery(dispatcher, id, hindrance).await?;
            return Ok(false);
        };
        let mut lanes = Lanes::new();
        for missed in chunk {
            lanes.entry(missed.agent_key).or_default().push(missed);
        }
        match theirs.open_lanes(&job, lanes).await {
            Ok(skipped) => self.note_progress(dispatcher, id, through, skipped).await?,
            // Just now the webhook was removed or the request cancelled; the next call sees it.
            Err(StoreError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// `None` if the request has ended or another dispatcher has claimed it.
    async fn job(&self, dispatcher: DispatcherId, id: RecoveryId) -> Result<Option<Job>> {
        with_timeout(async {
            Ok(sqlx::query_as!(
                Job,
                r#"select r.recovery_id as "recovery_id: RecoveryId", r.webhook_id as "webhook_id: WebhookId",
                          w.tenant_id as "tenant: TenantId", r.since, r.until, r.only_failed, r.states,
                          r.source_id as "source_id: SourceId", r.agents, r.newest_only, r.principal, r.requested_at, r.read_through
                   from recovery r
                   join webhook w on w.webhook_id = r.webhook_id
                   where r.recovery_id = $1
                     and r.held_by = $2
                     and r.ended_at is null"#,
                id as _,
                dispatcher as _,
            )
            .fetch_optional(&self.pool)
            .await?)
        })
        .await
    }

    async fn note_progress(
        &self,
        dispatcher: DispatcherId,
        id: RecoveryId,
        read_through: i64,
        skipped: u64,
    ) -> Result<()> {
        with_timeout(async {
            sqlx::query!(
                "update recovery
                 set read_through = $3,
                     skipped = skipped + $4
                 where recovery_id = $1
                   and held_by = $2
                   and read_through < $3",
                id as _,
                dispatcher as _,
                read_through,
                i64::try_from(skipped).unwrap_or(i64::MAX),
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    /// Opens what can be opened, of each lane the oldest first; a lane in which something later is being sent
    /// is tried again for a while. Says how many could not be opened.
    async fn open_lanes(&self, job: &Job, mut lanes: Lanes) -> Result<u64> {
        let mut skipped = 0;
        for tries in 1..=TRIES {
            let mut busy = Lanes::new();
            for (lane, missed) in lanes {
                let mut opened = 0;
                for piece in missed.chunks(PIECE) {
                    match self.open_piece(job, lane, piece).await {
                        Ok(()) => opened += piece.len(),
                        Err(error) if comes_right(&error) && tries < TRIES => {
                            busy.insert(lane, missed.iter().skip(opened).cloned().collect());
                            break;
                        }
                        Err(StoreError::Conflict(_)) => {
                            skipped += u64::try_from(missed.len() - opened).unwrap_or_default();
                            break;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            self.wake.deliveries_due();
            if busy.is_empty() {
                break;
            }
            lanes = busy;
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        Ok(skipped)
    }

    /// Opens missed deliveries of one lane, all or none, and counts them.
    async fn open_piece(&self, job: &Job, lane: i64, missed: &[MissedEvent]) -> Result<()> {
        let now = clock::now();
        self.with_patience(async {
            let mut tx = self.begin().await?;
            // Always in this order: agent, webhook, delivery.
            sqlx::query!("select agent_key from agent where agent_key = $1 for update", lane)
                .fetch_optional(&mut *tx)
                .await?;
            lock(&mut tx, job.webhook_id).await?;
            let ids: Vec<DeliveryId> =
                missed.iter().map(|missed| DeliveryId::of(missed.event_id, job.webhook_id)).collect();
            let mut entries = Vec::new();
            for ((missed, id), last) in missed.iter().zip(&ids).zip(last_ends(&mut tx, &ids).await?) {
                if !last.may_be_opened(job)
                    || (job.newest_only && has_newer_event(&mut tx, job.webhook_id, missed).await?)
                {
                    continue;
                }
                let opened = LaneDelivery {
                    delivery: *id,
                    webhook: job.webhook_id,
                    lane,
                    position: missed.position,
                    event: missed.event_id,
                    event_received_at: missed.received_at,
                };
                open_delivery(&mut tx, opened, now).await?;
                let (webhook, event) = (job.webhook_id, missed.event_id);
                let mut retried = Entry::for_delivery(now, Kind::DeliveryRetried, webhook, event, *id)
                    .data("recovery", true);
                retried.agent_id.clone_from(&missed.agent_id);
                retried.principal = Some(job.principal.clone());
                entries.push(retried);
            }
            audit::write(&mut tx, &entries).await?;
            if !entries.is_empty() {
                count_recovered(&mut tx, job.recovery_id, entries.len()).await?;
            }
            tx.commit().await?;
            Ok(())
        })
        .await
    }
}

/// State of a delivery, or its last end.
struct LastEnd {
    open: bool,
    end_state: Option<String>,
    ended_at: Option<OffsetDateTime>,
}

impl LastEnd {
    fn may_be_opened(&self, job: &Job) -> bool {
        let ended = self.end_state.as_deref();
        let is_wanted = match &job.states {
            Some(states) => states.iter().any(|state| Some(state.as_str()) == ended),
            None => !job.only_failed || FAILED.iter().any(|failed| Some(failed.as_str()) == ended),
        };
        // It was open when the recovery was asked for, or the recovery has opened it before.
        let since = self.ended_at.is_some_and(|at| at >= job.requested_at);
        !self.open && !since && is_wanted
    }
}

/// One for each id, in their order.
async fn last_ends(conn: &mut PgConnection, ids: &[DeliveryId]) -> Result<Vec<LastEnd>> {
    Ok(sqlx::query_as!(
        LastEnd,
        r#"select exists (select from delivery d where d.delivery_id = wanted.id) as "open!",
                  last.end_state as "end_state?", last.at as "ended_at?"
           from unnest($1::uuid[]) with ordinality as wanted (id, place)
           left join lateral (
               select l.end_state, l.at
               from audit_log l
               where l.delivery_id = wanted.id
                 and l.end_state is not null
               order by l.audit_id desc
               limit 1) last on true
           order by wanted.place"#,
        ids as _,
    )
    .fetch_all(conn)
    .await?)
}

async fn count_recovered(conn: &mut PgConnection, recovery: RecoveryId, count: usize) -> Result<()> {
    let counted = sqlx::query!(
        "update recovery
         set recovered = recovered + $2
         where recovery_id = $1
           and ended_at is null",
        recovery as _,
        i64::try_from(count).unwrap_or(i64::MAX),
    )
    .execute(conn)
    .await?;
    if counted.rows_affected() == 0 {
        return Err(StoreError::NotFound("recovery that runs"));
    }
    Ok(())
}

/// Whether it may go well the next time: something later of the lane is being sent, or somebody else was in
/// the way.
fn comes_right(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict(_))
        || matches!(error.constraint(), Some("delivery_pkey" | "delivery_lane_idx"))
        || error.is_transient()
}

/// Whether the lane has delivered something newer, or has it pending.
async fn has_newer_event(conn: &mut PgConnection, webhook: WebhookId, missed: &MissedEvent) -> Result<bool> {
    let newer = sqlx::query_scalar!(
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
                        and e.position > $3) as "newer!""#,
        webhook as _,
        missed.agent_key,
        missed.position,
        missed.agent_id.as_ref() as _,
        missed.received_at,
    )
    .fetch_one(conn)
    .await?;
    Ok(newer)
}
