//! Which events become deliveries to a webhook. The writer of events keeps this in memory
//! (`domain/webhook/filter_index.rs`).

use std::collections::HashSet;
use std::time::Duration;

use crate::domain::delivery::settings::{Format, Mode};
use crate::domain::ids::{SourceId, TenantId, WebhookId};
use crate::domain::presence::EventKind;
use crate::domain::webhook::filter_key::{Key, Keys};

/// What a webhook asks for, and how its deliveries begin.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its webhook.
    pub webhook_id: WebhookId,
    /// Its tenant: it gets no event of another one.
    pub tenant_id: TenantId,
    /// Version of the webhook.
    pub version: i64,
    /// Kinds of event it is sent.
    pub events: Vec<EventKind>,
    /// Only these agents, by Genesys id or by the CRM's; empty: all.
    pub agents: Keys,
    /// Only these topics; empty: all.
    pub topics: Keys,
    /// Only changes to these system presences; empty: all.
    pub presences: Keys,
    /// Only these sources; empty: all.
    pub sources: HashSet<SourceId>,
    /// Only agents that work in one of these queues, or have just left one; empty: all.
    pub queues: Keys,
    /// Only states with these routing statuses; empty: all.
    pub routing_statuses: Keys,
    /// Only these changes of the presence, by the names of `transition`; empty: all.
    pub transitions: Keys,
    /// Every change, or the latest.
    pub mode: Mode,
    /// A state must last this long before it is sent.
    pub min_dwell: Duration,
    /// Longest wait for a batch to fill; `None` if it takes one delivery in a POST.
    pub batch_wait: Option<Duration>,
    /// What its POSTs look like.
    pub format: Format,
    /// Deliveries are kept until it is resumed.
    pub paused: bool,
    /// One dispatcher serves it
    /// ([`DeliverySettings::is_limited`](crate::domain::delivery::settings::DeliverySettings::is_limited)).
    pub limited: bool,
}

/// What filters look at. `None` is what the event does not say; it is in no list.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whose event it is.
    pub tenant: TenantId,
    /// Source of the event.
    pub source: SourceId,
    /// Agent by its Genesys id.
    pub agent: Key,
    /// The same in the CRM.
    pub external_id: Option<Key>,
    /// Topic it came in on.
    pub topic: Option<Key>,
    /// System presence.
    pub presence: Option<Key>,
    /// Queues that the agent works in, or has just left.
    pub queues: Vec<Key>,
    /// Routing status.
    pub routing_status: Option<Key>,
    /// Every name of the change of the presence.
    pub transitions: Vec<Key>,
}

impl Subscription {
    /// Whether the webhook gets events of this kind and content.
    #[must_use]
    pub fn wants(&self, kind: EventKind, facts: &Facts) -> bool {
        if !self.events.contains(&kind) || !self.watches(facts) {
            return false;
        }
        // A monitoring gap has neither topic nor presence: whoever watches the agent gets it.
        kind != EventKind::PresenceUpdated || self.fits(facts)
    }

    /// Whether the present state of an agent belongs into the webhook's snapshot.
    #[must_use]
    pub fn shows(&self, facts: &Facts) -> bool {
        self.watches(facts) && self.fits(facts)
    }

    /// Whether it is told anything of this agent.
    #[must_use]
    pub fn watches(&self, facts: &Facts) -> bool {
        self.tenant_id == facts.tenant
            && (self.agents.is_empty()
                || self.agents.holds(facts.agent)
                || facts.external_id.is_some_and(|id| self.agents.holds(id)))
            && (self.sources.is_empty() || self.sources.contains(&facts.source))
    }

    /// Whether a transition that it was told of still stands after a change that it is not told of: the
    /// presence is the same, and the state is still one that it asks for. A queue or routing status that
    /// follows a presence at once does not undo it.
    #[must_use]
    pub fn stands_after(&self, facts: &Facts) -> bool {
        !self.transitions.is_empty()
            && facts.transitions.is_empty()
            && self.watches(facts)
            && self.fits_state(facts)
    }

