//! Listening and stopping, the same for both simulated platforms.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

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
