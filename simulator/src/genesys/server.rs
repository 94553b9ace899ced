//! Listening, routing and stopping.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
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

/// Accepts connections until the simulator stops; then drops every one of them.
pub(crate) async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let service = TowerToHyperService::new(router);
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
            Some(_) = clients.join_next() => continue,
        };
        // Out of file descriptors, or a client that was gone before we looked: the next accept decides.
        let Ok((stream, _)) = accepted else {
            tokio::task::yield_now().await;
            continue;
        };
        // Without it, latency still is right but forty milliseconds worse.
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        clients.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // The peer's mistakes are answered by hyper; nobody is left to tell about its absence.
            let _ = connection.with_upgrades().await;
        });
    }
}

/// Waits until the simulator stops (a vanished sender means the same).
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
