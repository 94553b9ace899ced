//! Maintenance of the database, once an hour for as long as the process lives: day partitions, retention,
//! answers kept for idempotency. A step that fails does not stop the others, and is tried again a minute
//! later.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, interval};

use crate::clock;
use crate::domain::delivery::outcome::EndState;
use crate::domain::secret::MasterKey;
use crate::metrics::{Metrics, REMOVED};
use crate::status::Status;
use crate::store::access::idempotency::KEPT_FOR;
use crate::store::audit::outcomes;
use crate::store::audit::retention::Days;
use crate::store::{Store, StoreError};

/// Interval at which the backlog is counted.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// Interval between rounds, and after a round in which a step failed or left something.
const ROUND_EVERY: Duration = Duration::from_secs(3600);
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long rows are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Days that events and audit entries are kept.
    pub days: u32,
    /// Days that a delivery to a paused, disabled or unverified webhook waits.
    pub suspended_days: u32,
}

/// Where the backlog is told.
#[derive(Clone, Debug)]
pub struct Figures {
    /// By tenant.
    pub status: Arc<Status>,
    /// Of all.
    pub metrics: Metrics,
    /// How many webhooks have metrics of their own.
    pub webhooks_shown: u32,
}

/// Keeps figures and partitions up to date for as long as the process lives.
pub async fn run(store: Store, figures: Figures, retention: Retention, master_key: MasterKey) {
    let metrics = &figures.metrics;
    let mut ticks = interval(COUNT_EVERY);
    let mut due = Instant::now();
    loop {
        ticks.tick().await;
        // A figure that cannot be read stays as it was.
        let _ = count_backlog(&store, &figures).await;
        if Instant::now() >= due {
            let left = maintain(&store, metrics, retention, &master_key).await;
            metrics.maintenance_left.set(left.into());
            tracing::info!(
                left,
                "made day partitions and applied retention; `left` steps are due again in 60 s"
            );
            due = Instant::now() + if left == 0 { ROUND_EVERY } else { AGAIN_AFTER };
        }
    }
}

/// Reads how many webhooks and open deliveries there are, by state.
async fn count_backlog(store: &Store, figures: &Figures) -> Result<(), StoreError> {
    let Figures { status, metrics, webhooks_shown } = figures;
    let counted = store.backlog().await?;
    let age =
        |since: Option<OffsetDateTime>| since.map_or(0.0, |at| (clock::now() - at).as_seconds_f64().max(0.0));
    for state in metrics.backlog.values() {
        let found = || counted.iter().filter(|backlog| backlog.webhook_state == *state);
        metrics.backlog.of(state).set(found().map(|backlog| backlog.open).sum());
        let oldest = found().filter_map(|backlog| backlog.oldest).min();
        metrics.oldest_pending_seconds.of(state).set(age(oldest));
        if *state != REMOVED {
            metrics.webhooks.of(state).set(found().map(|backlog| backlog.webhooks).sum());
        }
    }
    status.set_backlogs(clock::now(), counted);
    if *webhooks_shown > 0 {
        let backlogs = store.webhook_backlogs((*webhooks_shown).into()).await?;
        metrics.webhook_backlogs.set(
            backlogs.into_iter().map(|backlog| (backlog.webhook, backlog.open, age(Some(backlog.oldest)))),
        );
    }
    Ok(())
}

/// Runs one round; gives how many steps failed or left something.
async fn maintain(store: &Store, metrics: &Metrics, retention: Retention, master_key: &MasterKey) -> u32 {
    let now = clock::now();
    let since = now - time::Duration::days(retention.days.into());
    let mut left = 0;
    left += days(store.make_partitions(now.date()).await).left;
    // Before the days are dropped: a day with a delivery that waits is kept.
    let suspended_since = now - time::Duration::days(retention.suspended_days.into());
    match store.expire_suspended(suspended_since, now).await {
        Ok(0) => {}
        Ok(ended) => {
            metrics.deliveries_ended.of(EndState::Expired.as_str()).inc_by(ended);
            tracing::warn!(
                ended,
                "ended deliveries that waited longer than BRIDGE_PARKED_RETENTION_DAYS for their webhook"
            );
        }
        Err(error) => left += failed(&error),
    }
    let dropped = days(store.drop_event_days(now.date(), retention.days).await);
    left += dropped.left;
    if dropped.done > 0 {
        tracing::info!(days = dropped.done, "dropped day partitions of events older than the retention");
    }
    for forgotten in [
        store.forget_idempotency(now - KEPT_FOR).await,
        store.forget_quarantine(since).await,
        store.forget_recoveries(since).await,
        store.forget_console_sessions(now).await,
        store.forget_outcomes(now - outcomes::KEPT_FOR).await,
    ] {
        left += forgotten.as_ref().map_or_else(failed, |_| 0);
    }
    let dropped = days(store.drop_audit_days(now.date(), retention.days, master_key).await);
    left += dropped.left;
    if dropped.done > 0 {
        tracing::info!(
            days = dropped.done,
            "dropped day partitions of the audit log older than the retention"
        );
    }
    left
}

fn days(round: Result<Days, StoreError>) -> Days {
    round.unwrap_or_else(|error| Days { done: 0, left: failed(&error) })
}

/// Logs a step that failed, and counts it.
fn failed(error: &StoreError) -> u32 {
    tracing::error!(%error, "failed to run a step of database maintenance; retrying in 60 s");
    1
}
