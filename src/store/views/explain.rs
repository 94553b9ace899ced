//! What is kept of one event and one webhook, gathered for `domain/explain/`. Called by `api/resources/explain.rs`.

use crate::domain::explain::{EntryFacts, EventFacts, Facts, OpenFacts, WebhookFacts};
use crate::domain::ids::{AgentId, DeliveryId, EventId, SourceId, WebhookId};
use crate::domain::presence::EventKind;
use crate::domain::webhook::state::WebhookState;
use crate::store::{Result, Store, StoreError};

/// Most entries that are read of a delivery, and of a webhook; the newest count.
const ENTRIES_MAX: i64 = 300;

impl Store {
    /// Everything that is kept of one event and one webhook, be it removed or not.
    ///
    /// # Errors
    /// If there is no such event or webhook, or the database does not answer.
    pub async fn explain(&self, event_id: EventId, webhook_id: WebhookId) -> Result<Facts> {
        let delivery = DeliveryId::of(event_id, webhook_id);
        let mut tx = self.begin().await?;
        let event = sqlx::query!(
            r#"select kind, received_at, committed_at, source_id as "source_id: SourceId",
                      agent_id as "agent_id: AgentId", external_id, topic, presence
               from event
               where event_id = $1"#,
            event_id as _,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::NotFound("event"))?;
        let webhook = sqlx::query!(
            r#"select created_at, deleted_at, state as "state: WebhookState", events, agents, topics, presences,
                      sources as "sources: Vec<SourceId>", h.hold_until as "hold_until?",
                      (rate_limit_requests is not null or batch_max_items is not null) as "limits!"
               from webhook w
               left join webhook_health h on h.webhook_id = w.webhook_id
               where w.webhook_id = $1"#,
            webhook_id as _,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::NotFound("webhook"))?;
        let open = sqlx::query_as!(
            OpenFacts,
            r#"select case when due_at = 'infinity' then 'paused'
                           when leased_by is not null then 'sending'
                           when due_at is null then 'blocked'
                           else 'waiting' end as "state!",
                      created_at,
                      case when due_at < 'infinity' then due_at end as due_at,
                      not_before, attempt, last_status, last_outcome,
                      (select ahead.delivery_id
                       from delivery ahead
                       where ahead.webhook_id = d.webhook_id
                         and ahead.lane = d.lane
                         and ahead.position < d.position
                       order by ahead.position
                       limit 1) as "ahead: DeliveryId"
               from delivery d
               where delivery_id = $1"#,
            delivery as _,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let mut of_delivery = sqlx::query_as!(
            EntryFacts,
            "select at, kind, attempt, status, outcome, duration_ms, end_state, principal, data
             from audit_log
             where delivery_id = $1
             order by audit_id desc
             limit $2",
            delivery as _,
            ENTRIES_MAX,
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut of_webhook = sqlx::query_as!(
            EntryFacts,
            "select at, kind, attempt, status, outcome, duration_ms, end_state, principal, data
             from audit_log
             where webhook_id = $1
               and delivery_id is null
             order by audit_id desc
             limit $2",
            webhook_id as _,
            ENTRIES_MAX,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        of_delivery.reverse();
        of_webhook.reverse();
        let kind = EventKind::from_name(&event.kind).ok_or(StoreError::NotFound("event"))?;
        Ok(Facts {
            event: EventFacts {
                kind,
                received_at: event.received_at,
                committed_at: event.committed_at,
                source_id: event.source_id,
                agent_id: event.agent_id,
                external_id: event.external_id,
                topic: event.topic,
                presence: event.presence,
            },
            webhook: WebhookFacts {
                created_at: webhook.created_at,
                deleted_at: webhook.deleted_at,
                state: webhook.state,
                events: webhook.events,
                agents: webhook.agents,
                topics: webhook.topics,
                presences: webhook.presences,
                sources: webhook.sources,
                hold_until: webhook.hold_until,
                limits: webhook.limits,
            },
            open,
            of_delivery,
            of_webhook,
        })
    }
}
