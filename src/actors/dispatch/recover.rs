//! Works on a recovery that is in our hands, until it has ended or is in others'. Started by `upkeep`; what is done is
//! `store/recovery.rs`.

use std::time::Duration;

use tokio::time::sleep;

use super::Report;
use crate::domain::ids::{DispatcherId, RecoveryId};
use crate::store::Store;

/// Wait before it is looked at again after the database was away.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Owes again chunk after chunk. If we die, another dispatcher goes on from the last one.
pub(super) async fn recover(store: Store, dispatcher: DispatcherId, id: RecoveryId) -> Report {
    loop {
        let done = match store.recover_some(dispatcher, id).await {
            Err(error) if !error.is_away() => {
                tracing::error!(%error, recovery = %id, "a recovery ended early");
                store.end_recovery(dispatcher, id, Some("refused")).await.map(|()| false)
            }
            done => done,
        };
        match done {
            Ok(true) => {}
            Ok(false) => return Report::Recovered,
            Err(error) => {
                tracing::warn!(%error, recovery = %id, "a recovery waits for the database");
                sleep(AGAIN_AFTER).await;
            }
        }
    }
}
