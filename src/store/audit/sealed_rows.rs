//! Rows of `audit_log` as they are sealed: the bytes that the server sends, field by field.
//! `store/audit/seals.rs` reads them to make a seal, `store/audit/verify.rs` to check one.

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Row as _, ValueRef as _};
use time::{Date, OffsetDateTime};

use crate::domain::audit::seal::{SealedRow, row_hash};
use crate::store::{Result, StoreError};

/// Columns of the statement below, and their encoding. A new column of `audit_log` gets a format of its own
/// next to this one, so that older seals still hold.
pub(in crate::store) const FORMAT: i16 = 1;

/// Binary, as Postgres sends it: integers big-endian, times as microseconds since 2000, `jsonb` as its text
/// behind a version.
const READ: &str =
    "select audit_id, at, tenant_id, kind, level, source_id, connection_id, agent_id, webhook_id, event_id,
            delivery_id, attempt, status, duration_ms, outcome, end_state, principal, data
     from audit_log
     where (audit_id, at) > ($1, $2)
       and audit_id <= $3
     order by audit_id, at
     limit $4";

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
    let mut stream = sqlx::query(READ).bind(behind.0).bind(behind.1).bind(through).bind(limit).fetch(conn);
    let (mut rows, mut last) = (Vec::new(), None);
    while let Some(row) = stream.try_next().await? {
        rows.push(sealed(&row)?);
        last = Some(row);
    }
    let end = match last {
        None => behind,
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
    };
    Ok((rows, end))
}

fn sealed(row: &PgRow) -> Result<SealedRow> {
    let mut fields = Vec::with_capacity(row.len());
    for at in 0..row.len() {
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

/// Makes statements of this transaction use the primary keys of the day partitions: there are many, and the
/// planner's statistics of the newest one are old.
pub(in crate::store) async fn by_index(conn: &mut PgConnection) -> Result<()> {
    sqlx::query(
        "select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
                set_config('enable_sort', 'off', true)",
    )
    .execute(conn)
    .await?;
    Ok(())
}
