//! Agents by an id that several sources may know, their days, the CRM's ids of agents, and erasures of
//! persons.

use time::{Duration, OffsetDateTime};

use super::caller::Caller;
use super::{Result, ServiceError};
use crate::clock;
use crate::domain::external_ids::Pair;
use crate::domain::ids::{AgentId, SourceId};
use crate::domain::presence::Event;
use crate::store::StoreError;
use crate::store::erasure::requests::Erasure;
use crate::store::sources::external_ids::{Counts, ExternalIdRow, Meant};
use crate::store::sources::gaps::{GapFilter, GapRow};
use crate::store::views::agents::AgentRow;

/// The one agent of this id, in the named source or in the only one that knows it.
///
/// # Errors
/// If there is none, or several and no source is named, or the database does not answer.
pub async fn get(caller: &Caller, id: &str, source: Option<SourceId>) -> Result<AgentRow> {
    let mut rows = caller.store.agents_by_id(id, source).await?;
    if rows.len() > 1 {
        return Err(ServiceError::AmbiguousAgent);
    }
    rows.pop().ok_or(ServiceError::Store(StoreError::NotFound("agent")))
}

/// Changes of a day that are read; few agents have as many.
const CHANGES_MAX: i64 = 500;
const GAPS_MAX: i64 = 500;
/// How far back the state is looked for that an agent was in when a day began.
const BEFORE: Duration = Duration::days(400);

/// What is known of an agent from one moment to another.
#[derive(Clone, Debug)]
pub struct Day {
    /// Its changes by arrival, the last first.
    pub changes: Vec<Event>,
    /// There were more: the first ones are left out.
    pub is_cut_off: bool,
    /// Presence when it began; `None` if unknown.
    pub before: Option<String>,
    /// When the agent could not be seen.
    pub gaps: Vec<GapRow>,
    /// How far it has got.
    pub upto: OffsetDateTime,
}

/// What is known of an agent from one moment to another.
///
/// # Errors
/// If the database does not answer.
pub async fn day(caller: &Caller, agent: &AgentRow, from: OffsetDateTime, to: OffsetDateTime) -> Result<Day> {
    let (store, source, id) = (&caller.store, agent.source_id, &agent.agent_id);
    let changes = store.events_between(source, id, (from, to), CHANGES_MAX).await?;
    let before = match changes.last() {
        Some(first) => first.previous.clone(),
        None => {
            let last = store.events_between(source, id, (from.saturating_sub(BEFORE), from), 1).await?;
            last.into_iter().next().and_then(|event| event.presence)
        }
    };
    let reaching = GapFilter {
        source: Some(source),
        agents: Some(vec![id.0.clone()]),
        since: Some(from),
        until: Some(to),
        ..GapFilter::default()
    };
    let gaps = store.gaps(&reaching, None, GAPS_MAX).await?;
    let is_cut_off = i64::try_from(changes.len()).is_ok_and(|read| read >= CHANGES_MAX);
    Ok(Day { changes, is_cut_off, before, gaps, upto: clock::now().min(to) })
}

/// Asks to erase the person behind an agent; `watch`: the agent is watched further.
///
/// # Errors
/// If no source is named and not exactly one can be meant, there is no such agent, another request for it
/// runs, or the database refuses.
pub async fn erase(
    caller: &Caller,
    source: Option<SourceId>,
    agent: &AgentId,
    watch: bool,
) -> Result<Erasure> {
    let source = source_or_only(caller, source, Some(&agent.0)).await?;
    Ok(caller.store.request_erasure(source, agent, watch, caller.principal.as_str()).await?)
}

/// Sets or removes the CRM's id of one agent.
///
/// # Errors
/// If no source is named and not exactly one can be meant, or the database refuses.
pub async fn set_external_id(
    caller: &Caller,
    source: Option<SourceId>,
    agent: &AgentId,
    external_id: Option<&str>,
) -> Result<ExternalIdRow> {
    let source = source_or_only(caller, source, Some(&agent.0)).await?;
    let principal = caller.principal.as_str();
    Ok(caller.store.set_external_id(source, agent, external_id, principal).await?)
}

/// Sets the CRM's ids of many agents; with `replace`, other agents of the source have none afterwards.
///
/// # Errors
/// If no source is named and not exactly one can be meant, or the database refuses.
pub async fn put_external_ids(
    caller: &Caller,
    source: Option<SourceId>,
    pairs: &[Pair],
    replace: bool,
) -> Result<Counts> {
    let source = source_or_only(caller, source, None).await?;
    Ok(caller.store.put_external_ids(source, pairs, replace, caller.principal.as_str()).await?)
}

/// The source that is named, or else the only one that can be meant.
async fn source_or_only(caller: &Caller, named: Option<SourceId>, agent: Option<&str>) -> Result<SourceId> {
    if let Some(source) = named {
        return Ok(source);
    }
    match caller.store.source_meant(agent).await? {
        Meant::One(source) => Ok(source),
        Meant::None => Err(ServiceError::NoSource),
        Meant::Several => Err(ServiceError::AmbiguousAgent),
    }
}
