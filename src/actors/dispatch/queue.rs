//! Queue of one webhook in this process: its configuration, how its receiver does, and the deliveries leased
//! for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use url::Url;

use super::batches::BatchBuffer;
use crate::domain::delivery::circuit::Circuit;
use crate::domain::delivery::rate_limit::RateLimiter;
use crate::domain::delivery::receiver::Receiver;
use crate::domain::delivery::settings::DeliverySettings;
use crate::domain::delivery::signature::{Signer, SigningPair};
use crate::domain::delivery::slots::{self, Owner, Places, Risk};
use crate::domain::webhook::state::WebhookState;
use crate::outbound::post::Target;
use crate::store::delivery::targets::WebhookTarget;
use crate::store::delivery::types::Claimed;

/// Deliveries of one webhook leased beyond those that may be under way, so that the next is there when one
/// ends.
const READY_MAX: usize = 64;
/// A queue without work stays for this long, as its receiver's connections do.
const EVICT_AFTER: Duration = Duration::from_secs(30);

/// A webhook's settings, address and keys, ready for sending.
pub(super) struct WebhookConfig {
    pub(super) version: i64,
    url: String,
    owner: Owner,
    pub(super) state: WebhookState,
    pub(super) settings: DeliverySettings,
    pub(super) target: Target,
    keys: Vec<(Signer, Option<OffsetDateTime>)>,
}

impl WebhookConfig {
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

    /// Keys that sign at `now`.
    pub(super) fn keys(&self, now: OffsetDateTime) -> Arc<[Signer]> {
        let signs = |expires_at: &Option<OffsetDateTime>| expires_at.is_none_or(|at| at > now);
        self.keys.iter().filter(|(_, expires_at)| signs(expires_at)).map(|(key, _)| key.clone()).collect()
    }
}

/// Host and port of an address.
fn host(url: &str) -> String {
    Url::parse(url).map_or_else(|_| String::new(), |url| url.authority().to_owned())
}

/// Whether the configuration is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConfigRead {
    Idle,
    UnderWay,
    /// Under way since before the webhook changed: it is read once more.
    Outdated,
}

/// Queue of one webhook.
pub(super) struct WebhookQueue {
    /// `None` until it is read.
    config: Option<Arc<WebhookConfig>>,
    config_read: ConfigRead,
    /// The webhook is being disabled, perhaps while its configuration is being read: nothing is sent.
    disabling: bool,
    /// Leased and not under way; oldest first.
    ready: VecDeque<Claimed>,
    /// POSTs under way, by their number, with the moment at which they began and the places that they take.
    posts: BTreeMap<u64, (Instant, usize)>,
    last_post: u64,
    pub(super) receiver: Receiver,
    rate: RateLimiter,
    /// When the rate limit allows the next POST; `None` if none waits for it.
    paced_until: Option<Instant>,
    /// More is due in the database than there was room for.
    pub(super) has_backlog: bool,
    pub(super) batch: BatchBuffer,
    used_at: Instant,
}

/// What happens to the next delivery.
pub(super) enum QueueDecision {
    /// Nothing for now.
    Wait,
    Send(Claimed),
    /// It ends without a POST.
    End(Claimed, Unsent),
    /// All that is ready returns to the database, due then.
    ReturnUntil(OffsetDateTime),
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
    pub(super) fn new(is_proven: bool, now: Instant) -> Self {
        Self {
            config: None,
            config_read: ConfigRead::Idle,
            disabling: false,
            ready: VecDeque::new(),
            posts: BTreeMap::new(),
            last_post: 0,
            receiver: Receiver::new(is_proven),
            rate: RateLimiter::default(),
            paced_until: None,
            has_backlog: false,
            batch: BatchBuffer::default(),
            used_at: now,
        }
    }

    // --- configuration

    /// Configuration to send by; `None` until it is read.
    pub(super) fn config(&self) -> Option<&Arc<WebhookConfig>> {
        self.config.as_ref()
    }

