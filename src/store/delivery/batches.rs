//! Batches: several deliveries of one webhook that are sent in one POST, chosen once and kept over retries,
//! so that a repeated POST has the same id and the same bytes.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::ids::{BatchId, DeliveryId, DispatcherId, EventId, WebhookId};
use crate::store::delivery::types::{Claimed, format};
use crate::store::locks::BEGIN_CYCLE;
use crate::store::{Result, Store, with_timeout};

impl Store {
    /// Leases the next batch of a webhook: one that was tried before and is due again, else the oldest
    /// deliveries that wait and were never sent, at most `max_items`, in the order of their events. Empty if
    /// there is none, or while another batch is under way or waits for its next attempt.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn form_batch(
        &self,
        dispatcher: DispatcherId,
        webhook: WebhookId,
        max_items: usize,
        now: OffsetDateTime,
    ) -> Result<Vec<Claimed>> {
        with_timeout(async {
            let mut tx = self.pipeline_pool.begin_with(BEGIN_CYCLE).await?;
            let members = match unfinished(&mut tx, webhook, now).await? {
                Unfinished::Due(batch) => members_of(&mut tx, webhook, batch).await?,
                Unfinished::None => oldest(&mut tx, webhook, max_items, now).await?,
                Unfinished::NotDue => Vec::new(),
            };
            if members.is_empty() {
                return Ok(Vec::new());
            }
            let mut items = lease(&mut tx, dispatcher, webhook, &members, now).await?;
            self.add_events(&mut tx, &mut items).await?;
            tx.commit().await?;
            Ok(items)
        })
        .await
    }
}

/// A webhook's batch that was sent and has not ended.
enum Unfinished {
    None,
    /// It is to be tried again now.
    Due(BatchId),
    /// It is under way, or waits for its next attempt.
    NotDue,
}

async fn unfinished(conn: &mut PgConnection, webhook: WebhookId, now: OffsetDateTime) -> Result<Unfinished> {
    let batches = sqlx::query!(
        r#"select batch_id as "batch_id!: BatchId", bool_and(leased_by is null and due_at <= $2) as "due!"
           from delivery
           where webhook_id = $1
             and batch_id is not null
           group by batch_id"#,
        webhook as _,
        now,
    )
    .fetch_all(conn)
    .await?;
    Ok(match batches.as_slice() {
        [] => Unfinished::None,
        [one] if one.due => Unfinished::Due(one.batch_id),
        _ => Unfinished::NotDue,
    })
}

/// Deliveries of a batch, in the order of their events.
async fn members_of(conn: &mut PgConnection, webhook: WebhookId, batch: BatchId) -> Result<Vec<DeliveryId>> {
    let members = sqlx::query_scalar!(
        r#"select delivery_id as "id: DeliveryId"
           from delivery
           where webhook_id = $1
             and batch_id = $2
           order by position"#,
        webhook as _,
        batch as _,
    );
    Ok(members.fetch_all(conn).await?)
}

/// Deliveries that may form a new batch, in the order of their events; none if the webhook takes no batches
/// any more.
async fn oldest(
    conn: &mut PgConnection,
    webhook: WebhookId,
    max_items: usize,
    now: OffsetDateTime,
) -> Result<Vec<DeliveryId>> {
    let members = sqlx::query_scalar!(
        r#"with oldest as (
               select delivery_id, lane, position
               from delivery
               where webhook_id = $1
                 and due_at < 'infinity'
                 and not goes_alone
                 and batch_id is null
                 and coalesce(not_before <= $3, true)
               order by due_at, position
               limit $2
           )
           select o.delivery_id as "id: DeliveryId"
           from oldest o
           -- A clock that was set back must not put a later one before an earlier one.
           where not exists (
               select
               from delivery d
               where d.webhook_id = $1
                 and d.lane = o.lane
                 and d.position < o.position
                 and d.delivery_id not in (select delivery_id from oldest))
           order by o.position"#,
        webhook as _,
        i64::try_from(max_items).unwrap_or(i64::MAX),
        now,
    );
    Ok(members.fetch_all(conn).await?)
}

/// Leases the members of a batch.
async fn lease(
    conn: &mut PgConnection,
    dispatcher: DispatcherId,
    webhook: WebhookId,
    members: &[DeliveryId],
    now: OffsetDateTime,
) -> Result<Vec<Claimed>> {
    let rows = sqlx::query!(
        r#"with leased as (
               update delivery
               set batch_id = $3,
                   leased_by = $2,
                   due_at = null,
                   attempt = attempt + 1,
                   sent_at = coalesce(sent_at, $4),
                   -- A batch that was sent before keeps the format that it had then.
                   sent_format = case when batch_id is null
                                      then (select format from webhook where webhook_id = $5)
                                      else sent_format end
               where delivery_id = any ($1)
               returning delivery_id, webhook_id, lane, attempt, superseded, sent_at, sent_format, event_id, position
           )
           select l.delivery_id as "delivery_id: DeliveryId", l.lane, l.attempt, l.superseded,
                  l.sent_at, l.sent_format, l.event_id as "event_id: EventId",
                  (select version from webhook where webhook_id = l.webhook_id) as "version!"
           from leased l
           order by l.position"#,
        members as _,
        dispatcher as _,
        BatchId::of(members) as _,
        now,
        webhook as _,
    )
    .fetch_all(conn)
    .await?;
    let claimed = rows.into_iter().map(|row| Claimed {
        delivery_id: row.delivery_id,
        webhook_id: webhook,
        webhook_version: row.version,
        lane: row.lane,
        attempt: row.attempt,
        superseded: row.superseded,
        sent_at: row.sent_at.unwrap_or(now),
        format: format(row.sent_format.as_deref()),
        event_id: row.event_id,
        event: None,
        has_newer_state: false,
    });
    Ok(claimed.collect())
}
