//! Deliveries as the API shows them, open ones from `delivery` and ended ones from `audit_log`, and the operator's
//! retry. Claiming and settling is the dispatcher's (`store/deliveries.rs`).

use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Result, Store, StoreError, answered, audit, webhooks};
use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{AgentId, DeliveryId, EventId, WebhookId};

/// Attempts shown of one delivery.
const ATTEMPTS_SHOWN: i64 = 200;

/// One delivery, open or ended.
#[derive(Clone, Debug)]
pub struct DeliveryRow {
    /// Its id; also the `webhook-id` header.
    pub delivery_id: DeliveryId,
    /// To whom it is or was owed.
    pub webhook_id: Option<WebhookId>,
    /// What is or was owed.
    pub event_id: Option<EventId>,
    /// The event's agent; `None` for a test ping.
    pub agent_id: Option<AgentId>,
    /// Open: `waiting`, `sending`, `blocked`, `paused`. Ended: its end state.
    pub state: String,
    /// POSTs begun.
    pub attempt: i32,
    /// When it may leave; `None` unless it is waiting.
    pub due_at: Option<OffsetDateTime>,
    /// HTTP status of the last attempt.
    pub last_status: Option<i32>,
    /// Outcome class of the last attempt.
    pub last_outcome: Option<String>,
    /// When it became owed; `None` once ended.
    pub created_at: Option<OffsetDateTime>,
    /// When it ended; `None` while open.
    pub ended_at: Option<OffsetDateTime>,
}

/// One POST that was tried.
#[derive(Clone, Debug)]
pub struct AttemptRow {
    /// Its number, from 1.
    pub attempt: Option<i32>,
    /// When it ended.
    pub at: OffsetDateTime,
    /// HTTP status; `None` if there was no answer.
    pub status: Option<i32>,
    /// Outcome class.
    pub outcome: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: Option<i32>,
    /// Particulars.
    pub data: Value,
}

/// Which deliveries are asked for.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Only this one.
    pub delivery: Option<DeliveryId>,
    /// Only to this webhook.
    pub webhook: Option<WebhookId>,
    /// Only of changes of these agents.
    pub agents: Option<Vec<String>>,
    /// Only of this event.
    pub event: Option<EventId>,
    /// Only in this state; `open` and `ended` stand for all of their kind.
    pub state: Option<String>,
}

/// All that one webhook is owed for one agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    /// To whom.
    pub webhook: WebhookId,
    /// `agent_key`, or 0.
    pub lane: i64,
}

impl Store {
    /// Number of open deliveries, and since when the oldest is open.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn backlog(&self) -> Result<(i64, Option<OffsetDateTime>)> {
        answered(async {
            let row = sqlx::query!(r#"select count(*) as "open!", min(created_at) as oldest from delivery"#)
                .fetch_one(&mut *self.begin().await?)
                .await?;
            Ok((row.open, row.oldest))
        })
        .await
    }

