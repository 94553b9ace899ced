//! Expiry of suspended deliveries: those of a webhook that is paused or not verified end as `expired` once
//! they have waited for too long, piece by piece. Called by the retention job.

use time::OffsetDateTime;

use crate::domain::audit::Kind;
use crate::domain::delivery::outcome::EndState;
use crate::domain::ids::WebhookId;
use crate::domain::webhook::state::WebhookState;
use crate::store::delivery::lanes::make_heads_due;
use crate::store::{Result, Store, with_timeout};

/// Deliveries of one piece.
const PIECE: i64 = 1000;

/// Lane and position after which the next piece begins.
type Behind = (i64, i64);

impl Store {
    /// Ends deliveries of suspended webhooks that were made before this time, and returns how many. It may be
    /// cut off at any point.
    ///
    /// # Errors
    /// If the database refuses; deliveries that ended until then stay ended.
    pub async fn expire_suspended(&self, before: OffsetDateTime, now: OffsetDateTime) -> Result<u64> {
        let suspended = with_timeout(async {
            let webhooks = sqlx::query_scalar!(
                r#"select webhook_id as "webhook_id: WebhookId"
                   from webhook
                   where state <> 'active'
                     and deleted_at is null"#
            );
            Ok(webhooks.fetch_all(&self.pool).await?)
        })
        .await?;
        let mut ended = 0;
        for webhook in suspended {
            let mut behind = Some((i64::MIN, i64::MIN));
            while let Some(from) = behind {
                let (piece, next) = self.expire_piece(webhook, from, before, now).await?;
                ended += piece;
                behind = next;
            }
        }
        Ok(ended)
    }

    /// Ends those of one piece. Returns how many, and where the next piece begins, if there is one.
    async fn expire_piece(
        &self,
        webhook: WebhookId,
        behind: Behind,
        before: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<(u64, Option<Behind>)> {
        with_timeout(async {
            let mut tx = self.begin().await?;
            // Locked to the end: the webhook is resumed before this piece or after it.
            let state = sqlx::query_scalar!(
                r#"select state as "state: WebhookState"
                   from webhook
                   where webhook_id = $1
                     and deleted_at is null
                   for update"#,
                webhook as _
            )
            .fetch_optional(&mut *tx)
            .await?;
            if state.is_none_or(|state| state == WebhookState::Active) {
                return Ok((0, None));
            }
            let piece = sqlx::query_file!(
                "src/store/sql/expire_suspended.sql",
                webhook as _,
                behind.0,
                behind.1,
                before,
                now,
                PIECE,
                Kind::DeliveryEnded.as_str(),
                EndState::Expired.as_str(),
            )
            .fetch_one(&mut *tx)
            .await?;
            // The new head of each lane is suspended, too.
            let lanes = piece.lanes.unwrap_or_default();
            make_heads_due(&mut tx, &vec![webhook; lanes.len()], &lanes, None).await?;
            tx.commit().await?;
            let more = piece.size == PIECE;
            Ok((piece.ended.unsigned_abs(), piece.lane.zip(piece.position).filter(|_| more)))
        })
        .await
    }
}
