//! What the connections of one source share: the client that speaks with the platform, the keeper of its token, the
//! presence definitions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::actors::token::Tokens;
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

/// What the connections of one source share.
#[derive(Clone)]
pub struct Shared {
    /// Version of the source that these were made for.
    version: i64,
    /// Speaks with the platform.
    pub upstream: Rc<dyn Upstream>,
    /// Gives tokens.
    pub tokens: Tokens,
    /// What presence definitions mean.
    pub definitions: Definitions,
    /// Room for channels beside those in use: whoever replaces one takes a place for as long as there are two.
    pub spare: Arc<Semaphore>,
}

/// Names an OAuth client: where it is known, and its id there.
type Client = (String, String);

/// Clients and token keepers by source.
pub struct SharedClients {
    store: Store,
    metrics: Metrics,
    /// Where sources may lead that are not the operator's own.
    targets: TargetPolicy,
    by_source: HashMap<SourceId, Shared>,
    /// The platform counts calls by OAuth client, whichever source makes them; it goes on counting when a source changes.
    limiters: HashMap<Client, Rc<RefCell<Limiter>>>,
    /// It counts channels in the same way.
    spares: HashMap<Client, Arc<Semaphore>>,
}

impl SharedClients {
    /// None yet.
    pub fn new(store: Store, metrics: Metrics, targets: TargetPolicy) -> Self {
        Self {
            store,
            metrics,
            targets,
            by_source: HashMap::new(),
            limiters: HashMap::new(),
            spares: HashMap::new(),
        }
    }

    /// Those of a source, made anew when the source has changed; `None` if they cannot be.
    pub fn of(&mut self, source: &WantedSource) -> Option<Shared> {
        if let Some(shared) = self.by_source.get(&source.source_id)
            && shared.version == source.version
        {
            return Some(shared.clone());
        }
        let settings = settings(source, &self.targets);
        let client = (settings.addresses().0, settings.client_id.clone());
        let spare = || Arc::new(Semaphore::new(CHANNELS_SPARE));
        let spare = self.spares.entry(client.clone()).or_insert_with(spare).clone();
        let limiter = self.limiters.entry(client).or_default().clone();
        let upstream = match settings.upstream(limiter) {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::error!(%error, "TLS cannot be set up");
                return None;
            }
        };
        let tokens =
            Tokens::new(source.source_id, upstream.clone(), self.store.clone(), self.metrics.clone());
        let definitions = Definitions::default();
        let shared = Shared { version: source.version, upstream, tokens, definitions, spare };
        self.by_source.insert(source.source_id, shared.clone());
        Some(shared)
    }

    /// Lets go of those of sources that are no more.
    pub fn forget_all_but(&mut self, wanted: impl Fn(SourceId) -> bool) {
        self.by_source.retain(|source, _| wanted(*source));
    }
}

fn settings(source: &WantedSource, targets: &TargetPolicy) -> ClientSettings {
    ClientSettings {
        protocol: source.protocol.clone(),
        region: source.region.clone(),
        api_url: source.api_url.clone(),
        login_url: source.login_url.clone(),
        client_id: source.client_id.clone(),
        client_secret: source.client_secret.clone(),
        language: source.language.clone(),
        targets: (!source.from_environment).then(|| targets.clone()),
    }
}