    /// Settings as they were read last, or the usual ones.
    pub(super) fn settings(&self) -> DeliverySettings {
        self.config.as_ref().map(|config| config.settings.clone()).unwrap_or_default()
    }

    /// Begins to read the configuration; false if that is under way.
    pub(super) fn begin_config_read(&mut self) -> bool {
        let begins = self.config_read == ConfigRead::Idle;
        if begins {
            self.config_read = ConfigRead::UnderWay;
        }
        begins
    }

    /// The read ended; true if the webhook has changed since it began.
    pub(super) fn end_config_read(&mut self) -> bool {
        std::mem::replace(&mut self.config_read, ConfigRead::Idle) == ConfigRead::Outdated
    }

    /// Takes over what was read of the webhook.
    pub(super) fn configure(&mut self, read: WebhookTarget, target: Target) {
        // Our own figures are newer, except where an owner has just given the receiver a clean record.
        let known = self.config.as_ref().map(|config| config.version);
        if known.is_none_or(|version| version < read.version && read.circuit.failures == 0) {
            self.receiver.circuit = read.circuit.clone();
        }
        let same_address = self.config.as_ref().is_some_and(|config| config.url == read.url);
        self.receiver.on_read(read.is_proven, read.noticed, same_address);
        if known.is_some_and(|version| version < read.version) {
            self.batch.forget_sizes();
        }
        self.config = Some(Arc::new(WebhookConfig::new(read, target)));
    }

    /// Sends nothing until the webhook is disabled; false if that is under way.
    pub(super) fn begin_disabling(&mut self) -> bool {
        !std::mem::replace(&mut self.disabling, true)
    }

    /// The webhook was disabled, or could not be. What was read of it before does not count: true if it is to
    /// be read now, false if the read under way repeats itself.
    pub(super) fn end_disabling(&mut self) -> bool {
        self.disabling = false;
        if self.config_read != ConfigRead::Idle {
            self.config_read = ConfigRead::Outdated;
        }
        self.config_read == ConfigRead::Idle
    }

    /// Configuration that may be sent by now.
    fn usable_config(&self) -> Option<&Arc<WebhookConfig>> {
        self.config.as_ref().filter(|_| self.config_read == ConfigRead::Idle && !self.disabling)
    }

    // --- deliveries

    /// Queues a leased delivery; true if the configuration is older than what it was claimed by.
    pub(super) fn accept(&mut self, claimed: Claimed, now: Instant) -> bool {
        let known = self.config.as_ref().map_or(-1, |config| config.version);
        let is_older = known < claimed.webhook_version;
        self.used_at = now;
        self.ready.push_back(claimed);
        is_older
    }

    /// Queues what was leased for a batch that is not sent any more.
    pub(super) fn accept_unsent(&mut self, items: Vec<Claimed>) {
        self.ready.extend(items);
    }

    /// Takes out all that is not under way.
    pub(super) fn take_ready(&mut self) -> VecDeque<Claimed> {
        self.paced_until = None;
        std::mem::take(&mut self.ready)
    }

    /// Decides what happens to the next delivery; `uptime` is what the rate limit counts by, `leader` says
    /// whether this process serves webhooks that are limited.
    pub(super) fn decide(&mut self, now: OffsetDateTime, uptime: Duration, leader: bool) -> QueueDecision {
        let Some(config) = self.usable_config().cloned() else { return QueueDecision::Wait };
        if self.ready.is_empty() {
            return QueueDecision::Wait;
        }
        if self.receiver.circuit.holds(now)
            && let Some(until) = self.receiver.circuit.hold_until
        {
            return QueueDecision::ReturnUntil(until);
        }
        if matches!(config.state, WebhookState::Paused | WebhookState::Unverified) {
            return QueueDecision::ReturnUntil(now); // the claim suspends it
        }
        if !leader && config.settings.is_limited() {
            return QueueDecision::ReturnUntil(now); // the leader claims it
        }
        if self.posts.len() >= self.receiver.circuit.room(now, config.settings.max_concurrency) {
            return QueueDecision::Wait;
        }
        let Some(claimed) = self.ready.pop_front() else { return QueueDecision::Wait };
        if let Some(unsent) = unsent(&config, &claimed, now) {
            return QueueDecision::End(claimed, unsent);
        }
        if let Some(limit) = config.settings.rate_limit
            && let Err(next) = self.rate.acquire(limit, uptime)
        {
            self.paced_until = Some(Instant::now() + next.saturating_sub(uptime));
            self.ready.push_front(claimed);
            return QueueDecision::Wait;
        }
        self.paced_until = None;
        QueueDecision::Send(claimed)
    }

