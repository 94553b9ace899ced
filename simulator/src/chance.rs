//! Repeatable chance: the same seed gives the same draws, so that a failure seen once can be seen again.

/// `SplitMix64`: good enough for a play, and eight lines.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// Chance of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below 2^64, each as likely as the others.
    pub const fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below an end; 0 if there is none.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.any() % if end == 0 { 1 } else { end }
    }

    /// One of a list; `None` if it is empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        let end = u64::try_from(list.len()).unwrap_or(u64::MAX);
        list.get(usize::try_from(self.below(end)).unwrap_or(0))
    }

    /// One of a list of things with weights.
    pub fn weighted<T: Copy>(&mut self, ways: &[(T, u64)]) -> Option<T> {
        let mut drawn = self.below(ways.iter().map(|(_, weight)| weight).sum());
        ways.iter().find_map(|(thing, weight)| match drawn.checked_sub(*weight) {
            None => Some(*thing),
            Some(rest) => {
                drawn = rest;
                None
            }
        })
    }
}
