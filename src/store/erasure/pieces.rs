//! Statements of an erasure, each of which does one piece. `store/erasure/worker.rs` calls them in its
//! transaction.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::Kind;
use crate::domain::delivery::outcome::EndState;
use crate::domain::ids::{AgentId, ErasureId, SourceId, TenantId, WebhookId};
use crate::store::Result;
use crate::store::delivery::lanes::make_heads_due;

/// Deliveries, events or pieces of malformed content of one piece.
pub(super) const PIECE: i64 = 500;

/// A request that is worked on; its row is locked.
pub(super) struct Job {
    pub(super) erasure_id: ErasureId,
    pub(super) source_id: SourceId,
    pub(super) tenant: TenantId,
    pub(super) agent_id: AgentId,
    pub(super) agent_key: i64,
    pub(super) before_position: i64,
    pub(super) principal: String,
    pub(super) events_through: i64,
    pub(super) audit_through: i64,
    pub(super) audit_until: Option<i64>,
}

/// Ends the next open deliveries of the agent's events that nobody has leased, and makes what is first in
/// their lanes then due. Gives how many ended.
pub(super) async fn end_deliveries(conn: &mut PgConnection, job: &Job) -> Result<i64> {
    let ended = sqlx::query!(
        r#"with picked as (
               select d.place
               from webhook w
               cross join lateral (
                   select d.ctid as place
                   from delivery d
                   where d.webhook_id = w.webhook_id
                     and d.lane = $1
                     and d.position < $2
                     and d.leased_by is null
                   order by d.position
                   limit $4
                   for update skip locked) d
               where w.tenant_id = $3
               limit $4
           ),
           gone as (
               delete from delivery
               where ctid = any (array(select place from picked))
               returning delivery_id, webhook_id, event_id, attempt),
           entries as (
               insert into audit_log (
                   at, kind, source_id, agent_id, webhook_id, event_id, delivery_id, attempt, outcome, end_state,
                   principal)
               select clock_timestamp(), $5, $6, $7, g.webhook_id, g.event_id, g.delivery_id, nullif(g.attempt, 0),
                      $8, $8, $9
               from gone g)
           select webhook_id as "webhook_id: WebhookId", count(*) as "count!"
           from gone
           group by webhook_id"#,
        job.agent_key,
        job.before_position,
        job.tenant as _,
        PIECE,
        Kind::DeliveryEnded.as_str(),
        job.source_id as _,
        &job.agent_id as _,
        EndState::Erased.as_str(),
        job.principal,
    )
    .fetch_all(&mut *conn)
    .await?;
    let webhooks: Vec<_> = ended.iter().map(|row| row.webhook_id).collect();
    let lanes = vec![job.agent_key; webhooks.len()];
    make_heads_due(conn, &webhooks, &lanes, Some(clock::now())).await?;
    Ok(ended.iter().map(|row| row.count).sum())
}

pub(super) async fn has_open_deliveries(conn: &mut PgConnection, job: &Job) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists (
               select
               from webhook w
               cross join lateral (
                   select d.delivery_id
                   from delivery d
                   where d.webhook_id = w.webhook_id
                     and d.lane = $1
                     and d.position < $2
                   limit 1) d
               where w.tenant_id = $3) as "open!""#,
        job.agent_key,
        job.before_position,
        job.tenant as _,
    )
    .fetch_one(conn)
    .await?)
}

/// From here on nothing is written down of what is being erased: the last entry about the agent is the last
/// one that can hold any of it.
pub(super) async fn note_last_entry(conn: &mut PgConnection, job: &Job) -> Result<()> {
    sqlx::query!(
        "update erasure
         set audit_until = coalesce((select max(audit_id) from audit_log where agent_id = $2), 0)
         where erasure_id = $1",
        job.erasure_id as _,
        &job.agent_id as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Erases the next events of the agent, and gives their number.
pub(super) async fn erase_events(conn: &mut PgConnection, job: &Job, now: OffsetDateTime) -> Result<i64> {
    let erased = sqlx::query_scalar!(
        r#"with chunk as (
               select event_id, received_at, position
               from event
               where agent_id = $2
                 and agent_key = $3
                 and position > $4
                 and position < $5
               order by position
               limit $6
           ),
           erased as (
               update event e
               set raw = 'null'::bytea,
                   state = null,
                   external_id = null,
                   presence = null,
                   previous = null,
                   erased_at = $7
               from chunk c
               where e.event_id = c.event_id
                 and e.received_at = c.received_at
                 and e.erased_at is null
               returning e.event_id)
           update erasure
           set events = events + (select count(*) from erased),
               events_through = coalesce((select max(position) from chunk), events_through)
           where erasure_id = $1
           returning (select count(*) from chunk) as "chunk!""#,
        job.erasure_id as _,
        &job.agent_id as _,
        job.agent_key,
        job.events_through,
        job.before_position,
        PIECE,
        now,
    )
    .fetch_one(conn)
    .await?;
    Ok(erased)
}

/// Looks through the next malformed content of the source, and removes what is known to be about the agent or
/// names it. Gives how much was looked through.
pub(super) async fn remove_quarantined(conn: &mut PgConnection, job: &Job) -> Result<i64> {
    let looked = sqlx::query_scalar!(
        r#"with looked as (
               select quarantine_id,
                      coalesce(agent_id = $2, false) or position(convert_to($2, 'UTF8') in bytes) > 0 as is_about_it
               from quarantine
               where source_id = $3
                 and quarantine_id > coalesce(
                     (select quarantine_read from erasure where erasure_id = $1),
                     '00000000-0000-0000-0000-000000000000')
               order by quarantine_id
               limit $4
           ),
           gone as (
               delete from quarantine
               where quarantine_id = any (array(select quarantine_id from looked where is_about_it))
               returning quarantine_id)
           update erasure
           set quarantined = quarantined + (select count(*) from gone),
               quarantine_read = coalesce(
                   (select quarantine_id from looked order by quarantine_id desc limit 1), quarantine_read)
           where erasure_id = $1
           returning (select count(*) from looked) as "looked!""#,
        job.erasure_id as _,
        &job.agent_id as _,
        job.source_id as _,
        PIECE,
    )
    .fetch_one(conn)
    .await?;
    Ok(looked)
}
