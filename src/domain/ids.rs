//! Ids as types of their own, so that a webhook's id is never passed where an event's is wanted.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
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
    /// An owner of sources, webhooks and keys.
    TenantId;
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
    /// Delivery of one event to one webhook; also the `webhook-id` header. Derived: see [`DeliveryId::of`].
    DeliveryId;
    /// Deliveries that leave in one POST; also its `webhook-id`. Derived: see [`BatchId::of`].
    BatchId;
    /// A key that lets a caller into the REST API.
    ApiKeyId;
    /// A browser that is logged in to the console.
    ConsoleSessionId;
    /// A time in which an agent could not be seen.
    GapId;
    /// Malformed content from upstream.
    QuarantineId;
    /// A request to owe a webhook again what it missed.
    RecoveryId;
    /// A request to erase the person behind an agent.
    ErasureId;
    /// A check of the audit log that somebody asked for.
    VerificationId;
    /// An examination of a source's settings.
    ExaminationId;
    /// One dispatch loop; what it holds carries its id.
    DispatcherId;
    /// One process on a database, from its start to its end.
    ProcessId;
    /// A request for a connection upstream.
    ProvisioningId;
}

/// What stands behind the time in an id.
const TIME_SHIFT: u32 = 80;

impl DeliveryId {
    /// The id of the delivery of an event to a webhook: the same whenever and wherever it is made, so that a
    /// receiver can drop repeats by `webhook-id` alone. A uuid v8 with the event's leading 48 bits, which are
    /// its time (index entries stay together), and the rest from SHA-256 over both ids.
    #[must_use]
    pub fn of(event: EventId, webhook: WebhookId) -> Self {
        Self(derived(event.0, &[event.0, webhook.0]))
    }

    /// Less than every id of an event of this millisecond and later, and none itself: it says a place between
    /// two.
    #[must_use]
    pub fn bound(milliseconds: u64) -> Self {
        Self(Uuid::from_u128(u128::from(milliseconds) << TIME_SHIFT))
    }

    /// The same for a time.
    #[must_use]
    pub fn bound_at(time: OffsetDateTime) -> Self {
        Self::bound(u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
    }

    /// Whether it is only a place between two.
    #[must_use]
    pub fn is_bound(self) -> bool {
        self.0.as_u128().trailing_zeros() >= TIME_SHIFT
    }

    /// The time of its event, in milliseconds since 1970.
    #[must_use]
    pub fn milliseconds(self) -> u64 {
        u64::try_from(self.0.as_u128() >> TIME_SHIFT).unwrap_or(u64::MAX)
    }
}

impl BatchId {
    /// The id of a POST that carries these deliveries in this order; made like [`DeliveryId::of`] with the
    /// time of the first.
    #[must_use]
    pub fn of(deliveries: &[DeliveryId]) -> Self {
        let ids: Vec<Uuid> = deliveries.iter().map(|id| id.0).collect();
        Self(derived(ids.first().copied().unwrap_or_default(), &ids))
    }
}

fn derived(time: Uuid, ids: &[Uuid]) -> Uuid {
    let mut hash = Sha256::new();
    for id in ids {
        hash.update(id.as_bytes());
    }
    let mut bytes = [0; 16];
    for (byte, hashed) in bytes.iter_mut().zip(hash.finalize()) {
        *byte = hashed;
    }
    for (byte, of_time) in bytes.iter_mut().zip(time.as_bytes()).take(6) {
        *byte = *of_time;
    }
    if let Some(byte) = bytes.get_mut(8) {
        *byte &= 0x0F; // all of the variant's digit, as always
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// A Genesys user's id as upstream writes it (mostly a uuid; the seed does not say).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentId(pub String);

/// A GUID in lower case, as the platform writes its ids: people and other systems write them in upper case
/// too. Any other text stays as it is.
#[must_use]
pub fn canonical_guid(text: String) -> String {
    let is_guid = text.len() == 36 && Uuid::try_parse(&text).is_ok();
    if is_guid { text.to_ascii_lowercase() } else { text }
}

/// Each id of a filter as it was given, and in the case in which GUIDs are kept: it may be meant for an agent
/// of the platform, or for one of the CRM's own ids, which are compared as they are.
#[must_use]
pub fn with_canonical_guids(ids: &[String]) -> Vec<String> {
    let other = ids.iter().filter_map(|id| Some(canonical_guid(id.clone())).filter(|other| other != id));
    ids.iter().cloned().chain(other).collect()
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_has_one_spelling_and_nothing_else_is_touched() {
        let guid = "0E3A4f2b-1111-4ABC-9def-001122334455";
        assert_eq!(canonical_guid(guid.to_owned()), guid.to_ascii_lowercase());
        for other in ["Ann", "0E3A4F2B11114ABC9DEF001122334455", "{0E3A4F2B-1111-4ABC-9DEF-0011223344}", ""] {
            assert_eq!(canonical_guid(other.to_owned()), other);
        }
    }

    #[test]
    fn the_id_of_a_delivery_never_changes() {
        let event = EventId(Uuid::from_u128(0x019a_b2f0_7c11_7a3e_8f55_0b1c_2d3e_4f50));
        let webhook = WebhookId(Uuid::from_u128(0x019a_b2ee_0c3b_7d11_8e5f_6a7b_8c9d_0e1f));
        let id = DeliveryId::of(event, webhook);
        // What earlier versions made of these ids in SQL; receivers have them.
        assert_eq!(id.to_string(), "019ab2f0-7c11-87a3-8b1f-b870b7723bbf");
        assert_eq!(id.0.get_version_num(), 8);
        assert_ne!(DeliveryId::of(EventId(webhook.0), WebhookId(event.0)), id);
    }
}
