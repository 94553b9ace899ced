//! `audit_seal`: makes seals over the audit log, and drops days that are sealed. Called by
//! `actors/audit_sealer.rs` and `store/audit/retention.rs`.
//!
//! A seal must cover every row of its range, but a row with a smaller `audit_id` may belong to a transaction
//! that has not ended. A transaction that draws an `audit_id` locks the table before and until its end. So
//! the sealer reads the last id that was drawn, then waits for all transactions that hold such a lock at this
//! moment (docs/adr/0021).

use std::collections::HashMap;
use std::time::Duration;

use sqlx::PgConnection;
use time::{Date, OffsetDateTime};
use tokio::time::{Instant, sleep};

use crate::clock;
use crate::domain::audit::seal::{AuditKey, DroppedDay, Hash, Head, NOTHING_BEFORE, Seal, days_of};
use crate::domain::audit::{Entry, Kind};
use crate::domain::secret::{MasterKey, OpenError};
use crate::random;
use crate::store::audit::outcomes;
use crate::store::audit::sealed_rows::{FORMAT, date_of, day_of, microseconds, read};
use crate::store::locks::AUDIT_SEALER;
use crate::store::session::read_in_order;
use crate::store::{Result, Store, StoreError, audit, with_timeout};

/// Most rows of one seal, so that the transaction stays short and `verify` needs little memory.
pub const SEAL_ROWS_MAX: usize = 20_000;
/// Time to wait for writers; most end within milliseconds, and the next round waits for the rest.
const SETTLES_WITHIN: Duration = Duration::from_secs(4);
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_LONGEST: Duration = Duration::from_millis(200);
/// Number of the only key so far.
const KEY_ID: i16 = 1;

/// Keys that signed seals, by number.
pub type AuditKeys = HashMap<i16, AuditKey>;

/// A new seal.
#[derive(Clone, Copy, Debug)]
pub struct NewSeal {
    /// New end of the chain.
    pub head: Head,
    /// Rows that it covers.
    pub rows: usize,
    /// Whether more rows are to be sealed.
    pub more: bool,
}

/// End of the chain, as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct LastSeal {
    /// Seal and digest.
    pub head: Head,
    /// Last `audit_id` that it covers.
    pub last_audit_id: i64,
    pub sealed_at: OffsetDateTime,
}

fn bound_to(key_id: i16) -> String {
    format!("audit_key {key_id}")
}

fn damaged(column: &'static str, row: impl ToString, what: impl ToString) -> StoreError {
    StoreError::Corrupt { table: "audit_seal", column, row: row.to_string(), what: what.to_string() }
}

/// 32 bytes of a column.
pub(in crate::store) fn hash(bytes: &[u8], column: &'static str, row: i64) -> Result<Hash> {
    bytes.try_into().map_err(|_| damaged(column, row, "is not 32 bytes"))
}

impl Store {
    /// Keys that open; one that was altered is left out.
    ///
    /// # Errors
    /// If one was sealed under another master key, or the database does not answer.
    pub async fn audit_keys(&self, master_key: &MasterKey) -> Result<AuditKeys> {
        let rows = with_timeout(async {
            Ok(sqlx::query!("select key_id, sealed from audit_key").fetch_all(&self.pool).await?)
        })
        .await?;
        let mut keys = AuditKeys::new();
        for row in rows {
            match master_key.open(&row.sealed, bound_to(row.key_id).as_bytes()) {
                Ok(bytes) => keys.extend(AuditKey::new(&bytes).map(|key| (row.key_id, key))),
                Err(OpenError::Damaged) => {}
                Err(error @ OpenError::OtherKey) => {
                    return Err(StoreError::Conflict(format!("the audit key is {error}")));
                }
            }
        }
        Ok(keys)
    }

