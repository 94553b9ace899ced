//! Who calls too often: wrong keys by address, right keys by key. Both in memory, both bounded, both of this process
//! alone. Asked by `api/auth.rs`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::ids::ApiKeyId;
use crate::domain::quota::{Bucket, Charged, Quota};
use crate::store::keys::USE_NOTED_EVERY;

const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once; whoever fills this gains nothing but that everybody is forgotten.
const ADDRESSES_MAX: usize = 10_000;
/// Keys remembered at once. Only keys in use are, and of those most have a full bucket soon.
const KEYS_MAX: usize = 10_000;

/// Wrong keys of late, by address.
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
    quota: Option<Quota>,
    began: Instant,
    by_key: Mutex<HashMap<ApiKeyId, Use>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Use {
    bucket: Bucket,
    noted: Option<Duration>,
}

/// One call of a key.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// What its bucket says; `None` if there is no limit.
    pub charged: Option<(Quota, Charged)>,
    /// Whether it is time to note that the key is in use.
    pub to_note: bool,
}

impl Uses {
    /// Nobody has called yet.
    #[must_use]
    pub fn new(quota: Option<Quota>) -> Self {
        Self { quota, began: Instant::now(), by_key: Mutex::default() }
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
        Counted { charged: self.quota.map(|quota| (quota, known.bucket.take(quota, now))), to_note }
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
        let (failures, uses) = (Failures::default(), Uses::new(Some(Quota::DEFAULT)));
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
        let uses = Uses::new(Some(Quota { calls: 2, per_seconds: 60 }));
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
}
