//! Ids as types of their own, so that a webhook's id is never passed where an event's is wanted.

use std::fmt;

use serde::{Deserialize, Serialize};
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
    /// One event owed to one webhook; also the `webhook-id` header. Derived by the database (migrations/0011).
    DeliveryId;
    /// A key that lets a caller into the REST API.
    ApiKeyId;
    /// A time in which an agent could not be seen.
    GapId;
    /// One running process of the bridge; leases carry it.
    ProcessId;
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
