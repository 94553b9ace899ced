//! Recorder of presence changes: a bounded queue that connections fill, emptied by group commit.
//!
//! While one batch commits the next one collects, so the batch grows with the load by itself. A change that
//! was taken from the queue is kept until it is committed. If the database is unavailable for long, the queue
//! fills and connections drop their sockets on purpose.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::config::Buffer;
use crate::domain::audit::quarantine::Room;
use crate::domain::audit::{Entry, Level};
use crate::domain::delivery::outcome::EndState;
use crate::domain::presence::PresenceChange;
use crate::domain::retry_backoff::RetryBackoff;
use crate::metrics::{Metrics, NOT_STORABLE};
use crate::random;
use crate::status::{Part, Status};
use crate::store::ingest::record::Recorded;
use crate::store::standby::WAITS_FOR_STANDBY;
use crate::store::{Store, StoreError};

/// Changes in one transaction: enough that the commit costs little per change, few enough that it stays
/// short.
const BATCH_MAX: usize = 512;
/// KiB of frames after which a transaction takes no more of them: it holds each several times over, as the
/// change, as a parameter and on the connection.
const BATCH_KIB_MAX: usize = 4 * 1024;
/// How long a proof of coverage waits for the changes before it.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// Interval of signs of life while nothing arrives.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// How often a commit that lasts is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// First and longest wait between tries while the database is unavailable.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// The queue is full, because the database is unavailable or too slow. The caller drops its socket on purpose
/// and reports a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("presence changes come faster than they can be stored")]
pub struct QueueFull;

enum Item {
    Change(Box<PresenceChange>, OwnedSemaphorePermit),
    Flush(oneshot::Sender<()>),
}

/// Takes changes, in order. Clones feed the same queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Item>,
    /// Room for the frames of changes that are not committed.
    room: Arc<Semaphore>,
    /// Number of changes taken so far, and how many of them are committed.
    recorded: Arc<AtomicU64>,
    committed: watch::Receiver<u64>,
    metrics: Metrics,
}

impl Recorder {
    /// A recorder, and the worker that must be run to empty its queue. Frames count in KiB, each rounded up:
    /// a platform that pads its frames would fill our memory long before the queue is full.
    #[must_use]
    pub fn new(store: Store, status: Arc<Status>, metrics: Metrics, buffer: Buffer) -> (Self, Worker) {
        let (queue, items) = mpsc::channel(buffer.changes);
        let (committed, see_committed) = watch::channel(0);
        let worker = Worker {
            items,
            store,
            status,
            metrics: metrics.clone(),
            batch: Vec::new(),
            room: None,
            retried: false,
            taken: 0,
            committed,
        };
        let room = Arc::new(Semaphore::new(buffer.frames_mib * 1024));
        let recorder = Self { queue, room, recorded: Arc::default(), committed: see_committed, metrics };
        (recorder, worker)
    }

