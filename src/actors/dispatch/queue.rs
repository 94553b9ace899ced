//! What the dispatcher knows of one webhook while it has anything for it: settings, circuit, pace, and what is in hand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::domain::delivery::circuit::Circuit;
use crate::domain::delivery::rate_limit::RateLimiter;
use crate::domain::delivery::settings::DeliverySettings;
use crate::domain::delivery::signature::{Signer, SigningPair};
use crate::domain::delivery::slots;
use crate::domain::delivery::slots::{Owner, Places, Risk, SLOW_AFTER, WINDOW_FIRST, WINDOW_UNPROVEN};
use crate::domain::webhook::state::WebhookState;
use crate::outbound::post::Target;
use crate::store::delivery::targets::WebhookTarget;
use crate::store::delivery::types::Claimed;
use url::Url;

/// Deliveries of one webhook in hand beyond those that may be under way, so that the next is there when one ends.
const READY_MAX: usize = 64;

/// A webhook's settings, address and keys, ready for sending.
pub(super) struct Prepared {
    pub(super) version: i64,
    url: String,
    owner: Owner,
    pub(super) state: WebhookState,
    pub(super) settings: DeliverySettings,
    pub(super) target: Target,
    keys: Vec<(Signer, Option<OffsetDateTime>)>,
}

impl Prepared {
    pub(super) fn new(read: WebhookTarget, target: Target) -> Self {
        let hmac = read.keys.into_iter().map(|(key, until)| (Signer::Hmac(key), until));
        let pairs = read.ed25519.iter().filter_map(|(seed, until)| {
            Some((Signer::Ed25519(SigningPair::from_seed(&seed.0).ok()?), *until))
        });
        let keys = hmac.chain(pairs).collect();
        let owner = Owner { tenant: read.tenant_id, host: host(&read.url).into() };
        let (version, url) = (read.version, read.url);
        Self { version, url, owner, state: read.state, settings: read.settings, target, keys }
    }

    /// Whether its POSTs go to this address.
    pub(super) fn goes_to(&self, url: &str) -> bool {
        self.url == url
    }

    /// What signs at `now`.
    pub(super) fn keys(&self, now: OffsetDateTime) -> Arc<[Signer]> {
        let signs = |expires_at: &Option<OffsetDateTime>| expires_at.is_none_or(|at| at > now);
        self.keys.iter().filter(|(_, expires_at)| signs(expires_at)).map(|(key, _)| key.clone()).collect()
    }
}

/// Host and port of an address.
fn host(url: &str) -> String {
    Url::parse(url).map_or_else(|_| String::new(), |url| url.authority().to_owned())
}

/// One webhook with anything to send.
pub(super) struct WebhookQueue {
    /// `None` until it is read.
    pub(super) prepared: Option<Arc<Prepared>>,
    /// It is being read.
    pub(super) loading: bool,
    /// What is being read was asked for too early: it is read once more.
    pub(super) outdated: bool,
    /// It is being disabled: nothing is sent.
    pub(super) closing: bool,
    /// In hand, and not under way; oldest first.
    pub(super) ready: VecDeque<Claimed>,
    /// POSTs under way, by their number, with the moment at which they began and the places that they take.
    pub(super) posts: BTreeMap<u64, (Instant, usize)>,
    /// Places that it may have: one more with each POST that its receiver accepts, half as many after a failure.
    pub(super) window: usize,
    /// Its present address has accepted a POST.
    pub(super) is_proven: bool,
    pub(super) circuit: Circuit,
    /// It was told that it fails.
    pub(super) noticed: bool,
    pub(super) rate: RateLimiter,
    /// When the rate limit lets the next POST go; `None` if it holds none back.
    pub(super) paced_until: Option<Instant>,
    /// More is due in the database than there was room for.
    pub(super) has_backlog: bool,
    /// Deliveries that wait for their batch, as far as we heard, and since when.
    pub(super) collecting: usize,
    pub(super) collecting_since: Option<Instant>,
    /// A batch is being formed.
    pub(super) forming: bool,
    /// When it was used last.
    pub(super) used_at: Instant,
}

/// What may be done with the next delivery.
pub(super) enum Next {
    /// Nothing for now.
    Wait,
    /// It goes.
    Send(Claimed),
    /// It ends unsent.
    End(Claimed, Unsent),
    /// All that is in hand goes back until then.
    HoldUntil(OffsetDateTime),
}

/// Why a delivery ends without a POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    Superseded,
    Expired,
    Disabled,
    EventGone,
}

impl WebhookQueue {
    pub(super) fn new(is_proven: bool) -> Self {
        Self {
            prepared: None,
            loading: false,
            outdated: false,
            closing: false,
            ready: VecDeque::new(),
            posts: BTreeMap::new(),
            window: if is_proven { WINDOW_FIRST } else { WINDOW_UNPROVEN },
            is_proven,
            circuit: Circuit::default(),
            noticed: false,
            rate: RateLimiter::default(),
            paced_until: None,
            has_backlog: false,
            collecting: 0,
            collecting_since: None,
            forming: false,
            used_at: Instant::now(),
        }
    }

