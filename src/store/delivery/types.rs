//! Types of the dispatcher's transaction: deliveries that it leases, results that it writes, and limits of a
//! claim.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::domain::audit::{Entry, Kind};
use crate::domain::delivery::circuit::Circuit;
use crate::domain::delivery::outcome::Disposition;
use crate::domain::delivery::reason::Reason;
use crate::domain::delivery::settings::Format;
use crate::domain::delivery::slots::Risk;
use crate::domain::ids::{BatchId, DeliveryId, EventId, WebhookId};
use crate::domain::presence::Event;

/// A delivery that is leased to this dispatcher.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Sent as `webhook-id`.
    pub delivery_id: DeliveryId,
    /// Receiver of the POST.
    pub webhook_id: WebhookId,
    /// Version of the webhook when it was leased; settings of an older one must not be used.
    pub webhook_version: i64,
    /// `agent_key` of its agent, or 0.
    pub lane: i64,
    /// Number of this attempt, from 1.
    pub attempt: i32,
    /// Attempts before it that ended with its batch halved; the retry schedule does not count them.
    pub halvings: i16,
    /// Older states that it superseded.
    pub superseded: i32,
    /// When its first POST began.
    pub sent_at: OffsetDateTime,
    /// Format of that POST.
    pub format: Format,
    /// Event that it tells.
    pub event_id: EventId,
    /// `None` if it must be read, or is gone.
    pub event: Option<Arc<Event>>,
    /// A newer state waits behind it, and its webhook wants only the latest: it ends without a POST.
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

/// Result of an attempt.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Delivery that was sent.
    pub delivery_id: DeliveryId,
    /// Attempt that was leased; a settlement of another attempt changes nothing.
    pub attempt: i32,
    /// Whether it ended, or when it is due again.
    pub disposition: Disposition,
    /// Half of its batch, with which it goes again; `None`: with the whole, or in none.
    pub half: Option<BatchId>,
    /// HTTP status; `None`: no answer.
    pub status: Option<i32>,
    /// Outcome class.
    pub outcome: &'static str,
    /// The next delivery of its lane may be leased to the same dispatcher at once.
    pub promotes_next: bool,
    /// Its webhook wants only the latest: a newer state supersedes it instead of waiting for its next
    /// attempt.
    pub latest_only: bool,
}

/// New health of a webhook's receiver.
#[derive(Clone, Debug)]
pub struct HealthChange {
    /// Webhook of the receiver.
    pub webhook_id: WebhookId,
    /// Failures in a row, and how long the receiver is left alone.
    pub circuit: Circuit,
    /// Outcome class of the last failure.
    pub last_outcome: Option<&'static str>,
    /// Why it failed, in words.
    pub last_reason: Option<Reason>,
    /// It accepts POSTs: from now on it is proven.
    pub succeeds: bool,
    /// It accepts POSTs again after failures: deliveries that wait for their next attempt need not wait.
    pub is_back: bool,
}

/// Room of one webhook of which the dispatcher has deliveries leased.
#[derive(Clone, Copy, Debug)]
pub struct WebhookRoom {
    /// Webhook of the deliveries.
    pub webhook_id: WebhookId,
    /// Deliveries and batches of it that are leased to the dispatcher.
    pub leased: i64,
    /// Deliveries that may be claimed.
    pub room: i64,
    /// How likely it is that it keeps its places for long.
    pub risk: Risk,
}

/// Limits of a claim.
#[derive(Clone, Debug, Default)]
pub struct ClaimRoom {
    /// Deliveries of all webhooks together; 0: do not claim.
    pub total: i64,
    /// Deliveries of all webhooks together that fail or are slow.
    pub suspect: i64,
    /// Deliveries of all webhooks together that have never accepted a POST.
    pub unproven: i64,
    /// Webhooks of which the dispatcher has any leased.
    pub known: Vec<WebhookRoom>,
    /// Deliveries of any other webhook.
    pub others: i64,
    /// Deliveries of any other webhook that has never accepted a POST.
    pub others_unproven: i64,
    /// Claim for these webhooks alone; `None`: for all.
    pub only: Option<Vec<WebhookId>>,
    /// Claim for webhooks with a limit, too.
    pub limited: bool,
}

/// Input of a cycle: results to write, and limits of its claim.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// Results of attempts.
    pub settlements: Vec<Settlement>,
    /// Audit entries of the same attempts.
    pub entries: Vec<Entry>,
    /// New health of receivers, at most one for each webhook.
    pub health: Vec<HealthChange>,
    /// Lanes whose head may be unknown to every dispatcher.
    pub lanes: Vec<(WebhookId, i64)>,
    /// Limits of the claim.
    pub room: ClaimRoom,
}

impl Work {
    /// Replaces the health of the same receiver that an earlier result of this cycle recorded.
    pub fn record_health(&mut self, mut change: HealthChange) {
        let former = self.health.iter().find(|known| known.webhook_id == change.webhook_id);
        change.is_back |= former.is_some_and(|known| known.is_back);
        self.health.retain(|known| known.webhook_id != change.webhook_id);
        self.health.push(change);
    }

    /// Whether there is nothing to write and nothing to claim.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settlements.is_empty()
            && self.entries.is_empty()
            && self.health.is_empty()
            && self.lanes.is_empty()
            && self.room.total <= 0
    }
}

/// Result of a cycle.
#[derive(Clone, Debug, Default)]
pub struct Cycle {
    /// Leased to this dispatcher, to be sent.
    pub claimed: Vec<Claimed>,
    /// More deliveries may be due and have room: claim again without waiting.
    pub more: bool,
    /// Webhooks whose room is used up.
    pub filled: Vec<WebhookId>,
    /// Webhooks with batches due.
    pub batches_due: Vec<WebhookId>,
    /// Deliveries that newer ones superseded instead of waiting for their next attempt.
    pub superseded: u64,
    /// Webhooks whose health was not written because another transaction had locked their row.
    pub health_left: Vec<WebhookId>,
    /// `None` if nothing was claimed for.
    pub claim_took: Option<std::time::Duration>,
}

/// Reads column `sent_format`.
pub(in crate::store) fn format(word: Option<&str>) -> Format {
    word.and_then(Format::from_name).unwrap_or_default()
}
