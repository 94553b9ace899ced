//! Verbs over REST, for the program: `POST /_sim/verbs`, `GET /_sim/snapshot`,
//! `GET /_sim/ledger?after=n`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::Refusal;
use super::ledger::Change;
use super::snapshot::Snapshot;
use super::verbs::{Verb, apply};
use super::world::Shared;

/// Changes one answer of the ledger holds at most.
const LEDGER_PAGE: usize = 1_000;

/// Obeys one verb, or a list of them in order.
pub(super) async fn verbs(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let read = serde_json::from_slice::<Vec<Verb>>(&body)
        .or_else(|_| serde_json::from_slice::<Verb>(&body).map(|verb| vec![verb]));
    let verbs = read.map_err(|error| Refusal::bad_request(error.to_string()))?;
    let touched: Vec<_> = verbs.into_iter().map(|verb| apply(&shared, verb)).collect();
    Ok(Json(json!({"touched": touched})))
}

pub(super) async fn snapshot(State(shared): State<Arc<Shared>>) -> Json<Snapshot> {
    Json(shared.read(super::world::World::snapshot))
}

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: u64,
}

pub(super) async fn ledger(
    State(shared): State<Arc<Shared>>,
    Query(from): Query<After>,
) -> Json<Vec<Change>> {
    Json(shared.read(|world| world.ledger.after(from.after).take(LEDGER_PAGE).cloned().collect()))
}
