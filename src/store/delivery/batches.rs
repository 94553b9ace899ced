//! Batches: several deliveries of one webhook that are sent in one POST, chosen once and kept over retries,
//! so that a repeated POST has the same id and the same bytes.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::delivery::settings::Format;
use crate::domain::ids::{BatchId, DeliveryId, DispatcherId, EventId, WebhookId};
use crate::store::delivery::types::{Claimed, format};
use crate::store::locks::BEGIN_CYCLE;
use crate::store::{Result, Store};

/// Events that are read at once while a batch is filled: it may be full long before it has all the items that
/// it may have.
const EVENTS_AT_ONCE: usize = 128;

/// How large a new batch may be.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most deliveries in it.
    pub max_items: usize,
    /// Most bytes of all its items; one that is larger goes alone.
    pub max_bytes: usize,
}

/// What was leased to be sent in one POST.
#[derive(Clone, Debug, Default)]
pub struct FormedBatch {
    /// In the order of their events; empty if there is none to be sent now.
    pub items: Vec<Claimed>,
    /// It took all the items or bytes that it may: others may be left.
    pub is_full: bool,
    /// It took all the bytes that it may.
    pub is_cut: bool,
}

impl Store {
    /// Leases the next batch of a webhook: one that was tried before and is due again, else the oldest
    /// deliveries that wait and were never sent, within the limits, in the order of their events. Empty if
    /// there is none, or while another batch is under way or waits for its next attempt. `len_of` says how
    /// many bytes a delivery takes in a body.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn form_batch(
        &self,
        dispatcher: DispatcherId,
        webhook: WebhookId,
        limits: BatchLimits,
        now: OffsetDateTime,
        len_of: impl Fn(&Claimed) -> usize + Send,
    ) -> Result<FormedBatch> {
        self.with_patience(async {
            let mut tx = self.pipeline().await?.begin_with(BEGIN_CYCLE).await?;
            let formed = match unfinished(&mut tx, webhook, now).await? {
                Unfinished::Due { batch, is_last } => {
                    let members = members_of(&mut tx, webhook, batch).await?;
                    // It keeps the format that it was sent in.
                    let mut items = lease(&mut tx, dispatcher, webhook, &members, None, now).await?;
                    self.add_events(&mut tx, &mut items).await?;
                    let is_full = !is_last || items.len() >= limits.max_items;
                    FormedBatch { items, is_full, is_cut: false }
                }
                Unfinished::None => {
                    let mut formed = self.choose(&mut tx, webhook, limits, now, len_of).await?;
                    let Some(format) = formed.items.first().map(|first| first.format) else {
                        return Ok(formed);
                    };
                    let members: Vec<_> = formed.items.iter().map(|claimed| claimed.delivery_id).collect();
                    let leased = lease(&mut tx, dispatcher, webhook, &members, Some(format), now).await?;
                    let chosen = std::mem::replace(&mut formed.items, leased);
                    for (leased, chosen) in formed.items.iter_mut().zip(chosen) {
                        leased.event = chosen.event;
                    }
                    formed
                }
                Unfinished::NotDue => FormedBatch::default(),
            };
            tx.commit().await?;
            Ok(formed)
        })
        .await
    }

    /// Chooses the deliveries of a new batch, without leasing them.
    async fn choose(
        &self,
        conn: &mut PgConnection,
        webhook: WebhookId,
        limits: BatchLimits,
        now: OffsetDateTime,
        len_of: impl Fn(&Claimed) -> usize + Send,
    ) -> Result<FormedBatch> {
        let oldest = oldest(&mut *conn, webhook, limits.max_items, now).await?;
        let is_full = oldest.len() >= limits.max_items;
        let mut formed = FormedBatch { items: Vec::with_capacity(oldest.len()), is_full, is_cut: false };
        let (mut oldest, mut bytes) = (oldest.into_iter(), 0);
        while !formed.is_cut {
            let mut next: Vec<_> = oldest.by_ref().take(EVENTS_AT_ONCE).collect();
            if next.is_empty() {
                break;
            }
            self.add_events(&mut *conn, &mut next).await?;
            for claimed in next {
                bytes += len_of(&claimed);
                if bytes > limits.max_bytes && !formed.items.is_empty() {
                    (formed.is_full, formed.is_cut) = (true, true);
                    break;
                }
                formed.items.push(claimed);
            }
        }
        Ok(formed)
    }
}

/// A webhook's batches that were sent and have not ended: one, or the halves of one, which go one after the
/// other.
enum Unfinished {
    None,
    /// The first is to be tried again now.
    Due {
        batch: BatchId,
        is_last: bool,
    },
    /// It is under way, or waits for its next attempt.
    NotDue,
}

