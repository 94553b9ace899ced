//! Items of a filter as digests: what `matching` compares and `filter_index` sorts by.

use sha2::{Digest, Sha256};

/// An item of a filter, or what an event has in its place: of a text a digest, which takes 16 bytes however
/// long the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; 16]);

impl Key {
    /// That of a text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(Sha256::digest(text).first_chunk::<16>().unwrap_or(&[0; 16]));
        Self(key)
    }

    /// Its drawer, and its mark in there, which another key may have too.
    pub(in crate::domain) fn place(self) -> (u16, u32) {
        let [a, b, c, d, e, f, ..] = self.0;
        (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
    }
}

/// The items of one filter.
#[derive(Clone, Debug, Default)]
pub struct Keys(Box<[Key]>);

impl Keys {
    /// Whether the filter has no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an item is this.
    #[must_use]
    pub fn holds(&self, key: Key) -> bool {
        self.0.binary_search(&key).is_ok()
    }

    /// Each item once.
    pub(in crate::domain) fn iter(&self) -> impl Iterator<Item = Key> {
        self.0.iter().copied()
    }
}

impl<T: AsRef<str>> FromIterator<T> for Keys {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut keys: Vec<Key> = texts.into_iter().map(|text| Key::of(text.as_ref())).collect();
        keys.sort_unstable();
        keys.dedup();
        Self(keys.into())
    }
}
