//! What holds of every plan, whatever the events and the webhooks.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use time::macros::datetime;
use uuid::Uuid;

use crate::domain::ids::{AgentId, DispatcherId, SourceId};
use crate::domain::presence::Origin;
use crate::domain::webhook::fan_out::*;
use crate::domain::webhook::filter_key::Keys;

const NOW: OffsetDateTime = datetime!(2026-11-25 06:00 UTC);
const SOURCE: SourceId = SourceId(Uuid::from_u128(1));

/// An event of one of three agents, received `seconds_ago`.
fn event(number: u128, agent: u8, seconds_ago: u64, presence: usize, kind: usize) -> NewEvent {
    let event = Event {
        event_id: EventId(Uuid::from_u128(1000 + number)),
        kind: [EventKind::PresenceUpdated, EventKind::PresenceUpdated, EventKind::PresenceGap][kind],
        position: 0,
        source: Some((SOURCE, "desk".to_owned())),
        agent_id: Some(AgentId(format!("agent-{agent}"))),
        sequence: Some(1),
        topic: Some("topic".to_owned()),
        external_id: None,
        presence: Some(["AVAILABLE", "AWAY"][presence].to_owned()),
        previous: None,
        occurred_at: None,
        received_at: NOW - Duration::from_secs(seconds_ago),
        committed_at: None,
        origin: Origin::Live,
        detail: None,
        raw: Bytes::from_static(b"{}"),
        erased_at: None,
    };
    NewEvent {
        event: Arc::new(event),
        tenant: TenantId::DEFAULT,
        agent_key: i64::from(agent),
        connection_id: None,
    }
}

fn subscription(
    number: u128,
    (latest, debounce, batch, paused, gaps, away): (bool, u64, bool, bool, bool, bool),
) -> Subscription {
    let mut events = vec![EventKind::PresenceUpdated];
    events.extend(gaps.then_some(EventKind::PresenceGap));
    Subscription {
        webhook_id: WebhookId(Uuid::from_u128(10 + number)),
        tenant_id: TenantId::DEFAULT,
        version: 1,
        events,
        agents: Keys::default(),
        topics: Keys::default(),
        presences: away.then_some("AWAY").into_iter().collect(),
        sources: HashSet::new(),
        queues: Keys::default(),
        routing_statuses: Keys::default(),
        transitions: Keys::default(),
        mode: if latest { Mode::Latest } else { Mode::Every },
        min_dwell: Duration::from_secs(debounce),
        batch_wait: batch.then_some(Duration::from_secs(1)),
        format: Format::default(),
        paused,
        limited: false,
    }
}

#[test]
fn a_transition_is_debounced_by_the_presence_alone() {
    let told = |number, ago, previous: &str, presence| {
        let mut new = event(number, 0, ago, presence, 0);
        Arc::get_mut(&mut new.event).unwrap().previous = Some(previous.to_owned());
        new
    };
    let asks = Subscription {
        transitions: ["AVAILABLE -> AWAY"].iter().collect(),
        ..subscription(0, (false, 10, false, false, false, false))
    };
    let filters = [Arc::new(asks)].into_iter().collect();
    for (then, standing) in [(told(1, 2, "AWAY", 1), 1), (told(1, 2, "AWAY", 0), 0)] {
        let events = [told(0, 3, "AVAILABLE", 1), then];
        let plan = plan(&events, &filters, Subscription::wants, &DispatchCapacity::default(), NOW);
        assert_eq!(plan.deliveries.len(), standing);
        // The lane's waiting deliveries in the database, too: once by the transition itself.
        assert_eq!(plan.superseded_lanes.len(), 2 - standing);
    }
}

