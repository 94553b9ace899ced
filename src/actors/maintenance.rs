//! Floor 4: what is looked after once an hour for as long as the process lives: day partitions, retention, kept answers. Each
//! step is on its own: one that fails does not keep the others, and is tried again a minute later.

use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::clock;
use crate::domain::delivery::outcome::EndState;
use crate::domain::secret::MasterKey;
use crate::metrics::{Metrics, OutcomeLabels};
use crate::store::access::idempotency::KEPT_FOR;
use crate::store::audit::retention::Days;
use crate::store::{Store, StoreError};

/// How often the backlog is counted.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// How often everything is looked after, and how soon again if something was left.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Days of events and audit entries.
    pub days: u32,
    /// Days that a delivery to a webhook that takes none waits.
    pub suspended_days: u32,
}

/// Keeps figures and partitions up to date for as long as the process lives.
pub async fn run(store: Store, metrics: Metrics, kept: Kept, master_key: MasterKey) {
    let mut ticks = interval(COUNT_EVERY);
    let mut due = Instant::now();
    loop {
        ticks.tick().await;
        let now = clock::now();
        if let Ok((open, oldest)) = store.backlog().await {
            metrics.backlog.set(open);
            metrics.oldest_pending_seconds.set(oldest.map_or(0.0, |at| (now - at).as_seconds_f64().max(0.0)));
        }
        if Instant::now() >= due {
            let left = sweep(&store, &metrics, kept, &master_key).await;
            metrics.maintenance_left.set(left.into());
            tracing::info!(left, "day partitions and retention were looked after");
            due = Instant::now() + if left == 0 { SWEEP_EVERY } else { AGAIN_AFTER };
        }
    }
}

/// One round; says how much of it was left.
async fn sweep(store: &Store, metrics: &Metrics, kept: Kept, master_key: &MasterKey) -> u32 {
    let now = clock::now();
    let since = now - time::Duration::days(kept.days.into());
    let mut left = 0;
    left += days(store.make_partitions(now.date()).await).left;
    // First: what ends here keeps no day.
    let suspended_since = now - time::Duration::days(kept.suspended_days.into());
    match store.expire_suspended(suspended_since, now).await {
        Ok(0) => {}
        Ok(ended) => {
            let expired = OutcomeLabels { outcome: EndState::Expired.as_str() };
            metrics.deliveries_ended.get_or_create(&expired).inc_by(ended);
            tracing::warn!(
                ended,
                "deliveries to webhooks that take none have waited for too long; they ended"
            );
        }
        Err(error) => left += told(&error),
    }
    let dropped = days(store.drop_event_days(now.date(), kept.days).await);
    left += dropped.left;
    if dropped.done > 0 {
        tracing::info!(dropped = dropped.done, "days of events were dropped, their time is over");
    }
    for forgotten in [
        store.forget_idempotency(now - KEPT_FOR).await,
        store.forget_quarantine(since).await,
        store.forget_recoveries(since).await,
    ] {
        left += forgotten.as_ref().map_or_else(told, |_| 0);
    }
    let dropped = days(store.drop_audit_days(now.date(), kept.days, master_key).await);
    left += dropped.left;
    if dropped.done > 0 {
        tracing::info!(dropped = dropped.done, "days of the audit log were dropped, their time is over");
    }
    left
}

fn days(round: Result<Days, StoreError>) -> Days {
    round.unwrap_or_else(|error| Days { done: 0, left: told(&error) })
}

/// Tells of a step that failed, and counts it.
fn told(error: &StoreError) -> u32 {
    tracing::error!(%error, "day partitions and kept answers could not be looked after; again in a minute");
    1
}
