//! Malformed content from upstream: kept with its bytes, within bounds.

use bytes::Bytes;

use crate::domain::ids::QuarantineId;

/// Most bytes of one piece that are kept.
pub const KEPT_BYTES_MAX: usize = 64 * 1024;
/// Most pieces of one source that are kept within a minute; the rest is counted.
pub const KEPT_A_MINUTE: u32 = 60;

/// A piece to be kept; an audit entry tells of it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its id.
    pub id: QuarantineId,
    /// What is malformed about it.
    pub reason: &'static str,
    /// How many bytes there were.
    pub size: usize,
    /// The first of them.
    pub bytes: Bytes,
}

impl Kept {
    /// Takes as many of the bytes as are kept.
    #[must_use]
    pub fn new(reason: &'static str, bytes: &[u8]) -> Self {
        let kept = bytes.get(..KEPT_BYTES_MAX).unwrap_or(bytes);
        Self { id: QuarantineId::generate(), reason, size: bytes.len(), bytes: Bytes::copy_from_slice(kept) }
    }
}

/// Whether there is room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Free,
    /// There is none, and this is the first for which that is so: say it once.
    JustFull,
    /// There is none.
    Full,
}

/// What was kept of one source within a minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    minute: i64,
    taken: u32,
}

impl Budget {
    /// Takes a place in this minute (counted since 1970).
    pub fn take(&mut self, minute: i64) -> Room {
        if self.minute != minute {
            *self = Self { minute, taken: 0 };
        }
        self.taken = self.taken.saturating_add(1);
        match self.taken {
            taken if taken <= KEPT_A_MINUTE => Room::Free,
            taken if taken == KEPT_A_MINUTE + 1 => Room::JustFull,
            _ => Room::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_kept_up_to_a_bound_and_told_of_once_a_minute() {
        let mut budget = Budget::default();
        for minute in [7, 8] {
            let rooms: Vec<_> = (0..1000).map(|_| budget.take(minute)).collect();
            assert_eq!(rooms.iter().filter(|room| **room == Room::Free).count(), 60);
            assert_eq!(rooms.iter().filter(|room| **room == Room::JustFull).count(), 1);
        }
    }

    #[test]
    fn of_a_large_piece_the_first_bytes_are_kept() {
        let kept = Kept::new("binary", &[7; 100_000]);
        assert_eq!((kept.size, kept.bytes.len()), (100_000, KEPT_BYTES_MAX));
    }
}
