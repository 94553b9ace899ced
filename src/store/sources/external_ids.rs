//! `agent_external_id`: ids of agents in the CRM, mapped and listed. Called by `services/agents.rs` and the
//! API.

use std::collections::HashSet;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::external_ids::Pair;
use crate::domain::ids::{AgentId, SourceId, canonical_guid, with_canonical_guids};
use crate::store::{Result, Store, StoreError, audit};

/// An agent and its id in the CRM.
#[derive(Clone, Debug)]
pub struct ExternalIdRow {
    /// Source of the agent.
    pub source_id: SourceId,
    /// Genesys user id.
    pub agent_id: AgentId,
    /// Id in the CRM; `None` if it has none.
    pub external_id: Option<String>,
    /// When it was set.
    pub updated_at: Option<OffsetDateTime>,
}

/// Effects of the given pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Agents that had none before.
    pub added: i64,
    /// Agents that had another one.
    pub changed: i64,
    /// Agents that have none any more.
    pub removed: i64,
    /// Agents that had the same one.
    pub unchanged: i64,
}

/// Source that a caller means who names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    /// This one.
    One(SourceId),
    /// It could be several.
    Several,
    /// There is none.
    None,
}

impl Store {
    /// Source that a caller means who names none: the one that knows this agent, or the only one.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn source_meant(&self, agent: Option<&str>) -> Result<Meant> {
        let known = sqlx::query!(
            r#"select s.source_id as "source_id: SourceId",
                      exists (select from agent a where a.source_id = s.source_id and a.agent_id = $1)
                      or exists (
                          select from agent_external_id x where x.source_id = s.source_id and x.agent_id = $1)
                          as "knows!"
               from source s
               where deleted_at is null
               order by 2 desc
               limit 2"#,
            agent,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(match known.as_slice() {
            [] => Meant::None,
            [one] => Meant::One(one.source_id),
            [first, second, ..] if first.knows && !second.knows => Meant::One(first.source_id),
            _ => Meant::Several,
        })
    }

    /// A page of pairs, by source and agent.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn external_ids(
        &self,
        source: Option<SourceId>,
        external_id: Option<&str>,
        after: Option<(SourceId, &str)>,
        limit: i64,
    ) -> Result<Vec<ExternalIdRow>> {
        let (after_source, after_agent) = after.unzip();
        let rows = sqlx::query_as!(
            ExternalIdRow,
            r#"select x.source_id as "source_id: SourceId", agent_id as "agent_id: AgentId",
                      external_id as "external_id?", x.updated_at as "updated_at?"
               from agent_external_id x
               join source s on s.source_id = x.source_id
               where s.deleted_at is null
                 and ($1::uuid is null or x.source_id = $1)
                 and ($2::text is null or external_id = $2)
                 and ($3::uuid is null or (x.source_id, agent_id) > ($3, $4::text))
               order by x.source_id, agent_id
               limit $5"#,
            source as _,
            external_id,
            after_source as _,
            after_agent,
            limit,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(rows)
    }

    /// Gives one agent its id in the CRM, or takes it away.
    ///
    /// # Errors
    /// If there is no such source, or the database refuses.
    pub async fn set_external_id(
        &self,
        source: SourceId,
        agent: &AgentId,
        external_id: Option<&str>,
        principal: &str,
    ) -> Result<ExternalIdRow> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, source).await?;
        let mut counts = Counts::default();
        match external_id {
            Some(external_id) => {
                let pair = Pair { agent_id: agent.clone(), external_id: external_id.to_owned() };
                counts = merge(&mut tx, source, &[pair], now).await?;
            }
            None => {
                let gone = sqlx::query!(
                    "delete from agent_external_id where source_id = $1 and agent_id = $2",
                    source as _,
                    agent as _,
                )
                .execute(&mut *tx)
                .await?;
                counts.removed = i64::from(gone.rows_affected() > 0);
            }
        }
        write_down(&mut tx, source, Some(agent), counts, now, principal).await?;
        let row = sqlx::query_as!(
            ExternalIdRow,
            r#"select source_id as "source_id: SourceId", agent_id as "agent_id: AgentId",
                      external_id as "external_id?", updated_at as "updated_at?"
               from agent_external_id
               where source_id = $1
                 and agent_id = $2"#,
            source as _,
            agent as _,
        )
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        let none =
            ExternalIdRow { source_id: source, agent_id: agent.clone(), external_id: None, updated_at: None };
        Ok(row.unwrap_or(none))
    }

    /// Gives agents of a source their ids in the CRM; with `replace` those that are not named lose theirs.
    /// All or nothing.
    ///
    /// # Errors
    /// If there is no such source, or the database refuses.
    pub async fn put_external_ids(
        &self,
        source: SourceId,
        pairs: &[Pair],
        replace: bool,
        principal: &str,
    ) -> Result<Counts> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        lock(&mut tx, source).await?;
        let mut counts = merge(&mut tx, source, pairs, now).await?;
        if replace {
            let named: Vec<&AgentId> = pairs.iter().map(|pair| &pair.agent_id).collect();
            let gone = sqlx::query!(
                "delete from agent_external_id x
                 where source_id = $1
                   and not exists (select from unnest($2::text[]) as n (agent_id) where n.agent_id = x.agent_id)",
                source as _,
                &named as _,
            )
            .execute(&mut *tx)
            .await?;
            counts.removed = i64::try_from(gone.rows_affected()).unwrap_or(i64::MAX);
        }
        write_down(&mut tx, source, None, counts, now, principal).await?;
        tx.commit().await?;
        Ok(counts)
    }

    /// Genesys ids that a text may stand for: itself, and those of agents with this id in the CRM.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn agent_ids_of(&self, text: &str) -> Result<Vec<String>> {
        let mut ids = sqlx::query_scalar!(
            "select distinct agent_id from agent_external_id where external_id = $1 limit 1000",
            text,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        // As it was given, too: events of former versions have the case that was in the settings then.
        ids.extend(with_canonical_guids(&[text.to_owned()]));
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

impl Store {
    /// Of these texts, those that are neither the id of an agent that was seen or is to be watched nor an
    /// external id.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn unknown_agents(&self, texts: &[String]) -> Result<Vec<String>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let unknown: HashSet<String> = sqlx::query_scalar!(
            r#"select wanted as "wanted!"
               from unnest($1::text[]) wanted
               where not exists (
                       select from source s
                       join agent a on a.source_id = s.source_id and a.agent_id = wanted
                       where coalesce(s.tenant_id = tenant_asking(), true) and s.deleted_at is null)
                 and not exists (select from agent_external_id x where x.external_id = wanted)
                 and not exists (select from connection_agent c where c.agent_id = wanted)
                 and not exists (
                       select from source s
                       where wanted = any (s.agents)
                         and coalesce(s.tenant_id = tenant_asking(), true)
                         and s.deleted_at is null)"#,
            &with_canonical_guids(texts),
        )
        .fetch_all(&mut *self.begin().await?)
        .await?
        .into_iter()
        .collect();
        let is_unknown =
            |text: &&String| unknown.contains(*text) && unknown.contains(&canonical_guid((*text).clone()));
        Ok(texts.iter().filter(is_unknown).cloned().collect())
    }
}

