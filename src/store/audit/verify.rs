//! Checks the audit log against its seals, for `presence-bridge audit verify`, and for each day before
//! retention drops it.
//!
//! Walks the chain and the rows side by side, in order, and stops at the first difference. It reads in
//! batches, each a statement of its own: nothing is locked, and memory is that of one seal.

use std::collections::{BTreeMap, VecDeque};

use sqlx::PgConnection;
use sqlx::pool::PoolConnection;
use sqlx::postgres::Postgres;
use time::{Date, OffsetDateTime};

use crate::domain::audit::seal::{
    DroppedDay, Hash, Head, NOTHING_BEFORE, RowFault, Seal, SealedDay, SealedRow, days_of, first_difference,
    listing_digest,
};
use crate::store::audit::sealed_rows::{
    BEFORE_ALL, Behind, FORMAT, SignedErasure, date_of, day_of, microseconds, read_with_erasures,
};
use crate::store::audit::seals::AuditKeys;
use crate::store::audit::stored_seals::{StoredSeal, seals};
use crate::store::{Result, Store};

/// Seals and rows that are read at a time.
const SEALS_AT_ONCE: i64 = 200;
const ROWS_AT_ONCE: i64 = 10_000;
/// Inserted rows of a seal that are looked at, at most.
const SPARE_ROWS: usize = 100;

/// Kind of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// With a row.
    Row(RowFault),
    /// With the rows of a seal; the row is unknown, because the listing was altered or is gone too.
    Rows,
    /// The seal was altered.
    SealEdited,
    /// The seal is not there.
    SealMissing,
    /// The seal was not signed with the audit key, or the key was altered.
    SealForged,
    /// The proof that a day was dropped was not signed with the audit key.
    DropForged,
    /// What is kept of a row that was erased was not signed with the audit key, or was altered.
    ErasureForged,
    /// A row that was erased is not as it was then.
    ErasedRowEdited,
    /// The log ends before the given head.
    Truncated,
    /// The chain is not the one that the given head was taken from.
    Rewritten,
}

impl FaultKind {
    /// A stable word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Row(RowFault::Edited) => "row_edited",
            Self::Row(RowFault::Deleted) => "row_deleted",
            Self::Row(RowFault::Inserted) => "row_inserted",
            Self::Rows => "rows_differ",
            Self::SealEdited => "seal_edited",
            Self::SealMissing => "seal_missing",
            Self::SealForged => "seal_forged",
            Self::DropForged => "drop_forged",
            Self::ErasureForged => "erasure_forged",
            Self::ErasedRowEdited => "erased_row_edited",
            Self::Truncated => "truncated",
            Self::Rewritten => "rewritten",
        }
    }
}

/// First difference between the log and its seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub what: FaultKind,
    pub seal_id: i64,
    /// Row, if it is about one.
    pub audit_id: Option<i64>,
    /// Day, if it is about one.
    pub day: Option<Date>,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChainVerdict {
    /// Seals that hold.
    pub seals: i64,
    /// Rows in them that match.
    pub rows: i64,
    /// Of those, rows whose particulars were erased, under a signature.
    pub rows_erased: i64,
    /// Rows in them that were dropped with their day.
    pub rows_dropped: i64,
    /// Rows that no seal covers yet.
    pub unsealed: i64,
    /// End of the chain, as far as it holds.
    pub head: Option<Head>,
    /// First difference; `None` if there is none.
    pub fault: Option<Fault>,
}