    /// When the rate limit allows the next POST; `None` if none waits for it.
    pub(super) fn paced_until(&self) -> Option<Instant> {
        self.paced_until
    }

    /// The wait for the rate limit is over.
    pub(super) fn end_pause(&mut self) {
        self.paced_until = None;
    }

    /// Asks the rate limit for a POST of a batch; `Err`: how long to wait.
    pub(super) fn acquire_rate(&mut self, uptime: Duration) -> Result<(), Duration> {
        match self.config.as_ref().and_then(|config| config.settings.rate_limit) {
            Some(limit) => self.rate.acquire(limit, uptime).map_err(|next| next.saturating_sub(uptime)),
            None => Ok(()),
        }
    }

    /// A POST that the rate limit allowed is not made.
    pub(super) fn cancel_rate(&mut self) {
        self.rate.cancel();
    }

    /// Counts a POST that begins; gives its number.
    pub(super) fn begin_post(&mut self, places: usize, now: Instant) -> u64 {
        self.last_post += 1;
        self.posts.insert(self.last_post, (now, places));
        self.used_at = now;
        self.last_post
    }

    /// A POST ended.
    pub(super) fn end_post(&mut self, number: u64, now: Instant, uptime: Duration) {
        self.posts.remove(&number);
        self.used_at = now;
        if self.config.as_ref().is_some_and(|config| config.settings.rate_limit.is_some()) {
            self.rate.finish(uptime);
        }
    }

    // --- places

    /// Most POSTs under way at once; `None` until it is read.
    fn max_concurrency(&self) -> Option<usize> {
        self.config.as_ref().map(|config| config.settings.max_concurrency)
    }

    /// How many more deliveries may be leased for it.
    pub(super) fn room(&self, places: &Places) -> usize {
        let most = (self.max_concurrency().unwrap_or(READY_MAX) + READY_MAX).min(self.receiver.window());
        let has = self.places();
        most.saturating_sub(has).min(places.room(self.owner(), self.risk(), has))
    }

    /// Places that it has.
    pub(super) fn places(&self) -> usize {
        let posts: usize = self.posts.values().map(|(_, places)| places).sum();
        let batch = self.config.as_ref().and_then(|c| c.settings.batch).filter(|_| self.batch.is_forming());
        self.ready.len() + posts + batch.map_or(0, |batch| slots::of_batch(batch.max_items))
    }

    /// Host and port that its POSTs go to; `None` until it is read.
    pub(super) fn host(&self) -> Option<&str> {
        self.owner().map(|owner| &*owner.host)
    }

    /// Who has its places; `None` until it is read.
    pub(super) fn owner(&self) -> Option<&Owner> {
        self.config.as_ref().map(|config| &config.owner)
    }

    /// How likely it is that it keeps its places for long.
    pub(super) fn risk(&self) -> Risk {
        self.receiver.risk(self.posts.first_key_value().map(|(_, (since, _))| since.elapsed()))
    }

    /// Deliveries and batches leased for it.
    pub(super) fn leased_count(&self) -> usize {
        self.ready.len() + self.posts.len()
    }

    /// Whether writers of events may lease more for it.
    pub(super) fn is_open(&self, now: OffsetDateTime) -> bool {
        !self.receiver.is_failing() && !self.receiver.circuit.holds(now)
    }