/// Keeps other changes of the source's pairs out. Events and connections of the source may still be written.
async fn lock(conn: &mut PgConnection, source: SourceId) -> Result<()> {
    sqlx::query_scalar!(
        r#"select source_id as "source_id: SourceId"
           from source
           where source_id = $1
             and deleted_at is null
           for no key update"#,
        source as _,
    )
    .fetch_optional(conn)
    .await?
    .map(|_| ())
    .ok_or(StoreError::NotFound("source"))
}

/// Writes pairs and counts what they change.
async fn merge(
    conn: &mut PgConnection,
    source: SourceId,
    pairs: &[Pair],
    now: OffsetDateTime,
) -> Result<Counts> {
    let agents: Vec<&AgentId> = pairs.iter().map(|pair| &pair.agent_id).collect();
    let externals: Vec<&str> = pairs.iter().map(|pair| pair.external_id.as_str()).collect();
    // The parts of one statement see the table as it was before.
    let counted = sqlx::query!(
        r#"with given as (
               select * from unnest($2::text[], $3::text[]) as g (agent_id, external_id)),
           written as (
               insert into agent_external_id as x (source_id, agent_id, external_id, updated_at)
               select $1, agent_id, external_id, $4 from given
               on conflict (source_id, agent_id) do update
               set external_id = excluded.external_id,
                   updated_at = excluded.updated_at
               where x.external_id <> excluded.external_id)
           select count(*) filter (where x.agent_id is null) as "added!",
                  count(*) filter (where x.external_id <> g.external_id) as "changed!",
                  count(*) filter (where x.external_id = g.external_id) as "unchanged!"
           from given g
           left join agent_external_id x on x.source_id = $1 and x.agent_id = g.agent_id"#,
        source as _,
        &agents as _,
        &externals as _,
        now,
    )
    .fetch_one(conn)
    .await?;
    Ok(Counts { added: counted.added, changed: counted.changed, removed: 0, unchanged: counted.unchanged })
}

/// Writes down what changed, if anything did.
async fn write_down(
    conn: &mut PgConnection,
    source: SourceId,
    agent: Option<&AgentId>,
    counts: Counts,
    now: OffsetDateTime,
    principal: &str,
) -> Result<()> {
    if counts.added + counts.changed + counts.removed == 0 {
        return Ok(());
    }
    let mut entry = Entry::new(now, Kind::AgentsMapped)
        .data("added", counts.added)
        .data("changed", counts.changed)
        .data("removed", counts.removed)
        .data("unchanged", counts.unchanged);
    entry.source_id = Some(source);
    entry.agent_id = agent.cloned();
    entry.principal = Some(principal.to_owned());
    audit::write(conn, &[entry]).await
}
