//! Agents by an id that several sources may know, the CRM's ids of agents, and erasures of persons.

use super::caller::Caller;
use super::{Result, ServiceError};
use crate::domain::external_ids::Pair;
use crate::domain::ids::{AgentId, SourceId};
use crate::store::StoreError;
use crate::store::erasure::requests::Erasure;
use crate::store::sources::external_ids::{Counts, ExternalIdRow, Meant};
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
