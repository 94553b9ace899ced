//! Deliveries as the API shows them, open ones from `delivery` and ended ones from `audit_log`. The
//! dispatcher claims and settles them in `store/delivery/cycle.rs`; the operator's retry is in
//! `store/delivery/reopen.rs`.

use std::time::{Duration, Instant};

use serde_json::Value;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::ids::{AgentId, DeliveryId, EventId, SourceId, WebhookId};
use crate::store::pool::STEP_WITHIN;
use crate::store::session::read_by_index;
use crate::store::{Result, Store, StoreError};

/// Attempts shown of one delivery.
const ATTEMPTS_SHOWN: i64 = 200;
/// How long a page may be searched for as a whole, by whatever index helps.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long it is then searched for piece by piece, back in time; after that the page ends where the search
/// is.
const PIECES_WITHIN: Duration = Duration::from_millis(1500);
/// How long a piece may take; one that would take longer is made smaller.
const PIECE_WITHIN: Duration = Duration::from_millis(500);
/// Milliseconds of events that the first piece covers.
const FIRST_PIECE: u64 = 60_000;

/// One delivery, open or ended.
#[derive(Clone, Debug)]
pub struct DeliveryRow {
    /// Sent as `webhook-id`.
    pub delivery_id: DeliveryId,
    /// Receiver; `None` only in audit entries without one.
    pub webhook_id: Option<WebhookId>,
    /// Event that it tells; `None` only in audit entries without one.
    pub event_id: Option<EventId>,
    /// The event's agent; `None` for a test ping.
    pub agent_id: Option<AgentId>,
    /// Open: `waiting`, `sending`, `blocked`, `paused`. Ended: its end state.
    pub state: String,
    /// POSTs begun.
    pub attempt: i32,
    /// When it may be sent; `None` unless it is waiting.
    pub due_at: Option<OffsetDateTime>,
    /// HTTP status of the last attempt.
    pub last_status: Option<i32>,
    /// Outcome class of the last attempt.
    pub last_outcome: Option<String>,
    /// When it was inserted; `None` once ended.
    pub created_at: Option<OffsetDateTime>,
    /// When it ended; `None` while open.
    pub ended_at: Option<OffsetDateTime>,
}

/// One attempt of a POST.
#[derive(Clone, Debug)]
pub struct AttemptRow {
    /// Number, from 1.
    pub attempt: Option<i32>,
    /// When it ended.
    pub at: OffsetDateTime,
    /// HTTP status; `None` if there was no answer.
    pub status: Option<i32>,
    /// Outcome class.
    pub outcome: Option<String>,
    pub duration_ms: Option<i32>,
    /// Particulars.
    pub data: Value,
}

impl AttemptRow {
    /// When it began; `None` if that is not on record.
    #[must_use]
    pub fn started_at(&self) -> Option<OffsetDateTime> {
        self.duration_ms.map(|took| self.at - Duration::from_millis(u64::try_from(took).unwrap_or_default()))
    }
}

/// Filter of the deliveries on a page; `None` lets all pass.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Only this one.
    pub delivery: Option<DeliveryId>,
    /// Only to this webhook.
    pub webhook: Option<WebhookId>,
    /// Only of events of these agents.
    pub agents: Option<Vec<String>>,
    /// Only of events of agents of this source.
    pub source: Option<SourceId>,
    /// Only of this event.
    pub event: Option<EventId>,
    /// Only in this state; `open` and `ended` stand for all of their kind.
    pub state: Option<String>,
    /// Only of events that arrived at or after this time, as their ids tell it.
    pub since: Option<OffsetDateTime>,
    /// Only of events that arrived before this time.
    pub until: Option<OffsetDateTime>,
}

/// A page of deliveries.
#[derive(Clone, Debug, Default)]
pub struct DeliveryPage {
    pub rows: Vec<DeliveryRow>,
    /// Where to go on if the search was cut off.
    pub stopped_at: Option<DeliveryId>,
}

