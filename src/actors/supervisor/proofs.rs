//! Proofs of coverage: until when each connection is known to have seen everything.

use std::time::Duration;

use actix::prelude::*;
use time::OffsetDateTime;

use super::Supervisor;
use crate::domain::ids::ConnectionId;

/// How often they are written: a kill makes a gap begin at most this much too early.
pub(super) const WRITE_EVERY: Duration = Duration::from_secs(5);

impl Supervisor {
    pub(super) fn write_proofs(&self, ctx: &mut Context<Self>) {
        let proofs: Vec<(ConnectionId, OffsetDateTime)> = self.deps.status.proofs();
        if proofs.is_empty() || self.stopping {
            return;
        }
        let (store, recorder) = (self.deps.store.clone(), self.deps.recorder.clone());
        let write = async move {
            // A proof says that everything before is stored: a gap that begins after a lost frame would hide
            // the loss.
            if !recorder.flushed().await {
                return;
            }
            if let Err(error) = store.write_proofs(&proofs).await {
                tracing::debug!(%error, "failed to write proofs of coverage; retrying in 5 s");
            }
        };
        ctx.spawn(write.into_actor(self));
    }
}
