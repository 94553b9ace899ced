//! Deliveries that have ended and match a filter: counted before they are opened again, and read chunk by
//! chunk by `store/recovery/worker.rs`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::ids::{AgentId, DeliveryId, EventId, RecoveryId, SourceId, WebhookId};
use crate::domain::webhook::state::WebhookState;
use crate::store::recovery::missed_events::{Job, MissedEvent};
use crate::store::session::choose_plan_by_values;
use crate::store::{Result, Store, with_timeout};

/// Deliveries of one webhook that are counted at most.
pub const COUNT_MAX: i64 = 1000;
/// Webhooks that one request may concern.
pub const WEBHOOKS_MAX: i64 = 100;
/// Most webhooks that are looked at one by one without a reason; of more, it is first found out which have any failed end.
const EACH_MAX: i64 = 500;
/// Failed ends that are read for that; if there are more, all webhooks are looked at.
const ENDS_READ_MAX: i64 = 20_000;
/// Deliveries that a chunk has, or more if one millisecond has more.
const CHUNK: i64 = 2000;

/// Which deliveries are meant.
#[derive(Clone, Debug)]
pub struct EndedFilter {
    /// Only to this webhook.
    pub webhook: Option<WebhookId>,
    /// Only of events of these agents, by Genesys user id; empty: of all.
    pub agents: Vec<String>,
    /// Only of events of agents of this source.
    pub source: Option<SourceId>,
    /// Their last end is one of these; not `delivered`.
    pub states: Vec<String>,
    /// Of events that arrived at or after this time, as their ids tell it…
    pub since: OffsetDateTime,
    /// …and before this one.
    pub until: OffsetDateTime,
}

/// A webhook with deliveries that match.
#[derive(Clone, Debug)]
pub struct Matching {
    pub webhook_id: WebhookId,
    /// At most [`COUNT_MAX`] and one.
    pub deliveries: i64,
    /// State of the webhook.
    pub state: WebhookState,
    /// Recovery of the webhook that runs.
    pub running: Option<RecoveryId>,
}

