//! Seals the audit log for as long as the process lives. Of several processes with one database the one with
//! the advisory lock does it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::domain::audit::seal::Head;
use crate::domain::secret::MasterKey;
use crate::metrics::Metrics;
use crate::status::Status;
use crate::store::audit::seals::{AuditKeys, SEAL_ROWS_MAX};
use crate::store::{Incarnation, Result, Store};

/// Interval between rounds.
const SEAL_EVERY: Duration = Duration::from_secs(5);
/// Rounds from one log line with the head to the next, an hour: a copy of the head lies where the logs do.
const LOG_HEAD_EVERY_ROUNDS: u32 = 720;

/// Seals the audit log.
pub struct Sealer {
    store: Store,
    master_key: MasterKey,
    status: Arc<Status>,
    metrics: Metrics,
    keys: AuditKeys,
    /// Last seal that this process saw, which must stay in the chain; `None` before the first.
    known: Option<Head>,
    /// Incarnation of the database that it was seen in.
    incarnation: Option<Incarnation>,
}

impl Sealer {
    /// A sealer that has not seen a seal yet.
    #[must_use]
    pub fn new(store: Store, master_key: MasterKey, status: Arc<Status>, metrics: Metrics) -> Self {
        Self { store, master_key, status, metrics, keys: AuditKeys::new(), known: None, incarnation: None }
    }

    /// Runs a round every 5 s, for ever.
    pub async fn run(mut self) {
        let mut ticks = interval(SEAL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut rounds, mut failing) = (0_u32, false);
        loop {
            ticks.tick().await;
            match self.round().await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        self.status.set_not_sealing(None);
                        tracing::info!("sealing the audit log works again");
                    }
                    if rounds.is_multiple_of(LOG_HEAD_EVERY_ROUNDS)
                        && let Some(head) = self.known
                    {
                        tracing::info!(%head, "head of the audit log");
                    }
                    rounds = rounds.wrapping_add(1);
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(
                        %error, retry_in = ?SEAL_EVERY,
                        "failed to seal the audit log, database unavailable; retrying"
                    );
                }
                Err(error) => {
                    self.metrics.audit_seal_failures.inc();
                    self.status.set_not_sealing(Some(error.to_string()));
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(
                            %error, retry_in = ?SEAL_EVERY,
                            "failed to seal the audit log; retrying, logged again when it works"
                        );
                    }
                }
            }
        }
    }

    /// Seals all rows before which no transaction can add any more.
    ///
    /// # Errors
    /// If the database does not answer, or the chain was tampered with.
    pub async fn round(&mut self) -> Result<()> {
        let incarnation = self.store.incarnation();
        let is_elsewhere = incarnation != self.incarnation;
        if is_elsewhere {
            self.keys.clear();
        }
        if self.keys.is_empty() {
            self.keys.extend([self.store.audit_key(&self.master_key).await?]);
        }
        let Some((key_id, key)) = self.keys.iter().max_by_key(|(id, _)| **id) else { return Ok(()) };
        if is_elsewhere && let Some(known) = self.known {
            let found = self.store.find_head_again(known, (*key_id, key)).await?;
            if found.is_none_or(|found| found.seal_id <= known.seal_id && found != known) {
                let continues_from = found.map_or(0, |found| found.seal_id);
                tracing::error!(head = %known, continues_from, "a failover of the database lost the head of the audit log");
            }
            self.known = found;
        }
        self.incarnation = incarnation;
        let Some(through) = self.store.settled_through().await? else {
            tracing::debug!("a long transaction delays the seal of the audit log; waiting for its end");
            return self.count_unsealed().await;
        };
        loop {
            let made = self.store.make_seal((*key_id, key), through, self.known).await;
            if self.store.incarnation() != self.incarnation {
                // Another server's chain may lack the known head: the next round looks.
                self.known = made.ok().flatten().map(|made| made.head).or(self.known);
                return Ok(());
            }
            let Some(made) = made? else { break };
            self.known = Some(made.head);
            self.metrics.audit_seals.inc();
            self.metrics.audit_rows_sealed.inc_by(u64::try_from(made.rows).unwrap_or(u64::MAX));
            debug_assert!(made.rows <= SEAL_ROWS_MAX);
            if !made.more {
                break;
            }
        }
        self.count_unsealed().await
    }

    /// Counts the rows that are not sealed.
    async fn count_unsealed(&mut self) -> Result<()> {
        let last = self.store.last_seal().await?;
        let sealed = last.map_or(0, |last| last.last_audit_id);
        self.metrics.audit_unsealed.set(self.store.drawn_through().await? - sealed);
        // Another process may have sealed. If the chain has become shorter, the next seal finds that.
        if self.store.incarnation() == self.incarnation
            && let Some(last) =
                last.filter(|last| self.known.is_none_or(|known| known.seal_id < last.head.seal_id))
        {
            self.known = Some(last.head);
        }
        Ok(())
    }
}
