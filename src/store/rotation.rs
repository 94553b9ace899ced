//! Columns that are sealed under the master key, and the change to another key. Called by `app.rs` and
//! `cli/rotate_master_key.rs`.

use sqlx::{AssertSqlSafe, PgConnection};
use time::OffsetDateTime;

use super::{Result, Store, StoreError, audit};
use crate::domain::audit::{Entry, Kind};
use crate::domain::secret::{MasterKey, OpenError};
use crate::random;

/// A column of sealed values.
struct Sealed {
    table: &'static str,
    column: &'static str,
    /// Associated data of a value, as SQL over its row that gives `bytea`.
    bound_to: &'static str,
}

/// Every column of sealed values there is; a new one needs a line here.
#[rustfmt::skip]
const SEALED: &[Sealed] = &[
    Sealed { table: "source", column: "client_secret_sealed", bound_to: "uuid_send(source_id)" },
    Sealed { table: "webhook", column: "access_sealed", bound_to: "uuid_send(webhook_id)" },
    Sealed { table: "webhook_secret", column: "sealed", bound_to: "uuid_send(webhook_secret_id)" },
    Sealed { table: "idempotency", column: "answer_sealed", bound_to: "key_hash || convert_to(principal, 'UTF8')" },
    Sealed { table: "audit_key", column: "sealed", bound_to: "convert_to('audit_key ' || key_id, 'UTF8')" },
];

/// Values that one statement seals again.
const BATCH: i64 = 500;

/// Cause why the master key stays. Nothing is changed then.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// A running bridge would go on sealing with the old key.
    #[error("a bridge is running on this database, or was killed within the last ten seconds; stop it first")]
    BridgeRuns,
    /// Neither the old key nor the new one opens a value.
    #[error("{0} holds what neither key has sealed")]
    OtherKey(&'static str),
    /// The database refused, or a value is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for RotationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Whether everything sealed in this database was sealed under this key (true if nothing is sealed yet).
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn is_sealed_under(&self, key: &MasterKey) -> Result<bool> {
        for Sealed { table, column, .. } in SEALED {
            let others =
                format!("select exists (select from {table} where substring({column} from 1 for 4) <> $1)");
            let other: bool =
                sqlx::query_scalar(AssertSqlSafe(others)).bind(key.id()).fetch_one(&self.pool).await?;
            if other {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Seals every value under the new key that was sealed under the old one, all or nothing; values under
    /// the new key stay as they are. Gives the number of values by table.
    ///
    /// # Errors
    /// [`RotationError`].
    pub async fn rotate_master_key(
        &self,
        old: &MasterKey,
        new: &MasterKey,
        now: OffsetDateTime,
    ) -> Result<Vec<(&'static str, u64)>, RotationError> {
        let mut tx = self.begin().await?;
        sqlx::query("select set_config('statement_timeout', '0', true)").execute(&mut *tx).await?;
        // Nobody may seal anything under the old key meanwhile.
        for Sealed { table, .. } in SEALED {
            let lock = format!("lock table {table} in share row exclusive mode");
            sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await?;
        }
        let runs: bool = sqlx::query_scalar("select exists (select from dispatcher where alive_until > $1)")
            .bind(now)
            .fetch_one(&mut *tx)
            .await?;
        if runs {
            return Err(RotationError::BridgeRuns);
        }
        let mut done = Vec::new();
        for sealed in SEALED {
            done.push((sealed.table, sealed.reseal(&mut tx, old, new).await?));
        }
        let count: u64 = done.iter().map(|(_, count)| count).sum();
        if count > 0 {
            let entry = Entry::new(now, Kind::MasterKeyRotated).data("values", count);
            audit::write(&mut tx, &[entry]).await?;
        }
        tx.commit().await?;
        Ok(done)
    }
}

impl Sealed {
    async fn reseal(
        &self,
        conn: &mut PgConnection,
        old: &MasterKey,
        new: &MasterKey,
    ) -> Result<u64, RotationError> {
        let Self { table, column, bound_to } = self;
        let look = format!(
            "select ctid::text, {column}, {bound_to}
             from {table}
             where substring({column} from 1 for 4) <> $1
             limit {BATCH}"
        );
        let write = format!(
            "update {table} as t
             set {column} = resealed.value
             from unnest($1::text[], $2::bytea[]) as resealed (place, value)
             where t.ctid = resealed.place::tid"
        );
        let mut count = 0;
        loop {
            let rows: Vec<(String, Vec<u8>, Vec<u8>)> =
                sqlx::query_as(AssertSqlSafe(look.as_str())).bind(new.id()).fetch_all(&mut *conn).await?;
            if rows.is_empty() {
                return Ok(count);
            }
            let (mut places, mut values) = (Vec::new(), Vec::new());
            for (place, value, bound_to) in rows {
                let plain = old.open(&value, &bound_to).map_err(|error| match error {
                    OpenError::OtherKey => RotationError::OtherKey(table),
                    OpenError::Damaged => damaged(table, column, &bound_to).into(),
                })?;
                places.push(place);
                values.push(new.seal(&plain, &bound_to, random::bytes()));
            }
            let written = sqlx::query(AssertSqlSafe(write.as_str()))
                .bind(places)
                .bind(values)
                .execute(&mut *conn)
                .await?;
            count += written.rows_affected();
        }
    }
}

fn damaged(table: &'static str, column: &'static str, bound_to: &[u8]) -> StoreError {
    let row = bound_to.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    StoreError::Corrupt { table, column, row, what: OpenError::Damaged.to_string() }
}
