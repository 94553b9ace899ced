//! Floor 4: builds everything once, in the order it is needed, and hands it to `lifecycle` to be ended.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use actix_web::dev::ServerHandle;
use actix_web::web;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64_URL};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, interval, sleep};

use crate::actors::audit_sealer::Sealer;
use crate::actors::dispatch::actor::{DispatcherActor, DispatcherDeps};
use crate::actors::maintenance::{self, Figures, Retention};
use crate::actors::recorder::Recorder;
use crate::actors::supervisor::{Deps, Supervisor};
use crate::actors::{RESTART_AFTER, audit_push, erasures, examiner, incarnations, throughput};
use crate::api::http::event_stream::Streams;
use crate::api::{self, ApiState, ClientLimits};
use crate::clock;
use crate::config::{Buffer, Config, ConfigError, Effective};
use crate::console;
use crate::domain::access::caller::TrustedProxies;
use crate::domain::secret::{MasterKey, Secret};
use crate::domain::webhook::target::TargetPolicy;
use crate::embedded_postgres::{Embedded, EmbeddedError, Options};
use crate::examinations::Examinations;
use crate::keyfile::{self, KeyFile};
use crate::metrics::Metrics;
use crate::outbound::body::envelope;
use crate::outbound::post::Poster;
use crate::outbound::transport::own_addresses::OwnAddressWatcher;
use crate::random;
use crate::services::caller::{Configuration, Services, Setting};
use crate::services::feed::Feeds;
use crate::status::Status;
use crate::store::Store;
use crate::store::access::authenticate::KeyOrigin;
use crate::store::preflight::Unusable;
use crate::store::server::Server;

/// Connections of a subcommand next to a running bridge.
const CLI_CONNECTIONS: u32 = 2;
/// How long the start waits for a database that is unavailable.
const DATABASE_WITHIN: Duration = Duration::from_secs(60);
/// How often the master key is held against the database.
const LOOK_AT_KEY_EVERY: Duration = Duration::from_secs(30);

/// Everything that runs, and what is needed to end it.
pub struct Running {
    /// Holds the sockets.
    pub supervisor: Addr<Supervisor>,
    /// Sends deliveries.
    pub dispatcher: Addr<DispatcherActor>,
    /// Stores what the sockets bring.
    pub recorder: Recorder,
    /// Resolves if the recorder's worker dies, which nothing survives.
    pub recorder_died: oneshot::Receiver<()>,
    /// Handle of the REST API's server.
    pub server: ServerHandle,
    /// Event streams of the API's callers.
    pub streams: Streams,
    /// Database of the whole process.
    pub store: Store,
    /// Figures of `/metrics`.
    pub metrics: Metrics,
    /// Our own Postgres, if it is ours.
    pub embedded: Option<Embedded>,
}

/// Opens the database (starting our own if none is configured) and brings its schema up to date.
///
/// # Errors
/// A [`ConfigError`] inside if the configuration is wrong.
pub async fn open_store(config: &Config) -> anyhow::Result<(Store, Option<Embedded>)> {
    let (server, embedded) = match server(config)? {
        Some(server) => (server, None),
        None => {
            // Started from this thread, which lives as long as the process: the server stops when it dies.
            let ours =
                Embedded::start(&config.data_dir, Options::default()).map_err(|error| match error {
                    EmbeddedError::Directory { .. } => config_error("BRIDGE_DATA_DIR", &error.to_string()),
                    other => other.into(),
                })?;
            (ours.connect_options().into(), Some(ours))
        }
    };
    let by = Instant::now() + DATABASE_WITHIN;
    let store = loop {
        match server.open(config.database_connections, config.syslog.is_some()).await {
            Ok(store) => break store,
            Err(Unusable::Refused(why)) => return Err(config_error("DATABASE_URL", &why)),
            Err(Unusable::Store(error)) if error.is_transient() && Instant::now() < by => {
                tracing::warn!(%error, "the database does not answer yet; trying again in 1 s");
                sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error).context("the database cannot be opened"),
        }
    };
    store.migrate().await.context("the schema cannot be brought up to date")?;
    store.check_tenant_role().await.context(
        "the database user of DATABASE_URL cannot act for a tenant; an administrator must say: \
         grant presence_bridge_tenant to that user",
    )?;
    // The start goes on without: they were made days ago, and rows without one lie in the default partition
    // until maintenance moves them.
    if let Err(error) = store.make_partitions(clock::now().date()).await {
        tracing::warn!(%error, "failed to create day partitions; maintenance tries again");
    }
    Ok((store, embedded))
}

