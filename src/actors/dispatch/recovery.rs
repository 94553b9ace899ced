//! Works on a recovery that is in our hands, until it has ended or is in others'. Started by `upkeep`; what is done is
//! `store/recovery/worker.rs`.

use std::time::Duration;

use tokio::time::sleep;

use crate::actors::dispatch::Report;
use crate::domain::delivery::recovery::RecoveryFailure;
use crate::domain::ids::{DispatcherId, RecoveryId};
use crate::store::Store;

/// Wait before it is looked at again after the database was away.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often in a row a step may take too long for the database.
const TOO_SLOW_AFTER: u32 = 5;

/// Owes again chunk after chunk. If we die, another dispatcher goes on from the last one.
pub(super) async fn recover(store: Store, dispatcher: DispatcherId, id: RecoveryId) -> Report {
    let mut slow = 0;
    loop {
        let done = match store.recover_some(dispatcher, id).await {
            Err(error) => {
                slow = if error.is_too_slow() { slow + 1 } else { 0 };
                if error.is_transient() && slow < TOO_SLOW_AFTER {
                    Err(error)
                } else {
                    tracing::error!(%error, recovery = %id, "a recovery ended early");
                    let reason = if error.is_transient() {
                        RecoveryFailure::TooSlow
                    } else {
                        RecoveryFailure::Refused
                    };
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
            Ok(false) => return Report::Recovered(id),
            Err(error) => {
                tracing::warn!(%error, recovery = %id, "a recovery waits for the database");
                sleep(AGAIN_AFTER).await;
            }
        }
    }
}
