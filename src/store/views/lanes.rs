//! What is open at a webhook: how much, since when, and what waits behind what. Every figure has a ceiling, so
//! that a backlog of millions costs no more than a look at its begin.

use time::OffsetDateTime;

use crate::domain::explain::{OpenFacts, WebhookFacts};
use crate::domain::ids::{AgentId, DeliveryId, EventId, WebhookId};
use crate::store::session::read_by_index;
use crate::store::views::explain::webhook_facts;
use crate::store::{Result, Store};

/// Open deliveries of one webhook that are counted.
pub const OPEN_COUNTED: i64 = 10_000;
/// Lanes of one webhook that are looked at.
pub const LANES_COUNTED: i64 = 1000;
/// Deliveries behind the head of a lane that are counted.
pub const BEHIND_COUNTED: i64 = 1000;
/// Newest audit entries of a webhook among which its last attempts are looked for.
const ENTRIES_LOOKED_AT: i64 = 1000;
/// Open deliveries that are counted of each webhook in a list.
pub const OPEN_COUNTED_IN_LIST: i64 = 200;

/// Open deliveries and fresh outcomes of one webhook.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    pub webhook: WebhookId,
    /// Open deliveries, [`OPEN_COUNTED_IN_LIST`] at most.
    pub open: i64,
    /// When the oldest of those counted was inserted.
    pub oldest: Option<OffsetDateTime>,
    /// Attempts since the hour that was asked for, as far as the log is sealed.
    pub attempts: i64,
    /// Those that the receiver took.
    pub taken: i64,
}

/// One of the last attempts at a webhook.
#[derive(Clone, Debug)]
pub struct LastAttempt {
    /// The delivery that was tried; `None` only in audit entries without one.
    pub delivery_id: Option<DeliveryId>,
    /// The event's agent; `None` for pings and notices.
    pub agent_id: Option<AgentId>,
    /// Its number, from 1.
    pub attempt: Option<i32>,
    /// When it ended.
    pub at: OffsetDateTime,
    /// HTTP status; `None` if there was no answer.
    pub status: Option<i32>,
    /// Outcome class.
    pub outcome: Option<String>,
    pub duration_ms: Option<i32>,
    /// How the delivery ended with it; `None` if it is tried again.
    pub end_state: Option<String>,
    /// Why it failed, in words.
    pub reason: Option<String>,
}

/// The oldest delivery of a lane, which leaves first.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Its agent; `None` for pings and notices.
    pub agent_id: Option<AgentId>,
    /// What the agent is called.
    pub agent_name: Option<String>,
    /// The delivery at its head.
    pub delivery_id: DeliveryId,
    /// What that tells.
    pub event_id: EventId,
    /// Why it is still there.
    pub head: OpenFacts,
    /// Why its last attempt failed, in words.
    pub last_reason: Option<String>,
    /// Deliveries behind it, [`BEHIND_COUNTED`] at most.
    pub behind: i64,
}

/// What is open at a webhook.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Open deliveries, [`OPEN_COUNTED`] at most.
    pub open: i64,
    /// Lanes that have some, [`LANES_COUNTED`] at most.
    pub lanes: i64,
    /// Those of the lanes looked at whose head has waited longest.
    pub oldest: Vec<Lane>,
    /// What decides over all of them.
    pub webhook: WebhookFacts,
}

impl Store {
    /// What is open at a webhook, with the `limit` lanes whose heads have waited longest.
    ///
    /// # Errors
    /// If there is no such webhook, or the database does not answer.
    pub async fn lanes(&self, webhook: WebhookId, limit: i64) -> Result<Lanes> {
        let mut tx = self.begin().await?;
        let facts = webhook_facts(&mut tx, webhook).await?;
        read_by_index(&mut tx).await?;
        let open = sqlx::query_scalar!(
            r#"select count(*) as "open!"
               from (select from delivery where webhook_id = $1 limit $2) counted"#,
            webhook as _,
            OPEN_COUNTED,
        )
        .fetch_one(&mut *tx)
        .await?;
        let rows =
            sqlx::query_file!("src/store/sql/lanes.sql", webhook as _, LANES_COUNTED, limit, BEHIND_COUNTED,)
                .fetch_all(&mut *tx)
                .await?;
        tx.commit().await?;
        let lanes = rows.first().map_or(0, |row| row.lanes);
        let oldest = rows.into_iter().map(|row| Lane {
            agent_id: row.agent_id,
            agent_name: row.agent_name,
            delivery_id: row.delivery_id,
            event_id: row.event_id,
            head: OpenFacts {
                state: row.state,
                created_at: row.created_at,
                due_at: row.due_at,
                not_before: row.not_before,
                attempt: row.attempt,
                last_status: row.last_status,
                last_outcome: row.last_outcome,
                ahead: None,
            },
            last_reason: row.last_reason,
            behind: row.behind,
        });
        Ok(Lanes { open, lanes, oldest: oldest.collect(), webhook: facts })
    }

    /// The last attempts at a webhook, newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn last_attempts(&self, webhook: WebhookId, limit: i64) -> Result<Vec<LastAttempt>> {
        let mut tx = self.begin().await?;
        read_by_index(&mut tx).await?;
        Ok(sqlx::query_as!(
            LastAttempt,
            r#"select delivery_id as "delivery_id: DeliveryId", agent_id as "agent_id: AgentId", attempt, at, status,
                      outcome, duration_ms, end_state, data ->> 'reason' as reason
               from (
                   select *
                   from audit_log
                   where webhook_id = $1
                   order by audit_id desc
                   limit $3) newest
               where kind = 'DELIVERY_ATTEMPT'
               order by audit_id desc
               limit $2"#,
            webhook as _,
            limit,
            ENTRIES_LOOKED_AT,
        )
        .fetch_all(&mut *tx)
        .await?)
    }

    /// Open deliveries and outcomes since an hour of each of these webhooks.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn traffic(&self, webhooks: &[WebhookId], since: OffsetDateTime) -> Result<Vec<Traffic>> {
        let mut tx = self.begin().await?;
        read_by_index(&mut tx).await?;
        Ok(sqlx::query_as!(
            Traffic,
            r#"select w.webhook_id as "webhook!: WebhookId", b.open as "open!", b.oldest,
                      o.attempts as "attempts!", o.taken as "taken!"
               from unnest($1::uuid[]) w (webhook_id)
               cross join lateral (
                   select count(*) as open, min(c.created_at) as oldest
                   from (
                       select d.created_at
                       from delivery d
                       where d.webhook_id = w.webhook_id
                       order by d.lane, d.position
                       limit $2) c) b
               cross join lateral (
                   select coalesce(sum(attempts), 0)::bigint as attempts,
                          coalesce(sum(attempts) filter (where outcome = 'ok'), 0)::bigint as taken
                   from webhook_outcome c
                   where c.webhook_id = w.webhook_id
                     -- As a pair, which the index of hours alone, of all webhooks, cannot answer.
                     and (c.webhook_id, c.hour) >= (w.webhook_id, $3)) o"#,
            webhooks as _,
            OPEN_COUNTED_IN_LIST,
            since,
        )
        .fetch_all(&mut *tx)
        .await?)
    }
}
