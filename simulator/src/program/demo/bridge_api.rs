//! Calls of the demo to the bridge's REST interface.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use genesys_simulator::http::Api;
use serde_json::{Value, json};

use crate::program::upstream::Protocol;

/// Reads every page of a list: `items` until there is no `next_cursor`.
pub async fn pages(api: &Api, path: &str) -> anyhow::Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let url = match &cursor {
            Some(cursor) => {
                let query: String =
                    form_urlencoded::Serializer::new(String::new()).append_pair("cursor", cursor).finish();
                format!("{path}{}{query}", if path.contains('?') { '&' } else { '?' })
            }
            None => path.to_owned(),
        };
        let reply = api.get(&url).await?;
        ensure!(reply.status == 200, "GET {path}: {} {}", reply.status, reply.excerpt());
        let mut page = reply.json();
        let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) else {
            anyhow::bail!("GET {path}: no items in {}", reply.excerpt());
        };
        let next = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        let empty = found.is_empty();
        items.extend(found);
        // A feed may give a cursor on its last page too, to go on from later.
        if next.is_none() || empty || next == cursor {
            return Ok(items);
        }
        cursor = next;
    }
}

/// A second and third Genesys organisation.
pub async fn add_source(api: &Api, source: &Value) -> anyhow::Result<()> {
    let reply = api.post("/v1/sources", source).await?;
    ensure!(reply.status == 201, "POST /v1/sources: {} {}", reply.status, reply.excerpt());
    Ok(())
}

/// Registers a webhook; gives back the secret it signs with.
pub async fn add_webhook(api: &Api, url: &str) -> anyhow::Result<String> {
    let reply = api.post("/v1/webhooks", &json!({"url": url, "description": "demo CRM"})).await?;
    ensure!(reply.status == 201, "POST /v1/webhooks: {} {}", reply.status, reply.excerpt());
    let secret = reply.json().get("secret").and_then(Value::as_str).map(str::to_owned);
    secret.context("POST /v1/webhooks: no secret in the answer")
}

/// A link that logs a browser in to the console, once, and leads to the board.
pub async fn login_link(api: &Api, bridge_url: &str) -> anyhow::Result<String> {
    let reply = api.post("/v1/console/login-links", &json!({})).await?;
    ensure!(reply.status == 201, "POST /v1/console/login-links: {} {}", reply.status, reply.excerpt());
    let reply = reply.json();
    let link = reply.get("url").and_then(Value::as_str);
    let link = link.context("POST /v1/console/login-links: no url in the answer")?;
    Ok(format!("{bridge_url}{link}&next=/console/board"))
}

/// Agents on connections that the bridge calls open, once it has read their present states.
pub async fn watched_agents(api: &Api, protocol: Protocol) -> anyhow::Result<usize> {
    let items = pages(api, "/v1/connections").await?;
    let open = items.iter().filter(|item| item.get("state").is_some_and(|state| state == "open"));
    let agents = open.clone().filter_map(|item| item.get("agents")?.as_u64());
    let agents = usize::try_from(agents.sum::<u64>()).unwrap_or(usize::MAX);
    // What is read after the play has begun would be told as well, and confuse the count.
    let read = protocol == Protocol::Realtime
        || pages(api, "/v1/audit?kind=RESYNC_DONE").await?.len() >= open.count();
    Ok(if read { agents } else { 0 })
}

/// The bridge's own feed: event id, and the simulator's number of the change it holds (a frame may have
/// none).
pub async fn feed(api: &Api) -> anyhow::Result<BTreeMap<String, Option<u64>>> {
    let items = pages(api, "/v1/events").await?;
    let mut events = BTreeMap::new();
    for item in items {
        // The feed may hold the event itself or the envelope a webhook gets.
        let event = item.get("data").unwrap_or(&item);
        let id = event.get("event_id").or_else(|| event.get("id")).and_then(Value::as_str);
        let id = id.with_context(|| format!("GET /v1/events: an item without an id: {item}"))?;
        events.insert(id.to_owned(), event.get("raw").and_then(number));
    }
    Ok(events)
}

/// `n` of an upstream frame, which is an object or its text; each protocol has its place for it.
fn number(raw: &Value) -> Option<u64> {
    match raw {
        Value::String(text) => number(&serde_json::from_str::<Value>(text).ok().filter(Value::is_object)?),
        raw => raw.get("n").or_else(|| raw.get("metadata")?.get("n"))?.as_u64(),
    }
}
