//! Figures of the overview that the database has.

use time::OffsetDateTime;

use crate::clock;
use crate::domain::ids::{ProcessId, SourceId};
use crate::store::{Result, Store};

/// What the open connections of a source see.
#[derive(Clone, Debug)]
pub struct SourceCoverage {
    pub source_id: SourceId,
    /// Agents that they watch, without those that upstream rejects.
    pub agents: i64,
    /// When the oldest of them opened.
    pub opened_at: Option<OffsetDateTime>,
    /// When the one that has been silent for longest was proven live.
    pub proven_at: Option<OffsetDateTime>,
}

/// Times without coverage that last.
#[derive(Clone, Debug, Default)]
pub struct OpenGaps {
    pub number: i64,
    /// Begin of the longest; `None` if there is none.
    pub since: Option<OffsetDateTime>,
}

/// A process that uses this database.
#[derive(Clone, Debug)]
pub struct Process {
    /// `None` in rows of former versions.
    pub process_id: Option<ProcessId>,
    /// It counts as dead if it gives no sign of life until then.
    pub alive_until: OffsetDateTime,
    /// It is this one.
    pub is_this: bool,
}

impl Store {
    /// What the open connections see, by source; sources without any are left out.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn source_coverage(&self) -> Result<Vec<SourceCoverage>> {
        let coverage = sqlx::query_as!(
            SourceCoverage,
            r#"select c.source_id as "source_id: SourceId", coalesce(sum(w.agents), 0)::bigint as "agents!",
                      min(c.opened_at) as opened_at, min(c.proven_at) as proven_at
               from connection c
               left join (
                   select connection_id, count(*) as agents
                   from connection_agent
                   where rejected_reason is null
                   group by connection_id) w on w.connection_id = c.connection_id
               where c.state = 'open'
               group by c.source_id"#,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(coverage)
    }

    /// Gaps that last.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn open_gaps(&self) -> Result<OpenGaps> {
        let gaps = sqlx::query_as!(
            OpenGaps,
            r#"select count(*) as "number!", min(from_at) as since from gap where to_at is null"#,
        )
        .fetch_one(&mut *self.begin().await?)
        .await?;
        Ok(gaps)
    }

    /// The processes that live, oldest first. They serve every tenant.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn processes(&self) -> Result<Vec<Process>> {
        let processes = sqlx::query_as!(
            Process,
            r#"select process_id as "process_id: ProcessId", alive_until,
                      coalesce(process_id = $1, false) as "is_this!"
               from dispatcher
               where alive_until >= $2
               order by dispatcher_id"#,
            self.process as _,
            clock::now(),
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(processes)
    }
}
