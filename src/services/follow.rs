//! Following the feed of presence changes: each follower has a filter of its own, applied in memory to what
//! `services/feed.rs` reads for all of them, and asks the database only to catch up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Result;
use super::caller::Caller;
use super::feed::{AGAIN_AFTER, Batch};
use crate::domain::presence::Event;
use crate::store::Store;
use crate::store::views::events::{FeedFilter, FeedPlace};

/// Events that one follower reads in one go to catch up.
const PAGE: i64 = 50;
/// How often a follower whose filter lets nothing pass is told how far it is.
const PLACE_EVERY: Duration = Duration::from_secs(10);

/// What a follower gets.
#[derive(Clone, Debug)]
pub enum Followed {
    /// An event that passes its filter.
    Event(Arc<Event>),
    /// All events up to this position were looked at.
    Reached(i64),
}

/// Every event behind `after` that passes, in order, each once, and then each that is stored; `None`: those
/// since the time that the filter names, or only what is stored from now on. Begins with the position behind
/// which it starts.
///
/// # Errors
/// If the database does not answer.
pub async fn follow(
    caller: &Caller,
    filter: FeedFilter,
    after: Option<i64>,
) -> Result<impl Stream<Item = Followed> + use<>> {
    let (store, last) = (caller.store.clone(), caller.store.last_position().await?);
    let batches = caller.services.feeds.subscribe(caller.principal.tenant(), &store, last);
    let begin = if filter.since.is_some() { 0 } else { last };
    let after = after.unwrap_or(begin);
    let follower = Follower {
        store,
        filter,
        batches,
        after,
        waiting: VecDeque::new(),
        told: after,
        told_at: Instant::now(),
    };
    let rest =
        stream::unfold(follower, |mut follower| async move { Some((follower.next().await?, follower)) });
    Ok(stream::once(async move { Followed::Reached(after) }).chain(rest))
}

/// One who follows the feed.
struct Follower {
    store: Store,
    filter: FeedFilter,
    batches: watch::Receiver<Batch>,
    /// Events up to here were looked at…
    after: i64,
    /// …and those of them that passed and were not given yet are here.
    waiting: VecDeque<Arc<Event>>,
    /// Up to where the follower knows itself.
    told: i64,
    told_at: Instant,
}

impl Follower {
    /// `None` if nobody reads for it any more.
    async fn next(&mut self) -> Option<Followed> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                (self.told, self.told_at) = (event.position, Instant::now());
                return Some(Followed::Event(event));
            }
            if self.told < self.after && self.told_at.elapsed() >= PLACE_EVERY {
                (self.told, self.told_at) = (self.after, Instant::now());
                return Some(Followed::Reached(self.after));
            }
            let batch = self.batches.borrow_and_update().clone();
            if batch.upto <= self.after {
                if let Ok(changed) = timeout(PLACE_EVERY, self.batches.changed()).await {
                    changed.ok()?;
                }
            } else if batch.after <= self.after {
                let fresh = batch.events.iter().filter(|event| event.position > self.after);
                self.waiting.extend(fresh.filter(|event| self.filter.passes(event)).cloned());
                self.after = batch.upto;
            } else {
                self.catch_up().await;
            }
        }
    }

    /// Reads what the batch at hand does not reach back to.
    async fn catch_up(&mut self) {
        match self.store.feed(&self.filter, FeedPlace::After(Some(self.after)), PAGE).await {
            Ok(page) => {
                let is_full = i64::try_from(page.events.len()).is_ok_and(|events| events >= PAGE);
                let last = page.events.last().filter(|_| is_full).map(|event| event.position);
                if page.events.is_empty() && page.reached <= self.after {
                    // A failover of the database lost what the batch is about; it comes back where it was, or
                    // newer events come behind it.
                    sleep(AGAIN_AFTER).await;
                }
                self.after = self.after.max(last.unwrap_or(page.reached));
                self.waiting.extend(page.events.into_iter().map(Arc::new));
            }
            Err(error) => {
                tracing::debug!(%error, "failed to read the feed for a follower; trying again in 1 s");
                sleep(AGAIN_AFTER).await;
            }
        }
    }
}
