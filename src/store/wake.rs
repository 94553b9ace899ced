//! Nudges: they shorten a wait and carry no truth. Whoever waits also polls, so a lost nudge costs a second.

use std::sync::Arc;

use tokio::sync::Notify;

use super::transaction::once_committed;

/// Two bells inside one process. Clones ring the same bells.
#[derive(Clone, Debug, Default)]
pub struct Wake {
    deliveries: Arc<Notify>,
    connections: Arc<Notify>,
}

impl Wake {
    /// Something may be due for delivery.
    pub fn deliveries_due(&self) {
        let notify = self.deliveries.clone();
        once_committed(move || notify.notify_one());
    }

    /// Waits for [`deliveries_due`](Self::deliveries_due); one rung before counts.
    pub async fn wait_deliveries_due(&self) {
        self.deliveries.notified().await;
    }

    /// What we want to be connected to has changed.
    pub fn connections_changed(&self) {
        let notify = self.connections.clone();
        once_committed(move || notify.notify_one());
    }

    /// Waits for [`connections_changed`](Self::connections_changed); one rung before counts.
    pub async fn wait_connections_changed(&self) {
        self.connections.notified().await;
    }
}
