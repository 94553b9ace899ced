//! Routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use uuid::Uuid;

use super::answers::Refusal;
use super::world::Shared;
use super::{control, rest, upgrade};

/// Every route of the simulator.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/api/v2/oauth/token", post(rest::token))
        .route("/api/v2/users/me", get(rest::users_me))
        .route("/api/v2/realtime/connections", get(rest::list_connections).post(rest::create_connection))
        .route("/api/v2/realtime/connections/{id}", delete(rest::delete_connection))
        .route("/realtime/ws/{key}", get(upgrade::upgrade))
        .route("/_sim/verbs", post(control::verbs))
        .route("/_sim/snapshot", get(control::snapshot))
        .route("/_sim/ledger", get(control::ledger))
        .fallback(async || Refusal::not_found("no such resource").into_response())
        .layer(from_fn_with_state(shared.clone(), correlate))
        .with_state(shared)
}

/// Counts the status and adds the header by which Genesys' support finds an answer again.
async fn correlate(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let control = request.uri().path().starts_with("/_sim/");
    let mut response = next.run(request).await;
    if !control {
        let status = response.status().as_u16();
        shared.change(|world| *world.tally.statuses.entry(status).or_default() += 1);
    }
    if let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string()) {
        response.headers_mut().insert(HeaderName::from_static("inin-correlation-id"), id);
    }
    response
}
