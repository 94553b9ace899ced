//! Ends a connection, and forgets or keeps what is left of it upstream.

use super::{Effect, Now, Phase, SHUTDOWN_REASON, Session, audit};
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::presence::connection::CloseCause;
use crate::genesys::protocol::{Provisioned, UpstreamError};

impl Session {
    pub(super) fn terminate(&mut self, cause: CloseCause, now: Now, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Closing(_) | Phase::Ended(_)) {
            return;
        }
        if self.phase == Phase::Open {
            if let Some(gap) = cause.gap() {
                let from = self.last_frame.map_or(now.at, |frame| frame.at);
                out.push(Effect::GapOpened { from, cause: gap });
            }
            out.push(Effect::Close(1000, SHUTDOWN_REASON));
        }
        // Upstream may be making a connection this moment: without its answer the connection would be left
        // there.
        self.awaited = (self.phase == Phase::Provision).then_some(self.epoch);
        self.epoch += 1;
        self.phase = Phase::Closing(cause);
        self.reason = None;
        self.leave_upstream();
        if self.awaited.is_none() {
            out.push(Effect::ShutDown(self.stale.clone()));
        }
    }

    /// Handles an answer that came too late; the connection that was made is deleted again.
    pub(super) fn provisioned_late(
        &mut self,
        epoch: u64,
        answer: Result<Provisioned, UpstreamError>,
        out: &mut Vec<Effect>,
    ) {
        let made = answer.ok().map(|made| made.upstream_id);
        if let Some(id) = &made {
            self.remember(id.clone());
            out.push(Effect::Save);
        }
        if self.awaited == Some(epoch) {
            self.awaited = None;
            out.push(Effect::ShutDown(self.stale.clone()));
        } else if let Some(id) = made {
            out.push(Effect::Delete(vec![id]));
        }
    }

    pub(super) fn forget_deleted(
        &mut self,
        results: &[(String, Result<(), UpstreamError>)],
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        for (id, result) in results {
            let entry = match result {
                Ok(()) => {
                    self.stale.retain(|stale| stale != id);
                    Entry::new(now.at, Kind::UpstreamDeleted)
                }
                Err(error) => Entry::new(now.at, Kind::UpstreamDeleteFailed)
                    .level(Level::Warn)
                    .data("error", error.to_string()),
            };
            out.push(audit(entry.data("connectionId", id.clone())));
        }
    }
}
