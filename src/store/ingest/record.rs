//! Stores presence changes: numbers, events and pending deliveries, in one transaction.
//!
//! The recorder calls it with a batch of changes. The transaction holds an advisory lock that every writer of
//! events takes, in whatever process: so an agent's sequence has no holes and no twins, and `position` is
//! commit order, which makes the feed by cursor complete. The sequence of positions counts in steps of 1024:
//! a batch, which is smaller, takes one number and counts on from it.

use std::sync::Arc;

use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, Transaction};
use time::OffsetDateTime;

use crate::clock;
use crate::domain::ids::{AgentId, EventId, SourceId, TenantId};
use crate::domain::presence::agent_state::AgentState;
use crate::domain::presence::numbering::{Agent, Agents, Decided, Dropped, Numbered, TimeAhead, number};
use crate::domain::presence::{Detail, Event, EventKind, PresenceChange};
use crate::domain::webhook::fan_out::NewEvent;
use crate::domain::webhook::filter_index::Filters;
use crate::domain::webhook::filter_key::Key;
use crate::domain::webhook::matching::{Facts, Subscription};
use crate::store::ingest::write::WriteResult;
use crate::store::locks::{BEGIN_RECORDING, BEGIN_WRITING};
use crate::store::{Result, Store, StoreError, audit};

/// Result of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Changes that were taken, from the first on; the caller must hand in the others again.
    pub changes: usize,
    /// Events stored.
    pub events: u64,
    /// Deliveries made for them.
    pub deliveries: u64,
    /// Deliveries that newer ones superseded.
    pub superseded: u64,
    /// Pushed states that were dropped because a newer one is known.
    pub stale: u64,
    /// Pushed states that were dropped because they are known already.
    pub duplicates: u64,
    /// Times that were too far ahead of ours to count.
    pub times_ahead: u64,
}

impl Store {
    /// Stores changes in the order given: agent state and sequence, event, a delivery for each webhook that
    /// matches, audit entries. It stores all of the changes that it takes, or none, and wakes the dispatcher
    /// afterwards. A change in parts that tells nothing new is dropped and, if it was pushed, written down as
    /// such.
    ///
    /// # Errors
    /// If the database is unavailable or refuses. After an error the commit may still have happened: ask
    /// [`stored_events`](Self::stored_events) before trying again.
    pub async fn record(&self, changes: &[PresenceChange]) -> Result<Recorded> {
        if changes.is_empty() {
            return Ok(Recorded::default());
        }
        self.settle().await?;
        let (recorded, written) = self.by_filters(|insist| self.try_to_record(changes, insist)).await?;
        if recorded.events > 0 {
            self.wake.events_stored();
        }
        self.announce(written).await;
        Ok(recorded)
    }

    /// `None` if the cached filters are out of date.
    async fn try_to_record(
        &self,
        changes: &[PresenceChange],
        insist: bool,
    ) -> Result<Option<(Recorded, WriteResult)>> {
        let mut tx = self.begin_settled(BEGIN_RECORDING).await?;
        let begun_in = self.incarnation();
        let read = agents_of(&mut tx, changes, self.history.sequence_base()).await?;
        if let Some(generation) = read.generation
            && !self.filters.are_current(&mut tx, generation, insist).await?
        {
            tx.rollback().await?;
            return Ok(None);
        }
        let mut agents = read.agents;
        let changes = self.filters.ask(|filters| not_too_much(changes, &agents, filters));
        let Decided { numbered, dropped, times_ahead } = number(changes, &mut agents);
        update_agents(&mut tx, changes, &agents).await?;
        let now = clock::now();
        let events: Vec<NewEvent> = (read.position..)
            .zip(&numbered)
            .map(|(position, numbered)| new_event(numbered, position, now))
            .collect();
        let planned = self.filters.ask(|filters| self.plan_write(&events, filters, Subscription::wants, now));
        let mut written = self.write_events(&mut tx, &events, planned).await?;
        agents.retain(|_, agent| agent.last.is_some());
        written.kept.agents = Arc::new(agents.into_iter().collect());
        let noted = dropped.iter().map(Dropped::entry).chain(times_ahead.iter().map(TimeAhead::entry));
        audit::write(&mut tx, &noted.collect::<Vec<_>>()).await?;
        tx.commit().await?;
        if self.incarnation() != begun_in {
            // A former primary may answer after another one has taken over and was settled without this write.
            return Err(StoreError::GoneOn);
        }
        let recorded = Recorded {
            changes: changes.len(),
            events: count(numbered.len()),
            deliveries: written.deliveries,
            superseded: written.superseded,
            stale: count(dropped.iter().filter(|d| d.stale).count()),
            duplicates: count(dropped.iter().filter(|d| !d.stale).count()),
            times_ahead: count(times_ahead.len()),
        };
        Ok(Some((recorded, written)))
    }

