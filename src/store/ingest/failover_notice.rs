//! `database.failed_over`, to the webhooks that ask for it. `incarnation.rs` writes it in the transaction that
//! ends the settling.

use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::ids::{EventId, WebhookId};
use crate::domain::presence::EventKind;
use crate::domain::presence::notices::FailoverNotice;
use crate::store::Result;
use crate::store::delivery::receiver_notices::insert_unordered;

/// Locks the webhooks that ask for it, in the order of their ids. Comes before the generation of the webhooks, as
/// in a transaction that changes one.
pub(super) async fn lock(conn: &mut PgConnection) -> Result<Vec<WebhookId>> {
    Ok(sqlx::query_scalar!(
        r#"select webhook_id as "webhook_id: WebhookId"
           from webhook
           where deleted_at is null
             and state in ('active', 'paused')
             and $1 = any (events)
           order by webhook_id
           for update"#,
        EventKind::DatabaseFailedOver.as_str(),
    )
    .fetch_all(conn)
    .await?)
}

/// Inserts the event, and its deliveries to the webhooks that were [locked](lock) for it.
pub(super) async fn tell(
    conn: &mut PgConnection,
    notice: &FailoverNotice,
    now: OffsetDateTime,
    told: &[WebhookId],
) -> Result<()> {
    if told.is_empty() {
        return Ok(());
    }
    let event = EventId::generate();
    let position = sqlx::query_scalar!(
        "insert into event (event_id, received_at, kind, raw, state, committed_at)
         values ($1, $2, $3, $4, $5, $2)
         returning position",
        event as _,
        now,
        EventKind::DatabaseFailedOver.as_str(),
        b"null",
        Json(notice) as _,
    )
    .fetch_one(&mut *conn)
    .await?;
    insert_unordered(conn, event, told, position, now).await
}
