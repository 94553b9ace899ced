//! From presence changes to deliveries: the one transaction that both halves of the bridge meet in.
//!
//! Called by the recorder with a batch of changes. Inside the transaction an advisory lock is held that every
//! writer of events takes, in whatever process: so an agent's sequence has no holes and no twins, and `position`
//! is commit order, which makes the feed by cursor complete.

use sqlx::types::Json;
use sqlx::{Postgres, Transaction};

use super::numbering::{Agent, Agents, Dropped, Numbered, number};
use super::{Result, Store, answered, audit};
use crate::clock;
use crate::domain::agent_state::AgentState;
use crate::domain::ids::{AgentId, EventId, SourceId};
use crate::domain::presence::PresenceChange;

/// What a batch became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Events stored.
    pub events: u64,
    /// Deliveries made for them.
    pub deliveries: u64,
    /// Pushed states that were dropped because they are older than what is known.
    pub stale: u64,
    /// Pushed states that were dropped because they are known already.
    pub duplicates: u64,
}

impl Store {
    /// Stores changes in the order given: agent state and sequence, event, a delivery for each webhook that
    /// matches, audit entries. All or nothing; then the dispatcher is nudged. A change in parts that tells nothing
    /// new is dropped and, if it was pushed, written down as such.
    ///
    /// # Errors
    /// If the database is away or refuses. After an error the commit may still have happened: ask
    /// [`stored_events`](Self::stored_events) before trying again.
    pub async fn record(&self, changes: &[PresenceChange]) -> Result<Recorded> {
        if changes.is_empty() {
            return Ok(Recorded::default());
        }
        let recorded = answered(async {
            let mut tx = self.hot.begin_with("begin; select pg_advisory_xact_lock(7700451)").await?;
            let mut agents = agents_of(&mut tx, changes).await?;
            let (numbered, dropped) = number(changes, &mut agents);
            update_agents(&mut tx, changes, &agents).await?;
            let deliveries = if numbered.is_empty() { 0 } else { insert_events(&mut tx, &numbered).await? };
            audit::write(&mut tx, &dropped.iter().map(Dropped::entry).collect::<Vec<_>>()).await?;
            tx.commit().await?;
            Ok(Recorded {
                events: count(numbered.len()),
                deliveries,
                stale: count(dropped.iter().filter(|d| d.stale).count()),
                duplicates: count(dropped.iter().filter(|d| !d.stale).count()),
            })
        })
        .await?;
        self.wake.deliveries_due();
        Ok(recorded)
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

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

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
                  a.sequence, a.presence, a.since, a.state as "state: Json<AgentState>", a.received_at, a.name,
                  a.email
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
            let agent = Agent {
                agent_key: row.agent_key,
                sequence: row.sequence,
                presence: row.presence,
                since: row.since,
                state: row.state.0,
                received_at: row.received_at,
                name: row.name,
                email: row.email,
                touched: false,
                last: None,
            };
            ((row.source_id, row.agent_id), agent)
        })
        .collect())
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

/// Inserts events, their deliveries and their audit entries; says how many deliveries it made.
///
/// Of several deliveries for one lane in this batch only the first is due: the others stand behind it until it
/// ends. Whether an older batch left something open in the lane is for the claim to see (store/deliveries.rs).
async fn insert_events(tx: &mut Transaction<'static, Postgres>, numbered: &[Numbered<'_>]) -> Result<u64> {
    macro_rules! column {
        ($n:ident => $value:expr) => {
            numbered.iter().map(|$n| $value).collect::<Vec<_>>()
        };
    }
    let made = sqlx::query_scalar!(
        r#"with new_event as (
               insert into event (
                   event_id, received_at, source_id, source_name, connection_id, agent_key, agent_id, sequence,
                   topic, presence, previous, occurred_at, raw, origin, state)
               select n.event_id, n.received_at, n.source_id, n.source_name, n.connection_id, n.agent_key,
                      n.agent_id, n.sequence, n.topic, n.presence, n.previous, n.occurred_at, n.raw, n.origin,
                      n.state
               from unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::uuid[], $6::bigint[],
                           $7::text[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::timestamptz[],
                           $13::bytea[], $15::text[], $16::jsonb[])
                    with ordinality as n (event_id, received_at, source_id, source_name, connection_id, agent_key,
                                          agent_id, sequence, topic, presence, previous, occurred_at, raw, origin,
                                          state, place)
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
                and 'presence.updated' = any (w.events)
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
        &column!(n => n.change.event_id) as _,
        &column!(n => n.change.received_at),
        &column!(n => n.change.source_id) as _,
        &column!(n => n.change.source_name.as_str()) as _,
        &column!(n => n.change.connection_id) as _,
        &column!(n => n.agent_key),
        &column!(n => &n.change.agent_id) as _,
        &column!(n => n.sequence),
        &column!(n => n.change.topic.as_str()) as _,
        &column!(n => n.presence.as_deref()) as _,
        &column!(n => n.previous.as_deref()) as _,
        &column!(n => n.occurred_at) as _,
        &column!(n => n.change.raw.as_ref()) as _,
        clock::now(),
        &column!(n => n.change.origin.as_str()) as _,
        &column!(n => n.state.as_deref()) as _,
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(u64::try_from(made).unwrap_or_default())
}
