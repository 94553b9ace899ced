//! What the connections of one source share: the client that speaks with the platform, the keeper of its token, the
//! presence definitions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::token::Tokens;
use crate::domain::ids::SourceId;
use crate::domain::regions;
use crate::domain::source::PROTOCOL_NOTIFICATIONS;
use crate::genesys::definitions::Definitions;
use crate::genesys::limiter::Limiter;
use crate::genesys::notifications::{Notifications, NotificationsSettings};
use crate::genesys::protocol::Upstream;
use crate::genesys::realtime::{Realtime, RealtimeSettings};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::upstream::WantedSource;

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
}

/// Names an OAuth client: where it is known, and its id there.
type Client = (String, String);

/// Clients and token keepers by source.
pub struct SharedClients {
    store: Store,
    metrics: Metrics,
    by_source: HashMap<SourceId, Shared>,
    /// The platform counts calls by OAuth client, whichever source makes them; it goes on counting when a source changes.
    limiters: HashMap<Client, Rc<RefCell<Limiter>>>,
}

impl SharedClients {
    /// None yet.
    pub fn new(store: Store, metrics: Metrics) -> Self {
        Self { store, metrics, by_source: HashMap::new(), limiters: HashMap::new() }
    }

    /// Those of a source, made anew when the source has changed; `None` if they cannot be.
    pub fn of(&mut self, source: &WantedSource) -> Option<Shared> {
        if let Some(shared) = self.by_source.get(&source.source_id)
            && shared.version == source.version
        {
            return Some(shared.clone());
        }
        let upstream = match self.upstream(source) {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::error!(%error, "TLS cannot be set up");
                return None;
            }
        };
        let tokens =
            Tokens::new(source.source_id, upstream.clone(), self.store.clone(), self.metrics.clone());
        let shared =
            Shared { version: source.version, upstream, tokens, definitions: Definitions::default() };
        self.by_source.insert(source.source_id, shared.clone());
        Some(shared)
    }

    /// Lets go of those of sources that are no more.
    pub fn forget_all_but(&mut self, wanted: impl Fn(SourceId) -> bool) {
        self.by_source.retain(|source, _| wanted(*source));
    }

    fn upstream(&mut self, source: &WantedSource) -> Result<Rc<dyn Upstream>, rustls::Error> {
        let (api_url, login_url) = addresses(source);
        let (client_id, client_secret) = (source.client_id.clone(), source.client_secret.clone());
        if source.protocol != PROTOCOL_NOTIFICATIONS {
            let settings = RealtimeSettings { api_url, login_url, client_id, client_secret };
            return Ok(Rc::new(Realtime::new(settings)?));
        }
        let limiter = self.limiters.entry((api_url.clone(), client_id.clone())).or_default().clone();
        let language = source.language.clone();
        let settings = NotificationsSettings { api_url, login_url, client_id, client_secret, language };
        Ok(Rc::new(Notifications::new(settings, limiter)?))
    }
}

/// Where the REST API and the tokens of a source are.
fn addresses(source: &WantedSource) -> (String, String) {
    let without_slash = |url: &str| url.trim_end_matches('/').to_owned();
    let region = source.region.as_deref();
    let api_url =
        source.api_url.as_deref().map_or_else(|| regions::api_url(region.unwrap_or_default()), without_slash);
    let login_url = match (source.login_url.as_deref(), region) {
        (Some(url), _) => without_slash(url),
        (None, Some(region)) if source.protocol == PROTOCOL_NOTIFICATIONS && source.api_url.is_none() => {
            regions::login_url(region)
        }
        (None, _) => api_url.clone(),
    };
    (api_url, login_url)
}
