//! Seals the audit log for as long as the process lives. One at a time per database: whoever has the advisory lock.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::domain::audit::seal::Head;
use crate::domain::secret::MasterKey;
use crate::metrics::Metrics;
use crate::store::audit::seals::{AuditKeys, SEAL_ROWS_MAX};
use crate::store::{Result, Store};

/// How often it looks.
const SEAL_EVERY: Duration = Duration::from_secs(5);
/// Every so many rounds the head goes to the log, so that a copy of it lies where the logs do.
const TELL_EVERY_ROUNDS: u32 = 720;

/// Who seals, and what it knows.
pub struct Sealer {
    store: Store,
    master_key: MasterKey,
    metrics: Metrics,
    keys: AuditKeys,
    /// The last seal that we saw. It must never be gone.
    known: Option<Head>,
}

impl Sealer {
    /// One that has not begun.
    #[must_use]
    pub fn new(store: Store, master_key: MasterKey, metrics: Metrics) -> Self {
        Self { store, master_key, metrics, keys: AuditKeys::new(), known: None }
    }

    /// Seals every few seconds, for ever.
    pub async fn run(mut self) {
        let mut ticks = interval(SEAL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut rounds, mut failing) = (0_u32, false);
        loop {
            ticks.tick().await;
            match self.round().await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the audit log is sealed again");
                    }
                    if rounds.is_multiple_of(TELL_EVERY_ROUNDS)
                        && let Some(head) = self.known
                    {
                        tracing::info!(%head, "head of the audit log");
                    }
                    rounds = rounds.wrapping_add(1);
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "the audit log cannot be sealed yet");
                }
                Err(error) => {
                    self.metrics.audit_seal_failures.inc();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "the audit log cannot be sealed");
                    }
                }
            }
        }
    }

    /// Seals all that is settled.
    ///
    /// # Errors
    /// If the database does not answer, or the chain is not as it was.
    pub async fn round(&mut self) -> Result<()> {
        if self.keys.is_empty() {
            self.keys.extend([self.store.audit_key(&self.master_key).await?]);
        }
        let Some((key_id, key)) = self.keys.iter().max_by_key(|(id, _)| **id) else { return Ok(()) };
        let Some(through) = self.store.settled_through().await? else {
            tracing::debug!("a transaction holds the audit log up; it is sealed when that has ended");
            return self.count_waiting().await;
        };
        while let Some(made) = self.store.make_seal((*key_id, key), through, self.known).await? {
            self.known = Some(made.head);
            self.metrics.audit_seals.inc();
            self.metrics.audit_rows_sealed.inc_by(u64::try_from(made.rows).unwrap_or(u64::MAX));
            debug_assert!(made.rows <= SEAL_ROWS_MAX);
            if !made.more {
                break;
            }
        }
        self.count_waiting().await
    }

    /// Notes how far the chain is behind the log.
    async fn count_waiting(&mut self) -> Result<()> {
        let last = self.store.last_seal().await?;
        let sealed = last.map_or(0, |last| last.last_audit_id);
        self.metrics.audit_unsealed.set(self.store.drawn_through().await? - sealed);
        // Another process may seal too. That the chain grows shorter is found by the next seal.
        if let Some(last) =
            last.filter(|last| self.known.is_none_or(|known| known.seal_id < last.head.seal_id))
        {
            self.known = Some(last.head);
        }
        Ok(())
    }
}
