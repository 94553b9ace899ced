//! Settles in a new incarnation of the database as soon as there is one, for as long as the process lives, and
//! tells of what was lost (docs/adr/0057).

use std::time::Duration;

use actix::Addr;
use tokio::time::{sleep, timeout};

use crate::actors::supervisor::Supervisor;
use crate::actors::supervisor::failover::DatabaseFailedOver;
use crate::domain::presence::notices::FailoverNotice;
use crate::metrics::Metrics;
use crate::store::Store;

/// How often it is looked whether somebody else has settled, and what was kept for a minute is given back.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Wait after a failure.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Settles in every incarnation, for ever.
pub async fn run((store, supervisor, metrics): (Store, Addr<Supervisor>, Metrics)) {
    let mut changes = store.watch_incarnation();
    let mut may_lack_erasures = false;
    loop {
        if let Err(error) = store.settle().await {
            tracing::warn!(%error, retry_in = ?AGAIN_AFTER, "failed to store again what a failover lost; retrying");
            sleep(AGAIN_AFTER).await;
            continue;
        }
        for notice in store.take_settled() {
            may_lack_erasures = true;
            tell(&notice, &metrics);
            // The supervisor is gone only if the process ends.
            let _ = supervisor.send(DatabaseFailedOver { lost_since: notice.lost_since }).await;
        }
        if may_lack_erasures {
            match store.repeat_lost_erasures().await {
                Ok(()) => may_lack_erasures = false,
                Err(error) => {
                    tracing::warn!(%error, "failed to ask again for lost erasures; retrying in 1 s")
                }
            }
        }
        store.forget_old_writes();
        let _ = timeout(LOOK_EVERY, changes.changed()).await;
    }
}

fn tell(notice: &FailoverNotice, metrics: &Metrics) {
    let FailoverNotice { timeline, restored, not_restorable, lost_since } = notice;
    metrics.database_failovers.inc();
    metrics.events_restored.inc_by(*restored);
    metrics.events_not_restorable.inc_by(*not_restorable);
    match lost_since {
        None => tracing::warn!(timeline, restored, "the database has failed over; nothing is lost"),
        Some(since) => tracing::error!(
            timeline, restored, not_restorable, %since,
            "the database has failed over or was restored; events since then may be lost, and numbers have jumped ahead"
        ),
    }
}