    /// Says what is to be done next; `started` is the moment that the pace counts from, `leader` says whether we serve
    /// webhooks that are limited.
    pub(super) fn next(&mut self, now: OffsetDateTime, started: Instant, leader: bool) -> Next {
        let Some(prepared) = self.prepared.clone().filter(|_| !self.loading && !self.closing) else {
            return Next::Wait;
        };
        if self.ready.is_empty() {
            return Next::Wait;
        }
        if self.circuit.holds(now)
            && let Some(until) = self.circuit.hold_until
        {
            return Next::HoldUntil(until);
        }
        if matches!(prepared.state, WebhookState::Paused | WebhookState::Unverified) {
            return Next::HoldUntil(now); // the claim parks it
        }
        if !leader && prepared.settings.is_limited() {
            return Next::HoldUntil(now); // the eldest claims it
        }
        if self.posts.len() >= self.circuit.room(now, prepared.settings.max_concurrency) {
            return Next::Wait;
        }
        let Some(claimed) = self.ready.pop_front() else { return Next::Wait };
        let unsent = match &claimed.event {
            _ if prepared.state != WebhookState::Active => Some(Unsent::Disabled),
            None => Some(Unsent::EventGone),
            Some(_) if claimed.newer => Some(Unsent::Superseded),
            Some(event) if expires_at(&prepared.settings, event.received_at).is_some_and(|at| at <= now) => {
                Some(Unsent::Expired)
            }
            Some(_) => None,
        };
        if let Some(unsent) = unsent {
            return Next::End(claimed, unsent);
        }
        if let Some(limit) = prepared.settings.rate_limit {
            let at = started.elapsed();
            if let Err(next) = self.rate.acquire(limit, at) {
                self.paced_until = Some(Instant::now() + next.saturating_sub(at));
                self.ready.push_front(claimed);
                return Next::Wait;
            }
        }
        self.paced_until = None;
        Next::Send(claimed)
    }

    /// How many more deliveries it may have in hand.
    pub(super) fn room(&self, places: &Places) -> usize {
        let concurrency = self.prepared.as_ref().map_or(READY_MAX, |p| p.settings.max_concurrency);
        let most = (concurrency + READY_MAX).min(self.window);
        let has = self.places();
        most.saturating_sub(has).min(places.room(self.owner(), self.risk(), has))
    }

    /// Places that it has.
    pub(super) fn places(&self) -> usize {
        let posts: usize = self.posts.values().map(|(_, places)| places).sum();
        let batch = self.prepared.as_ref().and_then(|p| p.settings.batch).filter(|_| self.forming);
        self.ready.len() + posts + batch.map_or(0, |batch| slots::of_batch(batch.max_items))
    }

    /// Whose they are; `None` until it is read.
    pub(super) fn owner(&self) -> Option<&Owner> {
        self.prepared.as_ref().map(|prepared| &prepared.owner)
    }

    /// How likely it is that it keeps its places for long.
    pub(super) fn risk(&self) -> Risk {
        let oldest = self.posts.first_key_value();
        if !self.is_proven {
            Risk::Unproven
        } else if self.circuit.failures > 0
            || oldest.is_some_and(|(_, (since, _))| since.elapsed() > SLOW_AFTER)
        {
            Risk::Suspect
        } else {
            Risk::Low
        }
    }

    /// A POST was accepted. Says whether it is the first one.
    pub(super) fn accepts(&mut self) -> bool {
        self.window = self.window.saturating_add(1).clamp(WINDOW_FIRST, slots::ALL);
        !std::mem::replace(&mut self.is_proven, true)
    }

    /// A POST failed.
    pub(super) fn refuses(&mut self) {
        let least = if self.is_proven { WINDOW_FIRST } else { WINDOW_UNPROVEN };
        self.window = (self.window / 2).max(least);
    }

    /// Whether writers shall not put more into our hands.
    pub(super) fn is_closed(&self, now: OffsetDateTime) -> bool {
        self.circuit.failures >= crate::domain::delivery::circuit::OPENS_AFTER || self.circuit.holds(now)
    }

    /// Whether nothing is in hand, nothing waited for, and nothing wrong.
    pub(super) fn is_drained(&self) -> bool {
        self.has_no_work()
            && self.collecting_since.is_none()
            && self.circuit == Circuit::default()
            && self.paced_until.is_none()
            && !(self.outdated || self.has_backlog)
    }

    /// Whether it can be forgotten.
    pub(super) fn is_evictable(&self) -> bool {
        // As long as its connections are kept.
        let unused = Duration::from_secs(30).max(
            self.prepared
                .as_ref()
                .and_then(|p| p.settings.rate_limit)
                .map_or(Duration::ZERO, |limit| limit.per),
        );
        self.has_no_work() && self.collecting == 0 && self.used_at.elapsed() > unused
    }

    /// Whether nothing is in hand, and no answer of receiver or database awaited.
    fn has_no_work(&self) -> bool {
        self.ready.is_empty() && self.posts.is_empty() && !(self.loading || self.closing || self.forming)
    }
}

/// From when on a delivery is too old to be sent.
pub(super) fn expires_at(settings: &DeliverySettings, received_at: OffsetDateTime) -> Option<OffsetDateTime> {
    settings.max_age.map(|age| received_at + age)
}
