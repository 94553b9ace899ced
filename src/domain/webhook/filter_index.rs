//! The filters of all webhooks, small enough for memory, and whom of them an event may concern: found by its
//! agent, not by asking each.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::ids::{TenantId, WebhookId};
use crate::domain::webhook::matching::{Facts, Subscription};

/// What every webhook that takes part asks for. An item of a filter takes some 30 bytes.
#[derive(Debug, Default)]
pub struct Filters {
    slots: Vec<Option<Arc<Subscription>>>,
    free: Vec<u32>,
    by_id: HashMap<WebhookId, u32>,
    /// Slots of webhooks that name agents: under each of them pairs of mark and slot, in order.
    by_agent: HashMap<u16, Vec<(u32, u32)>>,
    /// Slots of webhooks that ask for all agents, in order.
    of_all: HashMap<TenantId, Vec<u32>>,
    /// Slots of webhooks that want a state to last, in order.
    debouncing: HashMap<TenantId, Vec<u32>>,
}

impl Filters {
    /// The webhook asks for this from now on.
    pub fn put(&mut self, subscription: Arc<Subscription>) {
        self.remove(subscription.webhook_id);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        for key in subscription.agents.iter() {
            let (drawer, mark) = key.place();
            add(self.by_agent.entry(drawer).or_default(), (mark, slot));
        }
        if subscription.agents.is_empty() {
            add(self.of_all.entry(subscription.tenant_id).or_default(), slot);
        }
        if !subscription.min_dwell.is_zero() {
            add(self.debouncing.entry(subscription.tenant_id).or_default(), slot);
        }
        self.by_id.insert(subscription.webhook_id, slot);
        if let Some(place) = self.slots.get_mut(index(slot)) {
            *place = Some(subscription);
        }
    }

    /// The webhook takes no part any more.
    pub fn remove(&mut self, webhook: WebhookId) {
        let Some(slot) = self.by_id.remove(&webhook) else { return };
        let Some(former) = self.slots.get_mut(index(slot)).and_then(Option::take) else { return };
        for key in former.agents.iter() {
            let (drawer, mark) = key.place();
            take(&mut self.by_agent, drawer, (mark, slot));
        }
        take(&mut self.of_all, former.tenant_id, slot);
        take(&mut self.debouncing, former.tenant_id, slot);
        self.free.push(slot);
    }

    /// What one webhook asks for, if it takes part.
    #[must_use]
    pub fn get(&self, webhook: WebhookId) -> Option<Arc<Subscription>> {
        self.at(*self.by_id.get(&webhook)?).cloned()
    }

    /// Whoever takes part, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Subscription> {
        self.slots.iter().flatten().map(AsRef::as_ref)
    }

    /// Webhooks whose deliveries an event of an agent may change: all that watch the agent, and all that
    /// debounce.
    pub fn concerned(&self, facts: &Facts) -> impl Iterator<Item = &Subscription> {
        let mut slots = self.watching_slots(facts);
        slots.extend(self.debouncing.get(&facts.tenant).into_iter().flatten());
        slots.sort_unstable();
        slots.dedup();
        let asking = slots.into_iter().filter_map(|slot| self.at(slot)).map(AsRef::as_ref);
        asking.filter(|asks| asks.tenant_id == facts.tenant)
    }

    /// How many watch the agent, whatever of it they are told.
    #[must_use]
    pub fn watching(&self, facts: &Facts) -> usize {
        let mut slots = self.watching_slots(facts);
        slots.sort_unstable();
        slots.dedup();
        slots.into_iter().filter_map(|slot| self.at(slot)).filter(|asks| asks.watches(facts)).count()
    }

    /// Slots of all that watch the agent, among others.
    fn watching_slots(&self, facts: &Facts) -> Vec<u32> {
        let mut slots = self.of_all.get(&facts.tenant).cloned().unwrap_or_default();
        for key in [Some(facts.agent), facts.external_id].into_iter().flatten() {
            let (drawer, mark) = key.place();
            let Some(marked) = self.by_agent.get(&drawer) else { continue };
            let from = marked.partition_point(|(other, _)| *other < mark);
            let ours = marked.iter().skip(from).take_while(|(other, _)| *other == mark);
            slots.extend(ours.map(|(_, slot)| *slot));
        }
        slots
    }

    fn at(&self, slot: u32) -> Option<&Arc<Subscription>> {
        self.slots.get(index(slot))?.as_ref()
    }
}

impl FromIterator<Arc<Subscription>> for Filters {
    fn from_iter<I: IntoIterator<Item = Arc<Subscription>>>(subscriptions: I) -> Self {
        let mut filters = Self::default();
        subscriptions.into_iter().for_each(|subscription| filters.put(subscription));
        filters
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}

fn add<T: Ord>(sorted: &mut Vec<T>, item: T) {
    let at = sorted.partition_point(|other| *other < item);
    sorted.insert(at, item);
}

/// Takes an item out of its drawer, and gives back what room the drawer no longer needs.
fn take<K: Eq + std::hash::Hash, T: Ord>(drawers: &mut HashMap<K, Vec<T>>, key: K, item: T) {
    let std::collections::hash_map::Entry::Occupied(mut drawer) = drawers.entry(key) else { return };
    let sorted = drawer.get_mut();
    if let Ok(at) = sorted.binary_search(&item) {
        sorted.remove(at);
    }
    if sorted.is_empty() {
        drawer.remove();
    } else if sorted.len() < sorted.capacity() / 4 {
        sorted.shrink_to(2 * sorted.len());
    }
}

#[cfg(test)]
#[path = "filter_index_tests.rs"]
mod tests;
