//! Deliveries made due by hand: the operator's retry, and what has ended opened again in its place of the lane. Of many at
//! once that is `store/recovery/worker.rs`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{AgentId, DeliveryId, EventId, WebhookId};
use crate::store::{Result, Store, StoreError, audit, webhooks};

/// All that one webhook is owed for one agent.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Lane {
    /// To whom.
    pub webhook: WebhookId,
    /// `agent_key`, or 0.
    pub lane: i64,
}

impl Store {
    /// Makes a delivery due now; one that has ended is opened again under its id, its attempts counted anew.
    ///
    /// # Errors
    /// If there is none, if its state does not allow it, or the database refuses.
    pub async fn retry_delivery(&self, id: DeliveryId, principal: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let owed = owed(&mut tx, id).await?;
        let mut told = Entry::for_delivery(clock::now(), Kind::DeliveryRetried, owed.webhook, owed.event, id);
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
        self.wake.deliveries_due();
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

/// Makes an open delivery due now, with all that leave in its batch; false if there is no open one.
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
    // All of a batch leave in one POST, or none does.
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

/// Adds a delivery to its lane: due now if nothing older is open there, else blocked; refused while a younger one is
/// being sent. The caller keeps others from adding to the lane.
///
/// The head of the lane is locked first, so that it is not settled meanwhile: whoever settles it later sees the
/// new row when it looks for the next one.
pub(in crate::store) async fn open_delivery(
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
             sent_at, sent_format, goes_alone, superseded)
         select $1, $2, $3, $4, $5, $6, $7, $8,
                coalesce((
                    select e.kind in ('presence.updated', 'presence.snapshot')
                    from event e
                    where e.event_id = $5
                      and e.received_at = $6), false),
                (l.data ->> 'sent_at')::timestamptz,
                -- What went in a batch goes in another one: that of then may not be whole any more.
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
