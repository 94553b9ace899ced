//! Parts that the connections of one source share: the client of its protocol, its tokens, its presence
//! definitions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::actors::supervisor::Deps;
use crate::actors::token::Tokens;
use crate::config::EgressProxy;
use crate::domain::ids::SourceId;
use crate::domain::webhook::target::TargetPolicy;
use crate::genesys::client::ClientSettings;
use crate::genesys::definitions::Definitions;
use crate::genesys::limiter::Limiter;
use crate::genesys::plan::CHANNELS_SPARE;
use crate::genesys::protocol::Upstream;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::sources::desired_connections::WantedSource;

#[derive(Clone)]
pub struct Shared {
    /// Version of the source that they were made for.
    version: i64,
    pub upstream: Rc<dyn Upstream>,
    pub tokens: Tokens,
    pub definitions: Definitions,
    /// Slots for channels besides those in use: a hand-over takes one for as long as there are two channels.
    pub spare_slots: Arc<Semaphore>,
}

/// An OAuth client: REST address, and client id.
type Client = (String, String);

/// Shared parts by source, and limits by OAuth client.
pub struct SharedClients {
    store: Store,
    metrics: Metrics,
    /// Policy for addresses of sources that are not the operator's own.
    targets: TargetPolicy,
    proxy: Option<EgressProxy>,
    by_source: HashMap<SourceId, Shared>,
    /// The platform counts calls by OAuth client, whichever source makes them; it goes on counting when a
    /// source changes.
    limiters: HashMap<Client, Rc<RefCell<Limiter>>>,
    /// It counts channels in the same way.
    spare_slots: HashMap<Client, Arc<Semaphore>>,
}

impl SharedClients {
    pub fn new(deps: &Deps) -> Self {
        Self {
            store: deps.store.clone(),
            metrics: deps.metrics.clone(),
            targets: deps.targets.clone(),
            proxy: deps.genesys_proxy.clone(),
            by_source: HashMap::new(),
            limiters: HashMap::new(),
            spare_slots: HashMap::new(),
        }
    }

    /// The shared parts of a source, made again when the source has changed; `None` if TLS cannot be set up.
    pub fn of(&mut self, source: &WantedSource) -> Option<Shared> {
        if let Some(shared) = self.by_source.get(&source.source_id)
            && shared.version == source.version
        {
            return Some(shared.clone());
        }
        let settings = self.settings(source);
        let client = (settings.addresses().0, settings.client_id.clone());
        let slots = || Arc::new(Semaphore::new(CHANNELS_SPARE));
        let spare_slots = self.spare_slots.entry(client.clone()).or_insert_with(slots).clone();
        let limiter = self.limiters.entry(client).or_default().clone();
        let upstream = match settings.upstream(limiter) {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::error!(%error, source = %source.name, "failed to set up TLS; the source stays unconnected");
                return None;
            }
        };
        let tokens =
            Tokens::new(source.source_id, upstream.clone(), self.store.clone(), self.metrics.clone());
        let definitions = Definitions::default();
        let shared = Shared { version: source.version, upstream, tokens, definitions, spare_slots };
        self.by_source.insert(source.source_id, shared.clone());
        Some(shared)
    }

    /// Drops the parts of sources that are gone.
    pub fn forget_all_but(&mut self, wanted: impl Fn(SourceId) -> bool) {
        self.by_source.retain(|source, _| wanted(*source));
    }

    fn settings(&self, source: &WantedSource) -> ClientSettings {
        ClientSettings {
            protocol: source.protocol.clone(),
            region: source.region.clone(),
            api_url: source.api_url.clone(),
            login_url: source.login_url.clone(),
            client_id: source.client_id.clone(),
            client_secret: source.client_secret.clone(),
            language: source.language.clone(),
            targets: (!source.from_environment).then(|| self.targets.clone()),
            proxy: self.proxy.clone(),
            calls: Some(self.metrics.upstream_calls.clone()),
        }
    }
}
