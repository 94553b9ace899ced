//! Limits of a tenant's webhooks and filter items, checked in the transaction that adds some, after it has
//! written them.

use sqlx::PgConnection;

use crate::domain::access::tenant_quota::TenantQuota;
use crate::domain::ids::WebhookId;
use crate::store::locks::TENANT_QUOTA;
use crate::store::{Result, StoreError};

/// Fails if the webhook's tenant has more now than it may. Other transactions that add something to the
/// tenant wait from here until this one ends.
pub(in crate::store) async fn check(
    conn: &mut PgConnection,
    webhook: WebhookId,
    quota: TenantQuota,
) -> Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock($2, hashtext(tenant_id::text)) from webhook where webhook_id = $1",
        webhook as _,
        TENANT_QUOTA,
    )
    .execute(&mut *conn)
    .await?;
    let has = sqlx::query!(
        r#"select count(*) as "webhooks!", coalesce(sum(filter_items), 0) as "filter_items!"
           from webhook
           where tenant_id = (select tenant_id from webhook where webhook_id = $1)
             and deleted_at is null"#,
        webhook as _,
    )
    .fetch_one(conn)
    .await?;
    quota.check(has.webhooks, has.filter_items).map_err(StoreError::QuotaExceeded)
}
