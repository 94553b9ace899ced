//! Runs erasures, one piece at a time: `actors/erasures.rs` calls it. Each piece is a transaction that holds
//! the request's row and writes its progress, so a kill costs nothing, and two processes do not meet.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::clock;
use crate::domain::audit::seal::AuditKey;
use crate::domain::erasure::ErasureState;
use crate::domain::ids::{AgentId, ErasureId, SourceId, TenantId};
use crate::store::audit::erased_rows::{EntriesOfAgent, erase_piece};
use crate::store::erasure::pieces::{
    Job, PIECE, end_deliveries, erase_events, has_open_deliveries, note_last_entry, remove_quarantined,
};
use crate::store::erasure::requests::entry;
use crate::store::locks::BEGIN_CYCLE;
use crate::store::session::read_in_order;
use crate::store::{Result, Store, audit, with_timeout};

/// Result of a piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErasedPiece {
    /// Deliveries that it ended.
    pub deliveries: u64,
}

/// What a piece has come to.
enum PieceOutcome {
    /// There may be more of the same.
    More,
    /// Something else must happen first: it is looked again in a second.
    Waits,
    /// The next step begins.
    Advance(ErasureState),
}

impl Store {
    /// Does the next piece of the request that has waited longest. `None` if there is nothing to do now.
    ///
    /// # Errors
    /// If the database is unavailable or refuses; finished pieces stay, and the next call goes on from there.
    pub async fn erase_some(&self, key: (i16, &AuditKey)) -> Result<Option<ErasedPiece>> {
        let due = with_timeout(async {
            Ok(sqlx::query!(
                r#"select erasure_id as "erasure_id: ErasureId", state as "state: ErasureState"
                   from erasure
                   where ended_at is null
                     and resumes_at <= clock_timestamp()
                   order by resumes_at
                   limit 1"#,
            )
            .fetch_optional(&self.pool)
            .await?)
        })
        .await?;
        let Some(due) = due else { return Ok(None) };
        with_timeout(async {
            match due.state {
                ErasureState::Deliveries | ErasureState::Answers => {
                    self.erase_deliveries(due.erasure_id, due.state).await
                }
                ErasureState::Events => self.erase_events(due.erasure_id).await,
                ErasureState::Audit => self.erase_entries(due.erasure_id, key).await,
                ErasureState::Done => Ok(None),
            }
        })
        .await
    }

    async fn erase_deliveries(&self, id: ErasureId, state: ErasureState) -> Result<Option<ErasedPiece>> {
        let mut tx = self.pipeline().await?.begin_with(BEGIN_CYCLE).await?;
        let Some(job) = lock_job(&mut tx, id, state).await? else { return Ok(None) };
        let ended = end_deliveries(&mut tx, &job).await?;
        let outcome = if ended >= PIECE {
            PieceOutcome::More
        } else if state == ErasureState::Deliveries {
            PieceOutcome::Advance(ErasureState::Events)
        } else if has_open_deliveries(&mut tx, &job).await? {
            PieceOutcome::Waits
        } else {
            note_last_entry(&mut tx, &job).await?;
            PieceOutcome::Advance(ErasureState::Audit)
        };
        sqlx::query!(
            "update erasure set deliveries = deliveries + $2 where erasure_id = $1",
            job.erasure_id as _,
            ended,
        )
        .execute(&mut *tx)
        .await?;
        note_progress(&mut tx, &job, outcome).await?;
        tx.commit().await?;
        self.wake.deliveries_due();
        Ok(Some(ErasedPiece { deliveries: u64::try_from(ended).unwrap_or(0) }))
    }

