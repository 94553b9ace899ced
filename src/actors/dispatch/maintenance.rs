//! What the loop looks after every few seconds: the clock, its own sign of life, dead dispatchers, probes, recoveries,
//! snapshots.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::actors::dispatch::{Dispatch, MAINTENANCE_EVERY, Report, start};
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::delivery::settings::Verification;
use crate::domain::ids::{DeliveryId, EventId, RecoveryId, WebhookId};
use crate::domain::presence::{Event, EventKind, Origin};
use crate::domain::webhook::state::WebhookState;
use crate::metrics::OutcomeLabels;
use crate::outbound::body::envelope::{self, Item};
use crate::outbound::post::Post;
use crate::random;
use crate::store::{Store, StoreError};

use crate::actors::dispatch::actor::DispatcherDeps;
use crate::actors::dispatch::queue::Prepared;
use crate::actors::dispatch::reconcile::{Scan, Walk};
use crate::actors::dispatch::recovery::recover;

/// How long one round does each kind of long work piece by piece: our sign of life must not wait for all of it.
const PIECES_WITHIN: Duration = Duration::from_millis(700);

/// Recoveries that this process works on at a time: each uses a connection to the database most of the time.
const RECOVERIES_AT_ONCE: i64 = 4;

/// What a round found.
pub(super) struct Found {
    /// We were given up for dead: what we held is free.
    lost: bool,
    /// Rows that dead dispatchers held.
    freed: u64,
    /// Recoveries that are in our hands now.
    recoveries: Vec<RecoveryId>,
    /// Snapshots are still to be written.
    more: bool,
    /// Number of the last change of a webhook.
    generation: i64,
    /// Webhooks that have changed since the round before; `None`: perhaps all.
    changed: Option<Vec<WebhookId>>,
    /// No dispatcher that lives is older.
    leader: bool,
    /// Deliveries became due.
    due: bool,
    /// How far the lanes are looked through for those that nothing wakes.
    walk: Walk,
    /// How far the table is read for what is leased.
    scan: Scan,
    /// What we hold, as the database has it; `None`: it is not read to its end.
    leased: Option<Vec<(DeliveryId, i32)>>,
    /// Lanes that a writer put something into without learning whether it was committed. It has ended by now.
    lanes: HashSet<(WebhookId, i64)>,
}

impl Dispatch {
    /// Starts a round.
    pub(super) fn start_maintenance(&mut self) {
        self.maintenance_runs = true;
        // What is asked for meanwhile brings the next round forward again.
        self.maintenance_at = Instant::now() + MAINTENANCE_EVERY;
        let (deps, id, generation) = (self.deps.clone(), self.id, self.generation);
        let recovering: Vec<_> = self.recovering.iter().copied().collect();
        let (mut walk, mut scan) = (self.walk, std::mem::take(&mut self.scan));
        // A nudge brings a round forward, not this.
        let looks = Instant::now() >= self.look_at;
        if looks {
            self.look_at = Instant::now() + MAINTENANCE_EVERY;
        }
        start(&self.report, async move {
            let round = async {
                deps.store.sync_clock().await?;
                let now = clock::now();
                let lost = !deps.store.is_alive(id, now).await?;
                if lost {
                    deps.store.begin_dispatcher(id, now).await?;
                }
                let leader = deps.store.is_leader(id, now).await?;
                if deps.store.end_the_dead(now).await? > 0 {
                    scan = Scan::default();
                }
                let (mut freed, mut leased) = (0, None);
                let by = Instant::now() + PIECES_WITHIN;
                while scan.hurries || looks {
                    let piece = deps.store.leases_in(id, scan.from, now).await?;
                    freed += piece.freed;
                    leased = scan.go_on(piece);
                    if !scan.hurries || Instant::now() >= by {
                        break;
                    }
                }
                for webhook in deps.store.begin_probes(now).await? {
                    tokio::spawn(probe(deps.clone(), webhook));
                }
                let room = RECOVERIES_AT_ONCE - i64::try_from(recovering.len()).unwrap_or(i64::MAX);
                let recoveries = if room > 0 {
                    deps.store.take_recoveries(id, &recovering, now, room).await?
                } else {
                    Vec::new()
                };
                let more = deps.store.write_snapshots(PIECES_WITHIN).await?;
                let worked = deps.store.work_on_webhooks(PIECES_WITHIN).await?;
                for (end, count) in &worked.ended {
                    let outcome = end.as_str();
                    deps.metrics.deliveries_ended.get_or_create(&OutcomeLabels { outcome }).inc_by(*count);
                }
                if worked.lanes {
                    walk = Walk::default();
                }
                let by = Instant::now() + PIECES_WITHIN;
                let mut woken = 0;
                while walk.hurries || looks {
                    let (to, lanes) = deps.store.wake_stranded(walk.from, now).await?;
                    walk.go_on(to);
                    woken += lanes;
                    if !walk.hurries || Instant::now() >= by {
                        break;
                    }
                }
                let (generation, changed) = deps.store.webhooks_changed(generation).await?;
                let (lanes, born) = settle_uncertain(&deps.store).await?;
                let more = more || worked.more || walk.hurries || scan.hurries;
                let due = worked.due + woken + born > 0;
                Ok(Found {
                    lost,
                    freed,
                    recoveries,
                    more,
                    generation,
                    changed,
                    leader,
                    due,
                    walk,
                    scan,
                    leased,
                    lanes,
                })
            };
            Report::Maintained(round.await)
        });
    }

