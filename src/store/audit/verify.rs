//! Checks the audit log against its seals, for `presence-bridge audit verify`, for `/v1/audit/verifications`,
//! and for each day before retention drops it.
//!
//! Walks the chain and the rows side by side, in order, and stops at the first difference. It reads in
//! batches, each a statement of its own: nothing is locked, and memory is that of one seal and one batch.

use std::collections::{BTreeMap, VecDeque};

use sqlx::PgConnection;
use time::{Date, OffsetDateTime};

use crate::domain::audit::seal::{
    DroppedDay, Hash, Head, LostHead, NOTHING_BEFORE, Seal, SealedDay, SealedRow, days_of, first_difference,
    listing_digest,
};
use crate::store::audit::lost_heads::lost_heads;
use crate::store::audit::sealed_rows::{
    BEFORE_ALL, Behind, FORMAT, SignedErasure, date_of, day_of, microseconds, read_with_erasures,
};
use crate::store::audit::seals::AuditKeys;
use crate::store::audit::stored_seals::{StoredSeal, seals};
use crate::store::session::read_in_order;
use crate::store::{Result, Store};

pub use crate::store::audit::verdict::{ChainVerdict, Fault, FaultKind};

/// Seals and rows that are read at a time.
const SEALS_AT_ONCE: i64 = 200;
const ROWS_AT_ONCE: i64 = 10_000;
/// Inserted rows of a seal that are looked at, at most.
const SPARE_ROWS: usize = 100;

impl Store {
    /// Checks everything; `expected` is a head that was kept elsewhere.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn verify_audit(&self, keys: &AuditKeys, expected: Option<Head>) -> Result<ChainVerdict> {
        let mut check = ChainCheck::of_all(keys, expected);
        while check.step(self).await? {}
        Ok(check.verdict)
    }

    /// Checks some seals only; trusts that the one before the first is good.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn verify_seals(&self, keys: &AuditKeys, first: i64, last: i64) -> Result<ChainVerdict> {
        let mut check = ChainCheck { after: first.saturating_sub(1), last, ..ChainCheck::of_all(keys, None) };
        while check.step(self).await? {}
        Ok(check.verdict)
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

/// A check under way. It goes step by step, so that whoever has time can wait between them; nothing is held
/// meanwhile.
pub struct ChainCheck<'a> {
    keys: &'a AuditKeys,
    /// A head that was kept elsewhere.
    expected: Option<Head>,
    /// Checks the seals behind this one.
    after: i64,
    /// Checks up to this one; the largest number: to the end.
    last: i64,
    begun: bool,
    dropped: BTreeMap<i32, DroppedDay>,
    lost: Vec<LostHead>,
    /// Last seal that holds, its last `audit_id`, its digest.
    seal_id: i64,
    sealed: i64,
    digest: Hash,
    /// Seals that were read and not checked yet, and the last `audit_id` of the last of them.
    seals: VecDeque<StoredSeal>,
    seals_end: i64,
    /// Rows that were read and not checked yet.
    rows: VecDeque<CheckedRow>,
    behind: Behind,
    verdict: ChainVerdict,
}

impl<'a> ChainCheck<'a> {
    /// A check of everything, before its first step; `expected` is a head that was kept elsewhere.
    #[must_use]
    pub fn of_all(keys: &'a AuditKeys, expected: Option<Head>) -> Self {
        Self {
            keys,
            expected,
            after: 0,
            last: i64::MAX,
            begun: false,
            dropped: BTreeMap::new(),
            lost: Vec::new(),
            seal_id: 0,
            sealed: 0,
            digest: NOTHING_BEFORE,
            seals: VecDeque::new(),
            seals_end: 0,
            rows: VecDeque::new(),
            behind: BEFORE_ALL,
            verdict: ChainVerdict::default(),
        }
    }

    /// What has come of it so far.
    #[must_use]
    pub fn so_far(&self) -> &ChainVerdict {
        &self.verdict
    }