impl Store {
    /// Checks everything; `expected` is a head that was kept elsewhere.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn verify_audit(&self, keys: &AuditKeys, expected: Option<Head>) -> Result<ChainVerdict> {
        self.verify_audit_telling(keys, expected, &|_| {}).await
    }

    /// The same, and tells the number of each seal that holds.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn verify_audit_telling(
        &self,
        keys: &AuditKeys,
        expected: Option<Head>,
        tell: &(dyn Fn(i64) + Sync),
    ) -> Result<ChainVerdict> {
        let mut walk = ChainWalk { tell, ..ChainWalk::begin(self, keys, 0).await? };
        if walk.verdict.fault.is_none() {
            walk.through(i64::MAX, expected).await?;
        }
        if walk.verdict.fault.is_none() {
            walk.verdict.unsealed = unsealed(&mut walk.conn, walk.sealed).await?;
            if let Some(head) = expected.filter(|head| head.seal_id > walk.seal_id) {
                walk.verdict.fault = Some(fault(FaultKind::Truncated, head.seal_id));
            }
        }
        Ok(walk.verdict)
    }

    /// Checks some seals only; trusts that the one before the first is good.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn verify_seals(&self, keys: &AuditKeys, first: i64, last: i64) -> Result<ChainVerdict> {
        let mut walk = ChainWalk::begin(self, keys, first.saturating_sub(1)).await?;
        if walk.verdict.fault.is_none() {
            walk.through(last, None).await?;
        }
        Ok(walk.verdict)
    }
}

fn fault(what: FaultKind, seal_id: i64) -> Fault {
    Fault { what, seal_id, audit_id: None, day: None }
}

/// A row as it was sealed, as far as can be said.
#[derive(Clone, Copy)]
struct CheckedRow {
    sealed: SealedRow,
    /// Its particulars were erased since.
    erased: bool,
    /// What is wrong with its erasure.
    fault: Option<FaultKind>,
}

impl CheckedRow {
    /// Has the hash that was sealed if the row was erased, which must be signed, and is as it was then.
    fn of((present, erasure): (SealedRow, Option<SignedErasure>), keys: &AuditKeys) -> Self {
        let Some(SignedErasure { row, mac, key_id }) = erasure else {
            return Self { sealed: present, erased: false, fault: None };
        };
        let fault = if !keys.get(&key_id).is_some_and(|key| key.signed_erased(&row, &mac)) {
            Some(FaultKind::ErasureForged)
        } else if (row.erased, row.day) != (present.hash, present.day) {
            Some(FaultKind::ErasedRowEdited)
        } else {
            None
        };
        Self { sealed: SealedRow { hash: row.original, ..present }, erased: true, fault }
    }
}

/// Position of a check.
struct ChainWalk<'a> {
    conn: PoolConnection<Postgres>,
    keys: &'a AuditKeys,
    dropped: BTreeMap<i32, DroppedDay>,
    /// Last seal that holds, its last `audit_id`, its digest.
    seal_id: i64,
    sealed: i64,
    digest: Hash,
    /// Rows that were read and not checked yet.
    rows: VecDeque<CheckedRow>,
    behind: Behind,
    verdict: ChainVerdict,
    /// Is told each seal that holds.
    tell: &'a (dyn Fn(i64) + Sync),
}

impl<'a> ChainWalk<'a> {
    async fn begin(store: &Store, keys: &'a AuditKeys, after: i64) -> Result<Self> {
        let mut conn = store.pool.acquire().await?;
        let mut walk = Self {
            dropped: BTreeMap::new(),
            seal_id: 0,
            sealed: 0,
            digest: NOTHING_BEFORE,
            rows: VecDeque::new(),
            behind: BEFORE_ALL,
            verdict: ChainVerdict::default(),
            tell: &|_| {},
            keys,
            conn: {
                // The cost of these plans depends on no parameter, and the statistics of the newest day are
                // old.
                sqlx::query("set enable_seqscan = off").execute(&mut *conn).await?;
                sqlx::query("set enable_bitmapscan = off").execute(&mut *conn).await?;
                sqlx::query("set enable_sort = off").execute(&mut *conn).await?;
                // In this state it must not go back to the pool.
                conn.close_on_drop();
                conn
            },
        };
        walk.verdict.fault = walk.read_dropped().await?;
        let former = match after {
            0 => Vec::new(),
            _ => seals(&mut walk.conn, after - 1, 1).await?,
        };
        if let Some(former) = former.into_iter().find(|stored| stored.seal.seal_id == after) {
            walk.seal_id = after;
            walk.sealed = former.seal.last;
            walk.digest = former.digest;
            walk.behind = (walk.sealed, OffsetDateTime::new_utc(Date::MAX, time::Time::MIDNIGHT));
        }
        Ok(walk)
    }

