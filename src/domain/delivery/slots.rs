//! Places of a process, each for a delivery leased to it, and how they are shared: no webhook, no host and no
//! tenant ever takes all of them, and receivers that do not answer have a part of their own.
//!
//! A place costs a socket and some memory for as long as its POST is under way. So the places that a receiver
//! may use grow with what it takes, as in TCP (slow start); one that hangs keeps the few that it began with.
//! A share is measured by the free places and not by a number: few webhooks get many each, many get few, and
//! there are always some left for the next one (dynamic thresholds).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::TenantId;

/// Places of one process: each that is under way costs a socket and some 20 KiB.
pub const ALL: usize = 4096;
/// Places for webhooks that fail, or with a POST that takes long.
const SUSPECT: usize = ALL / 4;
/// Places for webhooks that have never accepted a POST. Apart from the suspect ones, which would keep out
/// every new webhook; and enough that hundreds of new ones that hang leave some for those that do not.
const UNPROVEN: usize = ALL * 3 / 8;
/// Places of a webhook at first; each POST that it accepts adds one, and a failure takes half of them.
pub const WINDOW_FIRST: usize = 4;
/// Until it has accepted its first one it has this many.
pub const WINDOW_UNPROVEN: usize = 1;
/// A POST that is under way for longer may be one that hangs.
pub const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Deliveries of one batch that count as one place: they share a socket.
const BATCH_ITEMS_A_PLACE: usize = 8;

/// How likely it is that a webhook keeps its places for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Risk {
    /// It accepts what it gets.
    Low,
    /// It fails, or a POST to it takes long.
    Suspect,
    /// Its present address has never accepted a POST.
    Unproven,
}

/// Who has a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The webhook's tenant.
    pub tenant: TenantId,
    /// Host and port that its POSTs go to.
    pub host: Arc<str>,
}

/// Places that are taken, by risk, tenant and host.
#[derive(Clone, Debug, Default)]
pub struct Places {
    all: usize,
    risks: HashMap<Risk, usize>,
    tenants: HashMap<(Risk, TenantId), usize>,
    hosts: HashMap<(Risk, Arc<str>), usize>,
}

impl Places {
    /// Counts the places of a webhook.
    pub fn take(&mut self, owner: Option<&Owner>, risk: Risk, count: usize) {
        self.all += count;
        add(&mut self.risks, risk, count);
        if let Some(Owner { tenant, host }) = owner {
            add(&mut self.tenants, (risk, *tenant), count);
            add(&mut self.hosts, (risk, host.clone()), count);
        }
    }

    /// Places that are free for webhooks of a risk.
    #[must_use]
    pub fn free(&self, risk: Risk) -> usize {
        let free = ALL.saturating_sub(self.all);
        let most = match risk {
            Risk::Low => return free,
            Risk::Suspect => SUSPECT,
            Risk::Unproven => UNPROVEN,
        };
        free.min(most.saturating_sub(self.risks.get(&risk).copied().unwrap_or(0)))
    }

    /// How many more a webhook may take that has `has`: a webhook gets at most a fifth, a host half, a tenant
    /// two thirds.
    #[must_use]
    pub fn room(&self, owner: Option<&Owner>, risk: Risk, has: usize) -> usize {
        let free = self.free(risk);
        let room = free.saturating_sub(4 * has).div_ceil(5);
        let Some(Owner { tenant, host }) = owner else { return room };
        let host_has = self.hosts.get(&(risk, host.clone())).copied().unwrap_or(0);
        let tenant_has = self.tenants.get(&(risk, *tenant)).copied().unwrap_or(0);
        room.min(free.saturating_sub(host_has).div_ceil(2))
            .min((2 * free).saturating_sub(tenant_has).div_ceil(3))
    }
}

fn add<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, count: usize) {
    *counts.entry(key).or_insert(0) += count;
}

