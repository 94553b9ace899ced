//! Batches: several deliveries of one webhook that leave in one POST, chosen once and kept over retries, so that a
//! repeated POST has the same id and the same bytes.

use time::OffsetDateTime;

use crate::domain::ids::{BatchId, DeliveryId, DispatcherId, EventId, WebhookId};
use crate::store::delivery::types::{Claimed, format};
use crate::store::locks::BEGIN_CYCLE;
use crate::store::{Result, Store, with_timeout};

impl Store {
    /// Takes the next batch of a webhook in a dispatcher's hands: one that was tried before and is due again, else the
    /// oldest that wait and were never sent, in their order: at most `max_items`, and none if the webhook takes no batches any
    /// more. Empty if there is none, or if one is under way or waits to be tried again.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn form_batch(
        &self,
        dispatcher: DispatcherId,
        webhook: WebhookId,
        max_items: usize,
        now: OffsetDateTime,
    ) -> Result<Vec<Claimed>> {
        with_timeout(async {
            let mut tx = self.pipeline_pool.begin_with(BEGIN_CYCLE).await?;
            let unfinished = sqlx::query!(
                r#"select batch_id as "batch_id!: BatchId", bool_and(leased_by is null and due_at <= $2) as "due!"
                   from delivery
                   where webhook_id = $1
                     and batch_id is not null
                   group by batch_id"#,
                webhook as _,
                now,
            )
            .fetch_all(&mut *tx)
            .await?;
            let batch = match unfinished.as_slice() {
                [] => None,
                [one] if one.due => Some(one.batch_id),
                _ => return Ok(Vec::new()),
            };
            let members = match batch {
                Some(batch) => {
                    sqlx::query_scalar!(
                        r#"select delivery_id as "id: DeliveryId"
                           from delivery
                           where webhook_id = $1
                             and batch_id = $2
                           order by position"#,
                        webhook as _,
                        batch as _,
                    )
                    .fetch_all(&mut *tx)
                    .await?
                }
                None => {
                    sqlx::query_scalar!(
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
                    )
                    .fetch_all(&mut *tx)
                    .await?
                }
            };
            if members.is_empty() {
                return Ok(Vec::new());
            }
            let rows = sqlx::query!(
                r#"with taken as (
                       update delivery
                       set batch_id = $3,
                           leased_by = $2,
                           due_at = null,
                           attempt = attempt + 1,
                           sent_at = coalesce(sent_at, $4),
                           -- Of a batch that was sent before, what it was then.
                           sent_format = case when batch_id is null
                                              then (select format from webhook where webhook_id = $5)
                                              else sent_format end
                       where delivery_id = any ($1)
                       returning delivery_id, webhook_id, lane, attempt, superseded, sent_at, sent_format, event_id, position
                   )
                   select t.delivery_id as "delivery_id: DeliveryId", t.lane, t.attempt, t.superseded,
                          t.sent_at, t.sent_format, t.event_id as "event_id: EventId",
                          (select version from webhook where webhook_id = t.webhook_id) as "version!"
                   from taken t
                   order by t.position"#,
                &members as _,
                dispatcher as _,
                BatchId::of(&members) as _,
                now,
                webhook as _,
            )
            .fetch_all(&mut *tx)
            .await?;
            let mut items: Vec<_> = rows
                .into_iter()
                .map(|row| Claimed {
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
                    newer: false,
                })
                .collect();
            self.add_events(&mut tx, &mut items).await?;
            tx.commit().await?;
            Ok(items)
        })
        .await
    }
}
