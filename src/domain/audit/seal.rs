//! What seals the audit log: hashes of rows, the chain of seals over them, and finding the first row that is
//! not as it was.
//!
//! Pure; `store/audit/seals.rs` makes seals, `store/audit/verify.rs` checks them, docs/adr/0021 says why they
//! are as they are.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// What the first seal names as its predecessor's digest.
pub const NOTHING_BEFORE: Hash = [0; 32];

/// Bytes of a row's hash in a listing: enough to find a row by, the digest proves it.
const TAG_BYTES: usize = 8;
const LISTED_BYTES: usize = 8 + TAG_BYTES;

/// The hash of one row: each field with its length before it, so that no two rows are written alike.
#[must_use]
pub fn row_hash<'a>(fields: impl IntoIterator<Item = Option<&'a [u8]>>) -> Hash {
    let mut hash = Sha256::new();
    for field in fields {
        match field {
            None => hash.update(u32::MAX.to_be_bytes()),
            Some(bytes) => {
                // No field is as long as 4 GiB: Postgres has none.
                hash.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX - 1).to_be_bytes());
                hash.update(bytes);
            }
        }
    }
    hash.finalize().into()
}

/// A row as far as a seal knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedRow {
    /// Its place in the log.
    pub audit_id: i64,
    /// The UTC day of its time, as days since the year 2000.
    pub day: i32,
    /// Its hash.
    pub hash: Hash,
}

/// What a seal says of one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedDay {
    /// The UTC day, as days since the year 2000.
    pub day: i32,
    /// How many rows it has there.
    pub rows: i64,
    /// Over the rows' hashes.
    pub digest: Hash,
    /// Over the listing.
    pub listing: Hash,
}

/// The days that rows lie in, ascending, and the listing of each. The rows must be in order of `audit_id`.
#[must_use]
pub fn days_of(rows: &[SealedRow]) -> Vec<(SealedDay, Vec<u8>)> {
    let mut days: Vec<i32> = rows.iter().map(|row| row.day).collect();
    days.sort_unstable();
    days.dedup();
    days.into_iter()
        .map(|day| {
            let (mut digest, mut listing, mut count) = (Sha256::new(), Vec::new(), 0);
            for row in rows.iter().filter(|row| row.day == day) {
                digest.update(row.hash);
                listing.extend_from_slice(&row.audit_id.to_be_bytes());
                listing.extend(row.hash.iter().take(TAG_BYTES));
                count += 1;
            }
            let sealed = SealedDay {
                day,
                rows: count,
                digest: digest.finalize().into(),
                listing: listing_digest(&listing),
            };
            (sealed, listing)
        })
        .collect()
}

/// Digest of a listing.
#[must_use]
pub fn listing_digest(listing: &[u8]) -> Hash {
    Sha256::digest(listing).into()
}

/// A seal without its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Its number, from 1 without holes.
    pub seal_id: i64,
    /// How rows were read.
    pub format: i16,
    /// One more than the former seal's last.
    pub first: i64,
    /// Up to where it goes.
    pub last: i64,
    /// How many rows there are.
    pub rows: i64,
    /// When it was made, in microseconds since 1970.
    pub sealed_at: i64,
    /// Digest of the former seal.
    pub previous: Hash,
    /// Its days, ascending.
    pub days: Vec<SealedDay>,
}

impl Seal {
    /// Over everything that it says.
    #[must_use]
    pub fn digest(&self) -> Hash {
        let mut hash = Sha256::new_with_prefix(b"presence-bridge audit seal");
        for number in [self.seal_id, self.format.into(), self.first, self.last, self.rows, self.sealed_at] {
            hash.update(number.to_be_bytes());
        }
        hash.update(self.previous);
        for day in &self.days {
            hash.update(day.day.to_be_bytes());
            hash.update(day.rows.to_be_bytes());
            hash.update(day.digest);
            hash.update(day.listing);
        }
        hash.finalize().into()
    }
}

/// A day that retention took away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedDay {
    /// The UTC day, as days since the year 2000.
    pub day: i32,
    /// The last seal with rows of that day.
    pub seal_id: i64,
    /// How many rows went.
    pub rows: i64,
    /// When, in microseconds since 1970.
    pub dropped_at: i64,
}

