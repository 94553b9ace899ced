//! `/v1/agents`: the last known state of each Genesys user.

pub(in crate::api) mod erasures;
pub(in crate::api) mod external_ids;

use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::http::agent_query::take_agent_filter;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_text};
use crate::api::http::problem::ApiError;
use crate::domain::ids::{AgentId, EventId, SourceId, canonical_guid};
use crate::domain::presence::event_data::{Presence, SourceName, StateData};
use crate::services;
use crate::services::caller::Caller;
use crate::store::views::agents::AgentRow;

type Reply = Result<HttpResponse, ApiError>;

#[derive(Serialize)]
struct View<'a> {
    id: &'a AgentId,
    external_id: Option<&'a str>,
    name: Option<&'a str>,
    email: Option<&'a str>,
    source: SourceName<'a>,
    presence: Option<Presence<'a>>,
    since: Option<String>,
    #[serde(flatten)]
    state: StateData<'a>,
    sequence: i64,
    topic: Option<&'a str>,
    occurred_at: Option<String>,
    received_at: Option<String>,
    event_id: Option<EventId>,
    connected: bool,
    proven_at: Option<String>,
    rejected: Option<&'a str>,
    erased_at: Option<String>,
    watched: bool,
}

fn view(row: &AgentRow) -> Value {
    let view = View {
        id: &row.agent_id,
        external_id: row.external_id.as_deref(),
        name: row.name.as_deref(),
        email: row.email.as_deref(),
        source: SourceName { id: row.source_id, name: &row.source_name },
        presence: Presence::of(Some(&row.state), row.presence.as_deref()),
        since: maybe_at(row.since),
        state: StateData::of(Some(&row.state), at),
        sequence: row.sequence,
        topic: row.topic.as_deref(),
        occurred_at: maybe_at(row.occurred_at),
        received_at: maybe_at(row.received_at),
        event_id: row.event_id,
        connected: row.connected,
        proven_at: maybe_at(row.proven_at),
        rejected: row.rejected.as_deref(),
        erased_at: maybe_at(row.erased_at),
        watched: row.watched,
    };
    json!(view)
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let filter = take_agent_filter(&mut query)?;
    let paging = query.paging(List::Agents)?;
    let rows = caller.store.agents(&filter, paging.after_number(), paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Number(row.agent_key), view))
}

/// How many there are, by presence.
pub(in crate::api) async fn counts(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let filter = take_agent_filter(&mut query)?;
    query.finish()?;
    if filter.presence.is_some() {
        return Err(ApiError::parameter("presence", "is what is counted"));
    }
    let counts = caller.store.agents_by_presence(&filter).await?;
    let total: i64 = counts.iter().map(|count| count.agents).sum();
    let items: Vec<Value> =
        counts.iter().map(|count| json!({"presence": count.presence, "agents": count.agents})).collect();
    Ok(HttpResponse::Ok().json(json!({"agents": total, "presences": items})))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    let id = canonical_guid(path_text(&request)?);
    let mut query = Query::read(&request)?;
    let source = query.id("source")?.map(SourceId);
    query.finish()?;
    let row = services::agents::get(&caller, &id, source).await?;
    Ok(HttpResponse::Ok().json(view(&row)))
}

/// Takes `agent`, a Genesys user id or an id of the CRM: all Genesys ids that it may stand for.
pub(in crate::api) async fn take_agents(
    caller: &Caller,
    query: &mut Query,
) -> Result<Option<Vec<String>>, ApiError> {
    match query.text("agent")? {
        Some(text) => Ok(Some(caller.store.agent_ids_of(&text).await?)),
        None => Ok(None),
    }
}
