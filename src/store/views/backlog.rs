//! How much is still to be delivered, for the metrics and the overview.

use time::OffsetDateTime;

use crate::domain::ids::{TenantId, WebhookId};
pub use crate::metrics::{FAILING, REMOVED};
use crate::status::Backlog;
use crate::store::{Result, Store, with_timeout};

/// Open deliveries of one webhook.
#[derive(Clone, Copy, Debug)]
pub struct WebhookBacklog {
    pub webhook: WebhookId,
    pub open: i64,
    /// When the oldest was inserted.
    pub oldest: OffsetDateTime,
}

impl Store {
    /// Webhooks and open deliveries by tenant and state of the webhook, which is a `WebhookState`, [`FAILING`]
    /// or [`REMOVED`]; states without any are left out.
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
                       select w.tenant_id,
                              case when w.deleted_at is not null then $1
                                   when w.state = 'active' and h.noticed then $2
                                   else w.state end as state,
                              w.deleted_at is null as registered,
                              o.deliveries,
                              o.oldest
                       from webhook w
                       left join webhook_health h using (webhook_id)
                       left join open o using (webhook_id)
                       where w.deleted_at is null or o.webhook_id is not null)
                   select tenant_id as "tenant: TenantId",
                          state as "webhook_state!",
                          count(*) filter (where registered) as "webhooks!",
                          coalesce(sum(deliveries), 0)::bigint as "open!",
                          min(oldest) as oldest
                   from standing
                   group by tenant_id, state"#,
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