    /// Reads the days that were dropped; a fault if a proof is not ours.
    async fn read_dropped(&mut self) -> Result<Option<Fault>> {
        let rows = sqlx::query!("select day, seal_id, rows, dropped_at, mac, key_id from audit_dropped_day")
            .fetch_all(&mut *self.conn)
            .await?;
        for row in rows {
            let dropped = DroppedDay {
                day: day_of(row.day),
                seal_id: row.seal_id,
                rows: row.rows,
                dropped_at: microseconds(row.dropped_at),
            };
            if !self.keys.get(&row.key_id).is_some_and(|key| key.signed_drop(&dropped, &row.mac)) {
                return Ok(Some(Fault { day: Some(row.day), ..fault(FaultKind::DropForged, row.seal_id) }));
            }
            self.dropped.insert(dropped.day, dropped);
        }
        Ok(None)
    }

    /// Checks on up to a seal, which must exist, or to the end.
    async fn through(&mut self, last: i64, expected: Option<Head>) -> Result<()> {
        loop {
            let wanted = last.saturating_sub(self.seal_id).clamp(0, SEALS_AT_ONCE);
            let batch = seals(&mut self.conn, self.seal_id, wanted).await?;
            let Some(end) = batch.last().map(|stored| stored.seal.last) else {
                if last != i64::MAX && self.seal_id < last {
                    self.verdict.fault = Some(fault(FaultKind::SealMissing, self.seal_id + 1));
                }
                return Ok(());
            };
            for stored in batch {
                self.verdict.fault = self.check(&stored, end, expected).await?;
                if self.verdict.fault.is_some() {
                    return Ok(());
                }
                self.seal_id = stored.seal.seal_id;
                self.sealed = stored.seal.last;
                self.digest = stored.digest;
                (self.tell)(self.seal_id);
                self.verdict.seals += 1;
                self.verdict.head = Some(Head { seal_id: self.seal_id, digest: self.digest });
            }
        }
    }

    async fn check(
        &mut self,
        stored: &StoredSeal,
        end: i64,
        expected: Option<Head>,
    ) -> Result<Option<Fault>> {
        let seal = &stored.seal;
        if let Some(what) = self.seal_fault(stored, expected) {
            let at = if what == FaultKind::SealMissing { self.seal_id + 1 } else { seal.seal_id };
            return Ok(Some(fault(what, at)));
        }
        let read = self.rows_of(seal, end).await?;
        if let Some((row, what)) = read.iter().find_map(|row| Some((row.sealed, row.fault?))) {
            let (audit_id, day) = (Some(row.audit_id), Some(date_of(row.day)?));
            return Ok(Some(Fault { audit_id, day, ..fault(what, seal.seal_id) }));
        }
        let erased = read.iter().filter(|row| row.erased).count();
        let there: Vec<SealedRow> = read.into_iter().map(|row| row.sealed).collect();
        let mut found: Vec<SealedDay> = days_of(&there).into_iter().map(|(day, _)| day).collect();
        if found != self.remaining_days(seal) {
            // Retention may have dropped a day meanwhile: rows that were read of it do not count.
            let before = self.remaining_days(seal);
            if let Some(fault) = self.read_dropped().await? {
                return Ok(Some(fault));
            }
            found.retain(|found| {
                !(before.iter().any(|day| day.day == found.day) && self.was_dropped(seal, found.day))
            });
            if found != self.remaining_days(seal) {
                return Ok(Some(self.locate_fault(seal, &there).await?));
            }
        }
        self.verdict.rows_erased += i64::try_from(erased).unwrap_or(i64::MAX);
        self.verdict.rows += i64::try_from(there.len()).unwrap_or(i64::MAX);
        self.verdict.rows_dropped += seal.rows - i64::try_from(there.len()).unwrap_or(i64::MAX);
        Ok(None)
    }

