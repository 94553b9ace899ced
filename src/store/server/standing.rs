//! How the database stands: which server it is on, and whether what the API needs can be done there.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::Server;
use crate::domain::ids::TenantId;
use crate::store::preflight::{self, CONNECT_WITHIN};
use crate::store::primary::assess;
use crate::store::{Result, Store, StoreError, become_tenant};

/// Tables that every process works with, and those among them that calls of the API work with.
const TABLES: &str =
    "'{agent,audit_log,connection,delivery,event,gap,source,webhook,webhook_health}'::text[]";
const TENANT_TABLES: &str = "'{agent,audit_log,delivery,event,source,webhook}'::text[]";

/// Standbys that a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    /// None: a failover may lose commits.
    Local,
    /// A synchronous one.
    Standby,
    /// One that is configured and not connected: every commit waits until it is.
    StandbyAbsent,
}

impl Commits {
    /// As `/readyz` names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Standby => "standby",
            Self::StandbyAbsent => "standby_absent",
        }
    }
}

/// The server that the database is on.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Host and port, or the folder of a socket.
    pub server: String,
    /// Goes up by one with each promotion of a standby; `None`: this user, or this kind of server, may not be asked.
    pub timeline: Option<u32>,
    pub commits: Commits,
}

impl Store {
    /// Tries what calls of the API need, on the connection of readiness: the rights of the process, a read and a
    /// write as a tenant. Leaves nothing.
    ///
    /// # Errors
    /// The first thing that cannot be done, in words for an operator.
    pub async fn try_what_calls_need(&self) -> Result<Standing> {
        tokio::select! {
            why = self.primary.is_absent() => Err(StoreError::NoPrimary(why)),
            tried = self.try_on_readiness() => tried,
        }
    }

    async fn try_on_readiness(&self) -> Result<Standing> {
        let mut tx = self.readiness.begin().await?;
        let commits = commits(&mut tx).await?;
        for (question, ours) in [(TABLES, true), (TENANT_TABLES, false)] {
            if !ours {
                become_tenant(&mut tx, TenantId::DEFAULT).await?;
            }
            if let Some(lacking) = lacking(&mut tx, question, ours).await? {
                return Err(StoreError::Conflict(lacking));
            }
        }
        let read_and_write = "select from webhook limit 1; select from event limit 1; \
             insert into idempotency (tenant_id, principal, key_hash, request_hash) \
             values (tenant_asking(), 'readiness', decode(md5(random()::text), 'hex'), '')";
        sqlx::raw_sql(read_and_write).execute(&mut *tx).await?;
        tx.rollback().await?;
        let (server, timeline) = (self.server.name(self.primary.server()), self.primary.timeline());
        Ok(Standing { server, timeline, commits })
    }
}

impl Server {
    /// How each of the servers stands, with its name.
    pub async fn survey(&self) -> Vec<(String, Result<Standing>)> {
        let asked = self.numbers().map(|server| async move {
            let name = self.name(server);
            (name.clone(), self.standing(server, name).await)
        });
        futures_util::future::join_all(asked).await
    }

    async fn standing(&self, number: usize, server: String) -> Result<Standing> {
        let options = self.options(number).ok_or(StoreError::NotFound("server"))?;
        let mut connection = preflight::dial(&options, CONNECT_WITHIN).await?;
        let assessed = assess(&mut connection, None).await.map_err(sqlx::Error::from)?;
        Ok(Standing { server, timeline: assessed.timeline, commits: commits(&mut connection).await? })
    }
}

/// Whose connections there are is seen by every user, but not what they are: a standby or something else.
async fn commits(connection: &mut PgConnection) -> Result<Commits> {
    let question = "select current_setting('synchronous_standby_names') <> '' \
                           and current_setting('synchronous_commit') in ('on', 'remote_apply', 'remote_write'), \
                           exists (select from pg_stat_replication)";
    let row = sqlx::raw_sql(question).fetch_one(connection).await?;
    Ok(match (row.try_get(0)?, row.try_get(1)?) {
        (false, _) => Commits::Local,
        (true, true) => Commits::Standby,
        (true, false) => Commits::StandbyAbsent,
    })
}

/// What the present role lacks: a table, a right to it, or, for a tenant, the rule that hides other tenants'
/// rows; such a rule would hide all rows from the process.
async fn lacking(connection: &mut PgConnection, tables: &str, ours: bool) -> Result<Option<String>> {
    let rights = if ours { "may('select') and may('insert')" } else { "may('select')" };
    let rights = rights.replace("may(", "has_table_privilege(to_regclass(name), ");
    let hidden = if ours { "" } else { "not " };
    let question = format!(
        "select case when to_regclass(name) is null then format('table %s is missing', name)
                     when not ({rights}) then format('%s lacks a right to table %s', current_user, name)
                     else format('row security of table %s is {hidden}in force for %s', name, current_user) end
         from unnest({tables}) name
         where to_regclass(name) is null or not ({rights})
            or {hidden}row_security_active(to_regclass(name))
         limit 1"
    );
    let row = sqlx::raw_sql(AssertSqlSafe(question)).fetch_optional(connection).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}
