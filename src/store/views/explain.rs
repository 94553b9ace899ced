//! Everything that is stored about one event and one webhook, gathered for `domain/explain/`. Called by
//! `api/resources/explain.rs`.

use sqlx::PgConnection;

use crate::domain::explain::{EntryFacts, EventFacts, Facts, OpenFacts, WebhookFacts};
use crate::domain::ids::{AgentId, DeliveryId, EventId, SourceId, WebhookId};
use crate::domain::presence::EventKind;
use crate::domain::presence::agent_state::EventState;
use crate::domain::webhook::state::WebhookState;
use crate::store::{Result, Store, StoreError};

/// Most audit entries that are read of a delivery, and of a webhook; the newest count.
const ENTRIES_MAX: i64 = 300;

impl Store {
    /// Facts about one event and one webhook, which may have been removed.
    ///
    /// # Errors
    /// If there is no such event or webhook, or the database does not answer.
    pub async fn explain(&self, event_id: EventId, webhook_id: WebhookId) -> Result<Facts> {
        let delivery = DeliveryId::of(event_id, webhook_id);
        let mut tx = self.begin().await?;
        let facts = Facts {
            event: event_facts(&mut tx, event_id).await?,
            webhook: webhook_facts(&mut tx, webhook_id).await?,
            open: open_facts(&mut tx, delivery).await?,
            of_delivery: entries_of_delivery(&mut tx, delivery).await?,
            of_webhook: entries_of_webhook(&mut tx, webhook_id).await?,
        };
        tx.commit().await?;
        Ok(facts)
    }
}

async fn event_facts(conn: &mut PgConnection, event_id: EventId) -> Result<EventFacts> {
    let event = sqlx::query!(
        r#"select kind, received_at, committed_at, source_id as "source_id: SourceId",
                  agent_id as "agent_id: AgentId", external_id, topic, presence, previous, state,
                  erased_at
           from event
           where event_id = $1"#,
        event_id as _,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("event"))?;
    // Of an event about no agent it is something else, and no filter asks about it.
    let told: EventState =
        event.state.and_then(|state| serde_json::from_value(state).ok()).unwrap_or_default();
    let queues = told.state.active_queues().iter().chain(&told.left_queues);
    Ok(EventFacts {
        kind: EventKind::from_name(&event.kind).ok_or(StoreError::NotFound("event"))?,
        received_at: event.received_at,
        committed_at: event.committed_at,
        source_id: event.source_id,
        agent_id: event.agent_id,
        external_id: event.external_id,
        topic: event.topic,
        presence: event.presence,
        previous: event.previous,
        queues: queues.cloned().collect(),
        routing_status: told.state.routing.map(|routing| routing.value),
        erased_at: event.erased_at,
    })
}

/// A webhook, which may have been removed.
pub(super) async fn webhook_facts(conn: &mut PgConnection, webhook_id: WebhookId) -> Result<WebhookFacts> {
    sqlx::query_as!(
        WebhookFacts,
        r#"select created_at, deleted_at, state as "state: WebhookState", events, agents, topics, presences,
                  sources as "sources: Vec<SourceId>", queues, routing_statuses, transitions,
                  h.hold_until as "hold_until?", h.last_outcome as "last_outcome?", h.last_reason as "last_reason?",
                  (rate_limit_requests is not null or batch_max_items is not null) as "limits!"
           from webhook w
           left join webhook_health h on h.webhook_id = w.webhook_id
           where w.webhook_id = $1"#,
        webhook_id as _,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("webhook"))
}

/// `None` if the delivery has ended, or never was.
async fn open_facts(conn: &mut PgConnection, delivery: DeliveryId) -> Result<Option<OpenFacts>> {
    Ok(sqlx::query_as!(
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
    .fetch_optional(conn)
    .await?)
}

/// Oldest first.
async fn entries_of_delivery(conn: &mut PgConnection, delivery: DeliveryId) -> Result<Vec<EntryFacts>> {
    let mut entries = sqlx::query_as!(
        EntryFacts,
        "select at, kind, attempt, status, outcome, duration_ms, end_state, principal, data
         from audit_log
         where delivery_id = $1
         order by audit_id desc
         limit $2",
        delivery as _,
        ENTRIES_MAX,
    )
    .fetch_all(conn)
    .await?;
    entries.reverse();
    Ok(entries)
}

/// Entries about the webhook itself, oldest first.
async fn entries_of_webhook(conn: &mut PgConnection, webhook: WebhookId) -> Result<Vec<EntryFacts>> {
    let mut entries = sqlx::query_as!(
        EntryFacts,
        "select at, kind, attempt, status, outcome, duration_ms, end_state, principal, data
         from audit_log
         where webhook_id = $1
           and delivery_id is null
         order by audit_id desc
         limit $2",
        webhook as _,
        ENTRIES_MAX,
    )
    .fetch_all(conn)
    .await?;
    entries.reverse();
    Ok(entries)
}
