//! `audit_verification`: checks of the whole log that somebody asked for, how far each has come, and the
//! result. Called by `services/audit_verifications.rs`, which runs the check (`store/audit/verify.rs`).

use serde_json::{Value, json};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::seal::Head;
use crate::domain::audit::verification::VerificationState;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::VerificationId;
use crate::store::audit::verdict::{ChainVerdict, Fault};
use crate::store::{Result, Store, StoreError, audit, with_timeout};

/// A check whose process said nothing for this long is lost.
const SILENCE: Duration = Duration::seconds(30);
/// Checks that are kept; older ones go when another one starts.
const KEPT: i64 = 100;
/// Why a check failed whose process is gone.
const LOST: &str = "the process that was checking has ended; start another check";

/// A check that somebody asked for.
#[derive(Clone, Debug)]
pub struct Verification {
    pub verification_id: VerificationId,
    pub started_at: OffsetDateTime,
    /// Who asked for it.
    pub principal: String,
    pub state: VerificationState,
    /// `None` while it runs.
    pub ended_at: Option<OffsetDateTime>,
    /// A head that was kept elsewhere.
    pub expected_head: Option<String>,
    /// Seals that there were when it began.
    pub seals_total: i64,
    /// Rows in them, dropped ones too.
    pub rows_total: i64,
    /// Seals that hold so far.
    pub seals: i64,
    /// Rows in them that match.
    pub rows: i64,
    /// Of those, rows whose particulars were erased.
    pub rows_erased: i64,
    /// Rows in them that were dropped with their day.
    pub rows_dropped: i64,
    /// Rows that no seal covered at its end.
    pub unsealed: i64,
    /// End of the chain, as far as it holds.
    pub head: Option<String>,
    /// The last head that a failover of the database lost, if one did.
    pub lost_head: Option<String>,
    /// First difference: `what`, `seal`, `id`, `day`, and `text` for people.
    pub fault: Option<Value>,
    /// Why it failed.
    pub failure: Option<String>,
}

/// How a check ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Done,
    /// Because somebody asked for it.
    Canceled,
    /// The log could not be read, for this reason.
    Failed(String),
}

fn fault_of(fault: &Fault) -> Value {
    json!({
        "what": fault.what.as_str(),
        "seal": fault.seal_id,
        "id": fault.audit_id,
        "day": fault.day.map(|day| day.to_string()),
        "text": fault.to_string(),
    })
}