    /// Takes in what a round found.
    pub(super) fn maintained(&mut self, result: Result<Found, StoreError>) {
        self.maintenance_runs = false;
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the dispatcher's upkeep waits for the database");
                return;
            }
        };
        for id in found.recoveries {
            if self.recovering.insert(id) {
                start(&self.report, recover(self.deps.store.clone(), self.id, id));
            }
        }
        if found.more {
            self.maintenance_at = Instant::now();
        }
        self.claim |= found.freed > 0 || found.lost || found.due || found.leader != self.leader;
        // What a dead dispatcher had been told of is known to nobody.
        let again = found.freed > 0 || found.lost;
        self.walk = if again { Walk::default() } else { found.walk };
        self.scan = found.scan;
        self.leader = found.leader;
        if found.lost {
            // In other hands by now, or about to be. What is under way comes back and finds that its row has moved on.
            let webhooks: Vec<_> = self.outlets.keys().copied().collect();
            for webhook in webhooks {
                self.give_back(webhook, clock::now());
            }
        }
        self.generation = found.generation;
        for webhook in found.changed.unwrap_or_else(|| self.outlets.keys().copied().collect()) {
            if self.outlets.get(&webhook).is_some_and(|outlet| outlet.prepared.is_some()) {
                self.read(webhook);
            }
        }
        self.outlets.retain(|_, outlet| !outlet.is_evictable());
        if !self.draining {
            self.work.lanes.extend(found.lanes);
        }
        if let Some(leased) = found.leased {
            self.reconcile(leased, Instant::now());
        }
    }

    /// A recovery has ended, or is in other hands: there is room for another one.
    pub(super) fn recovered(&mut self, id: RecoveryId) {
        self.recovering.remove(&id);
        self.maintenance_at = Instant::now();
    }

    /// Disables a webhook, aside of the loop. Nothing is sent to it until that is done and it is read anew.
    pub(super) fn disable(&mut self, webhook: WebhookId, reason: &'static str, now: OffsetDateTime) {
        let Some(outlet) = self.outlets.get_mut(&webhook) else { return };
        if std::mem::replace(&mut outlet.closing, true) {
            return;
        }
        let store = self.deps.store.clone();
        start(&self.report, async move {
            match store.disable_webhook(webhook, reason, now).await {
                Ok(()) => store.wake.deliveries_due(),
                // The next failure tries again.
                Err(error) => tracing::warn!(%error, %webhook, "a webhook could not be disabled yet"),
            }
            Report::Disabled { webhook }
        });
    }

    /// A webhook was disabled, or could not be: what was read of it before does not count.
    pub(super) fn disabled(&mut self, webhook: WebhookId) {
        let Some(outlet) = self.outlets.get_mut(&webhook) else { return };
        outlet.closing = false;
        if outlet.loading {
            outlet.outdated = true;
        } else {
            self.read(webhook);
        }
    }

    /// Does a step that the loop does not wait for. If it fails it is done again on the next occasion.
    pub(super) fn aside(&self, step: impl Future<Output = Result<(), StoreError>> + Send + 'static) {
        tokio::spawn(async move {
            if let Err(error) = step.await {
                tracing::warn!(%error, "a step about a webhook's health waits for the database");
            }
        });
    }
}