    /// Whether a claim would bring it enough: it is half empty, so that one claim brings many.
    pub(super) fn can_claim_more(&self, now: OffsetDateTime, places: &Places) -> bool {
        self.max_concurrency().is_some_and(|max_concurrency| {
            let most = self.receiver.circuit.room(now, max_concurrency).min(self.receiver.window());
            self.ready.is_empty() && self.posts.len() <= most / 2 && most > 0 && self.room(places) > 0
        })
    }

    /// Whether the next delivery of a lane may be leased as soon as the one before it ends.
    pub(super) fn can_promote_next(&self, now: OffsetDateTime, places: &Places) -> bool {
        self.ready.len() < self.settings().max_concurrency && self.room(places) > 0 && self.is_open(now)
    }

    /// Whether there is a place for a batch, which may be larger than what is left.
    pub(super) fn can_form_batch(&self, places: &Places) -> bool {
        places.room(self.owner(), self.risk(), 0) > 0
    }

    /// When the next batch is to be formed; `None` if nothing waits for one, or one is under way.
    pub(super) fn batch_due_at(&self, now: OffsetDateTime) -> Option<Instant> {
        let config = self.usable_config().filter(|_| !self.receiver.circuit.holds(now))?;
        self.batch.due_at(config.settings.batch, !self.posts.is_empty())
    }

    // --- end

    /// Whether nothing is leased, nothing waited for, and nothing wrong.
    pub(super) fn is_drained(&self) -> bool {
        self.has_no_work()
            && self.batch.is_empty()
            && self.receiver.circuit == Circuit::default()
            && self.paced_until.is_none()
            && !self.has_backlog
    }

    /// Whether it can be forgotten: it was not used for as long as its connections, and what its rate limit
    /// counts, last.
    pub(super) fn is_evictable(&self, now: Instant) -> bool {
        let limit = self.config.as_ref().and_then(|config| config.settings.rate_limit);
        let unused_for = EVICT_AFTER.max(limit.map_or(Duration::ZERO, |limit| limit.per));
        self.has_no_work() && self.batch.is_empty() && now.duration_since(self.used_at) > unused_for
    }

    /// Whether nothing is leased, and no answer of receiver or database awaited.
    fn has_no_work(&self) -> bool {
        self.ready.is_empty()
            && self.posts.is_empty()
            && self.config_read == ConfigRead::Idle
            && !self.disabling
            && !self.batch.is_forming()
            && !self.batch.is_settling()
    }
}

