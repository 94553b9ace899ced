//! The listener: actix-web's own set-up with a guarded connection (`api/http/connection.rs`) in the place of
//! the bare one.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol};
use actix_server::Server;
use actix_service::{ServiceFactoryExt as _, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::{App, web};

use crate::api::http::connection::Guarded;
use crate::api::http::limits::Connections;
use crate::api::{ApiState, configure, outermost};

/// Threads that serve the REST API; the work is in Postgres.
const WORKERS: usize = 2;
/// Connections of one thread. More wait in the kernel's queue until one ends; an idle one ends after
/// [`KEEP_ALIVE`].
const CONNECTIONS_MAX: usize = 512;
/// Those of all threads that one address may have, unless it is that of a trusted proxy: half-open ones cost
/// a place for [`FIRST_HEAD_WITHIN`], and whoever makes many must not keep everybody else out.
const CONNECTIONS_OF_ONE: usize = WORKERS * CONNECTIONS_MAX / 4;
/// How long a connection may be idle between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long the first head of a connection may take before it is answered with 408.
const FIRST_HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a caller may take to end a connection that we have ended.
const DISCONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long a stop waits for calls under way.
const SHUTDOWN_WITHIN_SECONDS: u64 = 2;

/// Serves the API on this socket, and what `others` adds to it.
///
/// # Errors
/// If the socket cannot be used.
pub fn serve<F>(listener: TcpListener, state: web::Data<ApiState>, others: F) -> io::Result<Server>
where
    F: Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
{
    let address = listener.local_addr()?;
    let builder = Server::build();
    let stopping = builder.graceful_shutdown_signal();
    let connections = Connections::new(CONNECTIONS_OF_ONE);
    let builder = builder
        .workers(WORKERS)
        .max_concurrent_connections(CONNECTIONS_MAX)
        .disable_signals()
        .shutdown_timeout(SHUTDOWN_WITHIN_SECONDS)
        .listen("api", listener, move || {
            let (state, stopping) = (state.clone(), stopping.clone());
            let connections = connections.clone();
            let app = App::new().app_data(state.clone()).wrap(from_fn(outermost));
            let app = app.configure(others.clone()).configure(configure);
            let http = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                .keep_alive(KEEP_ALIVE)
                .client_request_timeout(FIRST_HEAD_WITHIN)
                .client_disconnect_timeout(DISCONNECT_WITHIN)
                .local_addr(address)
                .on_connect_ext(|io: &Guarded<TcpStream>, data| {
                    data.insert(io.hangup());
                })
                .finish(map_config(app, |()| AppConfig::default()));
            fn_service(move |io: TcpStream| {
                let (state, connections) = (state.clone(), connections.clone());
                async move {
                    let peer = io.peer_addr()?;
                    let place = if state.proxies.trusts(peer.ip()) {
                        None
                    } else {
                        let Some(place) = connections.one_more(peer.ip()) else {
                            state.metrics.api_connections_refused.inc();
                            return Err(io::ErrorKind::QuotaExceeded.into());
                        };
                        Some(place)
                    };
                    // Answers are written whole; waiting for more of them only costs time.
                    let _ = io.set_nodelay(true);
                    Ok((Guarded::new(io, place), Protocol::Http1, Some(peer)))
                }
            })
            .map_err(DispatchError::Io)
            .and_then(http)
        })?;
    Ok(builder.run())
}
