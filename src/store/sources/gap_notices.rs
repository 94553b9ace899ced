//! `presence.gap`: events for webhooks that ask for them, one for each agent that a gap left without
//! coverage. They go into the agent's own lane, before the events of the time after the gap, in the
//! transaction that ends the gap.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::ids::{AgentId, EventId, SourceId, TenantId};
use crate::domain::presence::notices::GapNotice;
use crate::domain::presence::{Detail, Event, EventKind, Origin};
use crate::domain::webhook::fan_out::NewEvent;
use crate::domain::webhook::matching::Subscription;
use crate::store::ingest::filters::shared_generation;
use crate::store::ingest::write::WriteResult;
use crate::store::locks::lock_writers;
use crate::store::sources::gap_tracking::{ClosedGap, Watcher};
use crate::store::{Result, Store};

impl Store {
    /// Writes the events of a gap that has ended. The caller commits, then announces the result; `None` if
    /// the cached filters are out of date.
    pub(in crate::store) async fn write_gap_notices(
        &self,
        conn: &mut PgConnection,
        watcher: &Watcher,
        gap: &ClosedGap,
        insist: bool,
        now: OffsetDateTime,
    ) -> Result<Option<WriteResult>> {
        let asked = || {
            let asks = |asks: &Subscription| asks.events.contains(&EventKind::PresenceGap);
            self.filters.ask(|filters| filters.all().any(asks))
        };
        // Writers are waited for only if a webhook asks for gaps: their lock must be taken before the
        // generation is shared.
        let locks = insist || asked();
        if locks {
            lock_writers(conn).await?;
            self.check_settled()?;
        }
        let generation = shared_generation(conn).await?;
        if !self.filters.are_current(conn, generation, insist).await? || (asked() && !locks) {
            return Ok(None);
        }
        if !asked() {
            return Ok(Some(WriteResult::default()));
        }
        let agents = agents_of(conn, watcher.source_id, gap).await?;
        let events: Vec<NewEvent> =
            (0..).zip(agents).map(|(place, agent)| gap_event(watcher, gap, agent, place, now)).collect();
        let planned = self.filters.ask(|filters| self.plan_write(&events, filters, Subscription::wants, now));
        self.write_events(conn, &events, planned).await.map(Some)
    }
}

struct GapAgent {
    agent_key: i64,
    agent_id: AgentId,
    source_name: String,
    tenant_id: TenantId,
    external_id: Option<String>,
    position: i64,
}

async fn agents_of(conn: &mut PgConnection, source: SourceId, gap: &ClosedGap) -> Result<Vec<GapAgent>> {
    Ok(sqlx::query_as!(
        GapAgent,
        r#"select a.agent_key, a.agent_id as "agent_id: AgentId", s.name as source_name,
                  s.tenant_id as "tenant_id: TenantId", x.external_id as "external_id?",
                  (select nextval('event_position_seq')) as "position!"
           from agent a
           join source s on s.source_id = a.source_id
           left join agent_external_id x on x.source_id = a.source_id and x.agent_id = a.agent_id
           where a.source_id = $1
             and a.agent_id = any ($2)
           order by a.agent_key"#,
        source as _,
        &gap.agents,
    )
    .fetch_all(conn)
    .await?)
}

/// The statement gives all agents one position, and `place` tells them apart.
fn gap_event(
    watcher: &Watcher,
    gap: &ClosedGap,
    agent: GapAgent,
    place: i64,
    now: OffsetDateTime,
) -> NewEvent {
    let notice = GapNotice {
        id: gap.gap_id,
        connection_id: watcher.connection_id,
        cause: gap.cause.clone(),
        from: gap.from,
        to: gap.to,
    };
    NewEvent {
        tenant: agent.tenant_id,
        event: Arc::new(Event {
            event_id: EventId::generate(),
            kind: EventKind::PresenceGap,
            position: agent.position + place,
            source: Some((watcher.source_id, agent.source_name)),
            agent_id: Some(agent.agent_id),
            sequence: None,
            topic: None,
            external_id: agent.external_id,
            presence: None,
            previous: None,
            occurred_at: Some(gap.to),
            received_at: now,
            committed_at: Some(now),
            origin: Origin::Live,
            detail: Some(Detail::Gap(Box::new(notice))),
            raw: Bytes::from_static(b"null"),
            erased_at: None,
        }),
        agent_key: agent.agent_key,
        connection_id: Some(watcher.connection_id),
    }
}
