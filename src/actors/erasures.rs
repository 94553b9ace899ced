//! Erases persons for as long as the process lives, piece by piece. Of several processes with one database
//! each takes what no other one works on.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::domain::audit::seal::AuditKey;
use crate::domain::delivery::outcome::EndState;
use crate::domain::secret::MasterKey;
use crate::metrics::Metrics;
use crate::store::{Result, Store};

/// How often new requests, and those that wait, are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs for ever.
pub async fn run(store: Store, master_key: MasterKey, metrics: Metrics) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut key, mut failing) = (None, false);
    loop {
        ticks.tick().await;
        match erase(&store, &master_key, &metrics, &mut key).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, retry_in = ?LOOK_EVERY, "failed to run a step of an erasure; retrying");
                }
            }
        }
    }
}

/// Does all that can be done now.
async fn erase(
    store: &Store,
    master_key: &MasterKey,
    metrics: &Metrics,
    key: &mut Option<(i16, AuditKey)>,
) -> Result<()> {
    let (key_id, key) = match key {
        Some(key) => key,
        None => key.insert(store.audit_key(master_key).await?),
    };
    while let Some(piece) = store.erase_some((*key_id, key)).await? {
        metrics.deliveries_ended.of(EndState::Erased.as_str()).inc_by(piece.deliveries);
    }
    Ok(())
}