proptest! {
    #[test]
    fn a_plan_owes_what_is_wanted_once_in_order_and_hands_out_no_more_than_there_is_room_for(
        told in proptest::collection::vec((0_u8..3, 0_u64..20, 0_usize..2, 0_usize..3), 0..30),
        asked in proptest::collection::vec((any::<bool>(), prop_oneof![Just(0_u64), 1_u64..15], any::<bool>(),
            any::<bool>(), any::<bool>(), any::<bool>()), 0..5),
        room in 0_usize..10,
        unproven in 0_usize..10,
        hands in any::<bool>(),
        held in any::<bool>(),
    ) {
        // Within an agent's lane events come in the order in which they were received.
        let mut told = told;
        told.sort_by_key(|(_, seconds_ago, ..)| std::cmp::Reverse(*seconds_ago));
        let events: Vec<NewEvent> = (0..).zip(&told)
            .map(|(number, (agent, ago, presence, kind))| event(number, *agent, *ago, *presence, *kind)).collect();
        let subscriptions: Vec<Subscription> =
            (0..).zip(&asked).map(|(number, asks)| subscription(number, *asks)).collect();
        let held: HashSet<WebhookId> = held.then_some(WebhookId(Uuid::from_u128(10))).into_iter().collect();
        let dispatcher = hands.then(|| DispatcherId(Uuid::from_u128(5)));
        let rooms = held.iter().map(|webhook| (*webhook, 0)).collect();
        let leave =
            DispatchCapacity { dispatcher, room, rooms: Arc::new(rooms), others: 3, unproven, proven: Arc::default(), limited: true };
        let filters = subscriptions.iter().cloned().map(Arc::new).collect();
        let plan = plan(&events, &filters, Subscription::wants, &leave, NOW);

        // Each delivery that is wanted is planned: it stands, or an entry says that it was superseded.
        let mut wanted: Vec<(EventId, WebhookId)> = Vec::new();
        for (new, deliveries_per_event) in events.iter().zip(&plan.deliveries_per_event) {
            let facts = new.facts().unwrap();
            let by: Vec<_> = subscriptions.iter().filter(|s| s.wants(new.event.kind, &facts)).collect();
            prop_assert_eq!(usize::try_from(*deliveries_per_event).unwrap(), by.len());
            wanted.extend(by.iter().map(|s| (new.event.event_id, s.webhook_id)));
        }
        let stands = plan.deliveries.iter().map(|d| (d.event_id, d.webhook_id));
        let gone = plan.entries.iter().map(|entry| (entry.event_id.unwrap(), entry.webhook_id.unwrap()));
        let mut deliveries_per_event: Vec<_> = stands.chain(gone).collect();
        deliveries_per_event.sort_by_key(|(event, webhook)| (event.0, webhook.0));
        wanted.sort_by_key(|(event, webhook)| (event.0, webhook.0));
        prop_assert_eq!(deliveries_per_event, wanted);

        let mut lanes: HashMap<(WebhookId, i64), Vec<&PlannedDelivery>> = HashMap::new();
        for planned in &plan.deliveries {
            lanes.entry((planned.webhook_id, planned.lane)).or_default().push(planned);
        }
        for ((webhook, _), lane) in &lanes {
            let asks = subscriptions.iter().find(|s| s.webhook_id == *webhook).unwrap();
            // One stands first, and the lane is in the order of the events.
            prop_assert!(lane[0].first && lane[1..].iter().all(|planned| !planned.first));
            prop_assert!(lane.is_sorted_by_key(|planned| planned.event));
            let states = lane.iter().filter(|planned| planned.is_state).count();
            prop_assert!(asks.mode == Mode::Every || states <= 1, "{} states of the latest", states);
            for planned in lane {
                prop_assert_eq!(planned.due_at.is_none(), asks.paused);
                prop_assert!(planned.due_at.is_none_or(|at| at >= NOW));
                if planned.leased {
                    prop_assert!(hands && planned.first && !planned.batched && !held.contains(webhook));
                    prop_assert!(planned.due_at == Some(NOW));
                }
            }
        }
        prop_assert!(plan.deliveries.iter().filter(|planned| planned.leased).count() <= room.min(unproven));
        for webhook in &subscriptions {
            let ours = plan.deliveries.iter().filter(|d| d.leased && d.webhook_id == webhook.webhook_id);
            prop_assert!(ours.count() <= 3, "one webhook takes no more than its share");
        }
        // A delivery counts those that it superseded; one that was superseded by none is counted nowhere.
        let counted: i32 = plan.deliveries.iter().map(|planned| planned.superseded).sum();
        prop_assert!(usize::try_from(counted).unwrap() <= plan.entries.len());
    }
}
