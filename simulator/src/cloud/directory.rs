//! Users, rosters and presence definitions.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::answers::{Answer, Caller, json_answer, refuse};
use super::state::{Shared, State};

/// Ids of one call.
const USER_IDS_MAX: usize = 100;
const PRESENCES_MAX: usize = 50;
/// Users of one page.
const PAGE_SIZE_DEFAULT: usize = 25;
const PAGE_SIZE_MAX: usize = 500;

/// `GET /api/v2/users`
pub(super) fn users(shared: &Arc<Shared>, caller: &Caller) -> Answer {
    let ids = caller.list("id");
    if ids.len() > USER_IDS_MAX {
        return Err(refuse(StatusCode::BAD_REQUEST, "max.user.ids"));
    }
    let expand = caller.list("expand");
    let only_active = caller.query("state").is_none_or(|state| state == "active") && ids.is_empty();
    shared.read(|state| {
        let all = state.people.values();
        if ids.is_empty() {
            let chosen: Vec<_> = all.filter(|person| person.active || !only_active).collect();
            page(caller, chosen.len(), |range| {
                chosen.get(range).unwrap_or_default().iter().map(|person| person.json(&expand)).collect()
            })
        } else {
            let found: Vec<Value> =
                ids.iter().filter_map(|id| Some(state.people.get(id)?.json(&expand))).collect();
            page(caller, found.len(), |range| found.get(range).unwrap_or_default().to_vec())
        }
    })
}

/// `GET /api/v2/users/presences/purecloud/bulk`
pub(super) fn bulk(shared: &Arc<Shared>, caller: &Caller) -> Answer {
    let ids = caller.list("id");
    if ids.len() > PRESENCES_MAX {
        return Err(refuse(StatusCode::BAD_REQUEST, "max.user.presences"));
    }
    let presences: Vec<Value> = shared
        .read(|state| ids.iter().filter_map(|id| Some(state.people.get(id)?.presence_json())).collect());
    Ok(json_answer(StatusCode::OK, &Value::Array(presences)))
}

/// `GET /api/v2/routing/queues/{id}/members` and `GET /api/v2/groups/{id}/members`
pub(super) fn members(shared: &Arc<Shared>, caller: &Caller, id: &str, queue: bool) -> Answer {
    shared.read(|state| {
        let roster = if queue { state.queues.get(id) } else { state.groups.get(id) };
        let roster = roster.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "not.found"))?;
        let member = |agent: &String| -> Option<Value> {
            let user = state.people.get(agent)?.json(&[]);
            Some(if queue { json!({"id": agent, "joined": true, "user": user}) } else { user })
        };
        let members: Vec<Value> = roster.iter().filter_map(member).collect();
        page(caller, members.len(), |range| members.get(range).unwrap_or_default().to_vec())
    })
}

/// `GET /api/v2/presence/definitions`
pub(super) fn definitions(state: &State) -> Value {
    let entities: Vec<Value> = state.definitions.iter().map(super::people::Definition::json).collect();
    json!({"total": entities.len(), "entities": entities})
}

fn page(
    caller: &Caller,
    total: usize,
    entities: impl FnOnce(std::ops::Range<usize>) -> Vec<Value>,
) -> Answer {
    let number =
        |name: &str, default: usize| caller.query(name).map_or(Some(default), |text| text.parse().ok());
    let size = number("pageSize", PAGE_SIZE_DEFAULT).filter(|size| (1..=PAGE_SIZE_MAX).contains(size));
    let size = size.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "bad.request"))?;
    let at = number("pageNumber", 1)
        .filter(|at| *at >= 1)
        .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "bad.request"))?;
    let begin = ((at - 1) * size).min(total);
    let end = (begin + size).min(total);
    Ok(json_answer(
        StatusCode::OK,
        &json!({
            "entities": entities(begin..end),
            "pageSize": size,
            "pageNumber": at,
            "total": total,
            "pageCount": total.div_ceil(size),
        }),
    ))
}
