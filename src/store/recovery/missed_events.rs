//! Events of a past time that match a webhook's filters, chunk by chunk. Called by
//! `store/recovery/worker.rs`.

use time::OffsetDateTime;

use crate::domain::ids::{AgentId, EventId, RecoveryId, SourceId, TenantId, WebhookId, with_canonical_guids};
use crate::store::session::choose_plan_by_values;
use crate::store::webhooks::rows::Webhook;
use crate::store::{Result, Store, session, with_long_timeout};

/// Events looked at in one go, wanted or not; if only the newest of each agent counts, agents.
const CHUNK: i64 = 2000;

/// A claimed request.
#[derive(Clone, Debug)]
pub(in crate::store) struct Job {
    pub(in crate::store) recovery_id: RecoveryId,
    pub(in crate::store) webhook_id: WebhookId,
    pub(in crate::store) tenant: TenantId,
    pub(in crate::store) since: OffsetDateTime,
    pub(in crate::store) until: OffsetDateTime,
    pub(in crate::store) only_failed: bool,
    pub(in crate::store) states: Option<Vec<String>>,
    pub(in crate::store) source_id: Option<SourceId>,
    pub(in crate::store) agents: Vec<String>,
    pub(in crate::store) newest_only: bool,
    pub(in crate::store) principal: String,
    pub(in crate::store) requested_at: OffsetDateTime,
    pub(in crate::store) read_through: i64,
}

/// One event that may get a delivery again.
#[derive(Clone, Debug)]
pub(in crate::store) struct MissedEvent {
    pub(in crate::store) event_id: EventId,
    pub(in crate::store) received_at: OffsetDateTime,
    pub(in crate::store) position: i64,
    pub(in crate::store) agent_key: i64,
    pub(in crate::store) agent_id: Option<AgentId>,
}

/// Events that the webhook asks for, between two ends of a statement. The rule is that of `domain/explain/`.
macro_rules! select_missed {
    ($conn:expr, $job:expr, $webhook:expr, $through:expr, $select:literal, $end:literal) => {
        sqlx::query_as!(
            MissedEvent,
            $select
                + r#"    kind = 'presence.updated'
                     and erased_at is null
                     and received_at >= $1
                     and received_at < $2
                     and ($4::text[] = '{}' or agent_id = any ($4) or external_id = any ($4))
                     and ($5::text[] = '{}' or topic = any ($5))
                     and ($6::text[] = '{}' or presence = any ($6))
                     and ($7::uuid[] = '{}' or source_id = any ($7))
                     and ($8::text[] = '{}' or agent_id = any ($8) or external_id = any ($8))
                     and ($10::text[] = '{}' or state -> 'queues' -> 'is' ?| $10 or state -> 'left_queues' ?| $10)
                     and ($11::text[] = '{}' or state -> 'routing' ->> 'is' = any ($11))
                     and ($12::text[] = '{}'
                          or presence is not null
                             and presence is distinct from previous
                             and $12 && array['* -> ' || presence, '* -> *', previous || ' -> ' || presence,
                                              previous || ' -> *'])
                 "#
                + $end,
            $job.since,
            $job.until,
            $job.read_through,
            &with_canonical_guids(&$webhook.settings.agents),
            &$webhook.settings.topics,
            &$webhook.settings.presences,
            &$webhook.settings.sources as _,
            &with_canonical_guids(&$job.agents),
            $through,
            &$webhook.settings.queues,
            &$webhook.settings.routing_statuses,
            &$webhook.settings.transitions,
        )
        .fetch_all($conn)
        .await?
    };
}

impl Store {
    /// Last position, or agent key, of the next chunk; `None` if there is no more. Reads events of every
    /// tenant: [`missed_events`](Self::missed_events) leaves out those of others.
    pub(in crate::store) async fn look_ahead(&self, job: &Job) -> Result<Option<i64>> {
        with_long_timeout(async {
            let mut tx = self.pool.begin().await?;
            session::allow_a_minute(&mut tx).await?;
            let through = if job.newest_only {
                sqlx::query_scalar!(
                    "select max(agent_key)
                     from (select agent_key from agent where agent_key > $1 order by agent_key limit $2) looked_at",
                    job.read_through,
                    CHUNK,
                )
                .fetch_one(&mut *tx)
                .await?
            } else {
                sqlx::query_scalar!(
                    "select max(position)
                     from (
                         select position
                         from event
                         where position > $1
                           and received_at >= $2
                           and received_at < $3
                         order by position
                         limit $4) looked_at",
                    job.read_through,
                    job.since,
                    job.until,
                    CHUNK,
                )
                .fetch_one(&mut *tx)
                .await?
            };
            tx.commit().await?;
            Ok(through)
        })
        .await
    }

    /// Events of a chunk that the webhook asks for; with `newest_only` the newest of each agent alone.
    pub(in crate::store) async fn missed_events(
        &self,
        job: &Job,
        webhook: &Webhook,
        through: i64,
    ) -> Result<Vec<MissedEvent>> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            choose_plan_by_values(&mut tx).await?;
            let missed = if job.newest_only {
                select_missed!(
                    &mut *tx,
                    job,
                    webhook,
                    through,
                    r#"select e.event_id as "event_id: EventId", e.received_at, e.position, e.agent_key as "agent_key!",
                              e.agent_id as "agent_id: AgentId"
                       from agent a
                       cross join lateral (
                           select event_id, received_at, position, agent_key, agent_id
                           from event
                           where agent_id = a.agent_id and agent_key = a.agent_key and "#,
                    "      order by position desc
                           limit 1) e
                       where a.agent_key > $3 and a.agent_key <= $9
                       order by a.agent_key"
                )
            } else {
                select_missed!(
                    &mut *tx,
                    job,
                    webhook,
                    through,
                    r#"select event_id as "event_id: EventId", received_at, position, agent_key as "agent_key!",
                              agent_id as "agent_id: AgentId"
                       from event
                       where position > $3 and position <= $9 and "#,
                    "order by position"
                )
            };
            tx.commit().await?;
            Ok(missed)
        })
        .await
    }
}
