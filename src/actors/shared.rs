//! What the connections of one source share: the client that speaks with the platform, and the keeper of its token.

use std::collections::HashMap;
use std::rc::Rc;

use super::token::Tokens;
use crate::domain::ids::SourceId;
use crate::genesys::protocol::Upstream;
use crate::genesys::realtime::{Realtime, RealtimeSettings};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::upstream::WantedSource;

struct Shared {
    /// Version of the source that these were made for.
    version: i64,
    upstream: Rc<dyn Upstream>,
    tokens: Tokens,
}

/// Clients and token keepers by source.
pub struct SharedClients {
    store: Store,
    metrics: Metrics,
    by_source: HashMap<SourceId, Shared>,
}

impl SharedClients {
    /// None yet.
    pub fn new(store: Store, metrics: Metrics) -> Self {
        Self { store, metrics, by_source: HashMap::new() }
    }

    /// Those of a source, made anew when the source has changed; `None` if they cannot be.
    pub fn of(&mut self, source: &WantedSource) -> Option<(Rc<dyn Upstream>, Tokens)> {
        let fresh = |shared: &&Shared| shared.version == source.version;
        if let Some(shared) = self.by_source.get(&source.source_id).filter(fresh) {
            return Some((shared.upstream.clone(), shared.tokens.clone()));
        }
        let upstream: Rc<dyn Upstream> = match Realtime::new(settings(source)) {
            Ok(upstream) => Rc::new(upstream),
            Err(error) => {
                tracing::error!(%error, "TLS cannot be set up");
                return None;
            }
        };
        let tokens =
            Tokens::new(source.source_id, upstream.clone(), self.store.clone(), self.metrics.clone());
        let shared = Shared { version: source.version, upstream: upstream.clone(), tokens: tokens.clone() };
        self.by_source.insert(source.source_id, shared);
        Some((upstream, tokens))
    }

    /// Lets go of those of sources that are no more.
    pub fn forget_all_but(&mut self, wanted: impl Fn(SourceId) -> bool) {
        self.by_source.retain(|source, _| wanted(*source));
    }
}

fn settings(source: &WantedSource) -> RealtimeSettings {
    let without_slash = |url: &str| url.trim_end_matches('/').to_owned();
    let region = source.region.as_deref().unwrap_or_default();
    let api_url = source.api_url.as_deref().map_or_else(|| format!("https://api.{region}"), without_slash);
    RealtimeSettings {
        login_url: source.login_url.as_deref().map_or_else(|| api_url.clone(), without_slash),
        api_url,
        client_id: source.client_id.clone(),
        client_secret: source.client_secret.clone(),
    }
}
