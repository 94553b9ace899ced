//! Stores events again that this process had committed and the database does not have any more, with their
//! deliveries and their agents' states (docs/adr/0057).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection};

use crate::clock;
use crate::domain::ids::{AgentId, EventId, SourceId};
use crate::domain::presence::numbering::Agent;
use crate::domain::webhook::fan_out::NewEvent;
use crate::store::ingest::filters::shared_generation;
use crate::store::ingest::recent::Write;
use crate::store::ingest::record::{DELIVERIES_MAX, stored};
use crate::store::locks::BEGIN_WRITING;
use crate::store::types::column;
use crate::store::{Result, Store, session};

/// Events that are stored again in one transaction, about.
const EVENTS_AT_ONCE: usize = 512;

impl Store {
    /// Stores again what is kept and missing, in the order of positions; adds to how many events were, and says
    /// how many could not be.
    pub(super) async fn store_all_again(&self, (restored, lost): (&mut u64, &mut u64)) -> Result<()> {
        self.filters.forget(0);
        self.read_filters().await?;
        let writes = self.recent.get().writes;
        let there: HashSet<EventId> = {
            let events = writes.iter().flat_map(|write| &write.events);
            let keys: Vec<_> = events.map(|new| (new.event.event_id, new.event.received_at)).collect();
            let (mut connection, _) = self.assessed().await?;
            let mut tx = connection.begin_with(BEGIN_WRITING).await?;
            session::allow_a_minute(&mut tx).await?;
            let there = stored(&mut tx, keys.into_iter()).await?;
            tx.commit().await?;
            there.into_iter().collect()
        };
        let mut missing = writes;
        missing.retain(|write| write.events.iter().any(|new| !there.contains(&new.event.event_id)));
        let mut left = missing.as_slice();
        // Those that could not be are tried again with the rest.
        *lost = 0;
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(self.fit_one_transaction(left));
            left = rest;
            match Box::pin(self.store_again(chunk)).await {
                Ok((stored, not_restorable)) => {
                    *restored += stored;
                    *lost += not_restorable;
                }
                Err(error) if !error.is_transient() => {
                    Box::pin(self.store_again_one_by_one(chunk, (restored, lost))).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The same for writes of which the database refuses something: event by event, so that the others are
    /// stored.
    async fn store_again_one_by_one(
        &self,
        writes: &[Arc<Write>],
        (restored, lost): (&mut u64, &mut u64),
    ) -> Result<()> {
        for write in writes {
            for new in &write.events {
                let alone = Write { events: vec![new.clone()], agents: write.agents.clone() };
                match Box::pin(self.store_again(&[Arc::new(alone)])).await {
                    Ok((stored, not_restorable)) => {
                        *restored += stored;
                        *lost += not_restorable;
                    }
                    Err(error) if !error.is_transient() => {
                        let event = new.event.event_id;
                        tracing::error!(%error, %event, "the database refuses an event that a failover lost");
                        *lost += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Gives deliveries that were sent in the last minute what their bodies had of their own.
    pub(super) async fn restore_bodies(&self) -> Result<()> {
        let sent = self.recent.sent();
        for sent in sent.chunks(DELIVERIES_MAX) {
            let (mut connection, _) = self.assessed().await?;
            let mut tx = connection.begin_with(BEGIN_WRITING).await?;
            session::allow_a_minute(&mut tx).await?;
            sqlx::query!(
                "update delivery d
                 set sent_at = n.sent_at,
                     superseded = n.superseded
                 from unnest($1::uuid[], $2::timestamptz[], $3::int[]) as n (delivery_id, sent_at, superseded)
                 where d.delivery_id = n.delivery_id
                   and d.sent_at is distinct from n.sent_at",
                &column(sent, |sent| sent.delivery_id) as _,
                &column(sent, |sent| sent.sent_at),
                &column(sent, |sent| sent.superseded),
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// How many of these writes are stored again in one transaction: not too many, and one at least.
    fn fit_one_transaction(&self, writes: &[Arc<Write>]) -> usize {
        let (mut events, mut deliveries) = (0, 0);
        let fit = writes.iter().take_while(|write| {
            events += write.events.len();
            deliveries += self.filters.ask(|filters| {
                let watching = |new: &NewEvent| new.facts().map_or(0, |facts| filters.watching(&facts));
                write.events.iter().map(watching).sum::<usize>()
            });
            events <= EVENTS_AT_ONCE && deliveries <= DELIVERIES_MAX
        });
        fit.count().max(1)
    }

    /// Stores the events of some writes again, as far as they are missing; gives how many were, and how many
    /// could not be.
    async fn store_again(&self, writes: &[Arc<Write>]) -> Result<(u64, u64)> {
        let (mut connection, _) = self.assessed().await?;
        let mut tx = connection.begin_with(BEGIN_WRITING).await?;
        session::allow_a_minute(&mut tx).await?;
        let events = || writes.iter().flat_map(|write| &write.events);
        let keys = events().map(|new| (new.event.event_id, new.event.received_at));
        let there: HashSet<EventId> = stored(&mut tx, keys).await?.into_iter().collect();
        let missing: Vec<_> = events().filter(|new| !there.contains(&new.event.event_id)).collect();
        let mut agents = agents_of(&mut tx, &missing).await?;
        let mut restorable = Vec::with_capacity(missing.len());
        for new in &missing {
            let Some((agent_key, last)) = name_of(new).and_then(|name| agents.get_mut(&name)) else {
                continue;
            };
            let is_erased = self.handoff.is_erased(new.agent_key, new.event.position);
            if is_erased || new.event.sequence.is_some_and(|sequence| sequence <= *last) {
                continue;
            }
            *last = new.event.sequence.unwrap_or(*last);
            restorable.push(NewEvent { agent_key: *agent_key, ..(*new).clone() });
        }
        let generation = shared_generation(&mut tx).await?;
        self.filters.are_current(&mut tx, generation, true).await?;
        let now = clock::now();
        let planned = self.filters.ask(|filters| self.plan_write_again(&restorable, filters, now));
        let mut written = self.write_events(&mut tx, &restorable, planned).await?;
        raise_agents(&mut tx, writes, &restorable).await?;
        let agents = writes.iter().flat_map(|write| write.agents.iter());
        written.kept.agents = Arc::new(agents.map(|(name, agent)| (name.clone(), agent.clone())).collect());
        tx.commit().await?;
        self.announce(written).await;
        Ok((count(restorable.len()), count(missing.len() - restorable.len())))
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn name_of(new: &NewEvent) -> Option<(SourceId, AgentId)> {
    let (source, _) = new.event.source.as_ref()?;
    Some((*source, new.event.agent_id.clone()?))
}

/// Keys and last sequences of the agents of some events, making those that are missing; agents of a source that
/// is not there are left out.
async fn agents_of(
    conn: &mut PgConnection,
    events: &[&NewEvent],
) -> Result<HashMap<(SourceId, AgentId), (i64, i64)>> {
    let names: HashSet<_> = events.iter().filter_map(|new| name_of(new)).collect();
    let (sources, ids): (Vec<_>, Vec<_>) = names.into_iter().unzip();
    sqlx::query!(
        "insert into agent (source_id, agent_id)
         select w.source_id, w.agent_id
         from unnest($1::uuid[], $2::text[]) as w (source_id, agent_id)
         join source s on s.source_id = w.source_id
         on conflict on constraint agent_id_unique do nothing",
        &sources as _,
        &ids as _,
    )
    .execute(&mut *conn)
    .await?;
    let rows = sqlx::query!(
        r#"select a.agent_key, a.source_id as "source_id: SourceId", a.agent_id as "agent_id: AgentId", a.sequence
           from unnest($1::uuid[], $2::text[]) as w (source_id, agent_id)
           join agent a on a.source_id = w.source_id and a.agent_id = w.agent_id"#,
        &sources as _,
        &ids as _,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.source_id, row.agent_id), (row.agent_key, row.sequence))).collect())
}

/// Gives agents the state and the sequence that they had after the last of these events.
async fn raise_agents(conn: &mut PgConnection, writes: &[Arc<Write>], events: &[NewEvent]) -> Result<()> {
    let states: HashMap<_, &Agent> =
        writes.iter().flat_map(|write| write.agents.iter()).map(|(name, agent)| (name, agent)).collect();
    let numbered = events.iter().filter(|new| new.event.sequence.is_some());
    let last: HashMap<i64, &NewEvent> = numbered.map(|new| (new.agent_key, new)).collect();
    let rows: Vec<(&NewEvent, &Agent)> =
        last.into_values().filter_map(|new| Some((new, *states.get(&name_of(new)?)?))).collect();
    sqlx::query!(
        "update agent a
         set sequence = n.sequence,
             presence = n.presence,
             since = n.since,
             state = n.state,
             received_at = n.received_at,
             topic = n.topic,
             occurred_at = n.occurred_at,
             event_id = n.event_id
         from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                     $7::timestamptz[], $8::uuid[], $9::jsonb[])
              as n (agent_key, sequence, presence, topic, since, occurred_at, received_at, event_id, state)
         where a.agent_key = n.agent_key
           and a.sequence < n.sequence",
        &column(&rows, |(new, _)| new.agent_key),
        &column(&rows, |(new, _)| new.event.sequence) as _,
        &column(&rows, |(_, agent)| agent.presence.as_deref()) as _,
        &column(&rows, |(new, _)| new.event.topic.as_deref()) as _,
        &column(&rows, |(_, agent)| agent.since) as _,
        &column(&rows, |(new, _)| new.event.occurred_at) as _,
        &column(&rows, |(_, agent)| agent.received_at) as _,
        &column(&rows, |(new, _)| new.event.event_id) as _,
        &column(&rows, |(_, agent)| Json(&agent.state)) as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}
