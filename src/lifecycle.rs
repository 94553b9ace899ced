//! Floor 4: how it begins and ends. A first signal asks for a soft stop with a deadline, a second one ends it
//! at once. While the database is still waited for there is nothing to stop softly.
//!
//! Soft stop: sockets close properly and what they brought is stored; nothing new is claimed, POSTs under way
//! may finish, the rest is given back for the next process; event streams end at once; then the API, the
//! database.

use std::future::pending;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{interval, sleep, timeout};

use crate::actors::dispatch::actor::Drain;
use crate::actors::supervisor::Stop;
use crate::app::{self, Running};
use crate::clock;
use crate::config::Config;
use crate::domain::audit::{Entry, Kind, Level};
use crate::embedded_postgres::{Embedded, EmbeddedError};
use crate::metrics::Metrics;
use crate::store::Store;

/// The whole soft stop ends within this; what is not done then is cut.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often our own Postgres is looked at.
const LOOK_AT_POSTGRES_EVERY: Duration = Duration::from_secs(1);
/// POSTs under way may take this long to finish.
const DRAIN_WITHIN: Duration = Duration::from_secs(7);

/// Files that may be open: 4096 POSTs under way, as many kept connections, callers, sockets, the database. The
/// usual soft limit is 1024.
const OPEN_FILES: u64 = 65_536;

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to and finished in time.
    Graceful,
    /// It was asked to and had to be cut, or asked twice.
    Forced,
    /// A part died that nothing survives.
    Failed,
}

/// Starts everything, runs until a signal or a crash, then ends everything.
///
/// # Errors
/// If it cannot start: a [`ConfigError`](crate::config::ConfigError) inside if the configuration is wrong.
pub async fn run(config: Config) -> anyhow::Result<Ending> {
    // First of all, since without them a signal ends the process, or, if it is the first of a container, does
    // nothing.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    raise_file_limit(OPEN_FILES);
    for variable in &config.ignored_proxies {
        tracing::warn!(
            variable,
            "this proxy is ignored; BRIDGE_GENESYS_PROXY and BRIDGE_EGRESS_PROXY name those that are used"
        );
    }
    let opened = tokio::select! {
        opened = app::open_store(&config) => opened?,
        () = either(&mut interrupt, &mut terminate) => return Ok(Ending::Graceful),
    };
    let mut running = app::start(config, opened).await?;
    // It listens: a database that fails just now is no reason to end any more.
    let started = Entry::new(clock::now(), Kind::BridgeStarted).data("version", crate::VERSION);
    tokio::spawn(write_down(running.store.clone(), started));
    let crashed = tokio::select! {
        () = either(&mut interrupt, &mut terminate) => false,
        _ = &mut running.recorder_died => {
            tracing::error!("recorder stopped or master key lost; ending the process so that a new one can start");
            true
        }
        error = keep_alive(running.embedded.as_mut(), &running.metrics, &running.store) => {
            tracing::error!(%error, "embedded PostgreSQL cannot be restarted; ending the process");
            true
        }
    };
    if !crashed {
        tracing::info!("stopping");
    }
    let ended = tokio::select! {
        stopped = timeout(STOP_WITHIN, stop(&running)) => stopped.is_ok(),
        () = either(&mut interrupt, &mut terminate) => false,
    };
    if let Some(server) = running.embedded.take() {
        server.stop();
    }
    Ok(match (crashed, ended) {
        (true, _) => Ending::Failed,
        (false, true) => Ending::Graceful,
        (false, false) => Ending::Forced,
    })
}

/// Allows as many open files, or as many as the hard limit lets us.
fn raise_file_limit(wanted: u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let limit = wanted.min(hard);
    if soft < limit
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, limit, hard)
    {
        tracing::warn!(%error, soft, "cannot raise the limit of open files; many receivers at once may meet it");
    }
}

/// Starts our own Postgres again whenever it dies. Ends when that does not help any more; never, if none is
/// ours.
async fn keep_alive(embedded: Option<&mut Embedded>, metrics: &Metrics, store: &Store) -> EmbeddedError {
    let Some(server) = embedded else { return pending().await };
    let mut ticks = interval(LOOK_AT_POSTGRES_EVERY);
    loop {
        ticks.tick().await;
        match server.revive() {
            Ok(None) => {}
            Ok(Some(status)) => {
                metrics.actors_restarted.of("embedded_postgres").inc();
                let entry = Entry::new(clock::now(), Kind::DatabaseRestarted)
                    .level(Level::Error)
                    .data("ended_with", status.to_string());
                tokio::spawn(write_down(store.clone(), entry));
            }
            Err(error) => return error,
        }
    }
}

/// Writes an entry as soon as the database takes it.
async fn write_down(store: Store, entry: Entry) {
    let entry = [entry];
    while let Err(error) = store.write_audit(&entry).await {
        if !error.is_transient() {
            let kind = entry[0].kind;
            tracing::error!(%error, ?kind, "the database refuses an audit entry");
            break;
        }
        sleep(LOOK_AT_POSTGRES_EVERY).await;
    }
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

async fn stop(running: &Running) {
    // First: callers that come again find the next process, and the server need not wait for them.
    running.streams.end();
    let said = running.store.write_audit(&[Entry::new(clock::now(), Kind::BridgeStopping)]).await;
    if let Err(error) = said {
        tracing::warn!(%error, "failed to write BRIDGE_STOPPING to the audit log; stopping anyway");
    }
    let sockets = async {
        let _ = running.supervisor.send(Stop).await;
        running.recorder.flush().await;
    };
    let posts = async {
        let _ = running.dispatcher.send(Drain(DRAIN_WITHIN)).await;
    };
    futures_util::future::join(sockets, posts).await;
    running.server.stop(true).await;
    running.store.close().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_as_far_as_it_may_be_and_never_lowered() {
        let limits = || getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let hard = limits().1;
        setrlimit(Resource::RLIMIT_NOFILE, hard - 2, hard).unwrap();
        raise_file_limit(hard - 1);
        assert_eq!(limits(), (hard - 1, hard));
        raise_file_limit(1);
        assert_eq!(limits(), (hard - 1, hard));
        raise_file_limit(u64::MAX);
        assert_eq!(limits(), (hard, hard));
    }
}
