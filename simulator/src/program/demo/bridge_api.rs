//! What the demo asks of the bridge's REST interface.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use genesys_simulator::http::Api;
use serde_json::{Value, json};

/// Reads every page of a list: `items` until there is no `next_cursor`.
pub async fn pages(api: &Api, path: &str) -> anyhow::Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let url = match &cursor {
            Some(cursor) => {
                let query: String =
                    form_urlencoded::Serializer::new(String::new()).append_pair("cursor", cursor).finish();
                format!("{path}?{query}")
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

/// Connections that the bridge calls open.
pub async fn open_connections(api: &Api) -> anyhow::Result<usize> {
    let items = pages(api, "/v1/connections").await?;
    Ok(items.iter().filter(|item| item.get("state").is_some_and(|state| state == "open")).count())
}

/// The bridge's own feed: event id, and the simulator's number of the change it holds (a frame may have none).
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

/// `n` of an upstream frame, which is an object or its text.
fn number(raw: &Value) -> Option<u64> {
    match raw {
        Value::String(text) => serde_json::from_str::<Value>(text).ok()?.get("n")?.as_u64(),
        raw => raw.get("n")?.as_u64(),
    }
}