    /// A page of deliveries. Ids begin with the time of their event, so the newest events come first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn delivery_history(
        &self,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let rows = sqlx::query_as!(
            DeliveryRow,
            r#"with open_ones as (
                   select d.delivery_id, d.webhook_id, d.event_id,
                          (select a.agent_id from agent a where a.agent_key = d.lane) as agent_id,
                          d.state, d.attempt,
                          case when d.state = 'waiting' then d.due_at end as due_at,
                          d.last_status, d.last_outcome, d.created_at, null::timestamptz as ended_at
                   from (
                       select *,
                              case when leased_by is not null then 'sending'
                                   when due_at is null then 'blocked'
                                   when due_at = 'infinity' then 'paused'
                                   else 'waiting' end as state
                       from delivery) d
                   where ($1::uuid is null or d.delivery_id = $1)
                     and ($2::uuid is null or d.webhook_id = $2)
                     and ($3::text[] is null or d.lane in (select agent_key from agent where agent_id = any ($3)))
                     and ($4::uuid is null or d.event_id = $4)
                     and ($5::text is null or $5 = 'open' or d.state = $5)
                     and ($6::uuid is null or d.delivery_id < $6)
                   order by d.delivery_id desc
                   limit $7),
               ended_ones as (
                   select l.delivery_id, l.webhook_id, l.event_id, l.agent_id, l.end_state as state,
                          coalesce(l.attempt, 0) as attempt, null::timestamptz as due_at,
                          l.status as last_status, l.outcome as last_outcome,
                          null::timestamptz as created_at, l.at as ended_at
                   from audit_log l
                   where l.delivery_id is not null
                     and l.end_state is not null
                     and ($1::uuid is null or l.delivery_id = $1)
                     and ($2::uuid is null or l.webhook_id = $2)
                     and ($3::text[] is null or l.agent_id = any ($3))
                     and ($4::uuid is null or l.event_id = $4)
                     and ($5::text is null or $5 = 'ended' or l.end_state = $5)
                     and ($6::uuid is null or l.delivery_id < $6)
                     -- A retry opens it again, and then it may end once more: only what holds now is shown.
                     and not exists (select from delivery d where d.delivery_id = l.delivery_id)
                     and not exists (
                         select from audit_log later
                         where later.delivery_id = l.delivery_id
                           and later.end_state is not null
                           and later.audit_id > l.audit_id)
                   order by l.delivery_id desc
                   limit $7)
               select delivery_id as "delivery_id!: DeliveryId", webhook_id as "webhook_id: WebhookId",
                      event_id as "event_id: EventId", agent_id as "agent_id: AgentId", state as "state!",
                      attempt as "attempt!", due_at, last_status, last_outcome, created_at, ended_at
               from (select * from open_ones union all select * from ended_ones) both_kinds
               order by delivery_id desc
               limit $7"#,
            filter.delivery as _,
            filter.webhook as _,
            filter.agents.as_deref(),
            filter.event as _,
            filter.state.as_deref(),
            before as _,
            limit,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// One delivery, open or ended.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn delivery(&self, id: DeliveryId) -> Result<DeliveryRow> {
        let only = DeliveryFilter { delivery: Some(id), ..DeliveryFilter::default() };
        let rows = self.delivery_history(&only, None, 1).await?;
        rows.into_iter().next().ok_or(StoreError::NotFound("delivery"))
    }

    /// The last attempts of a delivery, oldest first; at most 200.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn attempts(&self, id: DeliveryId) -> Result<Vec<AttemptRow>> {
        let mut rows = sqlx::query_as!(
            AttemptRow,
            "select attempt, at, status, outcome, duration_ms, data
             from audit_log
             where delivery_id = $1
               and kind = 'DELIVERY_ATTEMPT'
             order by audit_id desc
             limit $2",
            id as _,
            ATTEMPTS_SHOWN,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        rows.reverse();
        Ok(rows)
    }

    /// Makes a delivery due now; one that has ended is opened again under its id, its attempts counted anew. Ring
    /// [`deliveries_due`](super::wake::Wake::deliveries_due) afterwards.
    ///
    /// # Errors
    /// If there is none, if its state does not allow it, or the database refuses.
    pub async fn retry_delivery(&self, id: DeliveryId, principal: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let owed = owed(&mut tx, id).await?;
        let mut told = Entry::new(clock::now(), Kind::DeliveryRetried);
        told.webhook_id = Some(owed.webhook);
        told.event_id = Some(owed.event);
        told.delivery_id = Some(id);
        told.principal = Some(principal.to_owned());
        // Always in this order: agent, webhook, its health, delivery. The recorder adds to this lane under the agent's row
        // lock; for lane 0 the webhook's lock does it.
        told.agent_id = sqlx::query_scalar!(
            r#"select agent_id as "agent_id: AgentId" from agent where agent_key = $1 for update"#,
            owed.lane,
        )
        .fetch_optional(&mut *tx)
        .await?;
        webhooks::lock(&mut tx, owed.webhook).await.map_err(|error| match error {
            StoreError::NotFound(what) => gone(what),
            other => other,
        })?;
        // At once means at once, even if the receiver is being left alone.
        sqlx::query!(
            "update webhook_health
             set hold_until = null
             where webhook_id = $1
               and hold_until is not null",
            owed.webhook as _,
        )
        .execute(&mut *tx)
        .await?;
        if !hasten(&mut tx, id).await? {
            let lane = Lane { webhook: owed.webhook, lane: owed.lane };
            open_delivery(&mut tx, lane, id, owed.event, owed.event_received_at, owed.position, told.at)
                .await?;
        }
        audit::write(&mut tx, &[told]).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// What a delivery is or was about.
struct Owed {
    webhook: WebhookId,
    event: EventId,
    event_received_at: OffsetDateTime,
    position: i64,
    lane: i64,
}

/// Reads it from the delivery, or from what is told of its end.
async fn owed(conn: &mut PgConnection, id: DeliveryId) -> Result<Owed> {
    let open = sqlx::query_as!(
        Owed,
        r#"select webhook_id as "webhook: WebhookId", event_id as "event: EventId", event_received_at, position, lane
           from delivery
           where delivery_id = $1"#,
        id as _,
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(open) = open {
        return Ok(open);
    }
    let ended = sqlx::query!(
        r#"select webhook_id as "webhook_id: WebhookId", event_id as "event_id: EventId"
           from audit_log
           where delivery_id = $1
             and end_state is not null
           order by audit_id desc
           limit 1"#,
        id as _,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(StoreError::NotFound("delivery"))?;
    let webhook = ended.webhook_id.ok_or_else(|| gone("webhook"))?;
    let event = ended.event_id.ok_or_else(|| gone("event"))?;
    let told = sqlx::query!(
        r#"select received_at, position, coalesce(agent_key, 0) as "lane!"
           from event
           where event_id = $1"#,
        event as _,
    )
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| gone("event"))?;
    let (event_received_at, position, lane) = (told.received_at, told.position, told.lane);
    Ok(Owed { webhook, event, event_received_at, position, lane })
}

fn gone(what: &str) -> StoreError {
    StoreError::Conflict(format!("its {what} is gone"))
}

/// Makes an open delivery due now; false if there is no open one.
async fn hasten(conn: &mut PgConnection, id: DeliveryId) -> Result<bool> {
    let Some(open) = sqlx::query!(
        r#"select due_at is null and leased_by is null as "blocked!",
                  coalesce(due_at = 'infinity', false) as "paused!",
                  leased_by is not null as "sending!"
           from delivery
           where delivery_id = $1
           for update"#,
        id as _,
    )
    .fetch_optional(&mut *conn)
    .await?
    else {
        return Ok(false);
    };
    let hindrance = if open.blocked {
        Some("an older delivery of the same agent leaves first")
    } else if open.paused {
        Some("its webhook is paused; resume the webhook")
    } else if open.sending {
        Some("it is being sent at this moment")
    } else {
        None
    };
    if let Some(hindrance) = hindrance {
        return Err(StoreError::Conflict(hindrance.to_owned()));
    }
    sqlx::query!(
        "update delivery
         set due_at = now()
         where delivery_id = $1",
        id as _,
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// Adds a delivery to its lane: due now if nothing older is open there, else blocked; refused while a younger one is
/// being sent. The caller keeps others from adding to the lane.
///
/// The head of the lane is locked first, so that it is not settled meanwhile: whoever settles it later sees the
/// new row when it looks for the next one.
pub(super) async fn open_delivery(
    conn: &mut PgConnection,
    lane: Lane,
    delivery: DeliveryId,
    event: EventId,
    event_received_at: OffsetDateTime,
    position: i64,
    now: OffsetDateTime,
) -> Result<()> {
    let head = sqlx::query!(
        r#"select delivery_id as "delivery_id: DeliveryId", position, leased_by is not null as "sending!"
           from delivery
           where webhook_id = $1
             and lane = $2
           order by position
           limit 1
           for update"#,
        lane.webhook as _,
        lane.lane,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let leaves_first = match head {
        None => true,
        Some(head) if head.position < position => false,
        // Were ours added now, the lane would have an oldest that waits and a younger one that may come back to be
        // tried again: two that could leave, or none.
        Some(head) if head.sending => {
            return Err(StoreError::Conflict(
                "a later delivery of the same agent is being sent at this moment; ask again".to_owned(),
            ));
        }
        Some(head) => {
            // Ours is older than what was first so far: only the oldest may leave.
            sqlx::query!(
                "update delivery
                 set due_at = null
                 where delivery_id = $1",
                head.delivery_id as _,
            )
            .execute(&mut *conn)
            .await?;
            true
        }
    };
    // One that was sent before tells the same again, byte for byte.
    sqlx::query!(
        "insert into delivery (
             delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at, created_at, is_state,
             sent_at, superseded)
         select $1, $2, $3, $4, $5, $6, $7, $8,
                coalesce((
                    select e.kind in ('presence.updated', 'presence.snapshot')
                    from event e
                    where e.event_id = $5
                      and e.received_at = $6), false),
                (l.data ->> 'sent_at')::timestamptz, coalesce((l.data ->> 'superseded')::int, 0)
         from (select) as one
         left join lateral (
             select data
             from audit_log
             where delivery_id = $1
               and kind = 'DELIVERY_ATTEMPT'
             order by audit_id
             limit 1
         ) l on true",
        delivery as _,
        lane.webhook as _,
        lane.lane,
        position,
        event as _,
        event_received_at,
        leaves_first.then_some(now),
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets the server plan each statement of this transaction for its values. A statement with optional filters would
/// otherwise get one plan for all of them, which reads everything.
pub(super) async fn choose_plan_by_values(conn: &mut PgConnection) -> Result<()> {
    sqlx::query_scalar!("select set_config('plan_cache_mode', 'force_custom_plan', true)")
        .fetch_one(conn)
        .await?;
    Ok(())
}