impl Store {
    /// Webhooks with deliveries that match, at most [`WEBHOOKS_MAX`] and one. A delivery whose event was
    /// erased counts, although it will not be opened.
    ///
    /// # Errors
    /// If the database does not answer in time.
    pub async fn ended_deliveries(&self, filter: &EndedFilter) -> Result<Vec<Matching>> {
        with_timeout(async {
            let mut tx = self.begin().await?;
            choose_plan_by_values(&mut tx).await?;
            let webhooks = concerned(&mut tx, filter).await?;
            // The server finds a state by an index only if it is compared with one at a time.
            let found = sqlx::query_as!(
                Matching,
                r#"select w.webhook_id as "webhook_id: WebhookId", found.deliveries as "deliveries!",
                          w.state as "state: WebhookState",
                          (select r.recovery_id
                           from recovery r
                           where r.webhook_id = w.webhook_id
                             and r.ended_at is null
                           limit 1) as "running: RecoveryId"
                   from webhook w
                   cross join lateral (
                       select count(*) as deliveries
                       from (
                           select
                           from unnest($2::text[]) wanted (state)
                           cross join lateral (
                               select
                               from audit_log l
                               where l.webhook_id = w.webhook_id
                                 and l.end_state = wanted.state
                                 and l.end_state <> 'delivered'
                                 and l.delivery_id >= $3
                                 and l.delivery_id < $4
                                 and ($5::text[] = '{}' or l.agent_id = any ($5))
                                 and ($6::uuid is null
                                      or (l.source_id is null or l.source_id = $6)
                                         and exists (
                                             select from agent a where a.source_id = $6 and a.agent_id = l.agent_id))
                                 and not exists (select from delivery d where d.delivery_id = l.delivery_id)
                                 and not exists (
                                     select
                                     from audit_log later
                                     where later.delivery_id = l.delivery_id
                                       and later.end_state is not null
                                       and later.audit_id > l.audit_id)
                               limit $7) of_state
                           limit $7) counted) found
                   where w.deleted_at is null
                     and ($1::uuid[] is null or w.webhook_id = any ($1))
                     and found.deliveries > 0
                   order by w.webhook_id
                   limit $8"#,
                webhooks.as_deref() as _,
                &filter.states,
                DeliveryId::bound_at(filter.since) as _,
                DeliveryId::bound_at(filter.until) as _,
                &filter.agents,
                filter.source as _,
                COUNT_MAX + 1,
                WEBHOOKS_MAX + 1,
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(found)
        })
        .await
    }

    /// The next chunk of deliveries that a request is about, and the millisecond of its last event; `None` if
    /// there is no more. All of a millisecond are in one chunk, so that lanes keep their order.
    pub(in crate::store) async fn ended_chunk(
        &self,
        job: &Job,
        states: &[String],
    ) -> Result<Option<(i64, Vec<MissedEvent>)>> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            choose_plan_by_values(&mut tx).await?;
            let read_through = u64::try_from(job.read_through).unwrap_or_default();
            let from = DeliveryId::bound(read_through + 1).max(DeliveryId::bound_at(job.since));
            let last = sqlx::query_scalar!(
                r#"select delivery_id as "delivery_id!: DeliveryId"
                   from (
                       select one.delivery_id
                       from unnest($2::text[]) wanted (state)
                       cross join lateral (
                           select l.delivery_id
                           from audit_log l
                           where l.webhook_id = $1
                             and l.end_state = wanted.state
                             and l.end_state <> 'delivered'
                             and l.delivery_id >= $3
                             and l.delivery_id < $4
                           order by l.delivery_id
                           limit $5) one
                       order by one.delivery_id
                       limit $5) chunk
                   order by delivery_id desc
                   limit 1"#,
                job.webhook_id as _,
                states,
                from as _,
                DeliveryId::bound_at(job.until) as _,
                CHUNK,
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(through) = last.map(DeliveryId::milliseconds) else { return Ok(None) };
            let upto = DeliveryId::bound(through + 1).min(DeliveryId::bound_at(job.until));
            let ended = sqlx::query_as!(
                MissedEvent,
                r#"select distinct e.event_id as "event_id: EventId", e.received_at, e.position,
                          coalesce(e.agent_key, 0) as "agent_key!", e.agent_id as "agent_id: AgentId"
                   from unnest($2::text[]) wanted (state)
                   join audit_log l on l.end_state = wanted.state
                   join event e on e.event_id = l.event_id
                   where l.webhook_id = $1
                     and l.end_state <> 'delivered'
                     and l.delivery_id >= $3
                     and l.delivery_id < $4
                     and ($5::text[] = '{}' or l.agent_id = any ($5))
                     and ($6::uuid is null or e.source_id = $6)
                     and e.erased_at is null
                   order by e.position"#,
                job.webhook_id as _,
                states,
                from as _,
                upto as _,
                &job.agents,
                job.source_id as _,
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Some((i64::try_from(through).unwrap_or(i64::MAX), ended)))
        })
        .await
    }
}

/// Webhooks that may have deliveries that match; `None`: any.
async fn concerned(conn: &mut PgConnection, filter: &EndedFilter) -> Result<Option<Vec<WebhookId>>> {
    if let Some(webhook) = filter.webhook {
        return Ok(Some(vec![webhook]));
    }
    let few = sqlx::query_scalar!(
        r#"select count(*) <= $1::bigint as "few!" from (select from webhook where deleted_at is null limit $1::bigint + 1) some_of_them"#,
        EACH_MAX,
    )
    .fetch_one(&mut *conn)
    .await?;
    if few {
        return Ok(None);
    }
    let ends = sqlx::query!(
        r#"select ends.webhook_id as "webhook_id!: WebhookId", count(*) as "count!"
           from (
               select one.webhook_id
               from unnest($1::text[]) wanted (state)
               cross join lateral (
                   select l.webhook_id
                   from audit_log l
                   where l.end_state = wanted.state
                     and l.end_state <> 'delivered'
                     and l.delivery_id >= $2
                     and l.delivery_id < $3
                     and l.webhook_id is not null
                   limit $4) one
               limit $4) ends
           group by ends.webhook_id"#,
        &filter.states,
        DeliveryId::bound_at(filter.since) as _,
        DeliveryId::bound_at(filter.until) as _,
        ENDS_READ_MAX,
    )
    .fetch_all(conn)
    .await?;
    let read: i64 = ends.iter().map(|of| of.count).sum();
    Ok((read < ENDS_READ_MAX).then(|| ends.into_iter().map(|of| of.webhook_id).collect()))
}
