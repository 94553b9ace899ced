//! Transactions: one for each step, or one that all steps of a call share if its answer is to be committed
//! with their writes (`store/access/idempotency.rs`).

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::postgres::PgConnection;
use sqlx::{Postgres, Transaction};
use tokio::sync::{Mutex as AsyncMutex, OwnedMappedMutexGuard, OwnedMutexGuard};

use super::{Result, Store, StoreError, become_tenant};
use crate::domain::ids::TenantId;

type Act = Box<dyn FnOnce() + Send>;
/// Writes of a call so far, and the tenant whose rows it sees.
type CallTransaction = (Option<TenantId>, Transaction<'static, Postgres>);

tokio::task_local! {
    /// Call that this task runs in one transaction.
    static CALL: Arc<Call>;
}

#[derive(Default)]
struct Call {
    written: Arc<AsyncMutex<Option<CallTransaction>>>,
    /// The last step has a savepoint and has not committed yet.
    step_is_open: AtomicBool,
    once_committed: Mutex<Vec<Act>>,
}

/// Transaction of a step. Dropped without [`commit`](Self::commit), it leaves nothing.
pub(super) struct Tx(TxScope);

enum TxScope {
    Own {
        tx: Transaction<'static, Postgres>,
        tenant: Option<TenantId>,
    },
    /// A step behind a savepoint of the call's transaction.
    OfCall {
        call: Arc<Call>,
        tx: OwnedMappedMutexGuard<Option<CallTransaction>, Transaction<'static, Postgres>>,
    },
}

impl Store {
    /// Begins every step that a tenant may ask for, be it a single statement (`docs/adr/0019`).
    pub(super) async fn begin(&self) -> Result<Tx> {
        if let Ok(call) = CALL.try_with(Arc::clone)
            && let Some(mut tx) = call.written_as(self.tenant)
        {
            let gone = call.step_is_open.swap(true, Ordering::Relaxed);
            let statement = if gone { "rollback to savepoint step" } else { "savepoint step" };
            sqlx::raw_sql(statement).execute(&mut **tx).await?;
            return Ok(Tx(TxScope::OfCall { call, tx }));
        }
        self.primary.wait_a_while().await.map_err(StoreError::NoPrimary)?;
        let mut tx = self.pool.begin().await?;
        if let Some(tenant) = self.tenant {
            become_tenant(&mut tx, tenant).await?;
        }
        Ok(Tx(TxScope::Own { tx, tenant: self.tenant }))
    }
}

impl Call {
    /// Its transaction, if it has written anything as this tenant and no other step runs in it.
    fn written_as(
        &self,
        tenant: Option<TenantId>,
    ) -> Option<OwnedMappedMutexGuard<Option<CallTransaction>, Transaction<'static, Postgres>>> {
        let written = self.written.clone().try_lock_owned().ok()?;
        OwnedMutexGuard::try_map(written, |written| {
            written.as_mut().filter(|(of, _)| *of == tenant).map(|(_, tx)| tx)
        })
        .ok()
    }

    fn acts(&self) -> MutexGuard<'_, Vec<Act>> {
        self.once_committed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tx {
    /// Commits the step; within [`in_one`] together with the other steps of the call.
    ///
    /// # Errors
    /// If the database does not say that it is done.
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self.0 {
            TxScope::Own { tx, tenant } => {
                if let Ok(call) = CALL.try_with(Arc::clone)
                    && let Ok(mut written) = call.written.try_lock()
                    && written.is_none()
                {
                    *written = Some((tenant, tx));
                    return Ok(());
                }
                tx.commit().await
            }
            TxScope::OfCall { call, mut tx } => {
                sqlx::raw_sql("release savepoint step").execute(&mut **tx).await?;
                call.step_is_open.store(false, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.0 {
            TxScope::Own { tx, .. } => tx,
            TxScope::OfCall { tx, .. } => tx,
        }
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.0 {
            TxScope::Own { tx, .. } => tx,
            TxScope::OfCall { tx, .. } => tx,
        }
    }
}

/// Writes of a call that are not committed. Dropped, they are undone.
pub struct Uncommitted {
    tx: Transaction<'static, Postgres>,
    once_committed: Vec<Act>,
}

impl Uncommitted {
    /// Connection with the rights of the process, for statements that are to be committed with them.
    pub(super) async fn as_ourselves(&mut self) -> Result<&mut PgConnection> {
        sqlx::raw_sql("set local role none").execute(&mut *self.tx).await?;
        Ok(&mut self.tx)
    }

    /// # Errors
    /// If the database does not say that it is done.
    pub(super) async fn commit(self) -> Result<()> {
        self.tx.commit().await?;
        self.once_committed.into_iter().for_each(|act| act());
        Ok(())
    }
}

/// Runs a call whose steps share one transaction, and gives it uncommitted with the outcome; `None` if the
/// steps commit nothing. Steps of another tenant, and a step begun within another, stand alone.
///
/// # Errors
/// If an unfinished step could not be rolled back.
pub async fn in_one<T>(call: impl Future<Output = T>) -> (T, Result<Option<Uncommitted>>) {
    let shared = Arc::new(Call::default());
    let outcome = CALL.scope(shared.clone(), call).await;
    let once_committed = std::mem::take(&mut *shared.acts());
    let Some((_, mut tx)) = shared.written.lock().await.take() else {
        once_committed.into_iter().for_each(|act| act());
        return (outcome, Ok(None));
    };
    if shared.step_is_open.load(Ordering::Relaxed)
        && let Err(error) = sqlx::raw_sql("rollback to savepoint step").execute(&mut *tx).await
    {
        return (outcome, Err(error.into()));
    }
    (outcome, Ok(Some(Uncommitted { tx, once_committed })))
}

/// Whether writes of this task commit later than their steps: do not wait for their effects.
#[must_use]
pub fn is_shared() -> bool {
    CALL.try_with(|_| ()).is_ok()
}

/// Runs an act once all writes of this task so far are committed: at once, or after the call's commit.
pub fn once_committed(act: impl FnOnce() + Send + 'static) {
    match CALL.try_with(Arc::clone) {
        Ok(call) => call.acts().push(Box::new(act)),
        Err(_) => act(),
    }
}
