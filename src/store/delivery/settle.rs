//! Writes the results of attempts: deliveries end, wait for the next attempt, or go back unsent; the next
//! delivery of each lane is leased or becomes due.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::delivery::outcome::{Disposition, EndState};
use crate::domain::ids::{DeliveryId, DispatcherId, EventId, WebhookId};
use crate::store::Result;
use crate::store::delivery::types::{Claimed, Cycle, Settlement, Work, format};
use crate::store::types::column;

/// What a row of `settle.sql` is about.
#[derive(Clone, Copy, Debug, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
enum SettleRowKind {
    Leased,
    Due,
    Superseded,
    Lost,
}

/// A row of `settle.sql`; which columns are null depends on its kind.
struct SettleRow {
    kind: SettleRowKind,
    delivery_id: DeliveryId,
    webhook_id: Option<WebhookId>,
    lane: Option<i64>,
    position: Option<i64>,
    event_id: Option<EventId>,
    attempt: Option<i32>,
    superseded: Option<i32>,
    sent_at: Option<OffsetDateTime>,
    sent_format: Option<String>,
    webhook_version: Option<i64>,
    has_newer_state: bool,
    states: Option<i32>,
}

impl SettleRow {
    /// A row of kind `leased`.
    fn leased(self) -> Option<Claimed> {
        Some(Claimed {
            delivery_id: self.delivery_id,
            webhook_id: self.webhook_id?,
            webhook_version: self.webhook_version?,
            lane: self.lane?,
            attempt: self.attempt?,
            halvings: 0, // what is in a batch is leased with it
            superseded: self.superseded?,
            sent_at: self.sent_at?,
            format: format(self.sent_format.as_deref()),
            event_id: self.event_id?,
            event: None,
            has_newer_state: self.has_newer_state,
        })
    }

    /// A row of kind `superseded`.
    fn superseded(&self) -> Option<SupersededState> {
        Some(SupersededState {
            webhook_id: self.webhook_id?,
            lane: self.lane?,
            position: self.position?,
            states: self.states?,
        })
    }
}

/// A state that ended for a newer one of its lane.
#[derive(Debug)]
struct SupersededState {
    webhook_id: WebhookId,
    lane: i64,
    position: i64,
    /// How many it stands for, itself among them.
    states: i32,
}

/// Settles, and adds to the cycle what is leased to this dispatcher by it. Returns the deliveries whose lease
/// was gone because their webhook was removed or this dispatcher was given up for dead: another step writes
/// how they end.
pub(in crate::store) async fn settle(
    conn: &mut PgConnection,
    dispatcher: DispatcherId,
    now: OffsetDateTime,
    work: &Work,
    cycle: &mut Cycle,
) -> Result<HashSet<DeliveryId>> {
    let settlements = &work.settlements;
    let rows = sqlx::query_file_as!(
        SettleRow,
        "src/store/sql/settle.sql",
        &column(settlements, |s| s.delivery_id) as _,
        &column(settlements, |s| s.attempt),
        &column(settlements, due_at) as _,
        &column(settlements, |s| matches!(s.disposition, Disposition::Returned(_))),
        &column(settlements, |s| s.status) as _,
        &column(settlements, |s| s.outcome) as _,
        &column(settlements, |s| s.promotes_next),
        &column(settlements, |s| s.latest_only),
        &column(settlements, |s| s.disposition == Disposition::Ended(EndState::Superseded)),
        dispatcher as _,
        now,
        &column(&work.lanes, |(webhook, _)| *webhook) as _,
        &column(&work.lanes, |(_, lane)| *lane),
        &column(settlements, |s| s.half) as _,
    )
    .fetch_all(&mut *conn)
    .await?;
    let (mut lost, mut superseded) = (HashSet::new(), Vec::new());
    for row in rows {
        match row.kind {
            SettleRowKind::Leased => cycle.claimed.extend(row.leased()),
            SettleRowKind::Due => cycle.more = true,
            SettleRowKind::Superseded => {
                cycle.superseded += u64::from(row.has_newer_state);
                superseded.extend(row.superseded());
            }
            SettleRowKind::Lost => drop(lost.insert(row.delivery_id)),
        }
    }
    count_superseded(conn, now, superseded, &mut cycle.claimed).await?;
    Ok(lost)
}

/// Adds to the next state of each lane how many states it supersedes.
///
/// A writer of events may put a newer state in that one's place meanwhile. The statement waits for that
/// writer and changes nothing then; the next statement sees what it wrote.
async fn count_superseded(
    conn: &mut PgConnection,
    now: OffsetDateTime,
    mut superseded: Vec<SupersededState>,
    claimed: &mut [Claimed],
) -> Result<()> {
    while !superseded.is_empty() {
        let rows = sqlx::query_file!(
            "src/store/sql/count_superseded.sql",
            &column(&superseded, |state| state.webhook_id) as _,
            &column(&superseded, |state| state.lane),
            &column(&superseded, |state| state.position),
            &column(&superseded, |state| state.states),
            now,
        )
        .fetch_all(&mut *conn)
        .await?;
        let (mut counted, mut missed) = (HashMap::new(), HashSet::new());
        for row in rows {
            match row.delivery_id.zip(row.superseded) {
                Some((delivery, superseded)) => counted.insert(delivery, superseded).is_none(),
                None => missed.insert(row.number),
            };
        }
        for claimed in claimed.iter_mut() {
            claimed.superseded = counted.get(&claimed.delivery_id).copied().unwrap_or(claimed.superseded);
        }
        let numbered = (1_i64..).zip(superseded);
        superseded = numbered.filter(|(number, _)| missed.contains(number)).map(|(_, state)| state).collect();
    }
    Ok(())
}

/// When it is due again; `None` if it has ended.
fn due_at(settlement: &Settlement) -> Option<OffsetDateTime> {
    match settlement.disposition {
        Disposition::Ended(_) => None,
        Disposition::RetryAt(at) | Disposition::Returned(at) => Some(at),
    }
}