    /// Ids of those events that are stored already, for a caller that lost the answer of a commit. Waits for
    /// the writers' lock: the commit may still be under way, and nobody sees its rows before it has ended.
    ///
    /// # Errors
    /// If the database is unavailable, or that commit does not end in time: ask again.
    pub async fn stored_events(&self, changes: &[PresenceChange]) -> Result<Vec<EventId>> {
        self.settle().await?;
        self.with_patience(async {
            let mut tx = self.begin_settled(BEGIN_WRITING).await?;
            let keys = changes.iter().map(|change| (change.event_id, change.received_at));
            let stored = stored(&mut tx, keys).await?;
            tx.commit().await?;
            Ok(stored)
        })
        .await
    }
}

/// Those of these events, each by id and time of arrival, that are stored.
pub(super) async fn stored(
    conn: &mut PgConnection,
    keys: impl Iterator<Item = (EventId, OffsetDateTime)>,
) -> Result<Vec<EventId>> {
    let (ids, times): (Vec<_>, Vec<_>) = keys.unzip();
    Ok(sqlx::query_scalar!(
        r#"select e.event_id as "event_id: EventId"
           from unnest($1::uuid[], $2::timestamptz[]) as wanted (event_id, received_at)
           join event e on e.event_id = wanted.event_id and e.received_at = wanted.received_at"#,
        &ids as _,
        &times,
    )
    .fetch_all(conn)
    .await?)
}

/// Deliveries of one transaction at most, unless one change makes more.
pub(super) const DELIVERIES_MAX: usize = 20_000;

/// Agents of a batch, position of its first event, and generation of the filters that count for it; `None` if
/// it has no agents.
struct Read {
    agents: Agents,
    position: i64,
    generation: Option<i64>,
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// First changes that make at most [`DELIVERIES_MAX`] deliveries if each webhook that watches their agents
/// gets all of them.
fn not_too_much<'a>(
    changes: &'a [PresenceChange],
    agents: &Agents,
    filters: &Filters,
) -> &'a [PresenceChange] {
    let mut room = DELIVERIES_MAX;
    let fit = changes.iter().take_while(|change| {
        let agent = agents.get(&(change.source_id, change.agent_id.clone()));
        let watching = agent.map_or(0, |agent| {
            filters.watching(&Facts {
                tenant: agent.tenant,
                source: change.source_id,
                agent: Key::of(&change.agent_id.0),
                external_id: agent.external_id.as_deref().map(Key::of),
                topic: None,
                presence: None,
                queues: Vec::new(),
                routing_status: None,
                transitions: Vec::new(),
            })
        });
        let fits = watching <= room;
        room = room.saturating_sub(watching);
        fits
    });
    changes.get(..fit.count().max(1)).unwrap_or(changes)
}

