//! `/v1/agents/external-ids`, and the change of one agent's: which users of the CRM agents are.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::body::{JsonBody, JsonOrCsv};
use crate::api::http::page::{List, Place, Query, maybe_at, path_text};
use crate::api::http::problem::{ApiError, Code};
use crate::domain::external_ids::{self, PAIRS_MAX, check_id, check_pairs, read_csv};
use crate::domain::ids::{AgentId, SourceId, canonical_guid};
use crate::domain::violation::Violation;
use crate::services;
use crate::services::caller::Caller;
use crate::store::sources::external_ids::ExternalIdRow;

type Reply = Result<HttpResponse, ApiError>;

fn view(row: &ExternalIdRow) -> Value {
    json!({
        "source_id": row.source_id,
        "agent_id": row.agent_id,
        "external_id": row.external_id,
        "updated_at": maybe_at(row.updated_at),
    })
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let source = query.id("source")?.map(SourceId);
    let external_id = query.text("external_id")?;
    let paging = query.paging(List::ExternalIds)?;
    let after = paging.after_pair().map(|(source, agent)| (SourceId(source), agent));
    let rows = caller.store.external_ids(source, external_id.as_deref(), after, paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Pair(row.source_id.0, row.agent_id.0.clone()), view))
}

/// Of one agent.
pub(in crate::api) async fn update(caller: Caller, request: HttpRequest, mut body: JsonBody) -> Reply {
    let agent = canonical_guid(path_text(&request)?);
    // Nothing can be there.
    check_id("id", &agent).map_err(|_| ApiError::not_found())?;
    let mut query = Query::read(&request)?;
    let source = query.id("source")?.map(SourceId);
    query.finish()?;
    body.must_be_given(&["external_id"]);
    let external_id = body.text_or_null("external_id").flatten();
    let wrong = external_id.as_deref().and_then(|text| check_id("external_id", text).err());
    body.finish(wrong.into_iter().collect())?;
    let row =
        services::agents::set_external_id(&caller, source, &AgentId(agent), external_id.as_deref()).await?;
    Ok(HttpResponse::Ok().json(view(&row)))
}

/// Of many agents.
pub(in crate::api) async fn put(caller: Caller, request: HttpRequest, body: JsonOrCsv) -> Reply {
    let mut query = Query::read(&request)?;
    let source = query.id("source")?.map(SourceId);
    let (given, replace) = match body {
        JsonOrCsv::Json(body) => take_items(body)?,
        JsonOrCsv::Csv(bytes) => {
            let replace = query.boolean("replace")?.unwrap_or(false);
            let given = read_csv(&bytes)
                .map_err(|error| ApiError::new(Code::InvalidCsv, format!("The body is refused: {error}.")))?;
            (given, replace)
        }
    };
    query.finish()?;
    let pairs = check_pairs(given).map_err(|wrong| ApiError::pairs(&wrong))?;
    let counts = services::agents::put_external_ids(&caller, source, &pairs, replace).await?;
    Ok(HttpResponse::Ok().json(json!({
        "added": counts.added,
        "changed": counts.changed,
        "removed": counts.removed,
        "unchanged": counts.unchanged,
    })))
}

type Given = Vec<(external_ids::Place, String, String)>;

fn take_items(mut body: JsonBody) -> Result<(Given, bool), ApiError> {
    body.must_be_given(&["items"]);
    let replace = body.boolean("replace").unwrap_or(false);
    let mut given = Vec::new();
    match body.value("items") {
        Some(Value::Array(items)) if items.len() > PAIRS_MAX => {
            body.wrong::<()>("items", &format!("has more than {PAIRS_MAX} items"));
        }
        Some(Value::Array(items)) => {
            for (i, item) in items.into_iter().enumerate() {
                match take_pair(item) {
                    Ok((agent, external)) => given.push((external_ids::Place::Item(i), agent, external)),
                    Err((field, what)) => {
                        body.wrong::<()>(&format!("items/{i}{field}"), what);
                    }
                }
            }
        }
        Some(_) => {
            body.wrong::<()>("items", "is no list");
        }
        None => {}
    }
    body.finish(Vec::new())?;
    Ok((given, replace))
}

fn take_pair(item: Value) -> Result<(String, String), (&'static str, &'static str)> {
    let Value::Object(mut fields) = item else {
        return Err(("", "is no object"));
    };
    let mut text = |name: &str, at| match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err((at, "is no string")),
        None => Err((at, "is missing")),
    };
    let pair = (text("agent_id", "/agent_id")?, text("external_id", "/external_id")?);
    if fields.is_empty() { Ok(pair) } else { Err(("", "has other fields than agent_id and external_id")) }
}

impl ApiError {
    /// Pairs that break a rule, by their place in what was sent.
    fn pairs(wrong: &[external_ids::Wrong]) -> Self {
        let violations: Vec<Value> = wrong
            .iter()
            .map(|wrong| {
                let Violation { field, what } = &wrong.violation;
                match wrong.place {
                    external_ids::Place::Item(i) => {
                        json!({"pointer": format!("/items/{i}/{field}"), "detail": what})
                    }
                    external_ids::Place::Line(line) => {
                        json!({"line": line, "detail": format!("{field} {what}")})
                    }
                }
            })
            .collect();
        Self::new(Code::InvalidFields, "Some pairs break a rule; see errors, which tells a hundred at most.")
            .with_errors(violations)
    }
}
