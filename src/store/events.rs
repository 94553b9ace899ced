//! From presence changes to deliveries: the one transaction that both halves of the bridge meet in.
//!
//! Called by the recorder with a batch of changes. Inside the transaction an advisory lock is held that every
//! writer of events takes, in whatever process: so an agent's sequence has no holes and no twins, and `position`
//! is commit order, which makes the feed by cursor complete.

use std::collections::HashMap;

use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;

use super::{Result, Store, answered};
use crate::clock;
use crate::domain::ids::{AgentId, EventId, SourceId};
use crate::domain::presence::PresenceChange;

/// What a batch became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Events stored.
    pub events: u64,
    /// Deliveries made for them.
    pub deliveries: u64,
}

/// An agent as the batch leaves it.
struct AgentState {
    agent_key: i64,
    sequence: i64,
    presence: Option<String>,
    since: Option<OffsetDateTime>,
    last: usize,
}

/// What a change gets from its agent.
struct Numbered {
    agent_key: i64,
    sequence: i64,
    previous: Option<String>,
}

impl Store {
    /// Stores changes in the order given: agent state and sequence, event, a delivery for each webhook that
    /// matches, audit entries. All or nothing; then the dispatcher is nudged.
    ///
    /// # Errors
    /// If the database is away or refuses. After an error the commit may still have happened: ask
    /// [`stored_events`](Self::stored_events) before trying again.
    pub async fn record(&self, changes: &[PresenceChange]) -> Result<Recorded> {
        if changes.is_empty() {
            return Ok(Recorded::default());
        }
        let deliveries = answered(async {
            let mut tx = self.hot.begin_with("begin; select pg_advisory_xact_lock(7700451)").await?;
            let mut agents = agents_of(&mut tx, changes).await?;
            let numbered = number(changes, &mut agents);
            update_agents(&mut tx, changes, &agents).await?;
            let deliveries = insert_events(&mut tx, changes, &numbered).await?;
            tx.commit().await?;
            Ok(deliveries)
        })
        .await?;
        self.wake.deliveries_due();
        Ok(Recorded { events: u64::try_from(changes.len()).unwrap_or(u64::MAX), deliveries })
    }

    /// Which of these events are stored already; asked after a commit whose answer was lost.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn stored_events(&self, changes: &[PresenceChange]) -> Result<Vec<EventId>> {
        answered(async {
            let ids: Vec<_> = changes.iter().map(|change| change.event_id).collect();
            let times: Vec<_> = changes.iter().map(|change| change.received_at).collect();
            Ok(sqlx::query_scalar!(
                r#"select e.event_id as "event_id: EventId"
               from unnest($1::uuid[], $2::timestamptz[]) as wanted (event_id, received_at)
               join event e on e.event_id = wanted.event_id and e.received_at = wanted.received_at"#,
                &ids as _,
                &times,
            )
            .fetch_all(&self.hot)
            .await?)
        })
        .await
    }
}

type Agents = HashMap<(SourceId, AgentId), AgentState>;

/// Reads the agents of a batch, making those that are new.
async fn agents_of(tx: &mut Transaction<'static, Postgres>, changes: &[PresenceChange]) -> Result<Agents> {
    let mut wanted: Vec<(SourceId, &AgentId)> = changes.iter().map(|c| (c.source_id, &c.agent_id)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let sources: Vec<_> = wanted.iter().map(|(source, _)| *source).collect();
    let ids: Vec<_> = wanted.iter().map(|(_, agent)| *agent).collect();
    let mut agents = read_agents(tx, &sources, &ids).await?;
    if agents.len() < wanted.len() {
        sqlx::query!(
            "insert into agent (source_id, agent_id)
             select * from unnest($1::uuid[], $2::text[])
             on conflict on constraint agent_id_unique do nothing",
            &sources as _,
            &ids as _,
        )
        .execute(&mut **tx)
        .await?;
        agents = read_agents(tx, &sources, &ids).await?;
    }
    Ok(agents)
}

async fn read_agents(
    tx: &mut Transaction<'static, Postgres>,
    sources: &[SourceId],
    ids: &[&AgentId],
) -> Result<Agents> {
    let rows = sqlx::query!(
        r#"select a.agent_key, a.source_id as "source_id: SourceId", a.agent_id as "agent_id: AgentId",
                  a.sequence, a.presence, a.since
           from unnest($1::uuid[], $2::text[]) as wanted (source_id, agent_id)
           join agent a on a.source_id = wanted.source_id and a.agent_id = wanted.agent_id"#,
        sources as _,
        ids as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let state = AgentState {
                agent_key: row.agent_key,
                sequence: row.sequence,
                presence: row.presence,
                since: row.since,
                last: 0,
            };
            ((row.source_id, row.agent_id), state)
        })
        .collect())
}

/// Gives each change the next sequence of its agent and the presence before it; leaves the agents as the batch
/// leaves them. A change whose presence could not be read keeps the last known one.
fn number(changes: &[PresenceChange], agents: &mut Agents) -> Vec<Numbered> {
    let mut numbered = Vec::with_capacity(changes.len());
    for (index, change) in changes.iter().enumerate() {
        let Some(agent) = agents.get_mut(&(change.source_id, change.agent_id.clone())) else {
            continue; // not reached: agents_of made a row for each
        };
        agent.sequence += 1;
        agent.last = index;
        numbered.push(Numbered {
            agent_key: agent.agent_key,
            sequence: agent.sequence,
            previous: agent.presence.clone(),
        });
        if change.presence.is_some() && change.presence != agent.presence {
            agent.presence.clone_from(&change.presence);
            agent.since = Some(change.occurred_at.unwrap_or(change.received_at));
        }
    }
    numbered
}

