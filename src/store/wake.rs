//! Wake-ups inside the process: they shorten a wait and carry no data. Every waiter also polls, so a lost
//! wake-up costs a second.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::transaction::once_committed;

/// Notifies the dispatcher, the supervisor, and whoever follows the feed. Clones notify the same ones.
#[derive(Clone, Debug, Default)]
pub struct Wake {
    deliveries: Arc<Notify>,
    connections: Arc<Notify>,
    events: watch::Sender<()>,
}

impl Wake {
    /// Something may be due for delivery.
    pub fn deliveries_due(&self) {
        let notify = self.deliveries.clone();
        once_committed(move || notify.notify_one());
    }

    /// Waits for [`deliveries_due`](Self::deliveries_due); one call before counts.
    pub async fn wait_deliveries_due(&self) {
        self.deliveries.notified().await;
    }

    /// Sources or wanted connections have changed.
    pub fn connections_changed(&self) {
        let notify = self.connections.clone();
        once_committed(move || notify.notify_one());
    }

    /// Waits for [`connections_changed`](Self::connections_changed); one call before counts.
    pub async fn wait_connections_changed(&self) {
        self.connections.notified().await;
    }

    /// Presence changes were stored by this process.
    pub(in crate::store) fn events_stored(&self) {
        self.events.send_replace(());
    }

    /// Sees each `events_stored` from now on.
    #[must_use]
    pub fn watch_events(&self) -> watch::Receiver<()> {
        self.events.subscribe()
    }
}
