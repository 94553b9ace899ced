//! Who calls too often: wrong keys by address, right keys by key, open connections by address. All in memory,
//! all bounded, all of this process alone. Asked by `api/http/auth.rs` and `api/http/server.rs`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::access::token_bucket::{CallRate, Charged, TokenBucket};
use crate::domain::ids::ApiKeyId;
use crate::store::access::authenticate::USE_NOTED_EVERY;

const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once; whoever fills this gains nothing but that everybody is forgotten.
const ADDRESSES_MAX: usize = 10_000;
/// Keys remembered at once. Only keys in use are, and of those most have a full bucket soon.
const KEYS_MAX: usize = 10_000;

/// Recent wrong keys, by address.
#[derive(Debug, Default)]
pub struct Failures {
    by_address: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Failures {
    /// Counts one more; returns how many there were lately.
    pub fn one_more(&self, address: IpAddr, now: Instant) -> u32 {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if by_address.len() >= ADDRESSES_MAX {
            by_address.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
            if by_address.len() >= ADDRESSES_MAX {
                by_address.clear();
            }
        }
        let (since, count) = by_address.entry(address).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count
    }
}

/// What each key has left, and when its use was noted last.
#[derive(Debug)]
pub struct Uses {
    rate: Option<CallRate>,
    began: Instant,
    by_key: Mutex<HashMap<ApiKeyId, Use>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Use {
    bucket: TokenBucket,
    noted: Option<Duration>,
}

/// One call of a key.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// What its bucket says; `None` if there is no limit.
    pub charged: Option<(CallRate, Charged)>,
    /// Whether it is time to note that the key is in use.
    pub to_note: bool,
}

impl Uses {
    /// Nobody has called yet.
    #[must_use]
    pub fn new(rate: Option<CallRate>) -> Self {
        Self { rate, began: Instant::now(), by_key: Mutex::default() }
    }

    /// Counts a call of this key.
    pub fn one_more(&self, key: ApiKeyId, now: Instant) -> Counted {
        let now = now.duration_since(self.began);
        let is_old = |noted: Option<Duration>| noted.is_none_or(|at| at + USE_NOTED_EVERY <= now);
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if by_key.len() >= KEYS_MAX && !by_key.contains_key(&key) {
            by_key.retain(|_, known| !(known.bucket.is_full(now) && is_old(known.noted)));
            if by_key.len() >= KEYS_MAX {
                by_key.clear();
            }
        }
        let known = by_key.entry(key).or_default();
        let to_note = is_old(known.noted);
        if to_note {
            known.noted = Some(now);
        }
        Counted { charged: self.rate.map(|rate| (rate, known.bucket.take(rate, now))), to_note }
    }
}

/// Connections that are open, by address. Bounded by how many there are at all.
#[derive(Clone, Debug)]
pub struct Connections {
    of_one: usize,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The place of one connection among those of its address; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    address: IpAddr,
    among: Connections,
}

impl Connections {
    /// None is open; an address may have `of_one` of them.
    #[must_use]
    pub fn new(of_one: usize) -> Self {
        Self { of_one, by_address: Arc::default() }
    }

    /// A place for one more; `None` if the address has its share.
    #[must_use]
    pub fn one_more(&self, address: IpAddr) -> Option<Place> {
        let address = host(address);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let open = by_address.entry(address).or_insert(0);
        if *open >= self.of_one {
            return None;
        }
        *open += 1;
        Some(Place { address, among: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.among.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = by_address.get_mut(&self.address) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Whose address it is: in IPv6 a host has a whole /64 to call from.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_address_and_forgotten_after_a_minute() {
        let failures = Failures::default();
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let start = Instant::now();
        for nth in 1..=11 {
            assert_eq!(failures.one_more(here, start), nth);
        }
        assert_eq!(failures.one_more(there, start), 1);
        assert_eq!(failures.one_more(here, start + WINDOW), 1);
    }

    #[test]
    fn however_many_addresses_and_keys_there_are_few_are_remembered() {
        let (failures, uses) = (Failures::default(), Uses::new(Some(CallRate::DEFAULT)));
        let start = Instant::now();
        for n in 0..25_000_u32 {
            failures.one_more(IpAddr::from(n.to_be_bytes()), start);
            uses.one_more(ApiKeyId::generate(), start);
        }
        let addresses = failures.by_address.lock().map_or(0, |known| known.len());
        let keys = uses.by_key.lock().map_or(0, |known| known.len());
        assert!(addresses <= ADDRESSES_MAX && keys <= KEYS_MAX, "{addresses} {keys}");
    }

    #[test]
    fn a_key_has_its_own_bucket_and_its_use_is_noted_once_a_minute() {
        let uses = Uses::new(Some(CallRate { calls: 2, per_seconds: 60 }));
        let (one, other, start) = (ApiKeyId::generate(), ApiKeyId::generate(), Instant::now());
        let count = |key, at| {
            let counted = uses.one_more(key, at);
            (counted.charged.is_none_or(|(_, charged)| charged.allowed), counted.to_note)
        };
        assert_eq!(count(one, start), (true, true));
        assert_eq!(count(one, start), (true, false));
        assert_eq!(count(one, start), (false, false));
        assert_eq!(count(other, start), (true, true));
        assert_eq!(count(one, start + USE_NOTED_EVERY), (true, true));
        assert!(Uses::new(None).one_more(one, start).charged.is_none());
    }

    #[test]
    fn an_address_has_its_share_of_connections_and_gets_places_back() {
        let connections = Connections::new(2);
        let one_more = |address: &str| connections.one_more(address.parse().unwrap_or(IpAddr::from([0; 4])));
        let held = [one_more("192.0.2.1"), one_more("::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some) && one_more("192.0.2.1").is_none());
        let others = [one_more("192.0.2.2"), one_more("2001:db8::1"), one_more("2001:db8::2:0:0:1")];
        assert!(others.iter().all(Option::is_some));
        assert!(one_more("2001:db8::3:0:0:1").is_none(), "both places of the /64 are taken");
        drop(held);
        assert!(one_more("192.0.2.1").is_some());
        drop(others);
        assert_eq!(connections.by_address.lock().map_or(1, |open| open.len()), 0, "nothing is remembered");
    }
}
