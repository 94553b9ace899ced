//! Claims what is due: retries, deliveries that no dispatcher was told of, and those for which there was no
//! room before.

use std::collections::HashMap;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::delivery::settings::USUAL_CONCURRENCY;
use crate::domain::delivery::slots::Risk;
use crate::domain::ids::{DeliveryId, DispatcherId, EventId, WebhookId};
use crate::store::Result;
use crate::store::delivery::types::{ClaimRoom, Claimed, Cycle, format};
use crate::store::types::column;

/// What a row of `claim.sql` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
enum ClaimRowKind {
    Leased,
    NotLeased,
    Batch,
}

/// Claims what is due and first in its lane, and adds it to the cycle.
pub(in crate::store) async fn claim(
    conn: &mut PgConnection,
    dispatcher: DispatcherId,
    now: OffsetDateTime,
    room: &ClaimRoom,
    cycle: &mut Cycle,
) -> Result<()> {
    let rows = sqlx::query_file!(
        "src/store/sql/claim.sql",
        now,
        room.total,
        dispatcher as _,
        &column(&room.known, |known| known.webhook_id) as _,
        &column(&room.known, |known| known.leased),
        &column(&room.known, |known| known.room),
        &column(&room.known, |known| level(known.risk)),
        room.others,
        room.others_unproven,
        room.suspect,
        room.unproven,
        room.only.as_deref() as _,
        room.limited,
        i32::from(USUAL_CONCURRENCY),
    )
    .fetch_all(conn)
    .await?;
    cycle.more |= i64::try_from(rows.len()).is_ok_and(|changed| changed >= room.total);
    let mut taken = HashMap::new();
    for row in rows {
        if row.kind == ClaimRowKind::Batch {
            cycle.batches_due.push(row.webhook_id);
            continue;
        }
        let taken = taken.entry(row.webhook_id).or_insert(0);
        *taken += 1;
        if *taken == row.room {
            cycle.filled.push(row.webhook_id);
        }
        match row.event_id.filter(|_| row.kind == ClaimRowKind::Leased) {
            Some(event_id) => cycle.claimed.push(Claimed {
                delivery_id: row.delivery_id,
                webhook_id: row.webhook_id,
                webhook_version: row.webhook_version,
                lane: row.lane,
                attempt: row.attempt,
                halvings: 0, // what is in a batch is leased with it
                superseded: row.superseded,
                sent_at: row.sent_at.unwrap_or(now),
                format: format(row.sent_format.as_deref()),
                event_id,
                event: None,
                has_newer_state: row.has_newer_state,
            }),
            None => cycle.more = true, // it took a place that another may want
        }
    }
    Ok(())
}

/// A risk as `claim.sql` numbers it.
const fn level(risk: Risk) -> i32 {
    match risk {
        Risk::Low => 0,
        Risk::Suspect => 1,
        Risk::Unproven => 2,
    }
}
