//! Ownership of upstream connections: which database this is, and which requests for a connection went
//! unanswered (`docs/adr/0033`). Called by `app.rs` at the start, and by connections.

use time::{Duration, OffsetDateTime};

use crate::clock;
use crate::domain::ids::{ConnectionId, ProvisioningId, SourceId};
use crate::store::{Result, Store, StoreError, with_timeout};

/// Requests without an answer that are remembered of one connection, the newest first. No client may hold
/// that many connections.
const UNANSWERED_MAX: i64 = 20;
/// Difference between the platform's clock and the database's, and time that a request may have been under
/// way.
const MADE_WITHIN: Duration = Duration::seconds(60);

/// A connection that the platform lists.
#[derive(Clone, Debug)]
pub struct ListedConnection {
    /// Upstream's id.
    pub upstream_id: String,
    /// Genesys id of the agent that it watches.
    pub agent_id: String,
    /// When the platform made it.
    pub made_at: OffsetDateTime,
}

/// A connection upstream that was made for a process of ours that never learnt of it.
#[derive(Clone, Debug)]
pub struct LostConnection {
    /// Upstream's id.
    pub upstream_id: String,
    /// Genesys id of the agent that it watches.
    pub agent_id: String,
}

impl Store {
    /// Checks that this database is the one that its rows were written in. A restored copy owns nothing
    /// upstream: connections that its rows name belong to the original, whose bridge may be at work. Gives
    /// the number of connections that the copy was made to forget; `None` for an original. Numbers that the
    /// original has given out since are not given out again ([`settle`](Self::settle)).
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn recognise_database(&self) -> Result<Option<u64>> {
        match self.settle().await {
            // Nothing is written before it has settled. A commit of its predecessor may wait for a standby, with
            // the lock that this waits for.
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "failed to compare the database with its past; trying again while running");
            }
            settled => settled?,
        }
        let system_identifier = with_timeout(self.system_identifier()).await?;
        with_timeout(async {
            let mut tx = self.begin_in_turn().await?;
            let oid = sqlx::query_scalar!(
                r#"select oid::bigint as "oid!" from pg_database where datname = current_database()"#
            )
            .fetch_one(&mut *tx)
            .await?;
            let known = sqlx::query!("select system_identifier, database_oid from database_identity")
                .fetch_optional(&mut *tx)
                .await?;
            let is_copy = known.as_ref().is_some_and(|known| {
                let cluster = known.system_identifier.as_ref().zip(system_identifier.as_ref());
                known.database_oid != oid || cluster.is_some_and(|(known, present)| known != present)
            });
            let mut forgotten = None;
            if is_copy {
                sqlx::query!("delete from provisioning").execute(&mut *tx).await?;
                let rows = sqlx::query!(
                    "update connection
                     set upstream_connection_id = null,
                         stale_upstream_ids = '{}',
                         recorded_by = null
                     where upstream_connection_id is not null
                        or stale_upstream_ids <> '{}'"
                )
                .execute(&mut *tx)
                .await?;
                forgotten = Some(rows.rows_affected());
            }
            sqlx::query!("delete from database_identity").execute(&mut *tx).await?;
            sqlx::query!(
                "insert into database_identity (system_identifier, database_oid) values ($1, $2)",
                // The identifier stays if the user may not ask for it any more.
                system_identifier.or(known.filter(|_| !is_copy).and_then(|known| known.system_identifier)),
                oid,
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(forgotten)
        })
        .await
    }

    /// Identifier of the cluster; `None` if this user may not ask.
    async fn system_identifier(&self) -> Result<Option<String>> {
        let asked = sqlx::query_scalar!(
            r#"select system_identifier::text as "system_identifier!" from pg_control_system()"#
        );
        match asked.fetch_one(&self.pool).await.map_err(StoreError::from) {
            Ok(identifier) => Ok(Some(identifier)),
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                tracing::info!(
                    %error,
                    "failed to read the cluster's identifier; a copy in another cluster may pass for the original"
                );
                Ok(None)
            }
        }
    }

    /// Writes down a request for a connection before it is sent, where one connection watches one agent.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn begin_provisioning(&self, id: ProvisioningId, connection: ConnectionId) -> Result<()> {
        with_timeout(async {
            let mut tx = self.pool.begin().await?;
            sqlx::query!(
                "insert into provisioning (provisioning_id, connection_id, source_id, agent_id, process_id, begun_at)
                 select $1, connection_id, source_id, agent_id, $3, $4
                 from connection
                 where connection_id = $2
                   and agent_id is not null",
                id as _,
                connection as _,
                self.process as _,
                clock::now(),
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!(
                "delete from provisioning
                 where provisioning_id in (
                     select provisioning_id
                     from provisioning
                     where connection_id = $1
                     order by provisioning_id desc
                     offset $2)",
                connection as _,
                UNANSWERED_MAX,
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Listed connections that were made for a process of this database which died before their ids came
    /// back: for the same agent, at the time of its request, before this process began, and in no row.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn lost_upstream(
        &self,
        source: SourceId,
        listed: &[ListedConnection],
    ) -> Result<Vec<LostConnection>> {
        with_timeout(async {
            Ok(sqlx::query_as!(
                LostConnection,
                r#"select distinct l.upstream_id as "upstream_id!", l.agent_id as "agent_id!"
                   from unnest($2::text[], $3::text[], $4::timestamptz[]) as l (upstream_id, agent_id, made_at)
                   join provisioning p on p.source_id = $1 and p.agent_id = l.agent_id
                   where p.process_id <> $5
                     and not process_lives(p.process_id)
                     and l.made_at between p.begun_at - $6::interval and p.begun_at + $6::interval
                     and l.made_at < $7
                     and not exists (
                         select
                         from connection c
                         where c.upstream_connection_id = l.upstream_id
                            or l.upstream_id = any (c.stale_upstream_ids))"#,
                source as _,
                &listed.iter().map(|one| one.upstream_id.clone()).collect::<Vec<_>>(),
                &listed.iter().map(|one| one.agent_id.clone()).collect::<Vec<_>>(),
                &listed.iter().map(|one| one.made_at).collect::<Vec<_>>(),
                self.process as _,
                MADE_WITHIN as _,
                self.began_at,
            )
            .fetch_all(&self.pool)
            .await?)
        })
        .await
    }
}
