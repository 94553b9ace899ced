//! `event` as the API shows it: a feed in commit order, and single events.

use std::time::{Duration as StdDuration, Instant};

use time::{Duration, OffsetDateTime};

use crate::domain::ids::{AgentId, EventId, SourceId};
use crate::domain::presence::Event;
use crate::store::event_rows::EventRow;
use crate::store::session::choose_plan_by_values;
use crate::store::{Result, Store, StoreError};

/// How far the clocks of two processes may be apart: positions follow `committed_at` only so closely.
const CLOCKS_APART: Duration = Duration::seconds(1);

/// Positions of the first piece of a search; the next one has four times as many if it was quick.
const FIRST_PIECE: i64 = 20_000;
const PIECE_WITHIN: StdDuration = StdDuration::from_millis(200);
/// A page ends when its search has taken this long.
const PIECES_WITHIN: StdDuration = StdDuration::from_millis(1500);

/// Order of the feed, and the position behind which a page begins; `None` from its start.
#[derive(Clone, Copy, Debug)]
pub enum FeedPlace {
    /// Oldest first.
    After(Option<i64>),
    /// Newest first.
    Before(Option<i64>),
}

/// Restricts the feed; a field that is `None` lets every event pass.
#[derive(Clone, Debug, Default)]
pub struct FeedFilter {
    /// Only of these agents.
    pub agents: Option<Vec<String>>,
    /// Only of this source.
    pub source: Option<SourceId>,
    /// Only stored at or after this time.
    pub since: Option<OffsetDateTime>,
    /// Only stored before this time.
    pub until: Option<OffsetDateTime>,
}

impl FeedFilter {
    /// The same rule for an event in memory.
    #[must_use]
    pub fn passes(&self, event: &Event) -> bool {
        let stored_at = event.committed_at.unwrap_or(event.received_at);
        let of_agent =
            |agents: &Vec<String>| event.agent_id.as_ref().is_some_and(|agent| agents.contains(&agent.0));
        self.agents.as_ref().is_none_or(of_agent)
            && self.source.is_none_or(|source| event.source.as_ref().is_some_and(|(id, _)| *id == source))
            && self.since.is_none_or(|since| stored_at >= since)
            && self.until.is_none_or(|until| stored_at < until)
    }
}

/// Events between two positions that pass, in an order.
macro_rules! select_feed {
    ($conn:expr, $filter:expr, $after:expr, $before:expr, $limit:expr, $order:literal) => {
        sqlx::query_as!(
            EventRow,
            r#"select event_id as "event_id: EventId", position, source_id as "source_id: SourceId", source_name,
                      agent_id as "agent_id: AgentId", sequence, topic, presence, previous, occurred_at,
                      received_at, external_id, committed_at, origin, kind, state, raw, erased_at
               from event
               where kind = 'presence.updated'
                 and position > $1
                 and position < $2
                 and ($3::text[] is null or agent_id = any ($3))
                 and ($4::uuid is null or source_id = $4)
                 and ($5::timestamptz is null or coalesce(committed_at, received_at) >= $5)
                 and ($6::timestamptz is null or coalesce(committed_at, received_at) < $6) "#
                + $order
                + " limit $7",
            $after,
            $before,
            $filter.agents.as_deref(),
            $filter.source as _,
            $filter.since,
            $filter.until,
            $limit,
        )
        .fetch_all($conn)
        .await?
    };
}

/// A page of the feed.
#[derive(Clone, Debug, Default)]
pub struct FeedPage {
    pub events: Vec<Event>,
    /// Where to go on if the page is not full: at the end of what there is, or where the search was cut off.
    pub reached: i64,
    /// The search was cut off.
    pub is_cut_off: bool,
}