    /// Key that signs new seals; made if there is none.
    ///
    /// # Errors
    /// If it does not open, or the database refuses.
    pub async fn audit_key(&self, master_key: &MasterKey) -> Result<(i16, AuditKey)> {
        let sealed = master_key.seal(&random::bytes::<32>(), bound_to(KEY_ID).as_bytes(), random::bytes());
        with_timeout(async {
            sqlx::query!(
                "insert into audit_key (key_id, sealed)
                 select $1, $2
                 where not exists (select from audit_key)
                 on conflict do nothing",
                KEY_ID,
                sealed,
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await?;
        let newest = self.audit_keys(master_key).await?.into_iter().max_by_key(|(id, _)| *id);
        newest.ok_or_else(|| damaged("sealed", KEY_ID, "the audit key does not open: it was altered"))
    }

    /// Last `audit_id` that was drawn, committed or not.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn drawn_through(&self) -> Result<i64> {
        with_timeout(async {
            Ok(sqlx::query_scalar!(
                r#"select case when is_called then last_value else 0 end as "through!" from audit_log_id_seq"#
            )
            .fetch_one(&self.pool)
            .await?)
        })
        .await
    }

    /// Last `audit_id` up to which every row is committed, or never will be. `None` if a transaction stays
    /// open that may hold one.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn settled_through(&self) -> Result<Option<i64>> {
        // The order of these two counts.
        let through = self.drawn_through().await?;
        let mut writers = self.audit_writers(None).await?;
        let (by, mut look) = (Instant::now() + SETTLES_WITHIN, LOOK_FIRST);
        while !writers.is_empty() {
            if Instant::now() >= by {
                return Ok(None);
            }
            sleep(look).await;
            look = (look * 2).min(LOOK_LONGEST);
            writers = self.audit_writers(Some(&writers)).await?;
        }
        Ok(Some(through))
    }

    /// Open transactions that may have written into the audit log; with `of` only those of them.
    async fn audit_writers(&self, of: Option<&[String]>) -> Result<Vec<String>> {
        with_timeout(async {
            Ok(sqlx::query_scalar!(
                r#"select distinct virtualtransaction as "transaction!"
                   from pg_locks
                   where locktype = 'relation'
                     and database = (select oid from pg_database where datname = current_database())
                     and mode = 'RowExclusiveLock'
                     and granted
                     and ($1::text[] is null or virtualtransaction = any ($1))
                     and relation in (
                         select 'audit_log'::regclass::oid
                         union all
                         select inhrelid from pg_inherits where inhparent = 'audit_log'::regclass)"#,
                of,
            )
            .fetch_all(&self.pool)
            .await?)
        })
        .await
    }

    /// End of the chain; `None` before the first seal.
    ///
    /// # Errors
    /// If the database does not answer, or the row is damaged.
    pub async fn last_seal(&self) -> Result<Option<LastSeal>> {
        with_timeout(async { last_seal(&mut *self.pool.acquire().await?).await }).await
    }

    /// Makes the next seal over rows up to `through`, which must be settled. `None` if there is nothing to
    /// seal, or another process is sealing. `known` is the last seal that the caller knows of: it must still
    /// be there.
    ///
    /// # Errors
    /// If `known` is gone or another one, which means that somebody rewrote the chain; or the database
    /// refuses.
    pub async fn make_seal(
        &self,
        (key_id, key): (i16, &AuditKey),
        through: i64,
        known: Option<Head>,
    ) -> Result<Option<NewSeal>> {
        with_timeout(async {
            let mut tx = self.begin().await?;
            let alone =
                sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock($1) as "alone!""#, AUDIT_SEALER)
                    .fetch_one(&mut *tx)
                    .await?;
            if !alone {
                return Ok(None);
            }
            if let Some(known) = known {
                let digest =
                    sqlx::query_scalar!("select digest from audit_seal where seal_id = $1", known.seal_id)
                        .fetch_optional(&mut *tx)
                        .await?;
                if digest.as_deref() != Some(&known.digest[..]) {
                    let what = "the seal that was made last is gone: somebody rewrote the chain";
                    return Err(damaged("digest", known.seal_id, what));
                }
            }
            let last = last_seal(&mut tx).await?;
            let (seal_id, sealed, previous) =
                last.map_or((0, 0, NOTHING_BEFORE), |l| (l.head.seal_id, l.last_audit_id, l.head.digest));
            if through <= sealed {
                return Ok(None);
            }
            read_in_order(&mut tx).await?;
            let limit = i64::try_from(SEAL_ROWS_MAX).unwrap_or(i64::MAX);
            let behind = (sealed, OffsetDateTime::new_utc(time::Date::MAX, time::Time::MIDNIGHT));
            let (rows, (end, _)) = read(&mut tx, behind, through, limit).await?;
            let (more, count) = (rows.len() == SEAL_ROWS_MAX, rows.len());
            if count == 0 {
                return Ok(None);
            }
            let days = days_of(&rows);
            let now = clock::now();
            let seal = Seal {
                seal_id: seal_id + 1,
                format: FORMAT,
                first: sealed + 1,
                last: if more { end } else { through },
                rows: i64::try_from(count).unwrap_or(i64::MAX),
                sealed_at: microseconds(now),
                previous,
                days: days.iter().map(|(day, _)| day.clone()).collect(),
            };
            let listings: Vec<Vec<u8>> = days.into_iter().map(|(_, listing)| listing).collect();
            let digest = seal.digest();
            write(&mut tx, &seal, &digest, &listings, now, (key_id, key.sign(&digest))).await?;
            outcomes::count(&mut tx, sealed, seal.last).await?;
            tx.commit().await?;
            Ok(Some(NewSeal { head: Head { seal_id: seal.seal_id, digest }, rows: count, more }))
        })
        .await
    }

    /// First and last seal that cover rows of a day; `None` if none does.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn seals_of_day(&self, day: Date) -> Result<Option<(i64, i64)>> {
        with_timeout(async {
            let row = sqlx::query!(
                r#"select min(seal_id) as first, max(seal_id) as last from audit_seal_day where day = $1"#,
                day
            )
            .fetch_one(&self.pool)
            .await?;
            Ok(row.first.zip(row.last))
        })
        .await
    }

