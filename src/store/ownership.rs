//! What is whose upstream: which database this is (`docs/adr/0033-ownership-upstream.md`). Called by `app.rs` at the start.

use super::{Result, Store, StoreError, answered};

impl Store {
    /// Looks whether this database is the one that its rows were written in. A restored copy has nothing upstream: what its
    /// rows name belongs to the original, whose bridge may be at work. Gives how many connections it was made to forget.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn recognise_database(&self) -> Result<Option<u64>> {
        let system_identifier = answered(self.system_identifier()).await?;
        answered(async {
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
                // What was known once is not forgotten because the user may not ask any more.
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

    /// What the cluster calls itself; `None` if this user may not ask.
    async fn system_identifier(&self) -> Result<Option<String>> {
        let asked = sqlx::query_scalar!(
            r#"select system_identifier::text as "system_identifier!" from pg_control_system()"#
        );
        match asked.fetch_one(&self.pool).await.map_err(StoreError::from) {
            Ok(identifier) => Ok(Some(identifier)),
            Err(error) if error.is_away() => Err(error),
            Err(error) => {
                tracing::info!(%error, "the cluster does not say which it is: a copy within another one may pass for the original");
                Ok(None)
            }
        }
    }
}