    fn seal_fault(&self, stored: &StoredSeal, expected: Option<Head>) -> Option<FaultKind> {
        let seal = &stored.seal;
        if seal.seal_id != self.seal_id + 1 {
            return Some(FaultKind::SealMissing);
        }
        let rows: i64 = seal.days.iter().map(|day| day.rows).sum();
        if seal.digest() != stored.digest
            || seal.first != self.sealed + 1
            || seal.previous != self.digest
            || seal.rows != rows
            || seal.format != FORMAT
        {
            return Some(FaultKind::SealEdited);
        }
        if !self.keys.get(&stored.key_id).is_some_and(|key| key.signed(&stored.digest, &stored.mac)) {
            return Some(FaultKind::SealForged);
        }
        expected
            .is_some_and(|head| head.seal_id == seal.seal_id && head.digest != stored.digest)
            .then_some(FaultKind::Rewritten)
    }

    fn was_dropped(&self, seal: &Seal, day: i32) -> bool {
        self.dropped.get(&day).is_some_and(|dropped| seal.seal_id <= dropped.seal_id)
    }

    /// Days of a seal that were not dropped.
    fn remaining_days(&self, seal: &Seal) -> Vec<SealedDay> {
        seal.days.iter().filter(|day| !self.was_dropped(seal, day.day)).cloned().collect()
    }

    /// Rows that a seal covers, and rows before it that no seal covers.
    async fn rows_of(&mut self, seal: &Seal, end: i64) -> Result<Vec<CheckedRow>> {
        let most = usize::try_from(seal.rows).unwrap_or(usize::MAX).saturating_add(SPARE_ROWS);
        let mut there = Vec::new();
        loop {
            if self.rows.is_empty() {
                let (rows, behind) =
                    read_with_erasures(&mut self.conn, self.behind, end, ROWS_AT_ONCE).await?;
                self.behind = behind;
                self.rows = rows.into_iter().map(|row| CheckedRow::of(row, self.keys)).collect();
            }
            match self.rows.pop_front() {
                Some(row) if row.sealed.audit_id <= seal.last => {
                    if there.len() < most {
                        there.push(row);
                    }
                }
                Some(row) => {
                    self.rows.push_front(row);
                    return Ok(there);
                }
                None => return Ok(there),
            }
        }
    }

    /// Finds the first row that differs.
    async fn locate_fault(&mut self, seal: &Seal, there: &[SealedRow]) -> Result<Fault> {
        let remaining = self.remaining_days(seal);
        let mut listings = Vec::new();
        for day in &remaining {
            let listing = sqlx::query_scalar!(
                "select listing from audit_seal_listing where seal_id = $1 and day = $2",
                seal.seal_id,
                date_of(day.day)?,
            )
            .fetch_optional(&mut *self.conn)
            .await?;
            match listing {
                Some(listing) if listing_digest(&listing) == day.listing => listings.push(listing),
                _ => {
                    return Ok(Fault {
                        day: Some(date_of(day.day)?),
                        ..fault(FaultKind::Rows, seal.seal_id)
                    });
                }
            }
        }
        let listings: Vec<&[u8]> = listings.iter().map(Vec::as_slice).collect();
        Ok(match first_difference(&listings, there) {
            None => fault(FaultKind::Rows, seal.seal_id),
            Some((audit_id, what)) => {
                let row = there.iter().find(|row| row.audit_id == audit_id);
                Fault {
                    what: FaultKind::Row(what),
                    seal_id: seal.seal_id,
                    audit_id: Some(audit_id),
                    day: row.map(|row| date_of(row.day)).transpose()?,
                }
            }
        })
    }
}

async fn unsealed(conn: &mut PgConnection, sealed: i64) -> Result<i64> {
    Ok(sqlx::query_scalar!(r#"select count(*) as "count!" from audit_log where audit_id > $1"#, sealed)
        .fetch_one(conn)
        .await?)
}
