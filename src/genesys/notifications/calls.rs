//! Makes the calls of protocol `notifications`. Every call waits for the limiter of its OAuth client
//! (`genesys/limiter.rs`); a 429 all the same makes the whole client wait, and the call is made again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use awc::ClientRequest;
use awc::http::header::CONTENT_TYPE;
use bytes::BytesMut;
use serde::Deserialize;
use tokio::time::sleep;
use url::form_urlencoded::byte_serialize;

use crate::config::EgressProxy;
use crate::domain::secret::Secret;
use crate::domain::webhook::target::TargetPolicy;
use crate::genesys::limiter::{Limiter, Urgency};
use crate::genesys::protocol::{ErrorKind, UpstreamError};
use crate::genesys::rest::{Rest, authorized, bad};
use crate::metrics::by_label::CounterBy;

/// Users of one page of a roster, and of one snapshot.
pub(super) const PAGE_SIZE: usize = 100;
/// Attempts at a call that the platform refuses with 429.
const TRIES_MAX: u32 = 6;
/// First wait after a 429 that does not say how long.
const WAIT_FIRST: Duration = Duration::from_secs(2);

/// Addresses and credentials.
#[derive(Clone, Debug)]
pub struct NotificationsSettings {
    /// REST address without a slash at its end.
    pub api_url: String,
    /// Address that issues tokens, likewise.
    pub login_url: String,
    pub client_id: String,
    pub client_secret: Secret,
    /// Language of presence labels.
    pub language: String,
    /// Which addresses may be dialled; `None`: all.
    pub targets: Option<TargetPolicy>,
    /// The only way to them; `None`: straight.
    pub proxy: Option<EgressProxy>,
    /// Counts calls by their outcome.
    pub calls: Option<CounterBy>,
}

/// Speaks protocol `notifications` with one source. Lives on one thread.
pub struct Notifications {
    pub(super) settings: NotificationsSettings,
    pub(super) rest: Rest,
    limiter: Rc<RefCell<Limiter>>,
}

#[derive(Deserialize)]
pub(super) struct Entities<T> {
    #[serde(default = "Vec::new")]
    pub(super) entities: Vec<T>,
}

impl Notifications {
    /// A client for one source. Sources of one OAuth client share the limiter.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        settings: NotificationsSettings,
        limiter: Rc<RefCell<Limiter>>,
    ) -> Result<Self, rustls::Error> {
        let rest = Rest::new(settings.targets.clone(), settings.proxy.clone(), settings.calls.clone())?;
        Ok(Self { settings, rest, limiter })
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/api/v2/{path}", self.settings.api_url)
    }

    /// Makes a call when the limiter has room for it, again after each 429.
    pub(super) async fn ask(
        &self,
        name: &'static str,
        urgency: Urgency,
        token: &Secret,
        make: impl Fn() -> (ClientRequest, Vec<u8>),
    ) -> Result<BytesMut, UpstreamError> {
        let mut wait_unsaid = WAIT_FIRST;
        for attempt in 1.. {
            loop {
                let taken = self.limiter.borrow_mut().take(urgency, Instant::now());
                let Err(wait) = taken else { break };
                sleep(wait).await;
            }
            let (request, body) = make();
            let request = authorized(request, token).insert_header((CONTENT_TYPE, "application/json"));
            match self.rest.exchange(name, request, body).await {
                Err(UpstreamError { kind: ErrorKind::RateLimited(wait), .. }) if attempt < TRIES_MAX => {
                    self.limiter.borrow_mut().pause(wait.unwrap_or(wait_unsaid), Instant::now());
                    wait_unsaid *= 2;
                }
                answer => return answer,
            }
        }
        Err(bad(name, "not reached"))
    }

    pub(super) async fn get(
        &self,
        name: &'static str,
        urgency: Urgency,
        token: &Secret,
        path: &str,
    ) -> Result<BytesMut, UpstreamError> {
        let url = self.url(path);
        self.ask(name, urgency, token, || (self.rest.client.get(&url), Vec::new())).await
    }
}

pub(super) fn escaped(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

pub(super) fn ids(agents: &[String]) -> String {
    agents.iter().map(|agent| escaped(agent)).collect::<Vec<_>>().join(",")
}
