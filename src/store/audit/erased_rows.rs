//! Erases the particulars of sealed entries about one agent, each under a signature, so that the chain holds
//! (docs/adr/0038). Called by `store/erasure/worker.rs`; `store/audit/verify.rs` checks what is signed.

use futures_util::TryStreamExt as _;
use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;

use crate::domain::audit::seal::{AuditKey, ErasedRow};
use crate::domain::ids::{AgentId, ErasureId, SourceId, TenantId};
use crate::store::Result;
use crate::store::audit::sealed_rows::{SEALED_COLUMNS, date_of, microseconds, sealed_columns, sealed_with};

/// Entries of one piece.
const PIECE: i64 = 500;
/// Fields of `data` that hold nothing of a person, whatever the entry is about.
const HARMLESS: [&str; 10] = [
    "sequence",
    "deliveries",
    "sent_at",
    "format",
    "superseded",
    "superseded_by",
    "batch",
    "retry_at",
    "recovery",
    "from",
];

/// Entries about the agent that have other fields too. An entry about a delivery may name no source: it is
/// the agent's if its webhook is the tenant's, and its event is not that of another agent of the same id.
const READ: &str = concat!(
    "select ",
    sealed_columns!(),
    ", jsonb_build_object('erased', $1::uuid)
     from audit_log l
     where l.agent_id = $2
       and l.audit_id > $3
       and l.audit_id <= $4
       and l.kind <> 'AGENT_ERASED'
       and l.data - $5::text[] <> '{}'
       and not exists (select from audit_erasure e where e.audit_id = l.audit_id)
       and (l.source_id = $6
            or (l.source_id is null
                and coalesce((select w.tenant_id from webhook w where w.webhook_id = l.webhook_id), l.tenant_id) = $7
                and not exists (
                    select
                    from event e
                    where e.event_id = l.event_id
                      and e.agent_key <> $8)))
     order by l.audit_id
     limit $9"
);

/// Which entries are to be erased, and for which request.
#[derive(Clone, Debug)]
pub(in crate::store) struct EntriesOfAgent {
    pub(in crate::store) erasure_id: ErasureId,
    pub(in crate::store) tenant: TenantId,
    pub(in crate::store) source_id: SourceId,
    pub(in crate::store) agent_id: AgentId,
    pub(in crate::store) agent_key: i64,
    /// Entries behind this one are meant…
    pub(in crate::store) after: i64,
    /// …up to this one, which must be sealed.
    pub(in crate::store) through: i64,
}

/// Erases the next piece; gives how many entries that were, and the last one up to which all are done.
pub(in crate::store) async fn erase_piece(
    conn: &mut PgConnection,
    of: &EntriesOfAgent,
    key: (i16, &AuditKey),
    now: OffsetDateTime,
) -> Result<(i64, i64)> {
    let (mut rows, mut times) = (Vec::new(), Vec::new());
    {
        let mut stream = sqlx::query(READ)
            .bind(of.erasure_id)
            .bind(&of.agent_id)
            .bind(of.after)
            .bind(of.through)
            .bind(&HARMLESS[..])
            .bind(of.source_id)
            .bind(of.tenant)
            .bind(of.agent_key)
            .bind(PIECE)
            .fetch(&mut *conn);
        while let Some(row) = stream.try_next().await? {
            let original = sealed_with(&row, SEALED_COLUMNS - 1)?;
            rows.push(ErasedRow {
                audit_id: original.audit_id,
                day: original.day,
                original: original.hash,
                erased: sealed_with(&row, SEALED_COLUMNS)?.hash,
                erasure_id: of.erasure_id.0.into_bytes(),
                erased_at: microseconds(now),
            });
            times.push(row.try_get::<OffsetDateTime, _>(1)?);
        }
    }
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let through = rows.last().filter(|_| count == PIECE).map_or(of.through, |last| last.audit_id);
    if !rows.is_empty() {
        replace(conn, of.erasure_id, &rows, &times, key, now).await?;
    }
    Ok((count, through))
}

async fn replace(
    conn: &mut PgConnection,
    erasure: ErasureId,
    rows: &[ErasedRow],
    times: &[OffsetDateTime],
    (key_id, key): (i16, &AuditKey),
    now: OffsetDateTime,
) -> Result<()> {
    let ids: Vec<i64> = rows.iter().map(|row| row.audit_id).collect();
    let days = rows.iter().map(|row| date_of(row.day)).collect::<Result<Vec<_>>>()?;
    sqlx::query!(
        "insert into audit_erasure (audit_id, day, original, erased, mac, erasure_id, erased_at, key_id)
         select n.*, $6, $7, $8
         from unnest($1::bigint[], $2::date[], $3::bytea[], $4::bytea[], $5::bytea[]) n",
        &ids,
        &days,
        &rows.iter().map(|row| row.original.to_vec()).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.erased.to_vec()).collect::<Vec<_>>(),
        &rows.iter().map(|row| key.sign_erased(row).to_vec()).collect::<Vec<_>>(),
        erasure as _,
        now,
        key_id,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "update audit_log l
         set data = jsonb_build_object('erased', $1::uuid)
         from unnest($2::bigint[], $3::timestamptz[]) as n (audit_id, at)
         where l.audit_id = n.audit_id
           and l.at = n.at",
        erasure as _,
        &ids,
        times,
    )
    .execute(conn)
    .await?;
    Ok(())
}