/// Places that a batch of this many deliveries takes.
#[must_use]
pub const fn of_batch(items: usize) -> usize {
    let places = items.div_ceil(BATCH_ITEMS_A_PLACE);
    if places == 0 { 1 } else { places }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn owner(tenant: u128, host: usize) -> Owner {
        Owner { tenant: TenantId(Uuid::from_u128(tenant)), host: format!("host-{host}").into() }
    }

    /// Webhooks that take whatever they may, in turn, until nobody may take any more; gives what each has.
    fn greedy(places: &mut Places, webhooks: &[(Owner, Risk)], at_once: usize) -> Vec<usize> {
        let mut has = vec![0; webhooks.len()];
        loop {
            let mut moved = false;
            for ((owner, risk), has) in webhooks.iter().zip(&mut has) {
                let more = places.room(Some(owner), *risk, *has).min(at_once);
                places.take(Some(owner), *risk, more);
                *has += more;
                moved |= more > 0;
            }
            if !moved {
                return has;
            }
        }
    }

    #[test]
    fn one_webhook_one_host_and_one_tenant_leave_room_for_others() {
        let mut places = Places::default();
        let alone: usize = greedy(&mut places, &[(owner(1, 1), Risk::Low)], 1).iter().sum();
        assert!((ALL / 5..=ALL / 5 + 1).contains(&alone), "{alone}");
        let mut places = Places::default();
        let host: Vec<_> = (0..500).map(|n| (owner(n, 1), Risk::Low)).collect();
        let host: usize = greedy(&mut places, &host, 1).iter().sum();
        assert!((ALL / 2..=ALL / 2 + 1).contains(&host), "{host}");
        assert!(places.room(Some(&owner(1, 2)), Risk::Low, 0) >= 400, "another host");
        let mut places = Places::default();
        let tenant: Vec<_> = (0..500).map(|n| (owner(1, n), Risk::Low)).collect();
        let tenant: usize = greedy(&mut places, &tenant, 1).iter().sum();
        assert!((2 * ALL / 3..=2 * ALL / 3 + 2).contains(&tenant), "{tenant}");
        assert!(places.room(Some(&owner(2, 1000)), Risk::Low, 0) >= 250, "another tenant");
    }

    #[test]
    fn five_hundred_that_hang_leave_the_others_what_they_need() {
        let mut places = Places::default();
        let hanging: Vec<_> = (0..500).map(|n| (owner(1, n % 3), Risk::Suspect)).collect();
        let has: usize = greedy(&mut places, &hanging, 164).iter().sum();
        assert!(has <= SUSPECT, "{has}");
        assert!(places.room(Some(&owner(1, 1)), Risk::Low, 0) >= 164, "even of the same host and tenant");
        assert!(
            places.room(Some(&owner(2, 9)), Risk::Unproven, 0) > 0,
            "a new one of another tenant may begin"
        );
    }

    #[test]
    fn five_hundred_new_ones_that_hang_leave_new_ones_that_do_not_a_place() {
        let mut places = Places::default();
        let hanging: Vec<_> = (0..500).map(|_| (owner(1, 1), Risk::Unproven)).collect();
        let has = greedy(&mut places, &hanging, WINDOW_UNPROVEN);
        places = Places::default();
        // Each one that hangs keeps the one place that it may have.
        has.iter()
            .for_each(|has| places.take(Some(&owner(1, 1)), Risk::Unproven, (*has).min(WINDOW_UNPROVEN)));
        assert!(places.room(Some(&owner(1, 1)), Risk::Unproven, 0) > 0, "even at the same host");
        assert!(places.free(Risk::Unproven) >= 500, "{}", places.free(Risk::Unproven));
    }

    #[test]
    fn the_last_place_is_of_use() {
        let mut places = Places::default();
        places.take(None, Risk::Low, ALL - 1);
        assert_eq!(places.room(None, Risk::Low, 0), 1);
        places.take(None, Risk::Low, 1);
        assert_eq!(places.room(None, Risk::Low, 0), 0);
    }

    #[test]
    fn a_batch_counts_by_its_size() {
        assert_eq!([0, 1, 8, 9, 1000].map(of_batch), [1, 1, 1, 2, 125]);
    }

    proptest! {
        #[test]
        fn nobody_takes_more_than_there_is(
            webhooks in proptest::collection::vec((0_u128..4, 0_usize..5, prop_oneof![Just(Risk::Low), Just(Risk::Suspect), Just(Risk::Unproven)]), 1..200),
            at_once in 1_usize..300,
        ) {
            let webhooks: Vec<_> =
                webhooks.into_iter().map(|(tenant, host, risk)| (owner(tenant, host), risk)).collect();
            let mut places = Places::default();
            let has = greedy(&mut places, &webhooks, at_once);
            let of = |risk| -> usize {
                webhooks.iter().zip(&has).filter(|((_, of), _)| *of == risk).map(|(_, has)| has).sum()
            };
            prop_assert!(of(Risk::Suspect) <= SUSPECT);
            prop_assert!(of(Risk::Unproven) <= UNPROVEN);
            prop_assert!(has.iter().sum::<usize>() <= ALL);
            prop_assert!(has.iter().all(|has| *has <= ALL / 5 + 1));
        }
    }
}