    /// Checks some thousand rows more; false at the end. Do not call it again after an error.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn step(&mut self, store: &Store) -> Result<bool> {
        let mut tx = store.begin().await?;
        read_in_order(&mut tx).await?;
        let more = self.step_in(&mut tx).await?;
        tx.commit().await?;
        Ok(more)
    }

    async fn step_in(&mut self, conn: &mut PgConnection) -> Result<bool> {
        if !self.begun {
            self.begin(conn).await?;
        }
        let before = self.verdict.rows;
        while self.verdict.fault.is_none() {
            if self.seals.is_empty() && !self.read_seals(conn).await? {
                self.finish(conn).await?;
                return Ok(false);
            }
            while let Some(stored) = self.seals.pop_front() {
                self.verdict.fault = self.check(conn, &stored).await?;
                if self.verdict.fault.is_some() {
                    return Ok(false);
                }
                self.seal_id = stored.seal.seal_id;
                self.sealed = stored.seal.last;
                self.digest = stored.digest;
                self.verdict.seals += 1;
                self.verdict.head = Some(Head { seal_id: self.seal_id, digest: self.digest });
                if self.verdict.rows - before >= ROWS_AT_ONCE {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn begin(&mut self, conn: &mut PgConnection) -> Result<()> {
        self.begun = true;
        self.verdict.fault = self.read_dropped(conn).await?;
        match lost_heads(conn, self.keys).await? {
            Ok(lost) => self.lost = lost,
            Err(fault) => self.verdict.fault = Some(fault),
        }
        self.verdict.heads_lost = i64::try_from(self.lost.len()).unwrap_or(i64::MAX);
        self.verdict.lost_head = self.lost.last().copied();
        let former = match self.after {
            0 => Vec::new(),
            after => seals(conn, after - 1, 1).await?,
        };
        if let Some(former) = former.into_iter().find(|stored| stored.seal.seal_id == self.after) {
            self.seal_id = self.after;
            self.sealed = former.seal.last;
            self.digest = former.digest;
            self.behind = (self.sealed, OffsetDateTime::new_utc(Date::MAX, time::Time::MIDNIGHT));
        }
        Ok(())
    }

    /// Reads the next seals; false if there are none.
    async fn read_seals(&mut self, conn: &mut PgConnection) -> Result<bool> {
        let wanted = self.last.saturating_sub(self.seal_id).clamp(0, SEALS_AT_ONCE);
        let batch = seals(conn, self.seal_id, wanted).await?;
        let Some(end) = batch.last().map(|stored| stored.seal.last) else { return Ok(false) };
        self.seals_end = end;
        self.seals = batch.into();
        Ok(true)
    }

    /// What is left to say once no seal is left.
    async fn finish(&mut self, conn: &mut PgConnection) -> Result<()> {
        if self.last != i64::MAX {
            if self.seal_id < self.last {
                self.verdict.fault = Some(fault(FaultKind::SealMissing, self.seal_id + 1));
            }
            return Ok(());
        }
        self.verdict.unsealed = unsealed(conn, self.sealed).await?;
        if let Some(head) = self.expected.filter(|head| head.seal_id > self.seal_id && !self.was_lost(head)) {
            self.verdict.fault = Some(fault(FaultKind::Truncated, head.seal_id));
        }
        Ok(())
    }

    /// Reads the days that were dropped; a fault if a proof is not ours.
    async fn read_dropped(&mut self, conn: &mut PgConnection) -> Result<Option<Fault>> {
        let rows = sqlx::query!("select day, seal_id, rows, dropped_at, mac, key_id from audit_dropped_day")
            .fetch_all(&mut *conn)
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

    async fn check(&mut self, conn: &mut PgConnection, stored: &StoredSeal) -> Result<Option<Fault>> {
        let seal = &stored.seal;
        if let Some(what) = self.seal_fault(stored) {
            let at = if what == FaultKind::SealMissing { self.seal_id + 1 } else { seal.seal_id };
            return Ok(Some(fault(what, at)));
        }
        let read = self.rows_of(conn, seal).await?;
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
            if let Some(fault) = self.read_dropped(conn).await? {
                return Ok(Some(fault));
            }
            found.retain(|found| {
                !(before.iter().any(|day| day.day == found.day) && self.was_dropped(seal, found.day))
            });
            if found != self.remaining_days(seal) {
                return Ok(Some(self.locate_fault(conn, seal, &there).await?));
            }
        }
        self.verdict.rows_erased += i64::try_from(erased).unwrap_or(i64::MAX);
        self.verdict.rows += i64::try_from(there.len()).unwrap_or(i64::MAX);
        self.verdict.rows_dropped += seal.rows - i64::try_from(there.len()).unwrap_or(i64::MAX);
        Ok(None)
    }

    fn seal_fault(&self, stored: &StoredSeal) -> Option<FaultKind> {
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
        self.expected
            .is_some_and(|head| {
                head.seal_id == seal.seal_id && head.digest != stored.digest && !self.was_lost(&head)
            })
            .then_some(FaultKind::Rewritten)
    }

    /// Whether a head that was kept elsewhere is one that a failover of the database has lost.
    fn was_lost(&self, head: &Head) -> bool {
        self.lost.iter().any(|lost| lost.explains(head))
    }

    fn was_dropped(&self, seal: &Seal, day: i32) -> bool {
        self.dropped.get(&day).is_some_and(|dropped| seal.seal_id <= dropped.seal_id)
    }

    /// Days of a seal that were not dropped.
    fn remaining_days(&self, seal: &Seal) -> Vec<SealedDay> {
        seal.days.iter().filter(|day| !self.was_dropped(seal, day.day)).cloned().collect()
    }

    /// Rows that a seal covers, and rows before it that no seal covers.
    async fn rows_of(&mut self, conn: &mut PgConnection, seal: &Seal) -> Result<Vec<CheckedRow>> {
        let most = usize::try_from(seal.rows).unwrap_or(usize::MAX).saturating_add(SPARE_ROWS);
        let mut there = Vec::new();
        loop {
            if self.rows.is_empty() {
                let (rows, behind) =
                    read_with_erasures(conn, self.behind, self.seals_end, ROWS_AT_ONCE).await?;
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
    async fn locate_fault(&self, conn: &mut PgConnection, seal: &Seal, there: &[SealedRow]) -> Result<Fault> {
        let remaining = self.remaining_days(seal);
        let mut listings = Vec::new();
        for day in &remaining {
            let listing = sqlx::query_scalar!(
                "select listing from audit_seal_listing where seal_id = $1 and day = $2",
                seal.seal_id,
                date_of(day.day)?,
            )
            .fetch_optional(&mut *conn)
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
