//! Test pings: an event without an agent, for one webhook.

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::domain::presence::EventKind;
use crate::store::delivery::reopen::{LaneDelivery, open_delivery};
use crate::store::webhooks::rows::{must_take_part, read};
use crate::store::{Result, Store, audit, webhooks};

impl Store {
    /// Inserts the event of a test ping and its delivery, in lane 0.
    ///
    /// # Errors
    /// If there is no such webhook, or the database refuses.
    pub async fn create_test_ping(
        &self,
        webhook: WebhookId,
        principal: &str,
    ) -> Result<(EventId, DeliveryId)> {
        let (event, now) = (EventId::generate(), clock::now());
        let mut tx = self.begin().await?;
        let delivery = DeliveryId::of(event, webhook);
        // Keeps other pings of this webhook out: only one of them may be the head of the lane.
        webhooks::lock(&mut tx, webhook).await?;
        must_take_part(&read(&mut tx, webhook).await?)?;
        let position = sqlx::query_scalar!(
            "insert into event (event_id, received_at, kind, webhook_id, raw, committed_at)
             values ($1, $2, $3, $4, $5, $2)
             returning position",
            event as _,
            now,
            EventKind::WebhookTest.as_str(),
            webhook as _,
            b"{}",
        )
        .fetch_one(&mut *tx)
        .await?;
        let ping = LaneDelivery { delivery, webhook, lane: 0, position, event, event_received_at: now };
        open_delivery(&mut tx, ping, now).await?;
        let mut entry = Entry::for_delivery(now, Kind::WebhookTested, webhook, event, delivery);
        entry.principal = Some(principal.to_owned());
        audit::write(&mut tx, &[entry]).await?;
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok((event, delivery))
    }
}