    /// Takes one change without waiting, and keeps it until it is committed, however long that takes.
    ///
    /// # Errors
    /// [`QueueFull`] if there is no room; the change is not kept then.
    pub fn try_record(&self, change: PresenceChange) -> Result<(), QueueFull> {
        let kib = u32::try_from(change.raw.len() / 1024 + 1).map_err(|_| QueueFull)?;
        let room = self.room.clone().try_acquire_many_owned(kib).map_err(|_| QueueFull)?;
        let place = self.queue.try_reserve().map_err(|_| QueueFull)?;
        self.metrics.changes_waiting.inc();
        place.send(Item::Change(Box::new(change), room));
        self.recorded.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether all changes taken before are committed within 5 s; false while the database is unavailable.
    pub async fn flushed(&self) -> bool {
        let goal = self.recorded.load(Ordering::Relaxed);
        let mut committed = self.committed.clone();
        let waited = timeout(FLUSH_WITHIN, committed.wait_for(|count| *count >= goal)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Waits until all changes taken before are committed, or the worker is gone.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

/// Empties the queue into the database.
pub struct Worker {
    items: mpsc::Receiver<Item>,
    store: Store,
    status: Arc<Status>,
    metrics: Metrics,
    /// Taken from the queue and not yet committed.
    batch: Vec<PresenceChange>,
    /// Room that the frames of the batch take.
    room: Option<OwnedSemaphorePermit>,
    /// A commit of this batch was tried before; its answer may have been lost.
    retried: bool,
    /// Number of changes taken from the queue so far, and how many of them are committed.
    taken: u64,
    committed: watch::Sender<u64>,
}

impl Worker {
    /// Runs until every handle is dropped and everything is committed.
    pub async fn run(mut self) {
        // Read early, so that the first change does not wait for it; if the database is unavailable, it does.
        let _ = self.store.read_filters().await;
        let mut backoff = RetryBackoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            self.status.alive(Part::Recorder);
            let flush = if self.batch.is_empty() {
                let first = tokio::select! {
                    first = self.items.recv() => first,
                    () = refresh_filters(&self.store) => continue,
                };
                match first {
                    None => return,
                    Some(first) => self.collect(first),
                }
            } else {
                None // a batch that failed before
            };
            while !self.batch.is_empty() {
                let before = self.batch.len();
                let (store, status) = (self.store.clone(), self.status.clone());
                let done = tokio::select! {
                    done = self.commit() => done,
                    never = attend(&store, &status) => match never {},
                };
                self.metrics.changes_waiting.dec_by(signed(before - self.batch.len()));
                match done {
                    Ok(()) => {
                        backoff.reset();
                        self.status.set_not_storing(None);
                    }
                    Err(StoreError::GoneOn) => {
                        tracing::info!(
                            "the database has gone on at another primary; storing there what is not"
                        );
                    }
                    Err(error) => {
                        let why = self.store.why_nothing_is_stored(&error).await;
                        self.status.set_not_storing(Some(why.clone()));
                        self.status.alive(Part::Recorder);
                        let delay = backoff.after_failure(random::unit());
                        tracing::warn!(
                            %error, why, changes = self.batch.len(), ?delay,
                            "failed to store presence changes; retrying after the delay"
                        );
                        tokio::select! {
                            () = sleep(delay) => {}
                            () = self.store.primary_is_back() => {}
                        }
                    }
                }
            }
            if let Some(flushed) = flush {
                let _ = flushed.send(());
            }
        }
    }

    /// Fills the batch from the queue; stops at a flush and returns it.
    fn collect(&mut self, first: Item) -> Option<oneshot::Sender<()>> {
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Item::Change(change, room) => {
                    self.batch.push(*change);
                    match &mut self.room {
                        Some(taken) => taken.merge(room),
                        None => self.room = Some(room),
                    }
                    self.taken += 1;
                }
                Item::Flush(done) => return Some(done),
            }
            next = if self.is_full() { None } else { self.items.try_recv().ok() };
        }
        None
    }

    fn is_full(&self) -> bool {
        let kib = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.batch.len() >= BATCH_MAX || kib >= BATCH_KIB_MAX
    }

    /// Commits those changes of the batch that are not stored yet, or the first of them.
    async fn commit(&mut self) -> Result<(), StoreError> {
        if self.retried {
            let stored: HashSet<_> = self.store.stored_events(&self.batch).await?.into_iter().collect();
            self.store.wake.deliveries_due();
            self.batch.retain(|change| !stored.contains(&change.event_id));
        }
        self.retried = true;
        match self.store.record(&self.batch).await {
            Err(error) if error.is_about_content() => self.commit_one_by_one().await?,
            Err(error) => return Err(error),
            Ok(recorded) => {
                self.count(recorded);
                self.batch.drain(..recorded.changes.min(self.batch.len()));
            }
        }
        self.retried = false;
        if self.batch.is_empty() {
            self.room = None;
            self.committed.send_replace(self.taken);
        }
        Ok(())
    }

    fn count(&self, recorded: Recorded) {
        self.metrics.events.inc_by(recorded.events);
        self.metrics.deliveries.inc_by(recorded.deliveries);
        self.metrics.deliveries_ended.of(EndState::Superseded.as_str()).inc_by(recorded.superseded);
        for (reason, states) in [("stale", recorded.stale), ("duplicate", recorded.duplicates)] {
            self.metrics.states_dropped.of(reason).inc_by(states);
        }
        self.metrics.count_times_ahead(recorded.times_ahead);
    }

    /// Commits change by change, as the database refused the content of one: that one goes to the audit log
    /// with its bytes.
    async fn commit_one_by_one(&mut self) -> Result<(), StoreError> {
        while let Some(change) = self.batch.first() {
            match self.store.record(std::slice::from_ref(change)).await {
                Ok(recorded) => self.count(recorded),
                Err(error) if error.is_about_content() => {
                    tracing::error!(
                        %error, agent = %change.agent_id, event = %change.event_id,
                        "database refused the content of a presence change; writing it to the audit log instead"
                    );
                    let mut entry = quarantine(change);
                    if self.store.room_in_quarantine(change.source_id, entry.at) != Room::Free {
                        entry = entry.without_bytes();
                        self.metrics.quarantine_withheld.inc();
                    }
                    self.store.write_audit(&[entry]).await?;
                    self.metrics.frames_rejected.of(NOT_STORABLE).inc();
                }
                Err(error) => return Err(error),
            }
            self.batch.remove(0);
        }
        Ok(())
    }
}

/// Reads filters that have changed while nothing arrives, so that no change waits for a thousand
/// registrations. If the database is unavailable, the next change reads them.
async fn refresh_filters(store: &Store) {
    sleep(IDLE_TICK).await;
    let _ = store.read_filters().await;
}

/// Says while a commit lasts that the recorder lives, and whether the commit waits for a standby: it may for
/// as long as that is away.
async fn attend(store: &Store, status: &Status) -> Infallible {
    loop {
        sleep(LOOK_EVERY).await;
        status.alive(Part::Recorder);
        if store.commits_wait_for_standby().await {
            status.set_not_storing(Some(WAITS_FOR_STANDBY.to_owned()));
        }
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn quarantine(change: &PresenceChange) -> Entry {
    let mut entry = Entry::malformed(clock::now(), "not_storable", &change.raw).level(Level::Error);
    entry.source_id = Some(change.source_id);
    entry.connection_id = Some(change.connection_id);
    entry.agent_id = Some(change.agent_id.clone());
    entry
}