/// Why a delivery is not to be sent; `None` if it is.
fn unsent(config: &WebhookConfig, claimed: &Claimed, now: OffsetDateTime) -> Option<Unsent> {
    if config.state != WebhookState::Active {
        return Some(Unsent::Disabled);
    }
    let Some(event) = &claimed.event else { return Some(Unsent::EventGone) };
    if claimed.has_newer_state {
        return Some(Unsent::Superseded);
    }
    let is_expired = config.settings.expires_at(event.received_at).is_some_and(|at| at <= now);
    is_expired.then_some(Unsent::Expired)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::actors::dispatch::testing::{claimed, configure, webhook_target};
    use crate::domain::delivery::settings::RateLimit;
    use crate::domain::delivery::slots::WINDOW_FIRST;
    use crate::domain::ids::WebhookId;

    const NOW: OffsetDateTime = datetime!(2026-11-23 15:00:00 UTC);

    /// A queue of an active webhook with these settings, and this many deliveries ready.
    fn queue(settings: DeliverySettings, ready: usize) -> WebhookQueue {
        let mut queue = WebhookQueue::new(true, Instant::now());
        configure(&mut queue, webhook_target(settings));
        for _ in 0..ready {
            queue.accept(claimed(WebhookId::generate()), Instant::now());
        }
        queue
    }

    fn decide(queue: &mut WebhookQueue) -> &'static str {
        match queue.decide(NOW, Duration::ZERO, false) {
            QueueDecision::Wait => "wait",
            QueueDecision::Send(_) => "send",
            QueueDecision::End(_, Unsent::Superseded) => "superseded",
            QueueDecision::End(_, Unsent::Expired) => "expired",
            QueueDecision::End(_, Unsent::Disabled) => "disabled",
            QueueDecision::End(_, Unsent::EventGone) => "event gone",
            QueueDecision::ReturnUntil(_) => "return",
        }
    }

    #[test]
    fn nothing_is_sent_while_the_configuration_is_read_or_the_webhook_disabled() {
        let mut queue = queue(DeliverySettings::default(), 1);
        assert!(queue.begin_config_read() && !queue.begin_config_read());
        assert_eq!(decide(&mut queue), "wait");
        assert!(!queue.end_config_read());
        assert!(queue.begin_disabling() && !queue.begin_disabling());
        assert_eq!(decide(&mut queue), "wait");
        assert!(queue.end_disabling(), "it is to be read now");
        assert_eq!(decide(&mut queue), "send");
    }

    #[test]
    fn a_read_that_began_before_the_webhook_was_disabled_is_repeated() {
        let mut queue = queue(DeliverySettings::default(), 0);
        queue.begin_config_read();
        queue.begin_disabling();
        assert!(!queue.end_disabling(), "a read is under way");
        assert!(queue.end_config_read(), "and is repeated");
        assert!(queue.begin_config_read() && !queue.end_config_read());
    }

    #[test]
    fn a_delivery_that_is_not_to_be_sent_ends() {
        let mut queue =
            queue(DeliverySettings { max_age: Some(Duration::ZERO), ..DeliverySettings::default() }, 1);
        let gone = Claimed { event: None, ..claimed(WebhookId::generate()) };
        let superseded = Claimed { has_newer_state: true, ..claimed(WebhookId::generate()) };
        queue.accept_unsent(vec![gone, superseded]);
        assert_eq!(decide(&mut queue), "expired");
        assert_eq!(decide(&mut queue), "event gone");
        assert_eq!(decide(&mut queue), "superseded");
        assert_eq!(decide(&mut queue), "wait");
    }

    #[test]
    fn the_state_of_a_webhook_decides_what_its_deliveries_become() {
        let outcome = |state| {
            let mut queue = queue(DeliverySettings::default(), 1);
            configure(&mut queue, WebhookTarget { state, ..webhook_target(DeliverySettings::default()) });
            decide(&mut queue)
        };
        assert_eq!(outcome(WebhookState::Active), "send");
        assert_eq!(outcome(WebhookState::Paused), "return");
        assert_eq!(outcome(WebhookState::Unverified), "return");
        assert_eq!(outcome(WebhookState::Disabled), "disabled");
    }

    #[test]
    fn only_the_leader_serves_a_webhook_with_a_limit() {
        let limit = RateLimit { requests: 1, per: Duration::from_secs(10) };
        let settings = DeliverySettings { rate_limit: Some(limit), ..DeliverySettings::default() };
        let mut queue = queue(settings, 2);
        assert_eq!(decide(&mut queue), "return");
        assert!(matches!(queue.decide(NOW, Duration::ZERO, true), QueueDecision::Send(_)));
        assert!(matches!(queue.decide(NOW, Duration::ZERO, true), QueueDecision::Wait));
        assert!(queue.paced_until().is_some(), "the second one waits for the window");
        queue.end_pause();
        assert_eq!(queue.take_ready().len(), 1, "and is still there");
    }

    #[test]
    fn a_receiver_that_fails_gets_its_deliveries_after_the_hold_one_at_a_time() {
        let mut queue = queue(DeliverySettings::default(), 2);
        while !queue.receiver.fail(NOW, None, 0.0) {}
        assert_eq!(decide(&mut queue), "return");
        assert!(!queue.is_open(NOW));
        let later = NOW + Duration::from_secs(60);
        assert!(matches!(queue.decide(later, Duration::ZERO, false), QueueDecision::Send(_)));
        queue.begin_post(1, Instant::now());
        assert!(matches!(queue.decide(later, Duration::ZERO, false), QueueDecision::Wait));
    }

    #[test]
    fn it_claims_more_when_it_is_half_empty() {
        let places = Places::default();
        let mut queue = queue(DeliverySettings::default(), 0);
        assert!(queue.can_claim_more(NOW, &places));
        assert_eq!(queue.room(&places), WINDOW_FIRST);
        for _ in 0..=WINDOW_FIRST / 2 {
            queue.begin_post(1, Instant::now());
        }
        assert!(!queue.can_claim_more(NOW, &places), "more than half of its window is under way");
        queue.end_post(1, Instant::now(), Duration::ZERO);
        assert!(queue.can_claim_more(NOW, &places));
        queue.accept(claimed(WebhookId::generate()), Instant::now());
        assert!(!queue.can_claim_more(NOW, &places), "the next one is there already");
        assert!(!WebhookQueue::new(true, Instant::now()).can_claim_more(NOW, &places), "it is not read yet");
    }

    #[test]
    fn a_claim_by_a_newer_version_asks_for_the_configuration() {
        let mut queue = WebhookQueue::new(true, Instant::now());
        assert!(queue.accept(claimed(WebhookId::generate()), Instant::now()), "nothing is read");
        configure(&mut queue, webhook_target(DeliverySettings::default()));
        assert!(!queue.accept(claimed(WebhookId::generate()), Instant::now()));
        let newer = Claimed { webhook_version: 2, ..claimed(WebhookId::generate()) };
        assert!(queue.accept(newer, Instant::now()));
    }

    #[test]
    fn a_clean_record_that_the_owner_gave_counts_and_an_older_one_does_not() {
        let mut queue = queue(DeliverySettings::default(), 0);
        queue.receiver.fail(NOW, None, 0.0);
        configure(&mut queue, webhook_target(DeliverySettings::default()));
        assert_eq!(queue.receiver.circuit.failures, 1, "ours is newer");
        configure(&mut queue, WebhookTarget { version: 2, ..webhook_target(DeliverySettings::default()) });
        assert_eq!(queue.receiver.circuit, Circuit::default());
    }

    #[test]
    fn it_is_drained_when_nothing_is_leased_waited_for_or_wrong() {
        let mut queue = queue(DeliverySettings::default(), 0);
        assert!(queue.is_drained());
        queue.has_backlog = true;
        assert!(!queue.is_drained());
        queue.has_backlog = false;
        queue.begin_config_read();
        assert!(!queue.is_drained());
        queue.end_config_read();
        queue.receiver.fail(NOW, None, 0.0);
        assert!(!queue.is_drained(), "its circuit must be seen until it has recovered");
        queue.receiver.accept();
        let number = queue.begin_post(1, Instant::now());
        assert!(!queue.is_drained());
        queue.end_post(number, Instant::now(), Duration::ZERO);
        assert!(queue.is_drained());
    }

    #[test]
    fn it_is_evictable_when_it_has_no_work_and_its_rate_limit_counts_nothing_any_more() {
        let limit = RateLimit { requests: 1, per: 2 * EVICT_AFTER };
        let mut limited =
            queue(DeliverySettings { rate_limit: Some(limit), ..DeliverySettings::default() }, 0);
        let mut queue = queue(DeliverySettings::default(), 0);
        let later = Instant::now() + EVICT_AFTER + Duration::from_secs(1);
        assert!(!queue.is_evictable(Instant::now()) && queue.is_evictable(later));
        assert!(!limited.is_evictable(later) && limited.is_evictable(later + EVICT_AFTER));
        queue.batch.add(1, Instant::now());
        assert!(!queue.is_evictable(later), "a batch waits");
        limited.begin_disabling();
        assert!(!limited.is_evictable(later + EVICT_AFTER));
    }
}