/// Frees what a writer leased at birth without learning whether that was committed, once it is certain: nobody was told of it. Gives
/// the lanes into which it put something, and how many were freed.
async fn settle_uncertain(store: &Store) -> Result<(HashSet<(WebhookId, i64)>, u64), StoreError> {
    let uncertain = store.handoff.take_uncertain();
    if uncertain.is_empty() {
        return Ok((uncertain.lanes, 0));
    }
    let freed = async {
        store.writers_ended().await?;
        store.release_unannounced(&uncertain.born).await
    };
    match freed.await {
        Ok(freed) => Ok((uncertain.lanes, freed)),
        Err(error) => {
            store.handoff.look_into(uncertain);
            Err(error)
        }
    }
}

/// Asks the receiver of a disabled or unverified webhook whether it is well.
async fn probe(deps: DispatcherDeps, webhook: WebhookId) {
    let asked = async {
        let read = deps.store.webhook_target(webhook, clock::now(), &deps.master_key).await?;
        let target = deps.poster.target(&read.url, &read.access, read.settings.timeout);
        let (verification, unverified) = (read.verification, read.state == WebhookState::Unverified);
        let prepared = Prepared::new(read, target);
        let found = if unverified && verification != Verification::None {
            verify(&deps, &prepared, webhook, verification).await
        } else {
            ping(&deps, &prepared, webhook).await
        };
        let now = clock::now();
        let level = if found.is_ok() { Level::Info } else { Level::Warn };
        let mut entry = Entry::new(now, Kind::WebhookProbed).level(level);
        entry.outcome = Some(found.err().unwrap_or("ok"));
        // To be known, not obeyed: limits are for the owner to set.
        if let Ok(Some(per_minute)) = found {
            entry = entry.data("allowed_per_minute", per_minute);
        }
        deps.store.end_probe(webhook, entry, found.is_ok(), now).await
    };
    if let Err(error) = asked.await {
        tracing::warn!(%error, %webhook, "a probe could not be written down; it is made again");
    }
}

async fn verify(
    deps: &DispatcherDeps,
    prepared: &Prepared,
    webhook: WebhookId,
    verification: Verification,
) -> Result<Option<u32>, &'static str> {
    let now = clock::now();
    let challenge: String = random::bytes::<24>().iter().map(|byte| format!("{byte:02x}")).collect();
    let id = DeliveryId::of(EventId::generate(), webhook).to_string();
    let keys = prepared.keys(now);
    deps.poster
        .verify(&prepared.target, verification, &id, &challenge, keys, now.unix_timestamp())
        .await
        .map(|allowed| allowed.per_minute)
}

/// A test ping that is kept nowhere.
async fn ping(
    deps: &DispatcherDeps,
    prepared: &Prepared,
    webhook: WebhookId,
) -> Result<Option<u32>, &'static str> {
    let now = clock::now();
    let event = Arc::new(Event {
        event_id: EventId::generate(),
        kind: EventKind::WebhookTest,
        position: 0,
        source: None,
        agent_id: None,
        sequence: None,
        topic: None,
        external_id: None,
        presence: None,
        previous: None,
        occurred_at: None,
        received_at: now,
        committed_at: None,
        origin: Origin::Live,
        detail: None,
        raw: bytes::Bytes::new(),
    });
    let delivery_id = DeliveryId::of(event.event_id, webhook);
    let event = envelope::Prepared::of(&event);
    let item = Item { event: &event, delivery_id, superseded: 0, sent_at: now };
    let post = Post {
        target: prepared.target.clone(),
        id: delivery_id.to_string(),
        attempt: 1,
        rendered: envelope::render(&item, prepared.settings.format),
        keys: prepared.keys(now),
        timestamp: now.unix_timestamp(),
    };
    let outcome = deps.poster.post(post).await.outcome;
    if outcome.is_success() { Ok(None) } else { Err(outcome.class()) }
}