async fn update_agents(
    tx: &mut Transaction<'static, Postgres>,
    changes: &[PresenceChange],
    agents: &Agents,
) -> Result<()> {
    let states: Vec<(&AgentState, &PresenceChange)> =
        agents.values().filter_map(|state| Some((state, changes.get(state.last)?))).collect();
    sqlx::query!(
        "update agent a
         set sequence = n.sequence,
             presence = n.presence,
             topic = n.topic,
             since = n.since,
             occurred_at = n.occurred_at,
             received_at = n.received_at,
             event_id = n.event_id
         from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                     $7::timestamptz[], $8::uuid[])
              as n (agent_key, sequence, presence, topic, since, occurred_at, received_at, event_id)
         where a.agent_key = n.agent_key",
        &states.iter().map(|(state, _)| state.agent_key).collect::<Vec<_>>(),
        &states.iter().map(|(state, _)| state.sequence).collect::<Vec<_>>(),
        &states.iter().map(|(state, _)| state.presence.as_deref()).collect::<Vec<_>>() as _,
        &states.iter().map(|(_, change)| change.topic.as_str()).collect::<Vec<_>>() as _,
        &states.iter().map(|(state, _)| state.since).collect::<Vec<_>>() as _,
        &states.iter().map(|(_, change)| change.occurred_at).collect::<Vec<_>>() as _,
        &states.iter().map(|(_, change)| change.received_at).collect::<Vec<_>>(),
        &states.iter().map(|(_, change)| change.event_id).collect::<Vec<_>>() as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Inserts events, their deliveries and their audit entries; says how many deliveries it made.
///
/// Of several deliveries for one lane in this batch only the first is due: the others stand behind it until it
/// ends. Whether an older batch left something open in the lane is for the claim to see (store/deliveries.rs).
async fn insert_events(
    tx: &mut Transaction<'static, Postgres>,
    changes: &[PresenceChange],
    numbered: &[Numbered],
) -> Result<u64> {
    macro_rules! column {
        ($change:ident => $value:expr) => {
            changes.iter().map(|$change| $value).collect::<Vec<_>>()
        };
    }
    let made = sqlx::query_scalar!(
        r#"with new_event as (
               insert into event (
                   event_id, received_at, source_id, source_name, connection_id, agent_key, agent_id, sequence,
                   topic, presence, previous, occurred_at, raw)
               select n.event_id, n.received_at, n.source_id, n.source_name, n.connection_id, n.agent_key,
                      n.agent_id, n.sequence, n.topic, n.presence, n.previous, n.occurred_at, n.raw
               from unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::uuid[], $6::bigint[],
                           $7::text[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::timestamptz[],
                           $13::bytea[])
                    with ordinality as n (event_id, received_at, source_id, source_name, connection_id, agent_key,
                                          agent_id, sequence, topic, presence, previous, occurred_at, raw, place)
               order by n.place
               returning event_id, received_at, position, source_id, connection_id, agent_key, agent_id, sequence,
                         topic, presence
           ),
           new_delivery as (
               insert into delivery (
                   delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at, created_at)
               select delivery_id(e.event_id, w.webhook_id), w.webhook_id, e.agent_key, e.position, e.event_id,
                      e.received_at,
                      case row_number() over (partition by w.webhook_id, e.agent_key order by e.position)
                          when 1 then $14::timestamptz
                      end,
                      $14
               from new_event e
               join webhook w
                 on w.deleted_at is null
                and (w.agents = '{}' or e.agent_id = any (w.agents))
                and (w.topics = '{}' or e.topic = any (w.topics))
                and (w.presences = '{}' or e.presence = any (w.presences))
                and (w.sources = '{}' or e.source_id = any (w.sources))
               returning event_id
           ),
           owed as (
               select event_id, count(*) as deliveries
               from new_delivery
               group by event_id
           ),
           entries as (
               insert into audit_log (at, kind, source_id, connection_id, agent_id, event_id, data)
               select $14, 'EVENT_RECEIVED', e.source_id, e.connection_id, e.agent_id, e.event_id,
                      jsonb_build_object('sequence', e.sequence, 'deliveries', coalesce(o.deliveries, 0))
               from new_event e
               left join owed o on o.event_id = e.event_id
               order by e.position
           )
           select count(*) as "count!" from new_delivery"#,
        &column!(c => c.event_id) as _,
        &column!(c => c.received_at),
        &column!(c => c.source_id) as _,
        &column!(c => c.source_name.as_str()) as _,
        &column!(c => c.connection_id) as _,
        &numbered.iter().map(|n| n.agent_key).collect::<Vec<_>>(),
        &column!(c => &c.agent_id) as _,
        &numbered.iter().map(|n| n.sequence).collect::<Vec<_>>(),
        &column!(c => c.topic.as_str()) as _,
        &column!(c => c.presence.as_deref()) as _,
        &numbered.iter().map(|n| n.previous.as_deref()).collect::<Vec<_>>() as _,
        &column!(c => c.occurred_at) as _,
        &column!(c => c.raw.as_ref()) as _,
        clock::now(),
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(u64::try_from(made).unwrap_or_default())
}