/// Reads the agents of a batch, making those that are new. The numbers of one without an event begin behind
/// `base`.
async fn agents_of(
    tx: &mut Transaction<'static, Postgres>,
    changes: &[PresenceChange],
    base: i64,
) -> Result<Read> {
    let mut wanted: Vec<(SourceId, &AgentId)> = changes.iter().map(|c| (c.source_id, &c.agent_id)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let sources: Vec<_> = wanted.iter().map(|(source, _)| *source).collect();
    let ids: Vec<_> = wanted.iter().map(|(_, agent)| *agent).collect();
    let mut read = read_agents(tx, &sources, &ids, base).await?;
    if read.agents.len() < wanted.len() {
        sqlx::query!(
            "insert into agent (source_id, agent_id)
             select * from unnest($1::uuid[], $2::text[])
             on conflict on constraint agent_id_unique do nothing",
            &sources as _,
            &ids as _,
        )
        .execute(&mut **tx)
        .await?;
        read = read_agents(tx, &sources, &ids, base).await?;
    }
    Ok(read)
}

async fn read_agents(
    tx: &mut Transaction<'static, Postgres>,
    sources: &[SourceId],
    ids: &[&AgentId],
    base: i64,
) -> Result<Read> {
    let rows = sqlx::query!(
        r#"select a.agent_key, a.source_id as "source_id: SourceId", a.agent_id as "agent_id: AgentId",
                  a.sequence, a.presence, a.since, a.state as "state: Json<AgentState>", a.received_at, a.name,
                  a.email, a.erased_at, a.excluded_at is not null as "is_excluded!",
                  x.external_id as "external_id?", s.tenant_id as "tenant_id: TenantId",
                  (select nextval('event_position_seq')) as "position!",
                  (select generation from webhook_generation) as "generation!"
           from unnest($1::uuid[], $2::text[]) as wanted (source_id, agent_id)
           join agent a on a.source_id = wanted.source_id and a.agent_id = wanted.agent_id
           join source s on s.source_id = a.source_id
           left join agent_external_id x on x.source_id = a.source_id and x.agent_id = a.agent_id"#,
        sources as _,
        ids as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    let position = rows.first().map_or(0, |row| row.position);
    let generation = rows.first().map(|row| row.generation);
    let agents = rows
        .into_iter()
        .map(|row| {
            let agent = Agent {
                tenant: row.tenant_id,
                agent_key: row.agent_key,
                sequence: if row.sequence == 0 { base } else { row.sequence },
                presence: row.presence,
                since: row.since,
                state: row.state.0,
                received_at: row.received_at,
                name: row.name,
                email: row.email,
                external_id: row.external_id,
                erased_at: row.erased_at,
                is_excluded: row.is_excluded,
                touched: false,
                last: None,
            };
            ((row.source_id, row.agent_id), agent)
        })
        .collect();
    Ok(Read { agents, position, generation })
}

/// Event of a numbered change.
fn new_event(numbered: &Numbered<'_>, position: i64, now: OffsetDateTime) -> NewEvent {
    let change = numbered.change;
    let event = Event {
        event_id: change.event_id,
        kind: EventKind::PresenceUpdated,
        position,
        source: Some((change.source_id, change.source_name.clone())),
        agent_id: Some(change.agent_id.clone()),
        sequence: Some(numbered.sequence),
        topic: Some(change.topic.clone()),
        external_id: numbered.external_id.clone(),
        presence: numbered.presence.clone(),
        previous: numbered.previous.clone(),
        occurred_at: numbered.occurred_at,
        received_at: change.received_at,
        committed_at: Some(now),
        origin: change.origin,
        detail: numbered.state.clone().map(Detail::Agent),
        raw: change.raw.clone(),
        erased_at: None,
    };
    NewEvent {
        event: Arc::new(event),
        tenant: numbered.tenant,
        agent_key: numbered.agent_key,
        connection_id: Some(change.connection_id),
    }
}

async fn update_agents(
    tx: &mut Transaction<'static, Postgres>,
    changes: &[PresenceChange],
    agents: &Agents,
) -> Result<()> {
    let touched: Vec<(&Agent, Option<&PresenceChange>)> = agents
        .values()
        .filter(|agent| agent.touched || agent.last.is_some())
        .map(|agent| (agent, agent.last.and_then(|last| changes.get(last))))
        .collect();
    if touched.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update agent a
         set sequence = n.sequence,
             presence = n.presence,
             since = n.since,
             state = n.state,
             received_at = n.received_at,
             topic = coalesce(n.topic, a.topic),
             occurred_at = case when n.event_id is null then a.occurred_at else n.occurred_at end,
             event_id = coalesce(n.event_id, a.event_id)
         from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                     $7::timestamptz[], $8::uuid[], $9::jsonb[])
              as n (agent_key, sequence, presence, topic, since, occurred_at, received_at, event_id, state)
         where a.agent_key = n.agent_key",
        &touched.iter().map(|(agent, _)| agent.agent_key).collect::<Vec<_>>(),
        &touched.iter().map(|(agent, _)| agent.sequence).collect::<Vec<_>>(),
        &touched.iter().map(|(agent, _)| agent.presence.as_deref()).collect::<Vec<_>>() as _,
        &touched.iter().map(|(_, change)| change.map(|c| c.topic.as_str())).collect::<Vec<_>>() as _,
        &touched.iter().map(|(agent, _)| agent.since).collect::<Vec<_>>() as _,
        &touched.iter().map(|(_, change)| change.and_then(|c| c.occurred_at)).collect::<Vec<_>>() as _,
        &touched.iter().map(|(agent, _)| agent.received_at).collect::<Vec<_>>() as _,
        &touched.iter().map(|(_, change)| change.map(|c| c.event_id)).collect::<Vec<_>>() as _,
        &touched.iter().map(|(agent, _)| Json(&agent.state)).collect::<Vec<_>>() as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