async fn unfinished(conn: &mut PgConnection, webhook: WebhookId, now: OffsetDateTime) -> Result<Unfinished> {
    let batches = sqlx::query!(
        r#"select batch_id as "batch_id!: BatchId", bool_and(leased_by is null and due_at <= $2) as "due!"
           from delivery
           where webhook_id = $1
             and batch_id is not null
           group by batch_id
           order by min(position)"#,
        webhook as _,
        now,
    )
    .fetch_all(conn)
    .await?;
    Ok(match batches.as_slice() {
        [] => Unfinished::None,
        [first, rest @ ..] if first.due => {
            Unfinished::Due { batch: first.batch_id, is_last: rest.is_empty() }
        }
        _ => Unfinished::NotDue,
    })
}

/// Deliveries of a batch, in the order of their events.
async fn members_of(conn: &mut PgConnection, webhook: WebhookId, batch: BatchId) -> Result<Vec<DeliveryId>> {
    let members = sqlx::query_scalar!(
        r#"select delivery_id as "id: DeliveryId"
           from delivery
           where webhook_id = $1
             and batch_id = $2
           order by position"#,
        webhook as _,
        batch as _,
    );
    Ok(members.fetch_all(conn).await?)
}

/// Deliveries that may form a new batch, as they stand before it, in the order of their events; none if the
/// webhook takes no batches any more.
async fn oldest(
    conn: &mut PgConnection,
    webhook: WebhookId,
    max_items: usize,
    now: OffsetDateTime,
) -> Result<Vec<Claimed>> {
    let rows = sqlx::query!(
        r#"with oldest as (
               select delivery_id, lane, position, attempt, superseded, event_id
               from delivery
               where webhook_id = $1
                 and due_at < 'infinity'
                 and not goes_alone
                 and batch_id is null
                 and coalesce(not_before <= $3, true)
               order by due_at, position
               limit $2
           )
           select o.delivery_id as "delivery_id: DeliveryId", o.lane, o.attempt, o.superseded,
                  o.event_id as "event_id: EventId", w.format, w.version
           from oldest o
           join webhook w on w.webhook_id = $1
           -- A clock that was set back must not put a later one before an earlier one.
           where not exists (
               select
               from delivery d
               where d.webhook_id = $1
                 and d.lane = o.lane
                 and d.position < o.position
                 and d.delivery_id not in (select delivery_id from oldest))
           order by o.position"#,
        webhook as _,
        i64::try_from(max_items).unwrap_or(i64::MAX),
        now,
    )
    .fetch_all(conn)
    .await?;
    let claimed = rows.into_iter().map(|row| Claimed {
        delivery_id: row.delivery_id,
        webhook_id: webhook,
        webhook_version: row.version,
        lane: row.lane,
        attempt: row.attempt,
        halvings: 0,
        superseded: row.superseded,
        sent_at: now,
        format: format(Some(&row.format)),
        event_id: row.event_id,
        event: None,
        has_newer_state: false,
    });
    Ok(claimed.collect())
}

/// Leases the members of a batch, to be sent in this format; `None`: in the one in which it was sent before.
async fn lease(
    conn: &mut PgConnection,
    dispatcher: DispatcherId,
    webhook: WebhookId,
    members: &[DeliveryId],
    sent_format: Option<Format>,
    now: OffsetDateTime,
) -> Result<Vec<Claimed>> {
    let rows = sqlx::query!(
        r#"with leased as (
               update delivery
               set batch_id = $3,
                   leased_by = $2,
                   due_at = null,
                   attempt = attempt + 1,
                   sent_at = coalesce(sent_at, $4),
                   sent_format = coalesce($5, sent_format)
               where delivery_id = any ($1)
               returning delivery_id, webhook_id, lane, attempt, halvings, superseded, sent_at, sent_format,
                         event_id, position
           )
           select l.delivery_id as "delivery_id: DeliveryId", l.lane, l.attempt, l.halvings, l.superseded,
                  l.sent_at, l.sent_format, l.event_id as "event_id: EventId",
                  (select version from webhook where webhook_id = l.webhook_id) as "version!"
           from leased l
           order by l.position"#,
        members as _,
        dispatcher as _,
        BatchId::of(members) as _,
        now,
        sent_format.map(Format::as_str),
    )
    .fetch_all(conn)
    .await?;
    let claimed = rows.into_iter().map(|row| Claimed {
        delivery_id: row.delivery_id,
        webhook_id: webhook,
        webhook_version: row.version,
        lane: row.lane,
        attempt: row.attempt,
        halvings: row.halvings.unwrap_or(0),
        superseded: row.superseded,
        sent_at: row.sent_at.unwrap_or(now),
        format: format(row.sent_format.as_deref()),
        event_id: row.event_id,
        event: None,
        has_newer_state: false,
    });
    Ok(claimed.collect())
}
