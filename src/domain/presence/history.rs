//! What was recorded of a part of an agent's state besides its present value: enough to tell a repeat from
//! news. Kept with the state, so that it outlives the process.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

/// A time of upstream's that is further ahead of our clock than this is no time: clocks that are kept differ
/// by less.
const AHEAD_MAX: Duration = Duration::minutes(5);
/// Values of one time that are remembered; upstream has no reason to give more than a few the same one.
const VALUES_MAX: usize = 16;

/// Whether a time of upstream's may be one, seen at this time of ours.
#[must_use]
pub fn is_believable(time: OffsetDateTime, seen_at: OffsetDateTime) -> bool {
    time - seen_at <= AHEAD_MAX
}

/// The value of a part.
pub trait PartValue: Clone {
    /// Whether both say the same.
    fn is_same(&self, other: &Self) -> bool;

    /// Calls `take` with bytes that are the same exactly for values that say the same.
    fn digest(&self, take: &mut dyn FnMut(&[u8]));
}

/// Stands for a value: the first 8 bytes of its SHA-256.
pub type Fingerprint = u64;

/// Former values of a part, as fingerprints, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Newest believable time that was recorded; `None` if it is the present value's own, or there is none.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub(super) newest: Option<OffsetDateTime>,
    /// Other values that were recorded with the newest time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    same_time: Vec<Fingerprint>,
    /// Values that came with a time too far ahead, together with that time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ahead: Vec<Fingerprint>,
}

impl History {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the value was recorded with the newest time, and another one since.
    pub(super) fn has(&self, value: &impl PartValue) -> bool {
        !self.same_time.is_empty() && self.same_time.contains(&fingerprint(value, None))
    }

    /// Whether the value was recorded with this time, which is too far ahead.
    pub(super) fn has_ahead(&self, value: &impl PartValue, time: OffsetDateTime) -> bool {
        !self.ahead.is_empty() && self.ahead.contains(&fingerprint(value, Some(time)))
    }

    /// Adds a value that was recorded with the newest time.
    pub(super) fn add(&mut self, value: &impl PartValue) {
        remember(&mut self.same_time, fingerprint(value, None));
    }

    /// Adds a value that came with a time too far ahead.
    pub(super) fn add_ahead(&mut self, value: &impl PartValue, time: OffsetDateTime) {
        remember(&mut self.ahead, fingerprint(value, Some(time)));
    }

    /// A newer time begins.
    pub(super) fn forget_same_time(&mut self) {
        self.same_time.clear();
    }
}

fn remember(list: &mut Vec<Fingerprint>, value: Fingerprint) {
    if list.contains(&value) {
        return;
    }
    if list.len() >= VALUES_MAX {
        list.remove(0);
    }
    list.push(value);
}

fn fingerprint(value: &impl PartValue, time: Option<OffsetDateTime>) -> Fingerprint {
    let mut hash = Sha256::new();
    if let Some(time) = time {
        hash.update(time.unix_timestamp_nanos().to_be_bytes());
    }
    value.digest(&mut |bytes| hash.update(bytes));
    let hash: [u8; 32] = hash.finalize().into();
    hash.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
