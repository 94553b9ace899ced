//! `presence.gap`: tells the webhooks that ask for it that an agent could not be seen for a while, in the agent's own
//! lane, before what is read of the time after it. Written with the end of the gap, in its transaction.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::ids::{AgentId, ConnectionId, EventId, SourceId, TenantId};
use crate::domain::presence::gap_notice::GapNotice;
use crate::domain::presence::{Detail, Event, EventKind, Origin};
use crate::domain::webhook::fan_out::NewEvent;
use crate::domain::webhook::matching::Subscription;
use crate::store::ingest::filters::shared_generation;
use crate::store::ingest::write::Written;
use crate::store::locks::lock_writers;
use crate::store::sources::gap_tracking::ClosedGap;
use crate::store::{Result, Store};

impl Store {
    /// Writes the notices of a gap that has ended. The caller commits, and announces what comes back; `None` if the filters in
    /// memory are not those that count.
    pub(in crate::store) async fn write_gap_notices(
        &self,
        conn: &mut PgConnection,
        source: SourceId,
        connection: ConnectionId,
        gap: &ClosedGap,
        insist: bool,
        now: OffsetDateTime,
    ) -> Result<Option<Written>> {
        let asked = || {
            let asks = |asks: &Subscription| asks.events.contains(&EventKind::PresenceGap);
            self.filters.ask(|filters| filters.all().any(asks))
        };
        // If nobody asks for it, writers are not waited for. Who does must have their lock before the generation is shared.
        let locks = insist || asked();
        if locks {
            lock_writers(conn).await?;
        }
        let generation = shared_generation(conn).await?;
        if !self.filters.are_current(conn, generation, insist).await? || (asked() && !locks) {
            return Ok(None);
        }
        if !asked() {
            return Ok(Some(Written::default()));
        }
        let rows = sqlx::query!(
            r#"select a.agent_key, a.agent_id as "agent_id: AgentId", s.name as source_name,
                      s.tenant_id as "tenant_id: TenantId",
                      x.external_id as "external_id?",
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
        .fetch_all(&mut *conn)
        .await?;
        let notice = GapNotice {
            id: gap.gap_id,
            connection_id: connection,
            cause: gap.cause.clone(),
            from: gap.from,
            to: gap.to,
        };
        let events: Vec<NewEvent> = (0..)
            .zip(rows)
            .map(|(place, row)| NewEvent {
                tenant: row.tenant_id,
                event: Arc::new(Event {
                    event_id: EventId::generate(),
                    kind: EventKind::PresenceGap,
                    position: row.position + place,
                    source: Some((source, row.source_name)),
                    agent_id: Some(row.agent_id),
                    sequence: None,
                    topic: None,
                    external_id: row.external_id,
                    presence: None,
                    previous: None,
                    occurred_at: Some(gap.to),
                    received_at: now,
                    committed_at: Some(now),
                    origin: Origin::Live,
                    detail: Some(Detail::Gap(Box::new(notice.clone()))),
                    raw: Bytes::from_static(b"null"),
                }),
                agent_key: row.agent_key,
                connection_id: Some(connection),
            })
            .collect();
        let intent = self.filters.ask(|filters| self.intend(&events, filters, Subscription::wants, now));
        self.write_events(conn, &events, intent).await.map(Some)
    }
}
