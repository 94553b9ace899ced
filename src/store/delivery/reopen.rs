//! Retries that an operator asks for: an open delivery becomes due, one that has ended is opened again at its
//! place in its lane. `store/recovery/worker.rs` opens many at once.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{AgentId, DeliveryId, EventId, WebhookId};
use crate::store::{Result, Store, StoreError, audit, webhooks};

/// A delivery, its place in a lane, and its event.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct LaneDelivery {
    pub delivery: DeliveryId,
    pub webhook: WebhookId,
    /// `agent_key`, or 0.
    pub lane: i64,
    pub position: i64,
    pub event: EventId,
    pub event_received_at: OffsetDateTime,
}

impl Store {
    /// Makes a delivery due now; one that has ended is opened again under its id, and its attempts count from
    /// 1.
    ///
    /// # Errors
    /// If there is none, if its state does not allow it, or the database refuses.
    pub async fn retry_delivery(&self, id: DeliveryId, principal: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let retried = find(&mut tx, id).await?;
        let now = clock::now();
        let mut entry = Entry::for_delivery(now, Kind::DeliveryRetried, retried.webhook, retried.event, id);
        entry.principal = Some(principal.to_owned());
        // Always in this order: agent, webhook, its health, delivery. The recorder adds to this lane under
        // the lock of the agent's row, and everyone to lane 0 under that of the webhook's row.
        entry.agent_id = sqlx::query_scalar!(
            r#"select agent_id as "agent_id: AgentId" from agent where agent_key = $1 for update"#,
            retried.lane,
        )
        .fetch_optional(&mut *tx)
        .await?;
        webhooks::lock(&mut tx, retried.webhook).await.map_err(|error| match error {
            StoreError::NotFound(what) => gone(what),
            other => other,
        })?;
        // The operator wants it sent now, even if the circuit is open.
        sqlx::query!(
            "update webhook_health
             set hold_until = null
             where webhook_id = $1
               and hold_until is not null",
            retried.webhook as _,
        )
        .execute(&mut *tx)
        .await?;
        if !hasten(&mut tx, id).await? {
            open_delivery(&mut tx, retried, now).await?;
        }
        audit::write(&mut tx, &[entry]).await?;
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok(())
    }
}

/// Reads a delivery, or of one that has ended its last audit entry and its event.
async fn find(conn: &mut PgConnection, id: DeliveryId) -> Result<LaneDelivery> {
    let open = sqlx::query_as!(
        LaneDelivery,
        r#"select delivery_id as "delivery: DeliveryId", webhook_id as "webhook: WebhookId", lane, position,
                  event_id as "event: EventId", event_received_at
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
    let row = sqlx::query!(
        r#"select received_at, position, coalesce(agent_key, 0) as "lane!", erased_at is not null as "is_erased!"
           from event
           where event_id = $1"#,
        event as _,
    )
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| gone("event"))?;
    if row.is_erased {
        return Err(StoreError::Conflict("the person that it is about was erased".to_owned()));
    }
    Ok(LaneDelivery {
        delivery: id,
        webhook,
        lane: row.lane,
        position: row.position,
        event,
        event_received_at: row.received_at,
    })
}

fn gone(what: &str) -> StoreError {
    StoreError::Conflict(format!("its {what} is gone"))
}

/// Makes an open delivery due now, with the rest of its batch; false if it is not open.
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
        Some("an older delivery of the same agent is sent first")
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
    // All of a batch are sent in one POST, or none is.
    sqlx::query!(
        "update delivery d
         set due_at = now()
         from delivery asked
         where asked.delivery_id = $1
           and (d.delivery_id = $1
                or (d.webhook_id = asked.webhook_id
                    and d.batch_id = asked.batch_id))",
        id as _,
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// Adds a delivery to its lane: due now if nothing older is open there, else blocked; refused while a younger
/// one is being sent. The caller keeps others from adding to the lane.
///
/// It locks the head of the lane first, so that no cycle settles the head meanwhile: one that settles it
/// later finds the new row as the next one.
pub(in crate::store) async fn open_delivery(
    conn: &mut PgConnection,
    opened: LaneDelivery,
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
        opened.webhook as _,
        opened.lane,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let is_head = match head {
        None => true,
        Some(head) if head.position < opened.position => false,
        // Were a new head added now, the younger one could come back for its next attempt: two would be due,
        // or none.
        Some(head) if head.sending => {
            return Err(StoreError::Conflict(
                "a later delivery of the same agent is being sent at this moment; ask again".to_owned(),
            ));
        }
        Some(head) => {
            // The new one is older than the head so far: only the oldest may be due.
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
    insert(conn, opened, is_head.then_some(now), now).await
}

async fn insert(
    conn: &mut PgConnection,
    opened: LaneDelivery,
    due_at: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Result<()> {
    // One that was sent before is sent with the same bytes again.
    sqlx::query!(
        "insert into delivery (
             delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at, created_at, is_state,
             sent_at, sent_format, goes_alone, superseded)
         select $1, $2, $3, $4, $5, $6, $7, $8,
                coalesce((
                    select e.kind in ('presence.updated', 'presence.snapshot')
                    from event e
                    where e.event_id = $5
                      and e.received_at = $6), false),
                (l.data ->> 'sent_at')::timestamptz,
                -- One that was sent in a batch goes in another one: some of the former one may have ended.
                case when l.alone then coalesce(l.data ->> 'format', 'standard') end, coalesce(l.alone, false),
                coalesce((l.data ->> 'superseded')::int, 0)
         from (select) as one
         left join lateral (
             select data, not data ? 'batch' as alone
             from audit_log
             where delivery_id = $1
               and kind = 'DELIVERY_ATTEMPT'
             order by audit_id
             limit 1
         ) l on true",
        opened.delivery as _,
        opened.webhook as _,
        opened.lane,
        opened.position,
        opened.event as _,
        opened.event_received_at,
        due_at,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
