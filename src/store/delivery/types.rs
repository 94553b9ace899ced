//! Types of the dispatcher's transaction: deliveries that it leased, what it writes about them, and what it may claim.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::domain::audit::{Entry, Kind};
use crate::domain::delivery::circuit::Circuit;
use crate::domain::delivery::outcome::Disposition;
use crate::domain::delivery::settings::Format;
use crate::domain::delivery::slots::Risk;
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::domain::presence::Event;

/// One delivery in this dispatcher's hands.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Its id, sent as `webhook-id`.
    pub delivery_id: DeliveryId,
    /// To whom.
    pub webhook_id: WebhookId,
    /// The webhook's version at that time; settings of an older one must not be used.
    pub webhook_version: i64,
    /// `agent_key` of its agent, or 0.
    pub lane: i64,
    /// Number of this attempt, from 1.
    pub attempt: i32,
    /// Older states that gave way to it.
    pub superseded: i32,
    /// When its first POST began.
    pub sent_at: OffsetDateTime,
    /// What that looked like.
    pub format: Format,
    /// The event owed.
    pub event_id: EventId,
    /// What to tell; `None` if it must be read, or is gone.
    pub event: Option<Arc<Event>>,
    /// A newer state waits behind it, and its webhook wants only the latest: end it without a POST.
    pub has_newer_state: bool,
}

impl Claimed {
    /// An audit entry of level INFO about this delivery.
    #[must_use]
    pub fn entry(&self, at: OffsetDateTime, kind: Kind) -> Entry {
        let mut entry = Entry::for_delivery(at, kind, self.webhook_id, self.event_id, self.delivery_id);
        entry.agent_id = self.event.as_ref().and_then(|event| event.agent_id.clone());
        entry
    }
}

/// How an attempt leaves its delivery.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which.
    pub delivery_id: DeliveryId,
    /// The attempt that was claimed; a settlement of another attempt changes nothing.
    pub attempt: i32,
    /// Whether it ended, or when it is due again.
    pub disposition: Disposition,
    /// HTTP status of the answer, if there was one.
    pub status: Option<i32>,
    /// Outcome class.
    pub outcome: &'static str,
    /// The next delivery of its lane may be leased to the same dispatcher at once.
    pub promotes_next: bool,
    /// Its webhook wants only the latest: instead of being tried again it gives way to a newer state.
    pub latest_only: bool,
}

/// How a webhook's receiver has been, to be kept.
#[derive(Clone, Debug)]
pub struct HealthChange {
    /// Whose.
    pub webhook_id: WebhookId,
    /// Its circuit.
    pub circuit: Circuit,
    /// Outcome class of the last failure.
    pub last_outcome: Option<&'static str>,
    /// It accepts POSTs: from now on it is a proven one.
    pub succeeds: bool,
    /// It takes POSTs again after it did not: what waits for its next attempt need not wait.
    pub is_back: bool,
}

/// What a dispatcher knows of a webhook.
#[derive(Clone, Copy, Debug)]
pub struct WebhookRoom {
    /// Which.
    pub webhook_id: WebhookId,
    /// Deliveries and batches of it that are leased to the dispatcher.
    pub leased: i64,
    /// How many more it may take.
    pub room: i64,
    /// How likely it is that it keeps its places for long.
    pub risk: Risk,
}

/// What a dispatcher may take.
#[derive(Clone, Debug, Default)]
pub struct ClaimRoom {
    /// How many more deliveries it takes; 0: do not claim.
    pub total: i64,
    /// How many of them of all webhooks that fail or are slow.
    pub suspect: i64,
    /// How many of them of all webhooks that have never accepted a POST.
    pub unproven: i64,
    /// What is known of those that have anything in its hands.
    pub known: Vec<WebhookRoom>,
    /// How many of any other webhook.
    pub others: i64,
    /// The same of one that has never accepted a POST.
    pub others_unproven: i64,
    /// Claim for these alone; `None`: for all.
    pub only: Option<Vec<WebhookId>>,
    /// Those with a limit are among them.
    pub limited: bool,
}

/// Everything that a cycle writes and asks.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// What came back.
    pub settlements: Vec<Settlement>,
    /// Audit entries of the same attempts.
    pub entries: Vec<Entry>,
    /// How receivers have been.
    pub health: Vec<HealthChange>,
    /// Lanes whose first delivery nobody may know of.
    pub lanes: Vec<(WebhookId, i64)>,
    /// What may be claimed.
    pub room: ClaimRoom,
}

impl Work {
    /// Notes how a receiver has been, in place of what was noted before.
    pub fn record_health(&mut self, mut change: HealthChange) {
        let former = self.health.iter().find(|known| known.webhook_id == change.webhook_id);
        change.is_back |= former.is_some_and(|known| known.is_back);
        self.health.retain(|known| known.webhook_id != change.webhook_id);
        self.health.push(change);
    }

    /// Whether there is nothing to write and nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settlements.is_empty()
            && self.entries.is_empty()
            && self.health.is_empty()
            && self.lanes.is_empty()
            && self.room.total <= 0
    }
}

/// What a cycle found.
#[derive(Clone, Debug, Default)]
pub struct Cycle {
    /// In our hands now, to be sent.
    pub claimed: Vec<Claimed>,
    /// There may be more that is due and has room: claim again without waiting.
    pub more: bool,
    /// Webhooks of which as much was claimed as there was room for.
    pub filled: Vec<WebhookId>,
    /// Webhooks that take batches and have some due.
    pub batches_due: Vec<WebhookId>,
    /// Deliveries that gave way to newer ones instead of being tried again.
    pub superseded: u64,
    /// Webhooks whose health could not be kept, because somebody had their row locked.
    pub health_left: Vec<WebhookId>,
    /// How long the claim took; `None` if there was none.
    pub claim_took: Option<std::time::Duration>,
}

/// Reads column `sent_format`.
pub(in crate::store) fn format(word: Option<&str>) -> Format {
    word.and_then(Format::from_name).unwrap_or_default()
}
