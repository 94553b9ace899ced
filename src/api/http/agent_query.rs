//! Which agents a query asks for, for the API and the board of the console.

use super::page::Query;
use super::problem::ApiError;
use crate::domain::ids::SourceId;
use crate::domain::presence::canonical_presence;
use crate::store::views::agents::AgentFilter;

/// Takes the filters of agents.
///
/// # Errors
/// If one is wrong.
pub fn take_agent_filter(query: &mut Query) -> Result<AgentFilter, ApiError> {
    let presence = query
        .text("presence")?
        .map(|text| canonical_presence(&text).ok_or_else(|| ApiError::parameter("presence", "is empty")))
        .transpose()?;
    Ok(AgentFilter {
        source: query.id("source")?.map(SourceId),
        presence,
        external_id: query.text("external_id")?,
        queue: query.text("queue")?,
        name: query.text("name")?,
        connected: query.boolean("connected")?,
    })
}
