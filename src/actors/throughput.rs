//! Tells the status how much the counters of `/metrics` have grown, for the minutes that the overview shows.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::clock;
use crate::domain::delivery::outcome::EndState;
use crate::metrics::Metrics;
use crate::status::{Minute, Status};

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks at the counters for as long as the process lives.
pub async fn run(status: Arc<Status>, metrics: Metrics) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let delivered = metrics.deliveries_ended.of(EndState::Delivered.as_str());
    loop {
        ticks.tick().await;
        let total = Minute { changes: metrics.events.get(), deliveries: delivered.get() };
        status.note_total(clock::now(), total);
    }
}