/// Opens the database as it is, for a subcommand next to a bridge that may be running; starts our own
/// Postgres if none runs.
///
/// # Errors
/// A [`ConfigError`] inside if the configuration is wrong.
pub async fn open_for_cli(config: &Config) -> anyhow::Result<(Store, Option<Embedded>)> {
    let running = match server(config)? {
        Some(server) => Some(server),
        None => Embedded::running(&config.data_dir).map(Server::from),
    };
    match running {
        Some(server) => {
            let store = server.connect(CLI_CONNECTIONS).await;
            Ok((store.context("the database cannot be opened")?, None))
        }
        None => open_store(config).await,
    }
}

/// The database that is configured, if one is.
pub(crate) fn server(config: &Config) -> anyhow::Result<Option<Server>> {
    let url = config.database_url.as_ref().map(Secret::expose);
    url.map(str::parse).transpose().map_err(|_| config_error("DATABASE_URL", "is not a Postgres URL"))
}

/// What most parts share.
#[derive(Clone)]
struct Shared {
    store: Store,
    status: Arc<Status>,
    metrics: Metrics,
    master_key: MasterKey,
    targets: TargetPolicy,
}

/// Starts everything on the database that [`open_store`] gave.
///
/// # Errors
/// A [`ConfigError`] inside if the configuration is wrong.
pub async fn start(config: Config, (store, embedded): (Store, Option<Embedded>)) -> anyhow::Result<Running> {
    let master_key = master_key(&config)?;
    prepare_database(&config, &store, &master_key).await?;
    // Before anything lives that would have to be ended again.
    let listener = TcpListener::bind(config.listen).map_err(|error| not_listening(&config, &error))?;
    let shared = Shared {
        store: store.clone(),
        status: Arc::default(),
        metrics: Metrics::new(),
        master_key,
        targets: TargetPolicy::new(config.allow_targets.clone()),
    };
    let mut own_address_watcher = own_address_watcher(&config, &shared)?;
    own_address_watcher.look().await;
    let (recorder, recorder_died) = start_recorder(&shared, config.buffer);
    let (supervisor, dispatcher) = start_actors(&config, &shared, &recorder)?;
    spawn_loops(&config, &shared);
    let parts = (shared.store.clone(), supervisor.clone(), shared.metrics.clone());
    spawn_supervised("incarnations", &shared.metrics, move || incarnations::run(parts.clone()));
    let metrics = shared.metrics.clone();
    let examinations = examiner::start(shared.targets.clone(), config.genesys_proxy.clone());
    let state = api_state(&config, shared, examinations, embedded.is_some());
    let streams = state.streams();
    let (server, address) = serve(&config, listener, state)?;
    tokio::spawn(own_address_watcher.listening(vec![address]).keep_looking());
    Ok(Running { supervisor, dispatcher, recorder, recorder_died, server, streams, store, metrics, embedded })
}

/// Holds the master key against the database, and writes there what the configuration says: the bootstrap
/// key, the source.
async fn prepare_database(config: &Config, store: &Store, master_key: &MasterKey) -> anyhow::Result<()> {
    if !store.is_sealed_under(master_key).await? {
        return Err(config_error(
            "BRIDGE_MASTER_KEY",
            "is not the key that secrets in this database were sealed with; after a `rotate-master-key` that was cut off, \
             run it again",
        ));
    }
    if let Some(connections) = store.recognise_database().await? {
        tracing::warn!(
            connections,
            "database is a copy of another bridge's: leaving the upstream connections in its rows to that bridge"
        );
    }
    let api_key = api_key(config)?;
    let origin = if config.api_key.is_some() { KeyOrigin::Configured } else { KeyOrigin::Generated };
    store.set_bootstrap_key(&Sha256::digest(api_key.expose().as_bytes()).into(), origin).await?;
    match &config.source {
        Some(settings) => drop(store.upsert_environment_source(settings, master_key).await?),
        None => store.remove_environment_source().await?,
    }
    Ok(())
}

fn own_address_watcher(config: &Config, shared: &Shared) -> anyhow::Result<OwnAddressWatcher> {
    let proxies = [&config.egress_proxy, &config.genesys_proxy].into_iter().flatten();
    let proxies = proxies.map(|proxy| (proxy.host.clone(), proxy.port));
    let database = server(config)?.map(|server| server.endpoints()).unwrap_or_default();
    let others = database.into_iter().chain(proxies);
    Ok(OwnAddressWatcher::new(shared.targets.clone(), others).listening(vec![config.listen]))
}