impl Store {
    /// Notes that a check begins.
    ///
    /// # Errors
    /// If one is running, or the database refuses.
    pub async fn start_audit_verification(
        &self,
        expected: Option<Head>,
        principal: &str,
        now: OffsetDateTime,
    ) -> Result<Verification> {
        let id = VerificationId::generate();
        let mut tx = self.begin().await?;
        sqlx::query!(
            "update audit_verification
             set state = 'failed',
                 failure = $2,
                 ended_at = heard_at
             where state = 'running'
               and heard_at < $1",
            now - SILENCE,
            LOST,
        )
        .execute(&mut *tx)
        .await?;
        let inserted = sqlx::query!(
            "insert into audit_verification
                 (verification_id, started_at, principal, state, heard_at, expected_head, seals_total, rows_total)
             select $1, $2, $3, 'running', $2, $4, count(*), coalesce(sum(rows), 0)::bigint
             from audit_seal
             on conflict ((true)) where state = 'running' do nothing",
            id as _,
            now,
            principal,
            expected.map(|head| head.to_string()),
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if inserted == 0 {
            return Err(StoreError::Conflict(
                "the log is being checked already; see how far that is, or cancel it".to_owned(),
            ));
        }
        sqlx::query!(
            "delete from audit_verification
             where verification_id in (
                 select verification_id from audit_verification
                 order by verification_id desc
                 offset $1)",
            KEPT,
        )
        .execute(&mut *tx)
        .await?;
        let mut entry =
            Entry::new(now, Kind::AuditVerificationStarted).data("verification_id", id.to_string());
        entry.principal = Some(principal.to_owned());
        audit::write(&mut tx, &[entry]).await?;
        let started = read(&mut tx, id, now).await?;
        tx.commit().await?;
        Ok(started)
    }

    /// Notes how far a check has come. False if it shall end.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn note_audit_verification(
        &self,
        id: VerificationId,
        so_far: &ChainVerdict,
        now: OffsetDateTime,
    ) -> Result<bool> {
        with_timeout(async {
            let canceled = sqlx::query_scalar!(
                "update audit_verification
                 set heard_at = $2,
                     seals = $3,
                     rows = $4,
                     rows_erased = $5,
                     rows_dropped = $6,
                     head = $7
                 where verification_id = $1
                   and state = 'running'
                 returning cancel_asked",
                id as _,
                now,
                so_far.seals,
                so_far.rows,
                so_far.rows_erased,
                so_far.rows_dropped,
                so_far.head.map(|head| head.to_string()),
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(canceled == Some(false))
        })
        .await
    }

    /// Notes how a check ended. One that was taken for lost stays so.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn end_audit_verification(
        &self,
        id: VerificationId,
        end: &End,
        verdict: &ChainVerdict,
        now: OffsetDateTime,
    ) -> Result<()> {
        let (state, failure) = match end {
            End::Done => (VerificationState::Done, None),
            End::Canceled => (VerificationState::Canceled, None),
            End::Failed(why) => (VerificationState::Failed, Some(why.as_str())),
        };
        let mut tx = self.begin().await?;
        let principal = sqlx::query_scalar!(
            "update audit_verification
             set state = $2,
                 heard_at = $3,
                 ended_at = $3,
                 failure = $4,
                 fault = $5,
                 seals = $6,
                 rows = $7,
                 rows_erased = $8,
                 rows_dropped = $9,
                 unsealed = $10,
                 head = $11,
                 lost_head = $12
             where verification_id = $1
               and state = 'running'
             returning principal",
            id as _,
            state as _,
            now,
            failure,
            verdict.fault.as_ref().map(fault_of),
            verdict.seals,
            verdict.rows,
            verdict.rows_erased,
            verdict.rows_dropped,
            verdict.unsealed,
            verdict.head.map(|head| head.to_string()),
            verdict.lost_head.map(|lost| lost.head.to_string()),
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(principal) = principal {
            let is_whole = verdict.fault.is_none() && *end == End::Done;
            let mut entry = Entry::new(now, Kind::AuditVerificationEnded)
                .level(if is_whole || *end == End::Canceled { Level::Info } else { Level::Error })
                .data("verification_id", id.to_string())
                .data("state", state.as_str())
                .data("seals", verdict.seals)
                .data("rows", verdict.rows)
                .data("fault", verdict.fault.map(|fault| fault.to_string()));
            entry.principal = Some(principal);
            audit::write(&mut tx, &[entry]).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Asks for the end of a check, which comes with its next step; one that has ended stays as it is.
    ///
    /// # Errors
    /// If there is none, or the database refuses.
    pub async fn cancel_audit_verification(
        &self,
        id: VerificationId,
        principal: &str,
        now: OffsetDateTime,
    ) -> Result<Verification> {
        let mut tx = self.begin().await?;
        let asked = sqlx::query!(
            "update audit_verification
             set cancel_asked = true
             where verification_id = $1
               and state = 'running'
               and not cancel_asked",
            id as _,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        let row = read(&mut tx, id, now).await?;
        if asked > 0 {
            let mut entry =
                Entry::new(now, Kind::AuditVerificationCanceled).data("verification_id", id.to_string());
            entry.principal = Some(principal.to_owned());
            audit::write(&mut tx, &[entry]).await?;
        }
        tx.commit().await?;
        Ok(row)
    }

    /// A page of checks, newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn audit_verifications(
        &self,
        before: Option<VerificationId>,
        limit: i64,
        now: OffsetDateTime,
    ) -> Result<Vec<Verification>> {
        select(&mut *self.begin().await?, None, before, limit, now).await
    }

    /// One check.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn audit_verification(&self, id: VerificationId, now: OffsetDateTime) -> Result<Verification> {
        read(&mut *self.begin().await?, id, now).await
    }
}

async fn read(conn: &mut PgConnection, id: VerificationId, now: OffsetDateTime) -> Result<Verification> {
    let rows = select(conn, Some(id), None, 1, now).await?;
    rows.into_iter().next().ok_or(StoreError::NotFound("verification"))
}

/// One that has been silent for too long is shown as what it will be noted as.
async fn select(
    conn: &mut PgConnection,
    only: Option<VerificationId>,
    before: Option<VerificationId>,
    limit: i64,
    now: OffsetDateTime,
) -> Result<Vec<Verification>> {
    Ok(sqlx::query_as!(
        Verification,
        r#"select verification_id as "verification_id: VerificationId", started_at, principal,
                  case when l.lost then 'failed' else state end as "state!: VerificationState",
                  case when l.lost then heard_at else ended_at end as ended_at,
                  expected_head, seals_total, rows_total, seals, rows, rows_erased, rows_dropped, unsealed, head,
                  lost_head, fault, case when l.lost then $4 else failure end as failure
           from audit_verification
           cross join lateral (select state = 'running' and heard_at < $3 as lost) l
           where ($1::uuid is null or verification_id = $1)
             and ($2::uuid is null or verification_id < $2)
           order by verification_id desc
           limit $5"#,
        only as _,
        before as _,
        now - SILENCE,
        LOST,
        limit,
    )
    .fetch_all(conn)
    .await?)
}