impl Store {
    /// A page of deliveries. Ids begin with the time of their event, so the newest events come first. With a
    /// filter that hardly any delivery passes the server could have to read all there are: after a while the
    /// page ends where the search is, even if it is empty.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn delivery_history(
        &self,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        limit: i64,
    ) -> Result<DeliveryPage> {
        let first = filter.since.map(DeliveryId::bound_at);
        let end = filter.until.map(DeliveryId::bound_at);
        // A caller who goes on where another page was cut off would only wait for the same timeout again.
        let is_continued = before.is_some_and(DeliveryId::is_bound);
        let before = [before, end].into_iter().flatten().min();
        if !is_continued {
            match self.deliveries_between(filter, first, before, limit, AT_ONCE).await {
                Err(error) if error.is_too_slow() => {}
                read => return Ok(DeliveryPage { rows: read?, stopped_at: None }),
            }
        }
        let began = Instant::now();
        let (mut rows, mut before, mut piece) = (Vec::new(), before, FIRST_PIECE);
        let mut wanted = limit;
        loop {
            let asked = Instant::now();
            let upto = before.unwrap_or_else(|| DeliveryId::bound_at(clock::now())).milliseconds();
            let from = upto.checked_sub(piece).map(DeliveryId::bound).max(first);
            match self.deliveries_between(filter, from, before, wanted, PIECE_WITHIN).await {
                Err(error) if error.is_too_slow() && began.elapsed() < PIECES_WITHIN => {
                    piece = (piece / 16).max(1);
                    continue;
                }
                read => {
                    let read = read?;
                    wanted -= i64::try_from(read.len()).unwrap_or(wanted);
                    rows.extend(read);
                }
            }
            if from == first || wanted <= 0 {
                return Ok(DeliveryPage { rows, stopped_at: None });
            }
            if began.elapsed() >= PIECES_WITHIN {
                return Ok(DeliveryPage { rows, stopped_at: from });
            }
            before = from;
            if asked.elapsed() < PIECE_WITHIN / 4 {
                piece = piece.saturating_mul(4);
            }
        }
    }

    /// Deliveries from one id on and before another, the last ones first.
    ///
    /// # Errors
    /// If the server does not find them within this time.
    async fn deliveries_between(
        &self,
        filter: &DeliveryFilter,
        from: Option<DeliveryId>,
        before: Option<DeliveryId>,
        limit: i64,
        within: Duration,
    ) -> Result<Vec<DeliveryRow>> {
        let mut tx = self.begin().await?;
        read_by_index(&mut tx).await?;
        let within = within.as_millis().to_string();
        sqlx::query_scalar!("select set_config('statement_timeout', $1, true)", within)
            .fetch_one(&mut *tx)
            .await?;
        let rows = sqlx::query_file_as!(
            DeliveryRow,
            "src/store/sql/delivery_history.sql",
            filter.delivery as _,
            filter.webhook as _,
            filter.agents.as_deref(),
            filter.event as _,
            filter.state.as_deref(),
            before as _,
            from as _,
            limit,
            filter.source as _,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// One delivery, open or ended.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn delivery(&self, id: DeliveryId) -> Result<DeliveryRow> {
        let only = DeliveryFilter { delivery: Some(id), ..DeliveryFilter::default() };
        let rows = self.deliveries_between(&only, None, None, 1, STEP_WITHIN).await?;
        rows.into_iter().next().ok_or(StoreError::NotFound("delivery"))
    }

    /// The last attempts of a delivery, oldest first; at most 200.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn attempts(&self, id: DeliveryId) -> Result<Vec<AttemptRow>> {
        let mut rows = sqlx::query_as!(
            AttemptRow,
            "select attempt, at, status, outcome, duration_ms, data
             from audit_log
             where delivery_id = $1
               and kind = 'DELIVERY_ATTEMPT'
             order by audit_id desc
             limit $2",
            id as _,
            ATTEMPTS_SHOWN,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        rows.reverse();
        Ok(rows)
    }
}
