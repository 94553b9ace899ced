//! Probes: a POST that asks the receiver of a disabled or unverified webhook whether it takes deliveries now.

use std::sync::Arc;

use super::actor::DispatcherDeps;
use super::queue::WebhookConfig;
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::delivery::settings::Verification;
use crate::domain::ids::{DeliveryId, EventId, WebhookId};
use crate::domain::presence::{Event, EventKind, Origin};
use crate::domain::webhook::state::WebhookState;
use crate::outbound::body::envelope::{self, Item, RenderedEvent};
use crate::outbound::post::Post;
use crate::outbound::verify::Refusal;
use crate::random;

/// Probes a webhook's receiver, and writes the result.
pub(super) async fn probe(deps: DispatcherDeps, webhook: WebhookId) {
    let probed = async {
        let read = deps.store.webhook_target(webhook, clock::now(), &deps.master_key).await?;
        let target = deps.poster.target(&read.url, &read.access, read.settings.timeout);
        let (verification, unverified) = (read.verification, read.state == WebhookState::Unverified);
        let config = WebhookConfig::new(read, target);
        let result = if unverified && verification != Verification::None {
            verify(&deps, &config, webhook, verification).await
        } else {
            ping(&deps, &config, webhook).await
        };
        let now = clock::now();
        let level = if result.is_ok() { Level::Info } else { Level::Warn };
        let mut entry = Entry::new(now, Kind::WebhookProbed).level(level);
        entry.outcome = Some("ok");
        let is_well = result.is_ok();
        match result {
            // To be known, not obeyed: limits are for the owner to set.
            Ok(Some(per_minute)) => entry = entry.data("allowed_per_minute", per_minute),
            Ok(None) => {}
            Err(Refusal { word, reason }) => {
                entry.outcome = Some(word);
                if let Some(reason) = reason {
                    entry = entry.data("reason", reason.as_str());
                }
            }
        }
        deps.store.end_probe(webhook, entry, is_well, now).await
    };
    if let Err(error) = probed.await {
        tracing::warn!(%error, %webhook, "failed to probe a webhook or to write the result; probing it again later");
    }
}

/// Asks whether the receiver wants the POSTs; gives how many a minute it allows, if it says so, or the
/// outcome class.
async fn verify(
    deps: &DispatcherDeps,
    config: &WebhookConfig,
    webhook: WebhookId,
    verification: Verification,
) -> Result<Option<u32>, Refusal> {
    let now = clock::now();
    let challenge: String = random::bytes::<24>().iter().map(|byte| format!("{byte:02x}")).collect();
    let id = DeliveryId::of(EventId::generate(), webhook).to_string();
    let keys = config.keys(now);
    deps.poster
        .verify(&config.target, verification, &id, &challenge, keys, now.unix_timestamp())
        .await
        .map(|allowed| allowed.per_minute)
}

/// Sends a test ping that is stored nowhere.
async fn ping(
    deps: &DispatcherDeps,
    config: &WebhookConfig,
    webhook: WebhookId,
) -> Result<Option<u32>, Refusal> {
    let now = clock::now();
    let event = Arc::new(Event {
        event_id: EventId::generate(),
        kind: EventKind::WebhookTest,
        position: 0,
        source: None,
        agent_id: None,
        sequence: None,
        topic: None,
        external_id: None,
        presence: None,
        previous: None,
        occurred_at: None,
        received_at: now,
        committed_at: None,
        origin: Origin::Live,
        detail: None,
        raw: bytes::Bytes::new(),
        erased_at: None,
    });
    let delivery_id = DeliveryId::of(event.event_id, webhook);
    let event = RenderedEvent::of(&event);
    let item = Item { event: &event, delivery_id, superseded: 0, sent_at: now };
    let post = Post {
        target: config.target.clone(),
        id: delivery_id.to_string(),
        attempt: 1,
        rendered: envelope::render(&item, config.settings.format),
        keys: config.keys(now),
        timestamp: now.unix_timestamp(),
    };
    let answer = deps.poster.post(post).await;
    if answer.outcome.is_success() {
        return Ok(None);
    }
    Err(Refusal { word: answer.outcome.class(), reason: answer.reason })
}
