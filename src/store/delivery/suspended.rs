//! The end of deliveries that are parked: what a webhook that takes none (paused, or not verified) has been owed for too long
//! ends as `expired`, piece by piece. Called by the sweep.

use time::OffsetDateTime;

use crate::domain::audit::Kind;
use crate::domain::delivery::outcome::EndState;
use crate::domain::ids::WebhookId;
use crate::store::{Result, Store, with_timeout};

/// Open deliveries that one statement looks at.
const PIECE: i64 = 1000;

/// Where a walk over what a webhook is owed stands: behind this lane and position.
type Behind = (i64, i64);

impl Store {
    /// Ends what parked webhooks have been owed since before this time; says how many deliveries ended. It is cut off at any
    /// point without harm.
    ///
    /// # Errors
    /// If the database refuses; what ended until then stays ended.
    pub async fn expire_suspended(&self, before: OffsetDateTime, now: OffsetDateTime) -> Result<u64> {
        let parked = with_timeout(async {
            let parked = sqlx::query_scalar!(
                r#"select webhook_id as "webhook_id: WebhookId"
                   from webhook
                   where state <> 'active'
                     and deleted_at is null"#
            );
            Ok(parked.fetch_all(&self.pool).await?)
        })
        .await?;
        let mut ended = 0;
        for webhook in parked {
            let mut behind = Some((i64::MIN, i64::MIN));
            while let Some(from) = behind {
                let (piece, next) = self.expire_piece(webhook, from, before, now).await?;
                ended += piece;
                behind = next;
            }
        }
        Ok(ended)
    }

    /// One piece; where the next one begins, if there is one.
    async fn expire_piece(
        &self,
        webhook: WebhookId,
        behind: Behind,
        before: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<(u64, Option<Behind>)> {
        with_timeout(async {
            let mut tx = self.begin().await?;
            // Held to the end: whoever resumes it comes before this piece or after it.
            let parked = sqlx::query_scalar!(
                "select state from webhook where webhook_id = $1 and deleted_at is null for update",
                webhook as _
            )
            .fetch_optional(&mut *tx)
            .await?;
            if parked.is_none_or(|state| state == "active") {
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
            // Who is first in its lane now is parked in its own name; else nobody would wake it.
            sqlx::query!(
                "update delivery d
                 set due_at = 'infinity'
                 from unnest($2::bigint[]) as l (lane)
                 cross join lateral (
                     select f.ctid as place
                     from delivery f
                     where f.webhook_id = $1
                       and f.lane = l.lane
                     order by f.position
                     limit 1) f
                 where d.ctid = f.place
                   and d.due_at is null
                   and d.leased_by is null",
                webhook as _,
                &piece.lanes.unwrap_or_default(),
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            let more = piece.size == PIECE;
            Ok((piece.ended.unsigned_abs(), piece.lane.zip(piece.position).filter(|_| more)))
        })
        .await
    }
}
