//! Rows of `audit_log` as they are sealed: the bytes that the server sends, field by field.
//! `store/audit/seals.rs` reads them to make a seal, `store/audit/verify.rs` to check one, and
//! `store/audit/erased_rows.rs` to erase one.

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Row as _, ValueRef as _};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use crate::domain::audit::seal::{ErasedRow, NOTHING_BEFORE, SealedRow, row_hash};
use crate::store::{Result, StoreError};

/// Columns of the statements below, and their encoding. A new column of `audit_log` gets a format of its own
/// next to this one, so that older seals still hold.
pub(in crate::store) const FORMAT: i16 = 1;

/// Binary, as Postgres sends it: integers big-endian, times as microseconds since 2000, `jsonb` as its text
/// behind a version.
macro_rules! sealed_columns {
    () => {
        "l.audit_id, l.at, l.tenant_id, l.kind, l.level, l.source_id, l.connection_id, l.agent_id, l.webhook_id,
         l.event_id, l.delivery_id, l.attempt, l.status, l.duration_ms, l.outcome, l.end_state, l.principal, l.data"
    };
}
pub(in crate::store) use sealed_columns;

/// How many columns these are; `data` is the last.
pub(in crate::store) const SEALED_COLUMNS: usize = 18;

const READ: &str = concat!(
    "select ",
    sealed_columns!(),
    " from audit_log l
     where (l.audit_id, l.at) > ($1, $2)
       and l.audit_id <= $3
     order by l.audit_id, l.at
     limit $4"
);
/// The same with what is signed of those that were erased, as one moment sees both.
const READ_WITH_ERASURES: &str = concat!(
    "select ",
    sealed_columns!(),
    ", e.day, e.original, e.erased, e.erasure_id, e.erased_at, e.mac, e.key_id
     from audit_log l
     left join audit_erasure e on e.audit_id = l.audit_id
     where (l.audit_id, l.at) > ($1, $2)
       and l.audit_id <= $3
     order by l.audit_id, l.at
     limit $4"
);

const MICROSECONDS_A_DAY: i64 = 86_400_000_000;
/// Julian day of 2000-01-01, from which Postgres counts.
const YEAR_2000: i32 = 2_451_545;

/// Cursor of a reader: behind this row.
pub(in crate::store) type Behind = (i64, OffsetDateTime);

/// Before every row that there can be.
pub(in crate::store) const BEFORE_ALL: Behind = (i64::MIN, OffsetDateTime::UNIX_EPOCH);

/// Next rows, in order, and the cursor behind them.
///
/// # Errors
/// If the database does not answer.
pub(in crate::store) async fn read(
    conn: &mut PgConnection,
    behind: Behind,
    through: i64,
    limit: i64,
) -> Result<(Vec<SealedRow>, Behind)> {
    fetch(conn, READ, (behind, through, limit), sealed).await
}

/// The same, and of each that was erased what is signed of it.
///
/// # Errors
/// If the database does not answer.
pub(in crate::store) async fn read_with_erasures(
    conn: &mut PgConnection,
    behind: Behind,
    through: i64,
    limit: i64,
) -> Result<(Vec<(SealedRow, Option<SignedErasure>)>, Behind)> {
    fetch(conn, READ_WITH_ERASURES, (behind, through, limit), |row| {
        let sealed = sealed(row)?;
        Ok((sealed, signed_erasure(row, sealed.audit_id)?))
    })
    .await
}

async fn fetch<T>(
    conn: &mut PgConnection,
    statement: &'static str,
    (behind, through, limit): (Behind, i64, i64),
    read: impl Fn(&PgRow) -> Result<T>,
) -> Result<(Vec<T>, Behind)> {
    let statement = sqlx::query(statement);
    let mut stream = statement.bind(behind.0).bind(behind.1).bind(through).bind(limit).fetch(conn);
    let (mut rows, mut last) = (Vec::new(), None);
    while let Some(row) = stream.try_next().await? {
        rows.push(read(&row)?);
        last = Some(row);
    }
    let end = match last {
        None => behind,
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
    };
    Ok((rows, end))
}

/// What is signed of an erased row.
pub(in crate::store) struct SignedErasure {
    pub(in crate::store) row: ErasedRow,
    pub(in crate::store) mac: Vec<u8>,
    pub(in crate::store) key_id: i16,
}

/// `None` if the row was not erased.
fn signed_erasure(row: &PgRow, audit_id: i64) -> Result<Option<SignedErasure>> {
    let Some(key_id) = row.try_get(SEALED_COLUMNS + 6)? else { return Ok(None) };
    // A value of another length was altered: it equals no hash.
    let hash = |at| Ok::<_, sqlx::Error>(row.try_get::<&[u8], _>(at)?.try_into().unwrap_or(NOTHING_BEFORE));
    Ok(Some(SignedErasure {
        row: ErasedRow {
            audit_id,
            day: day_of(row.try_get(SEALED_COLUMNS)?),
            original: hash(SEALED_COLUMNS + 1)?,
            erased: hash(SEALED_COLUMNS + 2)?,
            erasure_id: row.try_get::<Uuid, _>(SEALED_COLUMNS + 3)?.into_bytes(),
            erased_at: microseconds(row.try_get(SEALED_COLUMNS + 4)?),
        },
        mac: row.try_get(SEALED_COLUMNS + 5)?,
        key_id,
    }))
}

/// A row by its sealed columns, which come first.
fn sealed(row: &PgRow) -> Result<SealedRow> {
    sealed_with(row, SEALED_COLUMNS - 1)
}

/// The same with another column in the place of `data`.
pub(in crate::store) fn sealed_with(row: &PgRow, data: usize) -> Result<SealedRow> {
    let mut fields = Vec::with_capacity(SEALED_COLUMNS);
    for at in (0..SEALED_COLUMNS - 1).chain([data]) {
        let value = row.try_get_raw(at)?;
        let bytes = if value.is_null() { None } else { Some(value.as_bytes().map_err(sqlx::Error::Decode)?) };
        fields.push(bytes);
    }
    let number = |at: usize| -> Option<i64> {
        Some(i64::from_be_bytes(fields.get(at).copied().flatten()?.try_into().ok()?))
    };
    let (Some(audit_id), Some(at)) = (number(0), number(1)) else {
        return Err(StoreError::Corrupt {
            table: "audit_log",
            column: "audit_id",
            row: String::new(),
            what: "is not 8 bytes".to_owned(),
        });
    };
    let day = i32::try_from(at.div_euclid(MICROSECONDS_A_DAY)).unwrap_or(i32::MAX);
    Ok(SealedRow { audit_id, day, hash: row_hash(fields) })
}

/// Days since 2000 as a date.
pub(in crate::store) fn date_of(day: i32) -> Result<Date> {
    Date::from_julian_day(day.saturating_add(YEAR_2000)).map_err(|_| StoreError::Corrupt {
        table: "audit_log",
        column: "at",
        row: day.to_string(),
        what: "is no day of this calendar".to_owned(),
    })
}

/// A date as days since 2000.
pub(in crate::store) fn day_of(date: Date) -> i32 {
    date.to_julian_day().saturating_sub(YEAR_2000)
}

/// Microseconds since 1970.
pub(in crate::store) fn microseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}
