//! The index finds whom asking each would find.

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use crate::domain::delivery::settings::{Format, Mode};
use crate::domain::ids::SourceId;
use crate::domain::presence::EventKind;
use crate::domain::webhook::filter_index::*;
use crate::domain::webhook::filter_key::{Key, Keys};

const SOURCE: SourceId = SourceId(Uuid::from_u128(7));

fn subscription(number: u8, tenant: u8, agents: &[&str], debounces: bool) -> Arc<Subscription> {
    Arc::new(Subscription {
        webhook_id: WebhookId(Uuid::from_u128(number.into())),
        tenant_id: TenantId(Uuid::from_u128(tenant.into())),
        version: 1,
        events: EventKind::ALL.to_vec(),
        agents: agents.iter().collect(),
        topics: Keys::default(),
        presences: Keys::default(),
        sources: std::collections::HashSet::new(),
        queues: Keys::default(),
        routing_statuses: Keys::default(),
        transitions: Keys::default(),
        mode: Mode::Every,
        min_dwell: Duration::from_secs(debounces.into()),
        batch_wait: None,
        format: Format::default(),
        paused: false,
        limited: false,
    })
}

fn facts(tenant: u8, agent: &str, external_id: Option<&str>) -> Facts {
    Facts {
        tenant: TenantId(Uuid::from_u128(tenant.into())),
        source: SOURCE,
        agent: Key::of(agent),
        external_id: external_id.map(Key::of),
        topic: None,
        presence: None,
        queues: Vec::new(),
        routing_status: None,
        transitions: Vec::new(),
    }
}

#[test]
fn what_was_removed_takes_no_room() {
    let mut filters = Filters::default();
    for round in 0..3 {
        for number in 0..100_u8 {
            let agents: Vec<String> = (0..50).map(|agent| format!("{}", agent + round)).collect();
            let agents: Vec<&str> = agents.iter().map(String::as_str).collect();
            filters.put(subscription(number, 1, &agents, true));
        }
    }
    assert_eq!((filters.slots.len(), filters.by_id.len(), filters.by_agent.len()), (100, 100, 50));
    for number in 0..99_u8 {
        filters.remove(WebhookId(Uuid::from_u128(number.into())));
    }
    assert_eq!(filters.all().count(), 1);
    assert!(filters.by_agent.values().all(|drawer| drawer.len() == 1 && drawer.capacity() < 8));
    filters.remove(WebhookId(Uuid::from_u128(99)));
    assert!(filters.by_agent.is_empty() && filters.of_all.is_empty() && filters.debouncing.is_empty());
}

proptest! {
    #[test]
    fn whoever_wants_an_event_is_found_after_any_changes(
        changes in proptest::collection::vec((0_u8..8, 0_u8..2, any::<bool>(),
            proptest::option::of(proptest::sample::subsequence(vec!["ann", "bob", "crm-1", "crm-2"], 0..=4))), 0..60),
        tenant in 0_u8..2,
        agent in proptest::sample::select(vec!["ann", "bob", "cid", ""]),
        external_id in proptest::option::of(proptest::sample::select(vec!["crm-1", "crm-2", "ann"])),
    ) {
        let (mut filters, mut each) = (Filters::default(), HashMap::new());
        for (number, tenant, debounces, agents) in changes {
            let id = WebhookId(Uuid::from_u128(number.into()));
            match agents {
                Some(agents) => {
                    let subscription = subscription(number, tenant, &agents, debounces);
                    filters.put(subscription.clone());
                    each.insert(id, subscription);
                }
                None => {
                    filters.remove(id);
                    each.remove(&id);
                }
            }
        }
        let facts = facts(tenant, agent, external_id);
        let found: Vec<WebhookId> = filters.concerned(&facts).map(|asks| asks.webhook_id).collect();
        for (id, subscription) in &each {
            let debounces = !subscription.min_dwell.is_zero() && subscription.tenant_id == facts.tenant;
            let concerned = debounces || subscription.watches(&facts);
            prop_assert_eq!(found.iter().filter(|other| *other == id).count(), usize::from(concerned));
            prop_assert!(filters.get(*id).is_some());
        }
        prop_assert_eq!(filters.watching(&facts), each.values().filter(|asks| asks.watches(&facts)).count());
        prop_assert_eq!(filters.all().count(), each.len());
    }
}
