//! What is new in the feed of presence changes, read once for all who follow it as one tenant
//! (`services/follow.rs`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::domain::ids::TenantId;
use crate::domain::presence::Event;
use crate::store::views::events::{FeedFilter, FeedPage, FeedPlace};
use crate::store::{self, Store};

/// How often the feed is looked at without a wake-up: another process may have stored something.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The shortest time between two readings, however many changes there are.
const BETWEEN_READINGS: Duration = Duration::from_millis(100);
/// What is waited for after the database failed.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Events that all followers share.
const SHARED: i64 = 200;

/// All events behind one position and up to another.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) after: i64,
    pub(super) upto: i64,
    pub(super) events: Arc<[Arc<Event>]>,
}

/// Feeds that are followed, by tenant. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Feeds {
    by_tenant: Arc<Mutex<HashMap<TenantId, watch::Sender<Batch>>>>,
}

impl Feeds {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, watch::Sender<Batch>>> {
        self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batches of a tenant's feed; the first follower starts their reading behind this position.
    pub(super) fn subscribe(&self, tenant: TenantId, store: &Store, position: i64) -> watch::Receiver<Batch> {
        match self.lock().entry(tenant) {
            Entry::Occupied(feed) => feed.get().subscribe(),
            Entry::Vacant(place) => {
                let batch = Batch { after: position, upto: position, events: Arc::default() };
                let (sender, receiver) = watch::channel(batch);
                let reading = Reading { feeds: self.clone(), tenant, sender: sender.clone() };
                place.insert(sender);
                tokio::spawn(reading.run(store.clone()));
                receiver
            }
        }
    }
}

/// The one that reads for all followers of a tenant.
struct Reading {
    feeds: Feeds,
    tenant: TenantId,
    sender: watch::Sender<Batch>,
}

impl Reading {
    /// Until nobody follows any more.
    async fn run(self, store: Store) {
        let mut stored = store.wake.watch_events();
        let mut upto = self.sender.borrow().upto;
        while !self.is_left() {
            let read_at = Instant::now();
            match read_news(&store, upto).await {
                Ok(None) => {}
                Ok(Some(page)) => {
                    let is_full = i64::try_from(page.events.len()).is_ok_and(|events| events >= SHARED);
                    let last = page.events.last().filter(|_| is_full).map(|event| event.position);
                    let after = std::mem::replace(&mut upto, last.unwrap_or(page.reached));
                    let events = page.events.into_iter().map(Arc::new).collect();
                    self.sender.send_replace(Batch { after, upto, events });
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to read what is new in the feed; trying again in 1 s");
                    sleep(AGAIN_AFTER).await;
                }
            }
            let _ = timeout(LOOK_EVERY, stored.changed()).await;
            sleep_until(read_at + BETWEEN_READINGS).await;
        }
    }

    /// Whether nobody follows; nobody can begin to meanwhile.
    fn is_left(&self) -> bool {
        let mut feeds = self.feeds.lock();
        let is_left = self.sender.receiver_count() == 0;
        if is_left {
            feeds.remove(&self.tenant);
        }
        is_left
    }
}

/// Events behind a position; `None` if there are none, of whatever tenant.
async fn read_news(store: &Store, after: i64) -> store::Result<Option<FeedPage>> {
    if store.last_position().await? == after {
        return Ok(None);
    }
    Ok(Some(store.feed(&FeedFilter::default(), FeedPlace::After(Some(after)), SHARED).await?))
}

impl Drop for Reading {
    /// However the reading ends, its followers end too and come again.
    fn drop(&mut self) {
        let mut feeds = self.feeds.lock();
        if feeds.get(&self.tenant).is_some_and(|feed| feed.same_channel(&self.sender)) {
            feeds.remove(&self.tenant);
        }
    }
}