/// An entry whose particulars were erased after it was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasedRow {
    /// Its place in the log.
    pub audit_id: i64,
    /// The UTC day of its time, as days since the year 2000.
    pub day: i32,
    /// Its hash as it was sealed.
    pub original: Hash,
    /// Its hash since.
    pub erased: Hash,
    /// Bytes of the id of the request.
    pub erasure_id: [u8; 16],
    /// When, in microseconds since 1970.
    pub erased_at: i64,
}

/// A head of the chain that a failover of the database, or a restored copy, has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostHead {
    /// The last seal that was made and is gone.
    pub head: Head,
    /// The seal that the chain continues from; 0: from the start.
    pub continues_from: i64,
    /// When that was found, in microseconds since 1970.
    pub found_at: i64,
}

impl LostHead {
    /// Whether a head that was kept elsewhere went with it. Of one before it only the number is known.
    #[must_use]
    pub fn explains(&self, kept: &Head) -> bool {
        if kept.seal_id == self.head.seal_id {
            return kept.digest == self.head.digest;
        }
        (self.continues_from + 1..self.head.seal_id).contains(&kept.seal_id)
    }
}

/// What signs seals.
#[derive(Clone)]
pub struct AuditKey(Hmac<Sha256>);

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey(…)")
    }
}

impl AuditKey {
    /// From 32 random bytes; `None` if there are more or fewer.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes: Hash = bytes.try_into().ok()?;
        Hmac::new_from_slice(&bytes).ok().map(Self)
    }

    fn over_seal(&self, digest: &Hash) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(b"seal");
        mac.update(digest);
        mac
    }

    fn over_drop(&self, dropped: &DroppedDay) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(b"dropped day");
        for number in [dropped.day.into(), dropped.seal_id, dropped.rows, dropped.dropped_at] {
            mac.update(&i64::to_be_bytes(number));
        }
        mac
    }

    fn over_erased(&self, row: &ErasedRow) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(b"erased row");
        for number in [row.audit_id, row.day.into(), row.erased_at] {
            mac.update(&i64::to_be_bytes(number));
        }
        mac.update(&row.original);
        mac.update(&row.erased);
        mac.update(&row.erasure_id);
        mac
    }

    fn over_lost(&self, lost: &LostHead) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(b"lost head");
        for number in [lost.head.seal_id, lost.continues_from, lost.found_at] {
            mac.update(&i64::to_be_bytes(number));
        }
        mac.update(&lost.head.digest);
        mac
    }

    /// Signs that a head was lost.
    #[must_use]
    pub fn sign_lost(&self, lost: &LostHead) -> Hash {
        self.over_lost(lost).finalize().into_bytes().into()
    }

    /// Whether it was said with this key that a head was lost.
    #[must_use]
    pub fn signed_lost(&self, lost: &LostHead, mac: &[u8]) -> bool {
        self.over_lost(lost).verify_slice(mac).is_ok()
    }

    /// Signs a seal's digest.
    #[must_use]
    pub fn sign(&self, digest: &Hash) -> Hash {
        self.over_seal(digest).finalize().into_bytes().into()
    }

    /// Whether a seal's digest was signed with this key.
    #[must_use]
    pub fn signed(&self, digest: &Hash, mac: &[u8]) -> bool {
        self.over_seal(digest).verify_slice(mac).is_ok()
    }

    /// Signs that a day was dropped.
    #[must_use]
    pub fn sign_drop(&self, dropped: &DroppedDay) -> Hash {
        self.over_drop(dropped).finalize().into_bytes().into()
    }

    /// Whether it was said with this key that a day was dropped.
    #[must_use]
    pub fn signed_drop(&self, dropped: &DroppedDay, mac: &[u8]) -> bool {
        self.over_drop(dropped).verify_slice(mac).is_ok()
    }

    /// Signs that a row was erased.
    #[must_use]
    pub fn sign_erased(&self, row: &ErasedRow) -> Hash {
        self.over_erased(row).finalize().into_bytes().into()
    }

    /// Whether it was said with this key that a row was erased.
    #[must_use]
    pub fn signed_erased(&self, row: &ErasedRow, mac: &[u8]) -> bool {
        self.over_erased(row).verify_slice(mac).is_ok()
    }
}

