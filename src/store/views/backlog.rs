//! How much is still to be delivered, for the metrics.

use time::OffsetDateTime;

use crate::domain::ids::WebhookId;
use crate::metrics::{FAILING, REMOVED};
use crate::store::{Result, Store, with_timeout};

/// Webhooks of one state and their open deliveries.
#[derive(Clone, Debug, Default)]
pub struct Backlog {
    /// State of the webhooks: a `WebhookState`, [`FAILING`] or [`REMOVED`].
    pub webhook_state: String,
    pub webhooks: i64,
    pub open: i64,
    /// When the oldest of them was inserted.
    pub oldest: Option<OffsetDateTime>,
}

/// Open deliveries of one webhook.
#[derive(Clone, Copy, Debug)]
pub struct WebhookBacklog {
    pub webhook: WebhookId,
    pub open: i64,
    /// When the oldest was inserted.
    pub oldest: OffsetDateTime,
}

impl Store {
    /// Webhooks and open deliveries by the state of the webhook; states without any are left out.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn backlog(&self) -> Result<Vec<Backlog>> {
        with_timeout(async {
            let read = sqlx::query_as!(
                Backlog,
                r#"with open as (
                       select webhook_id, count(*) as deliveries, min(created_at) as oldest
                       from delivery
                       group by webhook_id),
                   standing as (
                       select case when w.deleted_at is not null then $1
                                   when w.state = 'active' and h.noticed then $2
                                   else w.state end as state,
                              w.deleted_at is null as registered,
                              o.deliveries,
                              o.oldest
                       from webhook w
                       left join webhook_health h using (webhook_id)
                       left join open o using (webhook_id)
                       where w.deleted_at is null or o.webhook_id is not null)
                   select state as "webhook_state!",
                          count(*) filter (where registered) as "webhooks!",
                          coalesce(sum(deliveries), 0)::bigint as "open!",
                          min(oldest) as oldest
                   from standing
                   group by state"#,
                REMOVED,
                FAILING,
            );
            Ok(read.fetch_all(&mut *self.begin().await?).await?)
        })
        .await
    }

    /// The webhooks whose oldest open delivery has waited longest, at most `limit`.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn webhook_backlogs(&self, limit: i64) -> Result<Vec<WebhookBacklog>> {
        with_timeout(async {
            let read = sqlx::query_as!(
                WebhookBacklog,
                r#"select webhook_id as "webhook: WebhookId", count(*) as "open!", min(created_at) as "oldest!"
                   from delivery
                   group by webhook_id
                   order by min(created_at), webhook_id
                   limit $1"#,
                limit,
            );
            Ok(read.fetch_all(&mut *self.begin().await?).await?)
        })
        .await
    }
}