    fn fits(&self, facts: &Facts) -> bool {
        passes(&self.topics, facts.topic)
            && self.fits_state(facts)
            && passes_any(&self.transitions, &facts.transitions)
    }

    fn fits_state(&self, facts: &Facts) -> bool {
        passes(&self.presences, facts.presence)
            && passes(&self.routing_statuses, facts.routing_status)
            && passes_any(&self.queues, &facts.queues)
    }
}

fn passes(list: &Keys, value: Option<Key>) -> bool {
    list.is_empty() || value.is_some_and(|value| list.holds(value))
}

fn passes_any(list: &Keys, values: &[Key]) -> bool {
    list.is_empty() || values.iter().any(|value| list.holds(*value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn everything() -> Subscription {
        Subscription {
            webhook_id: WebhookId(Uuid::from_u128(1)),
            tenant_id: TenantId::DEFAULT,
            version: 1,
            events: vec![EventKind::PresenceUpdated],
            agents: Keys::default(),
            topics: Keys::default(),
            presences: Keys::default(),
            sources: HashSet::new(),
            queues: Keys::default(),
            routing_statuses: Keys::default(),
            transitions: Keys::default(),
            mode: Mode::Every,
            min_dwell: Duration::ZERO,
            batch_wait: None,
            format: Format::default(),
            paused: false,
            limited: false,
        }
    }

    fn facts() -> Facts {
        Facts {
            tenant: TenantId::DEFAULT,
            source: SourceId(Uuid::from_u128(2)),
            agent: Key::of("ann"),
            external_id: Some(Key::of("crm-7")),
            topic: Some(Key::of("t")),
            presence: Some(Key::of("AVAILABLE")),
            queues: vec![Key::of("q-1"), Key::of("q-2")],
            routing_status: Some(Key::of("IDLE")),
            transitions: vec![Key::of("AWAY -> AVAILABLE"), Key::of("* -> AVAILABLE")],
        }
    }

    fn set(texts: &[&str]) -> Keys {
        texts.iter().collect()
    }

    #[test]
    fn nothing_of_another_tenant_is_sent_or_shown() {
        let other = Facts { tenant: TenantId(Uuid::from_u128(2)), ..facts() };
        assert!(!everything().wants(EventKind::PresenceUpdated, &other) && !everything().shows(&other));
        let named = Subscription { sources: HashSet::from([facts().source]), ..everything() };
        assert!(!named.wants(EventKind::PresenceUpdated, &other) && !named.shows(&other));
    }

    #[test]
    fn an_empty_list_asks_for_all_and_another_for_what_it_holds() {
        let updated = EventKind::PresenceUpdated;
        assert!(everything().wants(updated, &facts()));
        for (agents, wanted) in [("ann", true), ("crm-7", true), ("bob", false)] {
            assert_eq!(
                Subscription { agents: set(&[agents]), ..everything() }.wants(updated, &facts()),
                wanted
            );
        }
        for (presences, wanted) in [("AVAILABLE", true), ("AWAY", false)] {
            let asks = Subscription { presences: set(&[presences]), ..everything() };
            assert_eq!(asks.wants(updated, &facts()), wanted);
            assert!(!asks.wants(updated, &Facts { presence: None, ..facts() }));
        }
        assert!(!Subscription { topics: set(&["other"]), ..everything() }.wants(updated, &facts()));
        let elsewhere = HashSet::from([SourceId(Uuid::from_u128(9))]);
        assert!(!Subscription { sources: elsewhere, ..everything() }.wants(updated, &facts()));
    }

    #[test]
    fn queue_routing_status_and_transition_narrow_as_the_other_filters_do() {
        let all = everything;
        for (asks, wanted) in [
            (Subscription { queues: set(&["q-2", "q-9"]), ..all() }, true),
            (Subscription { queues: set(&["q-9"]), ..all() }, false),
            (Subscription { routing_statuses: set(&["IDLE"]), ..all() }, true),
            (Subscription { routing_statuses: set(&["INTERACTING"]), ..all() }, false),
            (Subscription { transitions: set(&["* -> AVAILABLE"]), ..all() }, true),
            (Subscription { transitions: set(&["BUSY -> AVAILABLE"]), ..all() }, false),
        ] {
            assert_eq!(asks.wants(EventKind::PresenceUpdated, &facts()), wanted, "{asks:?}");
            let unknown =
                Facts { queues: Vec::new(), routing_status: None, transitions: Vec::new(), ..facts() };
            assert!(!asks.shows(&unknown), "{asks:?}");
        }
    }

    #[test]
    fn a_transition_stands_until_the_presence_changes_or_the_state_leaves_the_filters() {
        let asks = Subscription {
            transitions: set(&["* -> AVAILABLE"]),
            queues: set(&["q-1"]),
            topics: set(&["t"]),
            ..everything()
        };
        let same = Facts { transitions: Vec::new(), topic: Some(Key::of("routing")), ..facts() };
        assert!(asks.stands_after(&same));
        assert!(!asks.stands_after(&facts()), "another change of the presence");
        assert!(!asks.stands_after(&Facts { queues: Vec::new(), ..same.clone() }));
        assert!(!everything().stands_after(&same), "without the filter every change counts");
    }

    #[test]
    fn a_gap_is_told_to_whoever_watches_the_agent_and_asks_for_gaps() {
        let gap = EventKind::PresenceGap;
        let nothing_seen = Facts { topic: None, presence: None, ..facts() };
        assert!(!everything().wants(gap, &nothing_seen));
        let asks = Subscription { events: vec![gap], presences: set(&["AWAY"]), ..everything() };
        assert!(asks.wants(gap, &nothing_seen));
        assert!(!Subscription { agents: set(&["bob"]), ..asks }.wants(gap, &nothing_seen));
    }

    fn some(words: &'static [&'static str]) -> impl Strategy<Value = Keys> {
        proptest::sample::subsequence(words, 0..=words.len()).prop_map(|chosen| set(&chosen))
    }

    proptest! {
        /// A filter narrows: what is wanted with it is wanted without it, and each filter decides by itself.
        #[test]
        fn each_filter_narrows_by_itself(
            agents in some(&["ann", "bob", "crm-7"]),
            topics in some(&["t", "u"]),
            presences in some(&["AVAILABLE", "AWAY"]),
            kind in proptest::sample::select(&EventKind::ALL[..]),
            kinds in proptest::sample::subsequence(&EventKind::ALL[..], 0..=EventKind::ALL.len()),
            agent in proptest::sample::select(&["ann", "bob", ""][..]),
            external_id in proptest::option::of(proptest::sample::select(&["crm-7", "crm-8"][..])),
            topic in proptest::option::of(proptest::sample::select(&["t", "u", "v"][..])),
            presence in proptest::option::of(proptest::sample::select(&["AVAILABLE", "AWAY", "x"][..])),
        ) {
            let facts = Facts {
                agent: Key::of(agent),
                external_id: external_id.map(Key::of),
                topic: topic.map(Key::of),
                presence: presence.map(Key::of),
                ..facts()
            };
            let all = Subscription { events: EventKind::ALL.to_vec(), ..everything() };
            let asks = Subscription { events: kinds, agents, topics, presences, ..all.clone() };
            let alone = [
                Subscription { events: asks.events.clone(), ..all.clone() },
                Subscription { agents: asks.agents.clone(), ..all.clone() },
                Subscription { topics: asks.topics.clone(), ..all.clone() },
                Subscription { presences: asks.presences.clone(), ..all.clone() },
            ];
            prop_assert!(all.wants(kind, &facts), "who asks for all gets all");
            prop_assert_eq!(asks.wants(kind, &facts), alone.iter().all(|one| one.wants(kind, &facts)));
            if asks.shows(&facts) && asks.events.contains(&kind) {
                prop_assert!(asks.wants(kind, &facts), "who is shown a state is told its changes");
            }
        }
    }
}
