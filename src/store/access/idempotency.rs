//! `idempotency`: answers to writes that came with an `Idempotency-Key`. Called by `api/http/idempotency.rs`;
//! `actors/maintenance.rs` removes old ones.

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::clock;
use crate::domain::ids::TenantId;
use crate::domain::secret::MasterKey;
use crate::random;
use crate::store::transaction::Uncommitted;
use crate::store::{Result, Store, StoreError};

/// Lifetime of an answer.
pub const KEPT_FOR: Duration = Duration::hours(24);
/// A call without an answer counts as cut off after this: the process that ran it is gone.
const CUT_OFF_AFTER: Duration = Duration::seconds(60);

/// One call by its key.
#[derive(Clone, Debug)]
pub struct IdempotentCall {
    /// Tenant of the caller.
    pub tenant: TenantId,
    /// Id of the caller's API key.
    pub principal: String,
    /// SHA-256 of the key.
    pub key: [u8; 32],
    /// SHA-256 of method, path, query and body.
    pub request: [u8; 32],
}

/// State of a key when a call comes with it.
#[derive(Clone, Debug)]
pub enum Reserved {
    /// New: the caller must run it. The time identifies this reservation.
    New(OffsetDateTime),
    /// Answered before: status and opened answer.
    Answered(u16, Vec<u8>),
    /// Another call with it is running.
    UnderWay,
    /// Used for another request.
    Reused,
}

/// Answer of a call, to be stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredAnswer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Headers and body, to be sealed.
    pub kept: &'a [u8],
}

impl IdempotentCall {
    /// Associated data of the sealed answer.
    fn bound_to(&self) -> Vec<u8> {
        [&self.key[..], self.principal.as_bytes()].concat()
    }
}

impl Store {
    /// Reserves a key for a call, or gives the state of the call that has it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn reserve_call(&self, call: &IdempotentCall, master_key: &MasterKey) -> Result<Reserved> {
        let now = clock::now();
        // Of several at once the row's lock lets one through; the others find its reservation.
        let reserved = sqlx::query_scalar!(
            "insert into idempotency as known (tenant_id, principal, key_hash, request_hash, created_at)
             values ($7, $1, $2, $3, $4)
             on conflict (tenant_id, principal, key_hash) do update
             set request_hash = excluded.request_hash,
                 status = null,
                 answer_sealed = null,
                 created_at = excluded.created_at
             where known.created_at < $5
                or (known.status is null and known.created_at < $6)
             returning created_at",
            call.principal,
            &call.key[..],
            &call.request[..],
            now,
            now - KEPT_FOR,
            now - CUT_OFF_AFTER,
            call.tenant as _,
        )
        .fetch_optional(&self.pool)
        .await?;
        if let Some(at) = reserved {
            return Ok(Reserved::New(at));
        }
        let known = sqlx::query!(
            "select request_hash, status, answer_sealed
             from idempotency
             where principal = $1
               and key_hash = $2
               and tenant_id = $3",
            call.principal,
            &call.key[..],
            call.tenant as _,
        )
        .fetch_optional(&self.pool)
        .await?;
        // Freed in between: the next try has it.
        let Some(known) = known else {
            return Ok(Reserved::UnderWay);
        };
        if known.request_hash != call.request {
            return Ok(Reserved::Reused);
        }
        let (Some(status), Some(sealed)) = (known.status, known.answer_sealed) else {
            return Ok(Reserved::UnderWay);
        };
        let answer = master_key.open(&sealed, &call.bound_to()).map_err(|error| StoreError::Corrupt {
            table: "idempotency",
            column: "answer_sealed",
            row: call.principal.clone(),
            what: error.to_string(),
        })?;
        Ok(Reserved::Answered(u16::try_from(status).unwrap_or_default(), answer))
    }

    /// Commits the writes of a call together with its answer, so that neither is there without the other.
    ///
    /// # Errors
    /// If the key has been given to another call meanwhile, or the database does not confirm the commit: the
    /// writes may be committed then or not, but never without the answer.
    pub async fn keep_answer(
        &self,
        call: &IdempotentCall,
        reserved_at: OffsetDateTime,
        answer: StoredAnswer<'_>,
        master_key: &MasterKey,
        written: Option<Uncommitted>,
    ) -> Result<()> {
        let sealed = master_key.seal(answer.kept, &call.bound_to(), random::bytes());
        let status = i32::from(answer.status);
        let Some(mut written) = written else {
            keep(&mut *self.pool.acquire().await?, call, reserved_at, status, &sealed).await?;
            return Ok(());
        };
        if !keep(written.as_ourselves().await?, call, reserved_at, status, &sealed).await? {
            return Err(StoreError::Conflict("another call with this Idempotency-Key has begun".to_owned()));
        }
        written.commit().await
    }

    /// Frees the key of a call that failed.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn free_call(&self, call: &IdempotentCall, reserved_at: OffsetDateTime) -> Result<()> {
        sqlx::query!(
            "delete from idempotency
             where principal = $1
               and key_hash = $2
               and created_at = $3
               and tenant_id = $4
               and status is null",
            call.principal,
            &call.key[..],
            reserved_at,
            call.tenant as _,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets calls from before this time.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn forget_idempotency(&self, before: OffsetDateTime) -> Result<u64> {
        let gone =
            sqlx::query!("delete from idempotency where created_at < $1", before).execute(&self.pool).await?;
        Ok(gone.rows_affected())
    }
}

/// Notes the answer; false if the key is no longer this call's.
async fn keep(
    conn: &mut PgConnection,
    call: &IdempotentCall,
    reserved_at: OffsetDateTime,
    status: i32,
    sealed: &[u8],
) -> Result<bool> {
    let kept = sqlx::query!(
        "update idempotency
         set status = $4,
             answer_sealed = $5
         where principal = $1
           and key_hash = $2
           and created_at = $3
           and tenant_id = $6
           and status is null",
        call.principal,
        &call.key[..],
        reserved_at,
        status,
        sealed,
        call.tenant as _,
    )
    .execute(conn)
    .await?;
    Ok(kept.rows_affected() == 1)
}
