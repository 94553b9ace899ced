//! Notices about a webhook's receiver, delivered to the other webhooks that ask for them.
//! `receiver_health.rs` writes them in the transaction of the change.

use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::domain::presence::EventKind;
use crate::domain::presence::notices::WebhookNotice;
use crate::store::delivery::reopen::{LaneDelivery, open_delivery};
use crate::store::{Result, webhooks};

/// Locks a webhook and every other one that asks for this kind of notice about it, in the order of their ids,
/// so that two with notices about each other do not deadlock. Returns the others.
pub(in crate::store) async fn lock(
    conn: &mut PgConnection,
    kind: EventKind,
    about: WebhookId,
) -> Result<Vec<WebhookId>> {
    let mut locked = sqlx::query_scalar!(
        r#"select webhook_id as "webhook_id: WebhookId"
           from webhook
           where deleted_at is null
             and (webhook_id = $2
                  or (state in ('active', 'paused')
                      and $1 = any (events)
                      and tenant_id = (select tenant_id from webhook where webhook_id = $2)))
           order by webhook_id
           for update"#,
        kind.as_str(),
        about as _,
    )
    .fetch_all(conn)
    .await?;
    locked.retain(|webhook| *webhook != about);
    Ok(locked)
}

/// Why a notice is written.
#[derive(Clone, Copy, Default)]
pub(in crate::store) struct Why<'a> {
    /// An outcome class, `gone` or `failing`.
    pub word: Option<&'a str>,
    /// The reason in words.
    pub detail: Option<&'a str>,
}

/// Inserts the event and its deliveries to the webhooks that were [locked](lock) for it, in the lane of
/// events without an agent.
pub(in crate::store) async fn tell(
    conn: &mut PgConnection,
    kind: EventKind,
    about: WebhookId,
    why: Why<'_>,
    now: OffsetDateTime,
    told: &[WebhookId],
) -> Result<()> {
    if told.is_empty() {
        return Ok(());
    }
    let known = sqlx::query!(
        "select w.description, h.failures, h.failing_since
         from webhook w
         join webhook_health h on h.webhook_id = w.webhook_id
         where w.webhook_id = $1",
        about as _,
    )
    .fetch_one(&mut *conn)
    .await?;
    let notice = WebhookNotice {
        id: about,
        description: known.description,
        reason: why.word.map(str::to_owned),
        detail: why.detail.map(str::to_owned),
        failing_since: known.failing_since,
        failures: u32::try_from(known.failures).unwrap_or(0),
    };
    let event = EventId::generate();
    let position = sqlx::query_scalar!(
        "insert into event (event_id, received_at, kind, webhook_id, raw, state, committed_at)
         values ($1, $2, $3, $4, $5, $6, $2)
         returning position",
        event as _,
        now,
        kind.as_str(),
        about as _,
        b"null",
        Json(&notice) as _,
    )
    .fetch_one(&mut *conn)
    .await?;
    insert_unordered(conn, event, told, position, now).await
}

/// Inserts the deliveries of an event without an agent.
pub(in crate::store) async fn insert_unordered(
    conn: &mut PgConnection,
    event: EventId,
    asks: &[WebhookId],
    position: i64,
    now: OffsetDateTime,
) -> Result<()> {
    for &webhook in asks {
        // Keeps other such events of this webhook out: only one delivery may be the head of the lane.
        webhooks::lock(conn, webhook).await?;
        let delivery = DeliveryId::of(event, webhook);
        let opened = LaneDelivery { delivery, webhook, lane: 0, position, event, event_received_at: now };
        open_delivery(conn, opened, now).await?;
    }
    Ok(())
}