impl Store {
    /// A page of presence updates. Positions are given in commit order (`store/ingest/record.rs`), so a
    /// reader that goes on from where a page ends misses none. Hardly any event may pass a filter, or be of
    /// the caller's tenant: after a while the page ends where the search is, even if it is empty.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn feed(&self, filter: &FeedFilter, place: FeedPlace, limit: i64) -> Result<FeedPage> {
        let last = self.last_position().await?;
        let (mut after, mut before) = (0, last.saturating_add(1));
        if let Some(since) = filter.since {
            after = self.position_at(since.saturating_sub(CLOCKS_APART), last).await?.0;
        }
        if let Some(until) = filter.until {
            before = before.min(self.position_at(until.saturating_add(CLOCKS_APART), last).await?.1);
        }
        match place {
            FeedPlace::After(place) => after = after.max(place.unwrap_or(0)),
            FeedPlace::Before(place) => before = before.min(place.unwrap_or(i64::MAX)),
        }
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let (began, mut page, mut piece) = (Instant::now(), FeedPage::default(), FIRST_PIECE);
        loop {
            let asked = Instant::now();
            let wanted = limit.saturating_sub(i64::try_from(page.events.len()).unwrap_or(limit));
            let (rows, is_last) = match place {
                FeedPlace::After(_) => {
                    let upto = before.min(after.saturating_add(piece));
                    let rows = select_feed!(&mut *tx, filter, after, upto, wanted, "order by position");
                    after = after.max(upto - 1);
                    page.reached = after;
                    (rows, upto == before)
                }
                FeedPlace::Before(_) => {
                    let from = after.max(before.saturating_sub(piece));
                    let rows = select_feed!(&mut *tx, filter, from, before, wanted, "order by position desc");
                    before = before.min(from + 1);
                    page.reached = before;
                    (rows, from == after)
                }
            };
            page.events.extend(rows.into_iter().map(Event::from));
            page.is_cut_off = !is_last && began.elapsed() >= PIECES_WITHIN;
            if is_last || page.is_cut_off || i64::try_from(page.events.len()).is_ok_and(|read| read >= limit)
            {
                break;
            }
            if asked.elapsed() < PIECE_WITHIN {
                piece = piece.saturating_mul(4);
            }
        }
        tx.commit().await?;
        Ok(page)
    }

    /// Position of the last event of all tenants; 0 if there is none. All before it are committed.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn last_position(&self) -> Result<i64> {
        let last = sqlx::query_scalar!("select max(position) from event").fetch_one(&self.pool).await?;
        Ok(last.unwrap_or(0))
    }

    /// Up to the position `last`: the last position of what was stored before a time, and the first of what was
    /// not, or the greatest number if there is none yet. Found by halving, as no index knows the times. Asks
    /// about the events of all tenants, and tells nothing of them.
    async fn position_at(&self, time: OffsetDateTime, last: i64) -> Result<(i64, i64)> {
        let (mut before, mut from, mut highest) = (0, i64::MAX, last);
        let mut tx = self.pool.begin().await?;
        while before < highest {
            let middle = before + (highest - before) / 2;
            let found = sqlx::query!(
                r#"select position, coalesce(committed_at, received_at) as "at!"
                   from event
                   where position > $1
                   order by position
                   limit 1"#,
                middle,
            )
            .fetch_optional(&mut *tx)
            .await?;
            match found {
                Some(found) if found.at < time => before = found.position,
                Some(found) => {
                    from = from.min(found.position);
                    highest = middle;
                }
                None => highest = middle,
            }
        }
        tx.commit().await?;
        Ok((before, from))
    }

    /// The presence update after which an agent was as it was at a time, or is now; `None` if there is none.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn event_of_agent(
        &self,
        agents: &[String],
        at: Option<OffsetDateTime>,
    ) -> Result<Option<EventId>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let found = sqlx::query_scalar!(
            r#"select event_id as "event_id: EventId"
               from event
               where kind = 'presence.updated'
                 and agent_id = any ($1)
                 and ($2::timestamptz is null or received_at <= $2)
               order by position desc
               limit 1"#,
            agents,
            at,
        )
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(found)
    }

    /// The event of a delivery, of whatever kind; `None` if it is gone.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn event_of_delivery(&self, id: EventId) -> Result<Option<Event>> {
        let row = sqlx::query_as!(
            EventRow,
            r#"select event_id as "event_id: EventId", position, source_id as "source_id: SourceId", source_name,
                      agent_id as "agent_id: AgentId", sequence, topic, presence, previous, occurred_at,
                      received_at, external_id, committed_at, origin, kind, state, raw, erased_at
               from event
               where event_id = $1"#,
            id as _,
        )
        .fetch_optional(&mut *self.begin().await?)
        .await?;
        Ok(row.map(Event::from))
    }

    /// Presence updates of an agent that arrived within a time, at most `limit`, the last first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn events_between(
        &self,
        source: SourceId,
        agent: &AgentId,
        (from, to): (OffsetDateTime, OffsetDateTime),
        limit: i64,
    ) -> Result<Vec<Event>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let rows = sqlx::query_as!(
            EventRow,
            r#"select event_id as "event_id: EventId", position, source_id as "source_id: SourceId", source_name,
                      agent_id as "agent_id: AgentId", sequence, topic, presence, previous, occurred_at,
                      received_at, external_id, committed_at, origin, kind, state, raw, erased_at
               from event
               where kind = 'presence.updated'
                 and agent_id = $1
                 and source_id = $2
                 and received_at >= $3
                 and received_at < $4
               order by position desc
               limit $5"#,
            agent as _,
            source as _,
            from,
            to,
            limit,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows.into_iter().map(Event::from).collect())
    }

    /// One presence update.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn event(&self, id: EventId) -> Result<Event> {
        sqlx::query_as!(
            EventRow,
            r#"select event_id as "event_id: EventId", position, source_id as "source_id: SourceId", source_name,
                      agent_id as "agent_id: AgentId", sequence, topic, presence, previous, occurred_at,
                      received_at, external_id, committed_at, origin, kind, state, raw, erased_at
               from event
               where kind = 'presence.updated'
                 and event_id = $1"#,
            id as _,
        )
        .fetch_optional(&mut *self.begin().await?)
        .await?
        .map(Event::from)
        .ok_or(StoreError::NotFound("event"))
    }
}
