//! Heads of lanes: the deliveries that may go next.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::ids::WebhookId;
use crate::store::Result;

/// Gives a due time to the heads of these lanes, each of the webhook at the same place, that have none and
/// are not leased; `None`: they are suspended. With no due time at all nothing would wake a head. Returns how
/// many there were.
pub(in crate::store) async fn make_heads_due(
    conn: &mut PgConnection,
    webhooks: &[WebhookId],
    lanes: &[i64],
    due_at: Option<OffsetDateTime>,
) -> Result<u64> {
    let due = sqlx::query!(
        "update delivery d
         set due_at = greatest(coalesce($3::timestamptz, 'infinity'), d.not_before)
         from unnest($1::uuid[], $2::bigint[]) as l (webhook_id, lane)
         cross join lateral (
             select h.ctid as place
             from delivery h
             where h.webhook_id = l.webhook_id
               and h.lane = l.lane
             order by h.position
             limit 1) first
         where d.ctid = first.place
           and d.due_at is null
           and d.leased_by is null",
        webhooks as _,
        lanes,
        due_at,
    )
    .execute(conn)
    .await?;
    Ok(due.rows_affected())
}