/// The recorder, and a receiver that resolves when the process must end because the recorder or the master
/// key is lost.
fn start_recorder(shared: &Shared, buffer: Buffer) -> (Recorder, oneshot::Receiver<()>) {
    let Shared { store, status, metrics, master_key, .. } = shared.clone();
    let (recorder, worker) = Recorder::new(store.clone(), status, metrics, buffer);
    let (alive, died) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _alive = alive; // dropped with the task, however it ends
        // Whatever ends this ends the process, so that a new one can start.
        tokio::select! {
            () = worker.run() => {}
            () = sealed_under_another(store, master_key) => {}
        }
    });
    (recorder, died)
}

fn start_actors(
    config: &Config,
    shared: &Shared,
    recorder: &Recorder,
) -> anyhow::Result<(Addr<Supervisor>, Addr<DispatcherActor>)> {
    let Shared { store, status, metrics, master_key, targets } = shared.clone();
    let poster = Poster::new(targets.clone(), config.egress_proxy.clone())?;
    let supervisor = Supervisor::new(Deps {
        store: store.clone(),
        recorder: recorder.clone(),
        status: status.clone(),
        metrics: metrics.clone(),
        master_key: master_key.clone(),
        targets,
        genesys_proxy: config.genesys_proxy.clone(),
    });
    let dispatcher = DispatcherActor::new(DispatcherDeps { store, poster, master_key, status, metrics });
    Ok((supervisor.start(), dispatcher.start()))
}

/// Starts the loops that nothing waits for: sealing and pushing the audit log, erasures, maintenance of the
/// database.
fn spawn_loops(config: &Config, shared: &Shared) {
    let Shared { store, status, metrics, master_key, .. } = shared.clone();
    let followed = store.clone();
    spawn_supervised("primary", &metrics, move || {
        let store = followed.clone();
        async move { store.follow_primary().await }
    });
    let (told, counted) = (status.clone(), metrics.clone());
    spawn_supervised("throughput", &metrics, move || throughput::run(told.clone(), counted.clone()));
    let (sealed, key, told, counted) = (store.clone(), master_key.clone(), status.clone(), metrics.clone());
    spawn_supervised("sealer", &metrics, move || {
        Sealer::new(sealed.clone(), key.clone(), told.clone(), counted.clone()).run()
    });
    if let Some(receiver) = config.syslog.clone() {
        let (pushed, counted, max) = (store.clone(), metrics.clone(), config.syslog_max_bytes);
        spawn_supervised("audit_push", &metrics, move || {
            audit_push::run(pushed.clone(), receiver.clone(), max, counted.clone())
        });
    }
    let (erased, key, counted) = (store.clone(), master_key.clone(), metrics.clone());
    spawn_supervised("erasures", &metrics, move || {
        erasures::run(erased.clone(), key.clone(), counted.clone())
    });
    let retention = Retention { days: config.retention_days, suspended_days: config.parked_retention_days };
    let (counted, webhooks_shown) = (metrics.clone(), config.metrics_webhooks);
    spawn_supervised("sweep", &metrics, move || {
        let figures = Figures { status: status.clone(), metrics: counted.clone(), webhooks_shown };
        maintenance::run(store.clone(), figures, retention, master_key.clone())
    });
}

fn api_state(
    config: &Config,
    shared: Shared,
    examinations: Arc<Examinations>,
    embedded_database: bool,
) -> ApiState {
    let Shared { store, status, metrics, master_key, targets } = shared;
    let setting = |one: &Effective| Setting {
        name: one.variable.name,
        help: one.variable.help,
        value: one.value.clone(),
        origin: one.origin,
    };
    let configuration = Configuration {
        version: crate::VERSION,
        started_at: clock::now(),
        embedded_database,
        settings: config.effective.iter().map(setting).collect(),
    };
    let services = Services {
        whole_store: store,
        status,
        master_key,
        targets,
        tenant_quota: config.tenant_quota,
        examinations,
        configuration,
        background: Handle::current(),
        render: envelope::shown,
        feeds: Feeds::default(),
        has_console: config.console.is_some(),
        require_sync: config.require_sync,
    };
    let proxies = TrustedProxies::new(config.trusted_proxies.clone());
    ApiState::new(Arc::new(services), metrics, ClientLimits { proxies, call_rate: config.api_rate })
}