    /// Drops a day of the audit log, and leaves a signed proof. False if some of it is not sealed yet.
    ///
    /// # Errors
    /// If the database refuses, for example because the table is busy.
    pub async fn drop_audit_day(&self, day: Date, (key_id, key): (i16, &AuditKey)) -> Result<bool> {
        with_timeout(async {
            let mut tx = self.begin_briefly().await?;
            let sealed = sqlx::query!(
                r#"select coalesce(sum(rows), 0)::bigint as "rows!", coalesce(max(seal_id), 0) as "seal!"
                   from audit_seal_day
                   where day = $1"#,
                day,
            )
            .fetch_one(&mut *tx)
            .await?;
            let now = clock::now();
            let dropped = DroppedDay {
                day: day_of(day),
                seal_id: sealed.seal,
                rows: sealed.rows,
                dropped_at: microseconds(now),
            };
            let gone = sqlx::query_scalar!(r#"select drop_audit_day($1, $2) as "gone!""#, day, sealed.seal)
                .fetch_one(&mut *tx)
                .await?;
            if !gone {
                return Ok(false);
            }
            sqlx::query!(
                "insert into audit_dropped_day (day, seal_id, rows, dropped_at, mac, key_id)
                 values ($1, $2, $3, $4, $5, $6)",
                day,
                dropped.seal_id,
                dropped.rows,
                now,
                &key.sign_drop(&dropped)[..],
                key_id,
            )
            .execute(&mut *tx)
            .await?;
            let entry = Entry::new(now, Kind::AuditDayDropped)
                .data("day", day.to_string())
                .data("rows", dropped.rows)
                .data("seal", dropped.seal_id);
            audit::write(&mut tx, &[entry]).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }
}

pub(super) async fn last_seal(conn: &mut PgConnection) -> Result<Option<LastSeal>> {
    let row = sqlx::query!(
        "select seal_id, last_audit_id, digest, sealed_at from audit_seal order by seal_id desc limit 1"
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(LastSeal {
            head: Head { seal_id: row.seal_id, digest: hash(&row.digest, "digest", row.seal_id)? },
            last_audit_id: row.last_audit_id,
            sealed_at: row.sealed_at,
        })
    })
    .transpose()
}

async fn write(
    conn: &mut PgConnection,
    seal: &Seal,
    digest: &Hash,
    listings: &[Vec<u8>],
    now: OffsetDateTime,
    (key_id, mac): (i16, Hash),
) -> Result<()> {
    sqlx::query!(
        "insert into audit_seal (
             seal_id, format, first_audit_id, last_audit_id, rows, sealed_at, previous, digest, mac, key_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        seal.seal_id,
        seal.format,
        seal.first,
        seal.last,
        seal.rows,
        now,
        &seal.previous[..],
        &digest[..],
        &mac[..],
        key_id,
    )
    .execute(&mut *conn)
    .await?;
    let dates = seal.days.iter().map(|day| date_of(day.day)).collect::<Result<Vec<_>>>()?;
    sqlx::query!(
        "with days as (
             insert into audit_seal_day (seal_id, day, rows, digest, listing)
             select $1, * from unnest($2::date[], $3::bigint[], $4::bytea[], $5::bytea[]))
         insert into audit_seal_listing (seal_id, day, listing)
         select $1, * from unnest($2::date[], $6::bytea[])",
        seal.seal_id,
        &dates,
        &seal.days.iter().map(|day| day.rows).collect::<Vec<_>>(),
        &seal.days.iter().map(|day| day.digest.to_vec()).collect::<Vec<_>>(),
        &seal.days.iter().map(|day| day.listing.to_vec()).collect::<Vec<_>>(),
        listings,
    )
    .execute(conn)
    .await?;
    Ok(())
}
