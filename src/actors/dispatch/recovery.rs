//! Work on a recovery that is leased to this process, until the recovery has ended or is leased to another
//! one. Maintenance starts it; `store/recovery/worker.rs` does each step.

use std::time::Duration;

use tokio::time::sleep;

use crate::actors::dispatch::Report;
use crate::domain::delivery::recovery::RecoveryFailure;
use crate::domain::ids::{DispatcherId, RecoveryId};
use crate::store::Store;

/// Wait before the next try while the database is unavailable.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often in a row a step may take too long for the database.
const TOO_SLOW_AFTER: u32 = 5;

/// Plans the deliveries again, chunk after chunk. If this process dies, another dispatcher goes on from the
/// last one.
pub(super) async fn recover(store: Store, dispatcher: DispatcherId, id: RecoveryId) -> Report {
    let mut slow = 0;
    loop {
        let done = match store.recover_some(dispatcher, id).await {
            Err(error) => {
                slow = if error.is_too_slow() { slow + 1 } else { 0 };
                if error.is_transient() && slow < TOO_SLOW_AFTER {
                    Err(error)
                } else {
                    let reason = if error.is_transient() {
                        RecoveryFailure::TooSlow
                    } else {
                        RecoveryFailure::Refused
                    };
                    tracing::error!(%error, recovery = %id, reason = reason.as_str(), "recovery failed; ending it early");
                    store.end_recovery(dispatcher, id, Some(reason)).await.map(|()| false)
                }
            }
            done => {
                slow = 0;
                done
            }
        };
        match done {
            Ok(true) => {}
            Ok(false) => return Report::RecoveryEnded(id),
            Err(error) => {
                tracing::warn!(
                    %error, recovery = %id, delay = ?RETRY_AFTER,
                    "failed to run a step of a recovery; retrying after the delay"
                );
                sleep(RETRY_AFTER).await;
            }
        }
    }
}
