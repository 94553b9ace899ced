//! Seals as they are stored, with what each says of its days. `store/audit/verify.rs` reads them.

use sqlx::PgConnection;

use crate::domain::audit::seal::{Hash, NOTHING_BEFORE, Seal, SealedDay};
use crate::store::Result;
use crate::store::audit::sealed_rows::{day_of, microseconds};
use crate::store::audit::seals::hash;

/// A seal as it is stored.
pub(in crate::store) struct StoredSeal {
    pub(in crate::store) seal: Seal,
    pub(in crate::store) digest: Hash,
    pub(in crate::store) mac: Vec<u8>,
    pub(in crate::store) key_id: i16,
}

/// Next seals behind this one, with their days.
///
/// # Errors
/// If the database does not answer.
pub(in crate::store) async fn seals(
    conn: &mut PgConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredSeal>> {
    let rows = sqlx::query!(
        r#"select s.seal_id, s.format, s.first_audit_id, s.last_audit_id, s.rows, s.sealed_at, s.previous, s.digest,
                  s.mac, s.key_id, d.days as "days!", d.counts as "counts!", d.digests as "digests!",
                  d.listings as "listings!"
           from audit_seal s
           cross join lateral (
               select coalesce(array_agg(day order by day), '{}') as days,
                      coalesce(array_agg(rows order by day), '{}') as counts,
                      coalesce(array_agg(digest order by day), '{}') as digests,
                      coalesce(array_agg(listing order by day), '{}') as listings
               from audit_seal_day
               where seal_id = s.seal_id) d
           where s.seal_id > $1
           order by s.seal_id
           limit $2"#,
        after,
        limit,
    )
    .fetch_all(conn)
    .await?;
    // A value of another length was altered: it equals no hash.
    let hash = |bytes: &[u8], row: i64| hash(bytes, "digest", row).unwrap_or(NOTHING_BEFORE);
    Ok(rows
        .into_iter()
        .map(|row| {
            let days = row.days.iter().zip(&row.counts).zip(row.digests.iter().zip(&row.listings));
            StoredSeal {
                digest: hash(&row.digest, row.seal_id),
                mac: row.mac,
                key_id: row.key_id,
                seal: Seal {
                    seal_id: row.seal_id,
                    format: row.format,
                    first: row.first_audit_id,
                    last: row.last_audit_id,
                    rows: row.rows,
                    sealed_at: microseconds(row.sealed_at),
                    previous: hash(&row.previous, row.seal_id),
                    days: days
                        .map(|((day, rows), (digest, listing))| SealedDay {
                            day: day_of(*day),
                            rows: *rows,
                            digest: hash(digest, row.seal_id),
                            listing: hash(listing, row.seal_id),
                        })
                        .collect(),
                },
            }
        })
        .collect())
}
