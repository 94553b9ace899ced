//! Ids as types of their own, so that a webhook's id is never passed where an event's is wanted.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta] $name:ident;)+) => {$(
        #[$doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, ordered by time (uuid v7).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

uuid_id! {
    /// A Genesys organisation that we hold credentials for.
    SourceId;
    /// One upstream socket that we want to hold; ours, not upstream's id.
    ConnectionId;
    /// A registered subscriber.
    WebhookId;
    /// One signing secret of a webhook.
    WebhookSecretId;
    /// One presence change.
    EventId;
    /// One event owed to one webhook; also the `webhook-id` header.
    DeliveryId;
    /// A key that lets a caller into the REST API.
    ApiKeyId;
    /// A time in which an agent could not be seen.
    GapId;
    /// One running process of the bridge; leases carry it.
    ProcessId;
}

impl DeliveryId {
    /// The id of the delivery of `event` to `webhook`: the same whenever and wherever it is computed, so that
    /// a receiver can drop repeats by `webhook-id` alone.
    ///
    /// A uuid v8 that keeps the event's leading 48 bits of time (so index entries stay together) and takes the
    /// rest from SHA-256 over both ids.
    #[must_use]
    pub fn derive(event: EventId, webhook: WebhookId) -> Self {
        let hash = Sha256::new()
            .chain_update(event.0)
            .chain_update(webhook.0)
            .finalize();
        let mut bytes = *event.0.as_bytes();
        for (byte, hashed) in bytes.iter_mut().zip(hash).skip(6) {
            *byte = hashed;
        }
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

/// A Genesys user's id as upstream writes it (mostly a uuid; the seed does not say).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentId(pub String);

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_id_depends_on_event_and_webhook_only() {
        let (event, other) = (EventId::generate(), EventId::generate());
        let (webhook, stranger) = (WebhookId::generate(), WebhookId::generate());
        let id = DeliveryId::derive(event, webhook);
        assert_eq!(id, DeliveryId::derive(event, webhook));
        assert_ne!(id, DeliveryId::derive(other, webhook));
        assert_ne!(id, DeliveryId::derive(event, stranger));
        assert_eq!(id.0.get_version_num(), 8);
        assert_eq!(id.0.as_bytes()[..6], event.0.as_bytes()[..6]);
    }
}