/// The end of the chain, to be kept where nobody who may write to the database can reach it: `7:` and 64 hex
/// digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last seal.
    pub seal_id: i64,
    /// Its digest.
    pub digest: Hash,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.seal_id)?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "is no head: the number of a seal, a colon, and 64 hex digits";
        let (seal, hex) = text.trim().split_once(':').ok_or(RULE)?;
        let seal_id = seal.parse().ok().filter(|id| *id > 0).ok_or(RULE)?;
        let mut digest = NOTHING_BEFORE;
        if hex.len() != 2 * digest.len() || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(RULE);
        }
        for (byte, at) in digest.iter_mut().zip((0..hex.len()).step_by(2)) {
            let pair = hex.get(at..at + 2).ok_or(RULE)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| RULE)?;
        }
        Ok(Self { seal_id, digest })
    }
}

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFault {
    /// It is not as it was.
    Edited,
    /// It is not there.
    Deleted,
    /// It was not there.
    Inserted,
}

/// The first row that differs: what listings say there was, against what there is. `there` must be in order
/// of `audit_id`.
#[must_use]
pub fn first_difference(listings: &[&[u8]], there: &[SealedRow]) -> Option<(i64, RowFault)> {
    let mut listed: Vec<(i64, &[u8])> = listings
        .iter()
        .flat_map(|listing| listing.chunks_exact(LISTED_BYTES))
        .filter_map(|entry| {
            let (id, tag) = entry.split_first_chunk::<8>()?;
            Some((i64::from_be_bytes(*id), tag))
        })
        .collect();
    listed.sort_unstable_by_key(|(id, _)| *id);
    let mut there = there.iter();
    for (id, tag) in listed {
        match there.next() {
            None => return Some((id, RowFault::Deleted)),
            Some(row) if row.audit_id > id => return Some((id, RowFault::Deleted)),
            Some(row) if row.audit_id < id => return Some((row.audit_id, RowFault::Inserted)),
            Some(row) if !row.hash.starts_with(tag) => return Some((id, RowFault::Edited)),
            Some(_) => {}
        }
    }
    there.next().map(|row| (row.audit_id, RowFault::Inserted))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(audit_id: i64, day: i32, text: &str) -> SealedRow {
        SealedRow {
            audit_id,
            day,
            hash: row_hash([Some(&audit_id.to_be_bytes()[..]), Some(text.as_bytes())]),
        }
    }

    fn rows() -> impl Strategy<Value = Vec<SealedRow>> {
        proptest::collection::vec((1..4_i64, 0..3, "[a-c]{0,3}"), 1..40).prop_map(|steps| {
            let mut id = 0;
            steps
                .into_iter()
                .map(|(step, day, text)| {
                    id += step;
                    row(id, day, &text)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn whatever_is_done_to_a_row_the_first_bad_one_is_named(rows in rows(), at in any::<prop::sample::Index>(), deed in 0..4) {
            let days = days_of(&rows);
            let listings: Vec<&[u8]> = days.iter().map(|(_, listing)| listing.as_slice()).collect();
            prop_assert_eq!(first_difference(&listings, &rows), None);
            let at = at.index(rows.len());
            let mut bad = rows.clone();
            let expected = match deed {
                0 => { bad.remove(at); RowFault::Deleted }
                1 => { bad[at] = row(rows[at].audit_id, rows[at].day, "other"); RowFault::Edited }
                2 => { bad.insert(at, row(rows[at].audit_id, rows[at].day, "twin")); RowFault::Edited }
                _ => { bad.insert(at + 1, row(rows[at].audit_id, rows[at].day, "twin")); RowFault::Inserted }
            };
            let (id, fault) = first_difference(&listings, &bad).unwrap();
            prop_assert_eq!(fault, expected);
            if deed < 3 { prop_assert_eq!(id, rows[at].audit_id); }
            let digests = |days: Vec<(SealedDay, Vec<u8>)>| days.into_iter().map(|(day, _)| day).collect::<Vec<_>>();
            prop_assert_ne!(digests(days_of(&bad)), digests(days));
        }
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let hash = |fields: &[Option<&str>]| row_hash(fields.iter().map(|field| field.map(str::as_bytes)));
        assert_ne!(hash(&[Some("ab"), Some("c")]), hash(&[Some("a"), Some("bc")]));
        assert_ne!(hash(&[None, Some("")]), hash(&[Some(""), None]));
        assert_ne!(hash(&[None]), hash(&[Some("\u{0}")]));
    }

    #[test]
    fn a_head_is_read_as_it_is_written_and_nothing_else_is() {
        let head = Head { seal_id: 12, digest: row_hash([]) };
        assert_eq!(head.to_string().parse(), Ok(head));
        assert_eq!(format!(" {head}\n").parse(), Ok(head));
        let long = format!("12:{}", "0".repeat(63));
        for junk in ["", "12", "0:00", long.as_str(), "x:y", &format!("1:{}", "é".repeat(32))] {
            assert!(junk.parse::<Head>().is_err(), "{junk}");
        }
    }

    #[test]
    fn a_lost_head_explains_itself_and_those_that_went_with_it() {
        let head = |seal_id, text: &str| Head { seal_id, digest: row_hash([Some(text.as_bytes())]) };
        let lost = LostHead { head: head(9, "lost"), continues_from: 5, found_at: 1 };
        assert!(lost.explains(&head(9, "lost")) && lost.explains(&head(6, "whatever it was")));
        assert!(!lost.explains(&head(9, "another")), "the chain was made again");
        assert!(!lost.explains(&head(5, "kept")) && !lost.explains(&head(10, "cut off")));
        let (key, other) = (AuditKey::new(&[1; 32]).unwrap(), AuditKey::new(&[2; 32]).unwrap());
        let mac = key.sign_lost(&lost);
        assert!(key.signed_lost(&lost, &mac) && !other.signed_lost(&lost, &mac));
        for changed in [
            LostHead { head: head(9, "other"), ..lost },
            LostHead { head: Head { seal_id: 8, ..lost.head }, ..lost },
            LostHead { continues_from: 0, ..lost },
            LostHead { found_at: 2, ..lost },
        ] {
            assert!(!key.signed_lost(&changed, &mac), "{changed:?}");
        }
    }

    #[test]
    fn only_the_key_signs_and_debug_does_not_show_it() {
        let (key, other) = (AuditKey::new(&[1; 32]).unwrap(), AuditKey::new(&[2; 32]).unwrap());
        let digest = row_hash([]);
        let mac = key.sign(&digest);
        assert!(key.signed(&digest, &mac) && !other.signed(&digest, &mac));
        let dropped = DroppedDay { day: 1, seal_id: 2, rows: 3, dropped_at: 4 };
        let mac = key.sign_drop(&dropped);
        assert!(key.signed_drop(&dropped, &mac));
        assert!(!key.signed_drop(&DroppedDay { rows: 4, ..dropped }, &mac));
        let hash = row_hash([]);
        let erased = ErasedRow {
            audit_id: 1,
            day: 2,
            original: hash,
            erased: hash,
            erasure_id: [3; 16],
            erased_at: 4,
        };
        let mac = key.sign_erased(&erased);
        assert!(key.signed_erased(&erased, &mac) && !other.signed_erased(&erased, &mac));
        for changed in [
            ErasedRow { audit_id: 2, ..erased },
            ErasedRow { day: 3, ..erased },
            ErasedRow { original: NOTHING_BEFORE, ..erased },
            ErasedRow { erased: NOTHING_BEFORE, ..erased },
            ErasedRow { erasure_id: [4; 16], ..erased },
            ErasedRow { erased_at: 5, ..erased },
        ] {
            assert!(!key.signed_erased(&changed, &mac), "{changed:?}");
        }
        assert_eq!(format!("{key:?}"), "AuditKey(…)");
    }
}