    async fn erase_events(&self, id: ErasureId) -> Result<Option<ErasedPiece>> {
        let mut tx = self.pool.begin().await?;
        let Some(job) = lock_job(&mut tx, id, ErasureState::Events).await? else { return Ok(None) };
        read_in_order(&mut tx).await?;
        let erased = erase_events(&mut tx, &job, clock::now()).await?;
        let more = erased >= PIECE || remove_quarantined(&mut tx, &job).await? >= PIECE;
        let outcome = if more { PieceOutcome::More } else { PieceOutcome::Advance(ErasureState::Answers) };
        note_progress(&mut tx, &job, outcome).await?;
        tx.commit().await?;
        Ok(Some(ErasedPiece::default()))
    }

    async fn erase_entries(&self, id: ErasureId, key: (i16, &AuditKey)) -> Result<Option<ErasedPiece>> {
        let sealed = self.sealed_through().await?;
        let now = clock::now();
        let mut tx = self.pool.begin().await?;
        let Some(job) = lock_job(&mut tx, id, ErasureState::Audit).await? else { return Ok(None) };
        read_in_order(&mut tx).await?;
        let until = job.audit_until.unwrap_or(0);
        let of = EntriesOfAgent {
            erasure_id: job.erasure_id,
            tenant: job.tenant,
            source_id: job.source_id,
            agent_id: job.agent_id.clone(),
            agent_key: job.agent_key,
            after: job.audit_through,
            through: sealed.min(until).max(job.audit_through),
        };
        let (erased, through) = erase_piece(&mut tx, &of, key, now).await?;
        sqlx::query!(
            "update erasure
             set audit_entries = audit_entries + $2,
                 audit_through = $3
             where erasure_id = $1",
            job.erasure_id as _,
            erased,
            through,
        )
        .execute(&mut *tx)
        .await?;
        if through >= until {
            end(&mut tx, &job, now).await?;
        } else {
            let outcome = if through < of.through { PieceOutcome::More } else { PieceOutcome::Waits };
            note_progress(&mut tx, &job, outcome).await?;
        }
        tx.commit().await?;
        Ok(Some(ErasedPiece::default()))
    }
}

/// `None` if it is at another step by now, or another process works on it.
async fn lock_job(conn: &mut PgConnection, id: ErasureId, state: ErasureState) -> Result<Option<Job>> {
    Ok(sqlx::query_as!(
        Job,
        r#"select e.erasure_id as "erasure_id: ErasureId", e.source_id as "source_id: SourceId",
                  s.tenant_id as "tenant: TenantId", e.agent_id as "agent_id: AgentId", e.agent_key,
                  e.before_position, e.principal, e.events_through, e.audit_through, e.audit_until
           from erasure e
           join source s on s.source_id = e.source_id
           where e.erasure_id = $1
             and e.state = $2
           for update of e skip locked"#,
        id as _,
        state as _,
    )
    .fetch_optional(conn)
    .await?)
}

async fn note_progress(conn: &mut PgConnection, job: &Job, outcome: PieceOutcome) -> Result<()> {
    let (waits, next) = match outcome {
        PieceOutcome::More => (false, None),
        PieceOutcome::Waits => (true, None),
        PieceOutcome::Advance(next) => (false, Some(next)),
    };
    sqlx::query!(
        "update erasure
         set state = coalesce($2, state),
             resumes_at = clock_timestamp() + case when $3 then interval '1 second' else interval '0' end
         where erasure_id = $1",
        job.erasure_id as _,
        next.map(ErasureState::as_str),
        waits,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn end(conn: &mut PgConnection, job: &Job, now: OffsetDateTime) -> Result<()> {
    let ended = sqlx::query!(
        "update erasure
         set state = 'done',
             ended_at = $2
         where erasure_id = $1
         returning events, deliveries, audit_entries, quarantined",
        job.erasure_id as _,
        now,
    )
    .fetch_one(&mut *conn)
    .await?;
    let entry = entry(now, (job.source_id, job.agent_id.clone()), &job.principal)
        .data("state", "done")
        .data("erasure", job.erasure_id.to_string())
        .data("events", ended.events)
        .data("deliveries", ended.deliveries)
        .data("audit_entries", ended.audit_entries)
        .data("quarantined", ended.quarantined);
    audit::write(conn, &[entry]).await
}