fn not_listening(config: &Config, error: &io::Error) -> anyhow::Error {
    config_error("BRIDGE_LISTEN", &format!("{} cannot be listened on: {error}", config.listen))
}

fn serve(
    config: &Config,
    listener: TcpListener,
    state: ApiState,
) -> anyhow::Result<(ServerHandle, SocketAddr)> {
    let wrong_address = |error: io::Error| not_listening(config, &error);
    let address = listener.local_addr().map_err(wrong_address)?;
    let console = config.console.map(console::Settings::new);
    let others = move |app: &mut web::ServiceConfig| {
        if let Some(console) = &console {
            console.configure(app);
        }
    };
    let server = api::http::server::serve(listener, web::Data::new(state), others).map_err(wrong_address)?;
    tracing::info!(%address, "listening");
    let handle = server.handle();
    actix::spawn(server);
    Ok((handle, address))
}

/// Runs something for as long as the process lives: if it panics it is started again.
fn spawn_supervised<F>(name: &'static str, metrics: &Metrics, run: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let metrics = metrics.clone();
    tokio::spawn(async move {
        while let Err(error) = tokio::spawn(run()).await {
            tracing::error!(%error, name, "background task panicked; restarting it");
            metrics.actors_restarted.of(name).inc();
            sleep(RESTART_AFTER).await;
        }
    });
}

/// Waits until something in the database is sealed under another key: a rotation that began when this process
/// did may not have seen it.
async fn sealed_under_another(store: Store, key: MasterKey) {
    let mut ticks = interval(LOOK_AT_KEY_EVERY);
    loop {
        ticks.tick().await;
        if let Ok(false) = store.is_sealed_under(&key).await {
            tracing::error!(
                "the master key was rotated and this process has the former one; ending the process"
            );
            return;
        }
    }
}

/// The master key from the configuration, or the one kept in the data directory.
///
/// # Errors
/// A [`ConfigError`] inside if it cannot be read or is none.
pub fn master_key(config: &Config) -> anyhow::Result<MasterKey> {
    if let Some(key) = &config.master_key {
        return Ok(key.clone());
    }
    let path = config.data_dir.join("master.key");
    let (KeyFile::Found(text) | KeyFile::Created(text)) =
        load_or_create_key(&path, || BASE64.encode(random::bytes::<32>()))?;
    MasterKey::from_base64(&text).ok_or_else(|| {
        config_error("BRIDGE_MASTER_KEY", &format!("{} does not hold 32 bytes in base64", path.display()))
    })
}

/// The admin key from the configuration, or the one kept in the data directory, shown when it is made.
fn api_key(config: &Config) -> anyhow::Result<Secret> {
    if let Some(key) = &config.api_key {
        return Ok(key.clone());
    }
    let path = config.data_dir.join("api.key");
    match load_or_create_key(&path, || format!("pb_{}", BASE64_URL.encode(random::bytes::<32>())))? {
        KeyFile::Found(key) => Ok(Secret::new(key)),
        KeyFile::Created(key) => {
            // To the terminal, not to the log: logs are kept and shipped.
            println!("API key, shown once (kept in {}): {key}", path.display());
            Ok(Secret::new(key))
        }
    }
}

/// The key in this file, which `make` makes if it is not there.
pub(crate) fn load_or_create_key(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<KeyFile> {
    keyfile::read_or_create(path, make).map_err(|error| {
        config_error("BRIDGE_DATA_DIR", &format!("{} cannot be kept: {error}", path.display()))
    })
}

pub(crate) fn config_error(variable: &str, rule: &str) -> anyhow::Error {
    ConfigError { variable: variable.to_owned(), rule: rule.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_panics_is_started_again_and_counted() {
        let (metrics, starts) = (Metrics::new(), Arc::new(AtomicU32::new(0)));
        let (begun, mut third) = tokio::sync::mpsc::unbounded_channel();
        spawn_supervised("sweep", &metrics, move || {
            let (start, begun) = (starts.fetch_add(1, Ordering::Relaxed), begun.clone());
            async move {
                assert!(start >= 2, "on purpose");
                let _ = begun.send(start);
                std::future::pending().await
            }
        });
        assert_eq!(third.recv().await, Some(2));
        let restarts = metrics.actors_restarted.of("sweep").get();
        assert_eq!(restarts, 2);
    }
}
