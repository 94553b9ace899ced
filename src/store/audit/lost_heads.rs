//! `audit_lost_head`: heads of the chain of seals that a failover of the database, or a restored copy, has lost.
//! The sealer notes one when it finds it gone in another incarnation, and seals on from what is there
//! (docs/adr/0057).

use sqlx::PgConnection;

use crate::clock;
use crate::domain::audit::seal::{AuditKey, Head, LostHead};
use crate::domain::audit::{Entry, Kind, Level};
use crate::store::audit::sealed_rows::microseconds;
use crate::store::audit::seals::{AuditKeys, hash, last_seal};
use crate::store::audit::verdict::{Fault, FaultKind};
use crate::store::locks::AUDIT_SEALER;
use crate::store::{Result, Store, audit, with_timeout};

impl Store {
    /// Looks in a new incarnation of the database whether a head is still in the chain, and notes under a
    /// signature that it is lost if it is not. Gives the head that the chain has now; `None` if it has none.
    ///
    /// # Errors
    /// If the database does not answer, or a row is damaged.
    pub async fn find_head_again(&self, head: Head, (key_id, key): (i16, &AuditKey)) -> Result<Option<Head>> {
        with_timeout(async {
            let mut tx = self.begin().await?;
            sqlx::query("select pg_advisory_xact_lock($1)").bind(AUDIT_SEALER).execute(&mut *tx).await?;
            let digest =
                sqlx::query_scalar!("select digest from audit_seal where seal_id = $1", head.seal_id)
                    .fetch_optional(&mut *tx)
                    .await?;
            let last = last_seal(&mut tx).await?.map(|last| last.head);
            if digest.as_deref() == Some(&head.digest[..]) {
                return Ok(last);
            }
            let now = clock::now();
            // Another process may have sealed since: then what went with this one is not known.
            let continues_from = last.map_or(0, |last| last.seal_id.min(head.seal_id - 1));
            let lost = LostHead { head, continues_from, found_at: microseconds(now) };
            sqlx::query!(
                "insert into audit_lost_head (seal_id, digest, continues_from, found_at, mac, key_id)
                 values ($1, $2, $3, $4, $5, $6)
                 on conflict do nothing",
                head.seal_id,
                &head.digest[..],
                continues_from,
                now,
                &key.sign_lost(&lost)[..],
                key_id,
            )
            .execute(&mut *tx)
            .await?;
            let entry = Entry::new(now, Kind::AuditHeadLost)
                .level(Level::Error)
                .data("head", head.to_string())
                .data("continues_from", continues_from);
            audit::write(&mut tx, &[entry]).await?;
            tx.commit().await?;
            Ok(last)
        })
        .await
    }
}

/// Every head that was lost, or a fault if the proof of one is not ours.
pub(super) async fn lost_heads(
    conn: &mut PgConnection,
    keys: &AuditKeys,
) -> Result<Result<Vec<LostHead>, Fault>> {
    let rows = sqlx::query!(
        "select seal_id, digest, continues_from, found_at, mac, key_id from audit_lost_head order by found_at"
    )
    .fetch_all(conn)
    .await?;
    let mut lost_heads = Vec::with_capacity(rows.len());
    for row in rows {
        // A value of another length was altered.
        let digest = hash(&row.digest, "digest", row.seal_id).unwrap_or_default();
        let lost = LostHead {
            head: Head { seal_id: row.seal_id, digest },
            continues_from: row.continues_from,
            found_at: microseconds(row.found_at),
        };
        if !keys.get(&row.key_id).is_some_and(|key| key.signed_lost(&lost, &row.mac)) {
            let what = FaultKind::LossForged;
            return Ok(Err(Fault { what, seal_id: row.seal_id, audit_id: None, day: None }));
        }
        lost_heads.push(lost);
    }
    Ok(Ok(lost_heads))
}
